package sim

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/backend/mailstore"
	"github.com/postern-mail/postern/backend/replica"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/store"
	"github.com/postern-mail/postern/store/memory"
)

// node is one of the two: its disk, and its process while that runs.
type node struct {
	w    *world
	id   int
	disk *memory.Disk
	skew time.Duration // of its wall clock

	up    bool
	kv    *memory.Store
	blobs *memory.Blobs
	ms    *mailstore.Store
	ch    *replica.Channel
	wake  time.Time // when the channel asked for a tick; zero: never

	committed uint64 // what the mail store told and the channel was not yet
	tells     bool
	joinDue   bool // it has all that its partner has
	stale     bool // it was found out to be a restored backup
	peerStale bool

	promised []promised
	parts    map[store.Hash][]byte
	sent     map[store.Hash]bool
	faults   []memory.Fault // of the next commits

	backup   *memory.Disk
	backupOf seen // what its clients had been shown then

	seen  seen
	views map[string]shown
}

// now is the node's wall clock.
func (n *node) now() time.Time { return n.w.now.Add(n.skew) }

// start begins a new process on the disk.
func (n *node) start() {
	n.disk.OnCommit(n.fault)
	n.kv, n.blobs = n.disk.Open()
	cfg := n.w.config(n)
	ms, err := mailstore.Open(context.Background(), cfg, n.kv, n.blobs, hclog.NewNullLogger())
	if err != nil {
		if n.kv.Killed() {
			n.w.tracef("node %d dies while it starts", n.id)
			return
		}
		n.w.fail("node %d does not start: %v", n.id, err)
		return
	}
	n.up, n.ms = true, ms
	n.parts, n.sent = map[store.Hash][]byte{}, map[store.Hash]bool{}
	n.views = map[string]shown{}
	n.committed, n.tells, n.stale, n.peerStale, n.wake = 0, false, false, false, time.Time{}
	ms.SetPartner(n)
	rep, err := ms.Replica(context.Background(), n.w.account, n.w.name)
	if err != nil {
		n.died("open the replica", err)
		return
	}
	n.ch = replica.NewChannel(replica.ChannelConfig{
		ID: n.w.account, Name: n.w.name, Class: uint8(n.id), Account: account{rep, n}, Bodies: n, Out: n, Events: events{n},
		Without: n.w.missing,
		Limits:  replica.Limits{WindowOctets: 4 << 10, WindowRecords: 20, FrameOctets: 1 << 10, SmallOctets: 100, PartOctets: 32},
	})
	n.ch.Tick(n.w.now)
	n.ch.Want()
	n.w.tracef("node %d runs as %x", n.id, ms.Origin())
}

// kill ends the process as kill -9 and a power cut do.
func (n *node) kill() {
	if !n.up {
		return
	}
	n.w.tracef("node %d is killed", n.id)
	n.kv.Kill()
	n.dead()
}

// dead cleans up behind a process that is gone: its connection goes with it.
func (n *node) dead() {
	n.up, n.ms, n.ch = false, nil, nil
	n.w.unanswered(n)
	n.faults = nil
	if c := n.w.conn; c != nil {
		n.w.cut(3)
		c.up[n.id], c.down[n.id] = true, true
	}
}

// died looks whether an error is that of a process whose power failed. It is the
// first thing asked about every error.
func (n *node) died(doing string, err error) bool {
	if n.up && n.kv.Killed() {
		n.w.tracef("node %d dies: %s: %v", n.id, doing, err)
		n.dead()
	}
	return !n.up
}

// fault is what becomes of the node's next commit.
func (n *node) fault(int) memory.Fault {
	if len(n.faults) == 0 {
		return memory.None
	}
	f := n.faults[0]
	n.faults = n.faults[1:]
	return f
}

// link is the node's end of a connection.
func (n *node) linkUp() {
	clear(n.sent)
	n.channel("link up", func(context.Context) {
		peer := n.w.nodes[1-n.id]
		origin := mailstore.Origin(0)
		if peer.ms != nil {
			origin = peer.ms.Origin()
		}
		n.ch.LinkUp(replica.Peer{Node: uint16(1 - n.id), Origin: origin, Remote: "simulated"})
		if n.ms.Joining() {
			n.ch.Join()
		}
	})
}

