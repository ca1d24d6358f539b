package sim

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/postern-mail/postern/backend/mailstore"
	"github.com/postern-mail/postern/backend/mailstore/uid"
	"github.com/postern-mail/postern/backend/replica"
	"github.com/postern-mail/postern/internal/mutant"
	"github.com/postern-mail/postern/store"
	"github.com/postern-mail/postern/store/memory"
)

// world is everything around the two nodes, and what is known of them that
// they do not know.
type world struct {
	seed    uint64
	missing mutant.Rule
	uids    *uid.Rules // nil: as they are
	name    string
	account mailstore.GUID
	now     time.Time
	nodes   [2]*node

	conn         *connection
	connections  int
	incarnations uint64
	wild         bool // some clock was a year off, which is longer than deliveries are remembered
	restored     bool // some node came back from a backup

	mail    ledger
	gateway []*delivery
	clients []*client

	trace   []string
	keep    bool
	failure error
	done    [ops]int // what was done, by op
}

// epoch is when a run begins.
var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func newWorld(seed uint64, without mutant.Rule, uids *uid.Rules, keep bool) *world {
	w := &world{seed: seed, uids: uids, now: epoch, keep: keep, name: fmt.Sprintf("user%d", seed%7)}
	w.missing = without
	w.mail = newLedger()
	for i := range w.nodes {
		w.nodes[i] = &node{w: w, id: i, disk: memory.NewDisk(), seen: newSeen()}
		w.origin(w.nodes[i])
	}
	w.account = guidOf(w.name)
	for _, n := range w.nodes {
		n.start()
	}
	for range 3 {
		w.clients = append(w.clients, newClient(len(w.clients)))
	}
	return w
}

func (w *world) config(n *node) mailstore.Config {
	return mailstore.Config{
		Node: uint16(n.id), Pair: true, UIDWait: -1, Now: n.now, Without: w.missing, UIDs: w.uids,
		Mailboxes: []mailstore.ConfiguredMailbox{{Name: "Trash", SpecialUse: "\\Trash"}},
	}
}

func (w *world) without(rule mutant.Rule) bool { return w.missing.Has(rule) }

// tracef notes what happens, where the trace is kept. It is the same for the
// same seed.
func (w *world) tracef(format string, args ...any) {
	if w.keep {
		w.trace = append(w.trace, fmt.Sprintf(format, args...))
	}
}

func (w *world) fail(format string, args ...any) {
	if w.failure == nil {
		w.failure = fmt.Errorf(format, args...)
		w.tracef("FAILS: %v", w.failure)
	}
}

// do plays one step and looks at both nodes.
func (w *world) do(s step) {
	n := w.nodes[s.node]
	w.tracef("-- %v", s)
	w.done[s.op]++
	w.now = w.now.Add(time.Millisecond)
	switch s.op {
	case opWork:
		n.work(1 + int(s.a%4))
	case opReceive:
		w.receive(n, int(s.a%replica.Classes), 1+int(s.b%4))
	case opTick:
		w.now = w.now.Add([]time.Duration{time.Millisecond, 50 * time.Millisecond, time.Second, 4 * time.Second}[s.a%4])
		n.work(1)
	case opConnect:
		w.connect()
	case opNotice:
		w.notice(n)
	case opCut:
		w.cut(s.a)
	case opStall:
		if c := w.conn; c != nil {
			c.stalled[n.id] = !c.stalled[n.id]
		}
	case opAppend, opCopy, opMove, opFlags, opDelete, opExpunge, opCreate, opRename, opRemove, opSubscribe:
		w.session(n, s)
	case opDeliver:
		w.deliver(n, w.newDelivery(s))
	case opRepeat:
		w.repeat(n, s)
	case opSync:
		w.clients[int(s.a)%len(w.clients)].sync(w, nil)
	case opHop:
		w.clients[int(s.a)%len(w.clients)].sync(w, n)
	default:
		w.trouble(n, s)
	}
	w.look()
}

