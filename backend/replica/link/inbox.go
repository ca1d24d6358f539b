package link

import (
	"encoding/binary"
	"fmt"
	"sync"
)

// inbox is what came from the partner and was not taken yet, and what was taken
// and the partner not told.
type inbox struct {
	mu      sync.Mutex
	classes [classes]inClass
	urgent  bool // the partner may be waiting for credit

	tell func() // wakes the writer
}

type inClass struct {
	waiting []Received
	held    int // octets, waiting or not Done
	taken   map[Stream]uint32
	untold  int // octets in taken
	frames  uint64
	octets  uint64

	arrived chan struct{} // capacity 1
}

func newInbox(tell func()) *inbox {
	b := &inbox{tell: tell}
	for c := range b.classes {
		b.classes[c].taken = make(map[Stream]uint32)
		b.classes[c].arrived = make(chan struct{}, 1)
	}
	return b
}

// put takes in a frame. A partner that sends more than it may breaks the
// protocol.
func (b *inbox) put(r Received) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	q := &b.classes[r.Class]
	if q.held+q.untold >= window {
		return fmt.Errorf("%w: more %s frames than were asked for", ErrProtocol, r.Class)
	}
	q.waiting = append(q.waiting, r)
	q.held += int(r.octets)
	q.frames++
	q.octets += uint64(len(r.Body))
	select {
	case q.arrived <- struct{}{}:
	default:
	}
	return nil
}

// take returns what waits of a class.
func (b *inbox) take(c Class) []Received {
	b.mu.Lock()
	defer b.mu.Unlock()
	q := &b.classes[c]
	all := q.waiting
	q.waiting = nil
	return all
}

// done notes that a frame was taken. The partner is told at once when it may
// wait for it, else with the next heartbeat.
func (b *inbox) done(c Class, id Stream, octets uint32) {
	b.mu.Lock()
	q := &b.classes[c]
	q.held -= int(octets)
	q.taken[id] += octets
	q.untold += int(octets)
	urgent := !b.urgent && (q.untold >= window/8 || q.taken[id] >= windowStream/4)
	b.urgent = b.urgent || urgent
	b.mu.Unlock()
	if urgent {
		b.tell()
	}
}

const creditLength = 1 + 16 + 4

// credits appends messages for what was taken and not told. Not all: only when
// the partner may wait for it.
func (b *inbox) credits(to [][]byte, all bool) [][]byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !all && !b.urgent {
		return to
	}
	b.urgent = false
	var m []byte
	for c := range b.classes {
		q := &b.classes[c]
		for id, octets := range q.taken {
			if m == nil {
				m = []byte{controlCredit}
			}
			m = append(m, byte(c))
			m = append(m, id[:]...)
			m = binary.BigEndian.AppendUint32(m, octets)
			if len(m)+creditLength > maxRecord {
				to, m = append(to, m), nil
			}
		}
		clear(q.taken)
		q.untold = 0
	}
	if m != nil {
		to = append(to, m)
	}
	return to
}

// eachCredit reads a message of credits.
func eachCredit(m []byte, do func(Class, Stream, uint32) error) error {
	if len(m)%creditLength != 0 {
		return fmt.Errorf("%w: half a credit", ErrProtocol)
	}
	for ; len(m) > 0; m = m[creditLength:] {
		if m[0] >= classes {
			return fmt.Errorf("%w: credit for class %d", ErrProtocol, m[0])
		}
		if err := do(Class(m[0]), Stream(m[1:17]), binary.BigEndian.Uint32(m[17:])); err != nil {
			return err
		}
	}
	return nil
}

func (b *inbox) stats(into *[classes]ClassStats) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for c := range b.classes {
		q := &b.classes[c]
		into[c].ReceivedFrames, into[c].ReceivedOctets, into[c].Held = q.frames, q.octets, q.held
	}
}