func (n *node) linkDown() {
	n.channel("link down", n.ch.LinkDown)
	n.w.alone(n)
}

func (n *node) frame(f replica.Frame) {
	n.channel("frame", func(ctx context.Context) { n.ch.Frame(ctx, f.Kind, f.Payload) })
}

// work gives the channel its turns.
func (n *node) work(turns int) {
	for range turns {
		more := false
		n.channel("work", func(ctx context.Context) {
			if !n.wake.After(n.w.now) {
				n.wake = time.Time{}
			}
			more = n.ch.Work(ctx)
		})
		if !more {
			return
		}
	}
}

// channel is one input of the channel, with what the mail store told before.
func (n *node) channel(doing string, input func(ctx context.Context)) {
	if !n.up {
		return
	}
	n.tell()
	n.ch.Tick(n.w.now)
	input(context.Background())
	if !n.died(doing, nil) {
		n.tell()
		n.join()
	}
}

// join opens a new node to clients once all is there.
func (n *node) join() {
	if !n.joinDue {
		return
	}
	n.joinDue = false
	err := n.ms.Join(context.Background())
	n.w.tracef("%v joins: %v", n, err)
	n.died("join", err)
}

func (n *node) tell() {
	if n.tells && n.up {
		n.tells = false
		n.ch.Committed(n.committed)
	}
}

// Send implements replica.Out.
func (n *node) Send(class replica.Class, kind replica.Kind, payload []byte) {
	if n.w.keep { // for the digest costs
		n.w.tracef("node %d sends kind %d, %d octets %x", n.id, kind, len(payload), sha256.Sum256(payload))
	}
	n.w.send(n.id, replica.Frame{Class: class, Kind: kind, Account: n.w.account, Payload: payload})
}

// Room implements replica.Out.
func (n *node) Room(class replica.Class) bool {
	c := n.w.conn
	return !c.usable(n.id) || len(c.queues[1-n.id][class]) < 6
}

// Wake implements replica.Out.
func (n *node) Wake(at time.Time) { n.wake = at }

// Committed implements mailstore.Partner.
func (n *node) Committed(_ mailstore.GUID, _ string, seq uint64) { n.committed, n.tells = seq, true }

// Durable implements mailstore.Partner: the world keeps who waits for what, see
// promise.
func (n *node) Durable(context.Context, mailstore.GUID, uint64, mailstore.Durability) error {
	return nil
}

// Available implements mailstore.Partner.
func (n *node) Available(mailstore.GUID, string) error {
	if n.stale {
		return errStale
	}
	return nil
}

var errStale = errors.New("this node was brought back from a backup")

// Fetch implements mailstore.Partner: the body comes from the other node, if
// that can be reached.
func (n *node) Fetch(ctx context.Context, ref store.Ref) error {
	peer := n.w.nodes[1-n.id]
	if !peer.up || n.w.conn == nil || n.w.conn.broken {
		return errors.New("the partner is out of reach")
	}
	body, err := peer.blobs.Open(ctx, ref)
	if err != nil {
		return err
	}
	defer body.Close()
	content, err := n.ms.Stage(ctx, body)
	if err != nil {
		return err
	}
	defer content.Discard()
	return n.ms.Restore(ctx, content)
}

// Open implements replica.Bodies.
func (n *node) Open(ctx context.Context, ref store.Ref) (store.Body, error) {
	return n.blobs.Open(ctx, ref)
}

// Stage implements replica.Bodies.
func (n *node) Stage(ctx context.Context, r io.Reader) (store.Staged, error) {
	return n.blobs.Stage(ctx, r)
}

// Part implements replica.Bodies.
func (n *node) Part(ref store.Ref, offset int64, octets []byte) (int64, error) {
	have := n.parts[ref.Hash]
	if offset <= int64(len(have)) && offset+int64(len(octets)) > int64(len(have)) {
		n.parts[ref.Hash] = append(have[:offset:offset], octets...)
	}
	return int64(len(n.parts[ref.Hash])), nil
}

