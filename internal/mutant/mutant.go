// Package mutant names the safety rules of replication that a simulation leaves
// out on purpose: a checker that does not notice a missing rule proves nothing,
// so each rule is removed in a test that must fail then.
//
// A process that serves mail keeps all of them: it has no way to set anything
// but None, the zero value of each field of this type.
package mutant

// Rule is one safety rule, or several of them.
type Rule uint32

// None is missing: what everything but a simulation runs with.
const None Rule = 0

// The rules, by what happens without them.
const (
	// NoClasses: a detached node allocates UIDs in every block, not only in
	// those of its class.
	NoClasses Rule = 1 << iota
	// NoCredit: the home allocates UIDs beyond what its peer acknowledged.
	NoCredit
	// NoWindow: a detached node allocates right above what it knows, without
	// keeping clear of what its peer may have allocated meanwhile.
	NoWindow
	// NoRaise: an attaching home does not raise its allocator to its peer's.
	NoRaise
	// KeepThreshold: a detach leaves the threshold of the one before in force.
	KeepThreshold
	// ExposeBelow: a message is shown below a UID that was shown before.
	ExposeBelow
	// NoDedupe: a record that was applied is applied again.
	NoDedupe
	// AbsenceDeletes: a state merge takes a message that is not there for
	// deleted, although the node that lacks it did not pass its integrity gate.
	AbsenceDeletes
	// DeleteAll: the deletion of a mailbox takes messages that it never saw.
	DeleteAll
	// ClockOnly: the later clock wins over what was written with knowledge of
	// the other.
	ClockOnly
	// AcceptStale: a node that was restored from an old backup is let in.
	AcceptStale
	// NoDeliveryMerge: one queue entry that was delivered to both nodes stays
	// two messages.
	NoDeliveryMerge
	// EarlyAck: what waits for the partner is answered before it.
	EarlyAck
	// OwnModSeq: a client's MODSEQ of the other node is taken for one of ours.
	OwnModSeq
)

// Has reports whether every rule of want is missing.
func (r Rule) Has(want Rule) bool { return want != 0 && r&want == want }
