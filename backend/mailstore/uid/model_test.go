package uid_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/postern-mail/postern/backend/mailstore/uid"
	"github.com/postern-mail/postern/internal/mutant"
)

// The model: two nodes with one mailbox each, around the real allocator. All
// that a node does is one durable step; what is in flight, the thresholds and
// the credit are not durable.

type dot struct{ node, seq int }

type opKind int

const (
	opAdd opKind = iota
	opUID
	opNeed
	opExpunge
	opFlag
	opHome
)

type op struct {
	kind  opKind
	seq   int
	dot   dot
	uid   uint32 // opUID; the giver's report in opHome
	epoch int    // opHome
	home  int
	stamp [2]int // opFlag: counter, node
	value int
}

type message struct {
	dot   dot
	uid   uint32 // the highest ever given
	shown uint32
	stamp [2]int
	value int
}

type packet struct {
	session int
	hello   bool
	ack     bool
	seen    [2]int
	report  uint32
	op      op
}

type node struct {
	id int
	// durable
	marks     uid.Marks
	log       []op
	seen      [2]int
	messages  map[dot]*message
	homeEpoch int
	home      int
	clock     int
	// not durable
	box      uid.Mailbox
	link     uid.Link
	session  int
	epoch    uint64
	peerHad  int // of the partner's operations, when they attached
	sent     int // of our log, in this session
	peerSeen int // as the partner said when they attached
	answered bool
	// impatient: it has waited long enough for what the partner had
	impatient bool
	needs     map[dot]uint32 // what home is asked for and has no credit for yet
}

type snapshot struct {
	next uint32
	seen map[dot]bool
}

type world struct {
	rng       *rand.Rand
	rules     uid.Rules
	nodes     [2]*node
	wire      [2][]packet // to node i
	up        bool
	sessions  int
	bound     map[uint32]dot
	expunged  [2]map[dot]bool
	killed    map[dot]bool
	acked     map[dot]bool
	clients   []snapshot
	exposures int
	renumbers int
	failure   error
}

func newWorld(seed uint64, rules uid.Rules) *world {
	w := &world{
		rng: rand.New(rand.NewPCG(seed, 7)), rules: rules,
		bound: map[uint32]dot{}, killed: map[dot]bool{}, acked: map[dot]bool{},
	}
	for i := range w.nodes {
		w.nodes[i] = &node{id: i, messages: map[dot]*message{}, needs: map[dot]uint32{}, link: uid.Detached, epoch: 1}
		w.expunged[i] = map[dot]bool{}
	}
	return w
}

func (w *world) fail(format string, args ...any) {
	if w.failure == nil {
		w.failure = fmt.Errorf(format, args...)
	}
}

func (w *world) side(n *node) uid.Side {
	return uid.Side{
		Link: n.link, Class: uint8(n.id), Home: n.home == n.id, Epoch: n.epoch, Rules: &w.rules,
		CatchingUp: n.seen[1-n.id] < n.peerHad && !n.impatient,
	}
}

func (n *node) record(o op) {
	o.seq = len(n.log) + 1
	n.log = append(n.log, o)
	n.seen[n.id] = o.seq
}

// settle looks at one message after its UID or what is shown has changed.
func (w *world) settle(n *node, m *message, may bool) {
	s := w.side(n)
	switch n.box.Decide(s, m.shown, m.uid) {
	case uid.Expose:
		w.expose(n, m)
	case uid.Allocate:
		u, err := n.box.Next(s)
		if err != nil {
			break
		}
		if u <= m.uid {
			w.fail("S3: allocated %d below the message's %d", u, m.uid)
		}
		m.uid = u
		n.record(op{kind: opUID, dot: m.dot, uid: u})
		w.expose(n, m)
	case uid.Ask:
		if may {
			n.record(op{kind: opNeed, dot: m.dot, uid: n.box.Exposed})
		}
	}
	n.marks = n.box.Marks
}

func (w *world) expose(n *node, m *message) {
	w.exposures++
	if m.shown != 0 {
		w.renumbers++
	}
	if !n.box.Expose(m.uid) {
		w.fail("S4: node %d shows %v at %d after %d", n.id, m.dot, m.uid, n.box.Exposed)
	}
	if other, ok := w.bound[m.uid]; ok && other != m.dot {
		w.fail("S3: UID %d names %v and %v", m.uid, other, m.dot)
	}
	if w.expunged[n.id][m.dot] {
		w.fail("S2: node %d shows %v, which it expunged", n.id, m.dot)
	}
	w.bound[m.uid] = m.dot
	m.shown = m.uid
}