// Parts implements replica.Bodies.
func (n *node) Parts(ref store.Ref) int64 { return int64(len(n.parts[ref.Hash])) }

// Join implements replica.Bodies.
func (n *node) Join(ctx context.Context, ref store.Ref) (store.Staged, error) {
	octets := n.parts[ref.Hash]
	delete(n.parts, ref.Hash)
	if sha256.Sum256(octets) != ref.Hash {
		return nil, replica.ErrParts
	}
	return n.blobs.Stage(ctx, newReader(octets))
}

// Sent implements replica.Bodies.
func (n *node) Sent(h store.Hash) bool {
	was := n.sent[h]
	n.sent[h] = true
	return was
}

// The events of a channel: replica.Events.

// Durable of replica.Events has the name of the Partner's; see events.
type events struct{ n *node }

func (e events) Durable(_ mailstore.GUID, seq uint64) { e.n.w.durable(e.n, seq) }

func (e events) Applied(_ mailstore.GUID, records int, applied mailstore.Applied) {
	e.n.w.tracef("node %d applied %d records, settled %v", e.n.id, records, applied.Settled)
	for _, c := range applied.Conflicts {
		e.n.w.tracef("node %d resolved %s in %s: %s", e.n.id, c.Kind, c.Mailbox, c.Detail)
	}
}

func (e events) Pulled(_ mailstore.GUID, applied mailstore.Applied) {
	e.n.w.tracef("node %d merged the partner's state, settled %v", e.n.id, applied.Settled)
}

func (e events) Joined(mailstore.GUID) { e.n.joinDue = true }

func (e events) Quarantined(_ mailstore.GUID, raw []byte, why error) {
	e.n.w.fail("node %d quarantines a record of %d octets: %v", e.n.id, len(raw), why)
}

func (e events) Stale(_ mailstore.GUID, own bool) {
	e.n.w.tracef("node %d: stale, own %v", e.n.id, own)
	if own {
		e.n.stale = true
	} else {
		e.n.peerStale = true
	}
	if !e.n.w.restored {
		e.n.w.fail("node %d finds a stale incarnation (own %v) where nothing was restored", e.n.id, own)
	}
}

func (e events) Differs(mailstore.GUID) {
	e.n.w.fail("S6: node %d: equal vectors, different digests", e.n.id)
}

func (e events) Failed(_ mailstore.GUID, doing string, err error) {
	e.n.w.tracef("node %d, %s: %v", e.n.id, doing, err)
}

// open opens the account as a client's session does; the caller closes it.
func (n *node) open() (*mailstore.Account, error) {
	if !n.up {
		return nil, memory.ErrCut
	}
	return n.ms.Account(context.Background(), mail.Account{Name: n.w.name})
}

// origin is what a node's store is given as its identity, so that a run does
// not depend on chance.
func (w *world) origin(n *node) {
	w.incarnations++
	value := binary.LittleEndian.AppendUint64([]byte{1}, uint64(n.id)<<48|w.incarnations<<1|1)
	n.disk.Put([]byte("mno"), value)
}

func (n *node) String() string { return fmt.Sprintf("node %d", n.id) }

// account is the replica of a node's account, with what the whole node knows.
type account struct {
	*mailstore.Replica
	n *node
}

// Pull begins a state merge.
func (a account) Pull(ctx context.Context, deep bool) (replica.Puller, error) {
	p, err := a.Replica.Pull(ctx)
	if err == nil {
		p.Deep = deep
	}
	return p, err
}

// Refers reports whether a message of the account still needs the body.
func (a account) Refers(_ context.Context, ref store.Ref) (bool, error) {
	return a.n.disk.References(ref.Hash) > 0, nil
}

// guidOf is the identity of an account, which follows from its name.
func guidOf(name string) mailstore.GUID {
	kv, blobs := memory.NewDisk().Open()
	ms, err := mailstore.Open(context.Background(), mailstore.Config{}, kv, blobs, hclog.NewNullLogger())
	if err != nil {
		panic(err)
	}
	a, err := ms.Account(context.Background(), mail.Account{Name: name})
	if err != nil {
		panic(err)
	}
	defer a.Close()
	return a.GUID()
}
