package uid

import (
	"errors"
	"math"

	"github.com/postern-mail/postern/internal/mutant"
)

var (
	// ErrNoCredit means that the node may not allocate now: it is not the home,
	// or its partner has to acknowledge first. The message stays without a UID
	// until it gets one.
	ErrNoCredit = errors.New("no UID may be allocated now")
	// ErrExhausted means that the mailbox has used up its UIDs: it needs a new
	// UIDVALIDITY.
	ErrExhausted = errors.New("the mailbox has no UIDs left")
)

// Marks are the durable fields of a mailbox. They change together with the
// operation that changed them, in one commit.
type Marks struct {
	Exposed   uint32 // the highest UID ever shown here; UIDNEXT is one above
	Allocated uint32 // the highest UID ever allocated here, or covered by an attach
	Floor     uint32 // the highest UID known from anywhere
}

// Mailbox is the allocator of one mailbox on one node. The zero value is that
// of an empty one; a node that starts fills in the Marks and nothing else. It is
// a small value: a transaction works on a copy and keeps it when it committed.
// Not safe for concurrent use.
type Mailbox struct {
	Marks

	peerFloor uint32 // what the partner has durably acknowledged to know
	threshold uint32 // detached allocations lie above it
	epoch     uint64 // the epoch that threshold was computed in; 0: none
}

// Report is what the node tells its partner when it attaches and in its
// acknowledgements, once the Marks are durable.
func (m *Mailbox) Report() uint32 { return max(m.Exposed, m.Allocated, m.Floor) }

// PeerFloor is what the partner has acknowledged in this session.
func (m *Mailbox) PeerFloor() uint32 { return m.peerFloor }

// Heard takes note of a UID that stands in a record of the partner's.
func (m *Mailbox) Heard(u uint32) { m.Floor = max(m.Floor, u) }

// Attach begins a session: report is what the partner has told, read after it
// had stopped allocating. It is also how an attached node becomes home, with
// what the former one reported in the record that gave the role away. The Marks
// must be durable before Next is called.
func (m *Mailbox) Attach(s Side, report uint32) {
	m.Heard(report)
	m.peerFloor = report
	if s.Home && !s.without(mutant.NoRaise) {
		m.Allocated = max(m.Allocated, m.Floor)
	}
}

// Acked takes note of what the partner has made durable: it is credit for Next.
func (m *Mailbox) Acked(report uint32) {
	m.Heard(report)
	m.peerFloor = max(m.peerFloor, report)
}

// Next allocates a UID for a message, or returns ErrNoCredit or ErrExhausted.
// The caller logs it and stores the Marks in the commit that gives it to the
// message; if that fails the whole value is dropped and loaded again.
func (m *Mailbox) Next(s Side) (uint32, error) {
	u, err := m.candidate(s)
	if err != nil {
		return 0, err
	}
	if u >= math.MaxUint32 { // UIDNEXT is a UID, too
		return 0, ErrExhausted
	}
	m.Allocated = max(m.Allocated, uint32(u))
	return uint32(u), nil
}

// candidate is computed in 64 bits, where no sum of ours overflows.
func (m *Mailbox) candidate(s Side) (uint64, error) {
	switch {
	case s.Link == Alone:
		return uint64(m.Report()) + 1, nil
	case s.Link == Detached:
		return m.detached(s), nil
	case !s.Sequences() || s.CatchingUp:
		return 0, ErrNoCredit
	}
	u := uint64(max(m.Exposed, m.Allocated)) + 1
	if u > uint64(m.peerFloor)+uint64(s.rules().Window) && !s.without(mutant.NoCredit) {
		return 0, ErrNoCredit
	}
	return u, nil
}

// detached returns the next UID of the node's own blocks.
func (m *Mailbox) detached(s Side) uint64 {
	r := s.rules()
	if m.epoch == 0 || m.epoch != s.Epoch && !s.without(mutant.KeepThreshold) {
		m.epoch, m.threshold = s.Epoch, m.newThreshold(s)
	}
	u := uint64(max(m.threshold, m.Report())) + 1
	if block := u / uint64(r.Block); block%2 != uint64(s.Class&1) && !s.without(mutant.NoClasses) {
		u = (block + 1) * uint64(r.Block)
	}
	return u
}

// newThreshold keeps clear of what an attached home may have allocated that
// this node does not know: it had this node's floor and its window.
func (m *Mailbox) newThreshold(s Side) uint32 {
	r := s.rules()
	t := uint64(m.Report())
	if !s.without(mutant.NoWindow) {
		t += uint64(r.Window)
	}
	if s.Home {
		t += leap * uint64(r.Block)
	}
	return uint32(min(t, math.MaxUint32))
}

// Action is what a node does with a message whose UID it looks at.
type Action uint8

// The actions.
const (
	// Keep: it is shown where it belongs, or not yet and will be told.
	Keep Action = iota
	// Expose: show it at its UID now; call Expose. A message that was shown at
	// another goes from there in the same commit.
	Expose
	// Ask: its UID cannot be shown here any more. It stays where it is, or
	// hidden, and home is asked for a higher one.
	Ask
	// Allocate: it needs a new UID and this node gives it. Next may have no
	// credit: then later, when the partner acknowledges.
	Allocate
	// Wait: home is to give it a new UID, and does so once it is attached.
	Wait
)

// Decide says what becomes of a message that is shown at shown (0: not at all)
// and whose highest UID is u (0: it has none).
func (m *Mailbox) Decide(s Side, shown, u uint32) Action {
	hidden := shown == 0
	switch {
	case u > shown && (u > m.Exposed || s.without(mutant.ExposeBelow)):
		return Expose
	case u == shown && !hidden:
		return Keep
	case s.Link == Alone, hidden && s.Link == Detached, s.Sequences():
		return Allocate
	case s.Home:
		return Wait
	case u == 0:
		return Keep // home sees that it has none
	default:
		return Ask
	}
}

// Expose takes note that a message is shown at u from this commit on. It
// reports whether that is allowed: u lies above everything shown before.
func (m *Mailbox) Expose(u uint32) bool {
	if u <= m.Exposed {
		return false
	}
	m.Exposed = u
	m.Heard(u)
	return true
}
