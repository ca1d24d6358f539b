package sim

import (
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
)

// op is what happens in a step.
type op uint8

const (
	opWork      op = iota // a channel has its turns
	opReceive             // frames arrive
	opTick                // time passes
	opConnect             // a new connection
	opNotice              // a node learns that its connection is up, or lost
	opCut                 // the connection breaks
	opStall               // one direction carries nothing for a while
	opAppend              // an IMAP client appends
	opDeliver             // the gateway has new mail
	opRepeat              // the gateway tries again what it does not know to be done
	opCopy                //
	opMove                //
	opFlags               //
	opDelete              // \Deleted is set
	opExpunge             //
	opCreate              // a mailbox
	opRename              //
	opRemove              // a mailbox, with what is in it
	opSubscribe           //
	opSync                // a client that caches looks at the node it knows
	opHop                 // or at the other one
	opHome                // an operator gives the home away
	opCrash               // kill -9 now
	opCrashAt             // kill -9 before or after one of the next commits
	opUnknown             // a commit whose outcome is not known
	opFull                // the disk is full, or no longer
	opStart               // a node that is down starts
	opClock               // a clock jumps
	opSpoil               // a body is damaged
	opBackup              // a copy of a node's disk is put away
	opRestore             // a node comes back with such a copy
	opPause               // an operator pauses the account, or lets it go on
	opSweep               // old remains are removed
	opRest                // all heals, and everything arrives

	ops
)

var opNames = [ops]string{
	"work", "receive", "tick", "connect", "notice", "cut", "stall", "append", "deliver", "repeat", "copy", "move",
	"flags", "delete", "expunge", "create", "rename", "remove", "subscribe", "sync", "hop", "home", "crash", "crashAt",
	"unknown", "full", "start", "clock", "spoil", "backup", "restore", "pause", "sweep", "rest",
}

// step is one thing that happens. Its numbers choose among what there is at
// that time, so that a list of steps means something with any of them left out.
type step struct {
	op      op
	node    uint8
	a, b, c uint16
}

func (s step) String() string {
	return fmt.Sprintf("%s node %d (%d %d %d)", opNames[s.op], s.node, s.a, s.b, s.c)
}

// weights are how often each op happens.
type weights [ops]int

// common is what every profile begins with.
var common = weights{
	opWork: 260, opReceive: 260, opTick: 40, opConnect: 30, opNotice: 50, opCut: 8, opStall: 3,
	opAppend: 45, opDeliver: 45, opRepeat: 15, opCopy: 12, opMove: 14, opFlags: 45, opDelete: 16, opExpunge: 14,
	opCreate: 8, opRename: 6, opRemove: 3, opSubscribe: 6, opSync: 25, opHop: 10, opHome: 3, opStart: 40, opSweep: 1,
	opRest: 3,
}

// profiles lay the weight on one kind of trouble each; a seed picks one.
var profiles = []struct {
	name  string
	extra weights
}{
	{"calm", weights{opCut: -6}},
	{"partitions", weights{opCut: 25, opStall: 10, opConnect: 20}},
	{"crashes", weights{opCrash: 8, opCrashAt: 12, opUnknown: 6, opCut: 5}},
	{"tree", weights{opCreate: 30, opRename: 30, opRemove: 14, opSubscribe: 20, opCut: 15}},
	{"clocks", weights{opClock: 15, opCut: 15, opFlags: 60, opDelete: 20}},
	{"disks", weights{opFull: 10, opSpoil: 8, opUnknown: 6, opCut: 5}},
	{"backups", weights{opBackup: 6, opRestore: 3, opCrash: 4, opCut: 8}},
	{"operators", weights{opHome: 20, opPause: 10, opCut: 10, opSweep: 6}},
}

// steps draws the steps of a seed.
func steps(seed uint64, n int) []step {
	rng := rand.New(rand.NewPCG(seed, 0x9e3779b9))
	w, total := common, 0
	for i, extra := range profiles[seed%uint64(len(profiles))].extra {
		w[i] = max(0, w[i]+extra)
		total += w[i]
	}
	all := make([]step, n)
	for i := range all {
		at := rng.IntN(total)
		for o, weight := range w {
			if at -= weight; at < 0 {
				all[i].op = op(o)
				break
			}
		}
		all[i].node = uint8(rng.IntN(2))
		all[i].a, all[i].b, all[i].c = uint16(rng.Uint32()), uint16(rng.Uint32()), uint16(rng.Uint32())
	}
	return all
}

// encode writes steps for a command line or a regression test.
func encode(all []step) string {
	var b []byte
	for _, s := range all {
		b = append(b, byte(s.op)<<1|s.node, byte(s.a>>8), byte(s.a), byte(s.b>>8), byte(s.b), byte(s.c>>8), byte(s.c))
	}
	return hex.EncodeToString(b)
}

func decode(text string) ([]step, error) {
	b, err := hex.DecodeString(text)
	if err != nil || len(b)%7 != 0 {
		return nil, errors.Join(err, fmt.Errorf("%d octets are not steps", len(b)))
	}
	var all []step
	for ; len(b) > 0; b = b[7:] {
		s := step{
			op: op(b[0] >> 1), node: b[0] & 1,
			a: uint16(b[1])<<8 | uint16(b[2]), b: uint16(b[3])<<8 | uint16(b[4]), c: uint16(b[5])<<8 | uint16(b[6]),
		}
		if s.op >= ops {
			return nil, fmt.Errorf("op %d", s.op)
		}
		all = append(all, s)
	}
	return all, nil
}

// shrink leaves out what the failure does not need: ever smaller runs of steps,
// as long as the rest still fails.
func shrink(all []step, fails func([]step) bool, tries int) []step {
	for size := len(all) / 2; size > 0; {
		smaller := false
		for at := 0; at < len(all) && tries > 0; tries-- {
			rest := append(append([]step(nil), all[:at]...), all[min(at+size, len(all)):]...)
			if fails(rest) {
				all, smaller = rest, true
			} else {
				at += size
			}
		}
		if tries <= 0 {
			break
		}
		if !smaller || size > 1 {
			size /= 2
		}
	}
	return all
}