// settleAll is what a node does when it attaches, detaches or gets credit.
func (w *world) settleAll(n *node, ask bool) {
	for _, d := range n.dots() {
		w.settle(n, n.messages[d], ask)
	}
	w.settleNeeds(n)
	n.marks = n.box.Marks
}

func (n *node) dots() []dot {
	all := make([]dot, 0, len(n.messages))
	for d := range n.messages {
		all = append(all, d)
	}
	slices.SortFunc(all, func(a, b dot) int { return (a.seq-b.seq)*2 + a.node - b.node })
	return all
}

func (w *world) add(n *node) {
	d := dot{n.id, len(n.log) + 1}
	n.record(op{kind: opAdd, dot: d})
	m := &message{dot: d}
	n.messages[d] = m
	w.acked[d] = true
	w.settle(n, m, false)
}

func (w *world) expunge(n *node) {
	if all := n.dots(); len(all) > 0 {
		d := all[w.rng.IntN(len(all))]
		if n.messages[d].shown == 0 {
			return
		}
		delete(n.messages, d)
		w.expunged[n.id][d], w.killed[d] = true, true
		n.record(op{kind: opExpunge, dot: d})
	}
}

func (w *world) flag(n *node) {
	if all := n.dots(); len(all) > 0 {
		m := n.messages[all[w.rng.IntN(len(all))]]
		n.clock++
		m.stamp, m.value = [2]int{n.clock, n.id}, w.rng.IntN(8)
		n.record(op{kind: opFlag, dot: m.dot, stamp: m.stamp, value: m.value})
	}
}

func (w *world) rehome(n *node) {
	s := w.side(n)
	if s.Sequences() && !s.CatchingUp {
		n.homeEpoch, n.home = n.homeEpoch+1, 1-n.id
		n.record(op{kind: opHome, epoch: n.homeEpoch, home: n.home, uid: n.box.Report()})
		w.settleAll(n, true)
	}
}

func (w *world) apply(n *node, o op) {
	from := 1 - n.id
	if o.seq <= n.seen[from] && !w.rules.Without.Has(mutant.NoDedupe) {
		return
	}
	if o.seq > n.seen[from]+1 {
		w.fail("gap: node %d has %d and gets %d", n.id, n.seen[from], o.seq)
		return
	}
	caughtUp := !w.side(n).CatchingUp
	n.seen[from] = max(n.seen[from], o.seq)
	m := n.messages[o.dot]
	switch o.kind {
	case opAdd:
		if m == nil {
			m = &message{dot: o.dot}
			n.messages[o.dot] = m
		}
		w.settle(n, m, true)
	case opUID:
		n.box.Heard(o.uid)
		if m != nil {
			m.uid = max(m.uid, o.uid)
			w.settle(n, m, true)
		}
	case opNeed:
		n.box.Heard(o.uid)
		n.needs[o.dot] = o.uid
		w.settleNeeds(n)
	case opExpunge:
		delete(n.messages, o.dot)
		w.expunged[n.id][o.dot] = true
	case opFlag:
		n.clock = max(n.clock, o.stamp[0])
		if m != nil && (o.stamp[0] > m.stamp[0] || o.stamp[0] == m.stamp[0] && o.stamp[1] > m.stamp[1]) {
			m.stamp, m.value = o.stamp, o.value
		}
	case opHome:
		if o.epoch > n.homeEpoch {
			n.homeEpoch, n.home = o.epoch, o.home
			n.box.Attach(w.side(n), o.uid)
			w.settleAll(n, false)
		}
	}
	n.marks = n.box.Marks
	if !caughtUp && !w.side(n).CatchingUp {
		w.settleAll(n, true)
	}
}