// trouble plays what operators, disks and clocks do.
func (w *world) trouble(n *node, s step) {
	switch s.op {
	case opHome:
		w.rehome(n)
	case opCrash:
		n.kill()
	case opCrashAt:
		n.faults = make([]memory.Fault, s.a%4+1)
		n.faults[s.a%4] = memory.CutBefore
		if s.b%2 == 1 {
			n.faults[s.a%4] = memory.CutAfter
		}
	case opUnknown:
		n.faults = []memory.Fault{memory.UnknownLost}
		if s.a%2 == 1 {
			n.faults[0] = memory.UnknownWritten
		}
	case opFull:
		n.disk.SetFull(s.a%2 == 1)
	case opStart:
		if !n.up {
			n.start()
		}
	case opClock:
		w.jump(n, s)
	case opSpoil:
		w.spoil(n, s)
	case opBackup:
		if n.up && !n.stale {
			n.backup, n.backupOf = n.disk.Clone(), n.seen.clone()
			w.tracef("%v: a copy is put away", n)
		}
	case opRestore:
	case opPause:
		w.pause(n, s.a%2 == 1)
	case opSweep:
		if n.up && !n.died("sweep", n.ms.Sweep(context.Background())) {
			w.tracef("%v swept", n)
		}
	case opRest:
		w.rest()
	}
}

func (w *world) jump(n *node, s step) {
	const year = 365 * 24 * time.Hour
	n.skew = []time.Duration{
		0, time.Second, -time.Second, 10 * time.Minute, -10 * time.Minute, time.Hour, year, -year, 10 * year, -10 * year,
	}[s.a%10]
	w.wild = w.wild || n.skew.Abs() >= year
	w.tracef("%v: clock is off by %v", n, n.skew)
}

// spoil damages a body on a node's disk, when the other has it whole.
func (w *world) spoil(n *node, s step) {
	all := n.disk.Bodies()
	if len(all) == 0 {
		return
	}
	hash := all[int(s.a)%len(all)]
	peer := w.nodes[1-n.id].disk
	if peer.References(hash) == 0 || w.mail.spoilt[hash] {
		return
	}
	w.mail.spoilt[hash] = true
	w.tracef("%v: body %x is damaged", n, hash[:4])
	if s.b%2 == 0 {
		n.disk.DropBody(hash)
	} else {
		n.disk.AlterBody(hash)
	}
}

func (w *world) pause(n *node, on bool) {
	if !n.up {
		return
	}
	if on {
		n.channel("pause", n.ch.Pause)
	} else {
		n.channel("resume", func(context.Context) { n.ch.Resume() })
	}
}

func (w *world) rehome(n *node) {
	if !n.up {
		return
	}
	n.channel("rehome", func(ctx context.Context) {
		w.tracef("%v gives home away: %v", n, n.ch.Rehome(ctx, uint8(1-n.id)))
	})
}

func newReader(octets []byte) io.Reader { return bytes.NewReader(octets) }

// position reads where a node stands.
func (n *node) position() (p mailstore.Position, err error) {
	rep, err := n.ms.Replica(context.Background(), n.w.account, n.w.name)
	if err == nil {
		p, err = rep.Position(context.Background())
	}
	return p, err
}

// patience is how many tenths of a second of quiet there may be before both have
// the same: what failed, and state merges, are not tried again at once.
const patience = 300

