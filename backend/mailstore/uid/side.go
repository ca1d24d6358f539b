package uid

import "github.com/postern-mail/postern/internal/mutant"

// Link is how a node stands to its partner, for one account.
type Link uint8

// The states of a link.
const (
	// Alone: there is no partner and never was, or it was forgotten. UIDs are
	// contiguous.
	Alone Link = iota
	// Detached: the partner is out of reach, and may be allocating as well.
	Detached
	// Pending: this node has sent its floors, or is about to, and waits for the
	// partner's. It allocates nothing: the home may already use its window.
	Pending
	// Attached: both nodes have each other's floors of this session.
	Attached
)

// String names the state as status output does.
func (l Link) String() string {
	switch l {
	case Alone:
		return "alone"
	case Detached:
		return "detached"
	case Pending:
		return "pending"
	case Attached:
		return "attached"
	default:
		return "unknown"
	}
}

// Rules are the protocol's constants. The nodes of a pair must have the same.
type Rules struct {
	// Window is how many UIDs home may allocate above its partner's floor.
	Window uint32
	// Block is how many UIDs one block has; block k, the UIDs from k*Block on,
	// belongs to class k mod 2.
	Block uint32
	// Without names rules to leave out: for simulations only.
	Without mutant.Rule
}

var standard = Rules{Window: 256, Block: 4096}

// leap is by how many blocks a detached home keeps clear of its partner: two
// pairs.
const leap = 4

// Side is what a node knows about itself when it decides for an account.
type Side struct {
	Link  Link
	Class uint8 // 0 or 1: the last bit of the node's number
	Home  bool  // this node is the account's home
	// CatchingUp is true for an attached home that has not applied yet what its
	// partner had when they attached: it does not allocate, because what it
	// showed now would force its partner's messages to new UIDs.
	CatchingUp bool
	// Epoch counts the times this process left Attached or Pending, from 1 on.
	// A threshold is good for one epoch. A restart may begin at 1 again: the
	// thresholds are gone with the memory.
	Epoch uint64
	Rules *Rules // nil: the standard ones
}

func (s Side) rules() *Rules {
	if s.Rules != nil {
		return s.Rules
	}
	return &standard
}

func (s Side) without(rule mutant.Rule) bool { return s.rules().Without.Has(rule) }

// Sequences reports whether the node allocates contiguously for both.
func (s Side) Sequences() bool { return s.Link == Attached && s.Home }