// settleNeeds gives messages that the partner cannot show a new UID.
func (w *world) settleNeeds(n *node) {
	s := w.side(n)
	for _, d := range n.dots() {
		asked, ok := n.needs[d]
		if !ok || !s.Sequences() {
			continue
		}
		if m := n.messages[d]; m.uid <= asked {
			u, err := n.box.Next(s)
			if err != nil {
				return // later, with credit; the partner asks again when it attaches
			}
			m.uid = u
			n.record(op{kind: opUID, dot: d, uid: u})
			w.expose(n, m)
		}
		delete(n.needs, d)
	}
}

func (w *world) detach(n *node) {
	if n.link == uid.Pending || n.link == uid.Attached {
		n.link, n.session = uid.Detached, 0
		n.epoch++
		w.settleAll(n, false)
	}
}

func (w *world) attach(n *node) {
	if w.up && n.link == uid.Detached && !n.answered {
		n.link, n.session, n.answered, n.impatient = uid.Pending, w.sessions, true, false
		w.send(n, packet{hello: true})
	}
}

func (w *world) send(n *node, p packet) {
	if !w.up || n.session != w.sessions {
		return // lost: the connection is gone, and the node does not know yet
	}
	p.session, p.seen, p.report = n.session, n.seen, n.box.Report()
	if p.hello {
		p.op = op{epoch: n.homeEpoch, home: n.home}
	}
	w.wire[1-n.id] = append(w.wire[1-n.id], p)
}

func (w *world) receive(n *node) {
	if len(w.wire[n.id]) == 0 {
		return
	}
	p := w.wire[n.id][0]
	if p.session == w.sessions && n.link == uid.Detached && !n.answered {
		return // it has not looked at this connection yet
	}
	w.wire[n.id] = w.wire[n.id][1:]
	if p.session != n.session || n.link == uid.Detached {
		return
	}
	switch {
	case p.hello:
		if n.link != uid.Pending {
			return
		}
		n.link = uid.Attached
		if p.op.epoch > n.homeEpoch {
			n.homeEpoch, n.home = p.op.epoch, p.op.home
		}
		n.peerHad, n.peerSeen, n.sent = p.seen[1-n.id], p.seen[n.id], p.seen[n.id]
		n.box.Attach(w.side(n), p.report)
		n.marks = n.box.Marks
		w.settleAll(n, true)
	case p.ack:
		n.box.Acked(p.report)
		n.marks = n.box.Marks
		w.settleAll(n, false)
	default:
		w.apply(n, p.op)
		w.send(n, packet{ack: true})
	}
}

func (w *world) pump(n *node) {
	if n.link == uid.Attached && n.sent < len(n.log) {
		n.sent++
		w.send(n, packet{op: n.log[n.sent-1]})
	}
}

func (w *world) cut(up bool) {
	w.up = up
	w.wire = [2][]packet{}
	w.sessions++
	for _, n := range w.nodes {
		n.answered = false
	}
}

// connect makes a new connection; a node leaves the old one at the latest now.
func (w *world) connect() {
	for _, n := range w.nodes {
		w.detach(n)
	}
	w.cut(true)
}

func (w *world) restart(n *node) {
	n.box = uid.Mailbox{Marks: n.marks}
	n.link, n.session, n.epoch, n.peerHad, n.needs = uid.Detached, 0, 1, 0, map[dot]uint32{}
	w.settleAll(n, false)
}

func (w *world) look(n *node) {
	c := snapshot{next: n.box.Exposed + 1, seen: map[dot]bool{}}
	for d, m := range n.messages {
		if m.shown != 0 {
			c.seen[d] = true
		}
	}
	w.clients = append(w.clients, c)
}

func (w *world) step() {
	n := w.nodes[w.rng.IntN(2)]
	switch r := w.rng.IntN(100); {
	case r < 14:
		w.add(n)
	case r < 18:
		w.expunge(n)
	case r < 22:
		w.flag(n)
	case r < 23:
		w.rehome(n)
	case r < 28:
		w.attach(n)
	case r < 30:
		w.detach(n)
	case r < 32:
		w.cut(false)
		for _, n := range w.nodes {
			if w.rng.IntN(2) == 0 { // the other finds out later
				w.detach(n)
			}
		}
	case r < 37:
		if !w.up {
			w.connect()
		}
	case r < 38:
		w.restart(n)
		w.cut(false)
	case r < 40: // what was sent is sent again
		if n.link == uid.Attached {
			n.sent = n.peerSeen
		}
	case r < 42:
		w.look(n)
	case r < 43:
		n.impatient = true
		w.settleAll(n, true)
	case r < 71:
		w.pump(n)
	default:
		w.receive(n)
	}
}