// rest lets everything heal and arrive, and then both nodes must be the same.
func (w *world) rest() {
	for _, n := range w.nodes {
		n.faults = nil
		n.disk.SetFull(false)
		if !n.up {
			n.start()
		}
		w.pause(n, false)
	}
	w.look() // a session, which makes the account where it is not
	w.renew()
	for quiet, limit := 0, w.now.Add(3*time.Minute); w.failure == nil; {
		busy := false
		for _, n := range w.nodes {
			busy = busy || w.conn.inFlight(n.id) > 0
			for class := range replica.Classes {
				w.receive(n, class, 100)
			}
			n.work(100)
		}
		if w.over(w.conn) || w.conn.broken {
			w.renew()
		}
		if busy {
			quiet = 0
			continue
		}
		if w.nodes[0].ch.State() == replica.Attached && w.nodes[1].ch.State() == replica.Attached {
			if quiet++; quiet > 3 && (quiet > patience || w.level()) {
				break
			}
		}
		w.bringBack()
		w.now = w.now.Add(100 * time.Millisecond)
		if w.now.After(limit) {
			w.fail("L1: no attachment within 3 minutes: %v and %v", w.nodes[0].ch.State(), w.nodes[1].ch.State())
		}
	}
	w.look()
	w.same()
}

// level reports whether both nodes have applied the same.
func (w *world) level() bool {
	a, err := w.nodes[0].position()
	b, otherErr := w.nodes[1].position()
	if err != nil || otherErr != nil || !a.Settled || !b.Settled {
		return false
	}
	differs := func(x, y mailstore.Vector) bool {
		return slices.ContainsFunc(x, func(e mailstore.VectorEntry) bool { return y.Of(e.Origin).Seq != e.Seq })
	}
	return !differs(a.Vector, b.Vector) && !differs(b.Vector, a.Vector)
}

// bringBack does what is left to an operator: a body that is damaged on one node
// before the other had it, or after it expunged what it had, comes from a backup.
// Until then the account's changes wait: what is damaged is never given up.
func (w *world) bringBack() {
	for _, l := range w.mail.mails {
		if !w.mail.spoilt[l.hash] || w.nodes[0].has(l) || w.nodes[1].has(l) {
			continue
		}
		for _, n := range w.nodes {
			if n.up && n.disk.References(l.hash) > 0 {
				n.restoreBody(l)
			}
		}
	}
}

// has reports whether the body of a letter is whole on the node's disk.
func (n *node) has(l *letter) bool {
	if !n.up {
		return false
	}
	body, err := n.blobs.Open(context.Background(), store.Ref{Hash: l.hash, Octets: int64(len(l.text))})
	if err != nil {
		return false
	}
	return body.Close() == nil
}

func (n *node) restoreBody(l *letter) {
	content, err := n.ms.Stage(context.Background(), newReader(l.text))
	if err == nil {
		err = n.ms.Restore(context.Background(), content)
		content.Discard()
	}
	n.w.tracef("%v: body of mail %d is brought back: %v", n, l.token, err)
}

// renew makes a connection that works, noticed by both.
func (w *world) renew() {
	for _, n := range w.nodes {
		if !n.up {
			n.start()
		}
	}
	if c := w.conn; c != nil && !c.broken && !c.stalled[0] && !c.stalled[1] && !c.down[0] && !c.down[1] {
		w.notice(w.nodes[0])
		w.notice(w.nodes[1])
		return
	}
	w.cut(0)
	for _, n := range w.nodes {
		w.notice(n)
	}
	w.connect()
	for _, n := range w.nodes {
		w.notice(n)
	}
}

// same holds the nodes against each other: S6.
func (w *world) same() {
	if w.failure != nil {
		return
	}
	var positions [2]mailstore.Position
	for i, n := range w.nodes {
		p, err := n.position()
		if err != nil {
			w.fail("position of %v: %v", n, err)
			return
		}
		positions[i] = p
		if !p.Settled {
			w.fail("L1: %v is not settled", n)
		}
	}
	a, b := positions[0], positions[1]
	for _, e := range a.Vector {
		if other := b.Vector.Of(e.Origin); other.Seq != e.Seq || other.Chain != e.Chain {
			w.fail("L1: of origin %x node 0 has %d, node 1 %d", e.Origin, e.Seq, other.Seq)
		}
	}
	for _, e := range b.Vector {
		if a.Vector.Of(e.Origin).Seq != e.Seq {
			w.fail("L1: of origin %x node 0 has %d, node 1 %d", e.Origin, a.Vector.Of(e.Origin).Seq, e.Seq)
		}
	}
	if a.Home != b.Home {
		w.fail("S6: home is %v and %v", a.Home, b.Home)
	}
	if x, y := w.nodes[0].picture(), w.nodes[1].picture(); x != y {
		w.fail("S6: node 0 has\n%s\nnode 1 has\n%s", x, y)
	}
	if w.failure == nil && a.Digest != b.Digest {
		w.fail("S6: digests differ and what is shown does not")
	}
	w.tracef("both are the same")
}

