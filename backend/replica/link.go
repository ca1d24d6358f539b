package replica

import (
	"context"

	"github.com/postern-mail/postern/backend/mailstore"
)

// Class is the urgency of a frame. Frames of one class arrive in the order they
// were sent; those of different classes may overtake each other.
type Class uint8

// The classes, the most urgent first.
const (
	ClassOps    Class = iota // operations without new bodies, acknowledgements, control
	ClassBodies              // new mail
	ClassBulk                // bootstrap, resync, repair

	// Classes is how many there are.
	Classes = 3
)

// Kind says what the payload of a frame is. The numbers are for ever.
type Kind uint8

// The frames of an account. Those marked with a star may also come with the zero
// account: then they are between the nodes.
const (
	KindAsk       Kind = 1  // the home asks the other node to attach
	KindAttach    Kind = 2  // the other node attaches
	KindAccept    Kind = 3  // the home agrees
	KindRefuse    Kind = 4  // no, and why
	KindDetach    Kind = 5  // the attachment ends, and why
	KindOps       Kind = 6  // journal records
	KindAck       Kind = 7  // what is durable here
	KindTruncated Kind = 8  // the journal does not reach back that far
	KindBodies    Kind = 9  // whole small bodies ahead of the records that name them
	KindWant      Kind = 10 // * a part of a body
	KindData      Kind = 11 // * that part
	KindGone      Kind = 12 // * there is no such body, or it is damaged
	KindPull      Kind = 13 // a question of a state merge
	KindState     Kind = 14 // its answer
	KindBlocked   Kind = 15 // no room here; send no more
	KindList      Kind = 16 // * which accounts are there
	KindListed    Kind = 17 // * a page of them
	KindVerify    Kind = 18 // tell the digest as recomputed
	KindVerified  Kind = 19 // the answer
)

// With the zero account.
const (
	KindHello  Kind = 20 // what the nodes tell each other first
	KindJoined Kind = 21 // the sender has all accounts now
)

// Frame is what a link carries.
type Frame struct {
	Class   Class
	Kind    Kind
	Account mailstore.GUID // zero: between the nodes
	Payload []byte
}

// Peer is what the partner said of itself when the link came up.
type Peer struct {
	Node   uint16
	Origin mailstore.Origin
	// Remote names the partner for operators.
	Remote string
}

// Link is one connection to the partner, from its handshake to its loss. All
// methods are safe for concurrent use.
type Link interface {
	Peer() Peer
	// Push takes a frame over, payload included, whether there is room or not.
	// After the link is lost it takes everything, to no effect.
	Push(Frame)
	// Room reports whether there is room for more of a class. When it said no,
	// Node.Writable is called once there is some.
	Room(Class) bool
	// Send is Push that waits for room, until ctx or the link ends.
	Send(ctx context.Context, f Frame) error
	// Close ends the link and says why; Node.Down follows.
	Close(reason string)
}