// heal connects the nodes and lets everything arrive.
func (w *world) heal() {
	w.connect()
	for _, n := range w.nodes {
		w.attach(n)
	}
	for range 200_000 {
		busy := false
		for _, n := range w.nodes {
			busy = busy || len(w.wire[n.id]) > 0 || n.link == uid.Attached && n.sent < len(n.log)
			w.receive(n)
			w.pump(n)
		}
		if !busy || w.failure != nil {
			return
		}
	}
	w.fail("L1: the nodes do not come to rest")
}

func (w *world) checkEnd() {
	a, b := w.nodes[0], w.nodes[1]
	if len(a.messages) != len(b.messages) {
		w.fail("S6: %d and %d messages", len(a.messages), len(b.messages))
	}
	for d, m := range a.messages {
		other := b.messages[d]
		if other == nil {
			w.fail("S6: %v is on node 0 only", d)
		} else if *m != *other || m.shown != m.uid {
			w.fail("S6: %v is %+v and %+v", d, *m, *other)
		}
		if w.killed[d] {
			w.fail("S2: %v was expunged and is there", d)
		}
	}
	for d := range w.acked {
		if a.messages[d] == nil && !w.killed[d] {
			w.fail("S1: %v is lost", d)
		}
	}
	for _, c := range w.clients {
		for d, m := range a.messages {
			if !c.seen[d] && m.uid < c.next {
				w.fail("S4b: %v at %d, and a client that had UIDNEXT %d never saw it", d, m.uid, c.next)
			}
		}
	}
}

// run plays one seed: everything in it follows from the number.
func run(seed uint64, steps int, rules uid.Rules) *world {
	w := newWorld(seed, rules)
	for i := 0; i < steps && w.failure == nil; i++ {
		w.step()
		if i == steps/2 && seed%4 == 0 {
			w.heal()
		}
	}
	w.heal()
	if w.failure == nil {
		w.checkEnd()
	}
	return w
}

var sizes = []uid.Rules{
	{Window: 256, Block: 4096}, {Window: 1, Block: 2}, {Window: 2, Block: 8}, {Window: 9, Block: 4}, {Window: 4, Block: 64},
}

func TestModel(t *testing.T) {
	t.Parallel()
	exposures, renumbers := 0, 0
	for seed := range uint64(500) {
		w := run(seed, 300, sizes[seed%uint64(len(sizes))])
		if w.failure != nil {
			t.Fatalf("seed %d: %v", seed, w.failure)
		}
		exposures += w.exposures
		renumbers += w.renumbers
	}
	t.Logf("%d exposures, %d renumbered", exposures, renumbers)
	if exposures < 25_000 || renumbers == 0 {
		t.Errorf("%d exposures, %d renumbered: the model does not do what it is for", exposures, renumbers)
	}
}

// TestMutations takes away one rule after the other: the model must notice.
func TestMutations(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name    string
		without mutant.Rule
		rules   uid.Rules
		seeds   uint64
	}{
		{"no block classes", mutant.NoClasses, uid.Rules{Window: 256, Block: 4096}, 200},
		{"no credit window", mutant.NoCredit, uid.Rules{Window: 2, Block: 8}, 1000},
		{"no window in the threshold", mutant.NoWindow, uid.Rules{Window: 9, Block: 4}, 1000},
		{"allocator not raised at attach", mutant.NoRaise, uid.Rules{Window: 2, Block: 8}, 2000},
		{"no vector dedupe", mutant.NoDedupe, uid.Rules{Window: 256, Block: 4096}, 500},
		{"threshold kept over an attach", mutant.KeepThreshold, uid.Rules{Window: 4, Block: 64}, 4000},
		{"shown below what was shown", mutant.ExposeBelow, uid.Rules{Window: 256, Block: 4096}, 200},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			row.rules.Without = row.without
			for seed := range row.seeds {
				if w := run(seed, 300, row.rules); w.failure != nil {
					t.Logf("seed %d: %v", seed, w.failure)
					return
				}
			}
			t.Errorf("not noticed in %d runs", row.seeds)
		})
	}
}