// picture is all that clients of a node can see, as text.
func (n *node) picture() string {
	var out bytes.Buffer
	a, err := n.open()
	if err != nil {
		return err.Error()
	}
	defer a.Close()
	list, err := a.List(context.Background())
	if err != nil {
		return err.Error()
	}
	for _, info := range list {
		fmt.Fprintf(&out, "%s %v %s subscribed=%v exists=%v\n", info.Name, info.GUID, info.SpecialUse, info.Subscribed, info.Exists)
		if !info.Exists {
			continue
		}
		m, err := a.Mailbox(context.Background(), info.Name)
		if err != nil {
			fmt.Fprintf(&out, "  %v\n", err)
			continue
		}
		v := m.View()
		fmt.Fprintf(&out, "  uidvalidity %d, unseen %d, octets %d\n", v.UIDValidity(), v.Unseen(), v.Octets())
		for i := range v.Len() {
			msg := v.At(i)
			fmt.Fprintf(&out, "  %d %v %v %v %v %v %x\n", msg.UID, msg.Dot, msg.EmailID, msg.Flags, msg.Keywords,
				msg.InternalDate.Unix(), msg.Body.Hash[:4])
		}
		m.Close()
	}
	return out.String()
}

// run plays a seed; it ends with rest, unless something failed before.
func run(seed uint64, all []step, without mutant.Rule, keep bool) *world {
	return runWith(seed, all, without, nil, keep)
}

// runWith is run with other windows and blocks of UIDs.
func runWith(seed uint64, all []step, without mutant.Rule, uids *uid.Rules, keep bool) (w *world) {
	w = newWorld(seed, without, uids, keep)
	defer func() {
		if fault := recover(); fault != nil {
			w.fail("panic: %v\n%s", fault, stack())
		}
	}()
	for _, s := range all {
		if w.failure != nil {
			return w
		}
		w.do(s)
	}
	w.rest()
	w.end()
	return w
}

// journals tells what both nodes have logged, for who reads a failure.
func (w *world) journals() string {
	var out bytes.Buffer
	for _, n := range w.nodes {
		if !n.up {
			continue
		}
		rep, err := n.ms.Replica(context.Background(), w.account, w.name)
		if err != nil {
			continue
		}
		records, err := rep.Journal(context.Background(), 0, 1<<30)
		fmt.Fprintf(&out, "journal of %v: %v\n", n, err)
		for _, r := range records {
			decoded, err := mailstore.DecodeJournal(r.Raw)
			if err != nil {
				fmt.Fprintf(&out, "  %v\n", err)
				continue
			}
			fmt.Fprintf(&out, "  %d to %d, knows %v\n", r.First, r.Last, decoded.Known)
			for _, o := range decoded.Ops {
				fmt.Fprintf(&out, "    code %d, box %v, dots %v, UIDs %v, UID %d, message %v at %d, flags +%d -%d +%v -%v, name %q, observed %v\n", o.Code, o.Mailbox,
					o.Dots, o.UIDs, o.UID, o.Message.Dot, o.Message.UID, o.Set, o.Clear, o.SetKeywords, o.ClearKeywords, o.Name, o.Observed)
			}
		}
	}
	return out.String()
}
