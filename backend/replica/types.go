package replica

import (
	"context"

	"github.com/postern-mail/postern/backend/mailstore"
	"github.com/postern-mail/postern/store"
)

// What the mail store calls things; see there.
type (
	Digest       = mailstore.Digest
	Vector       = mailstore.Vector
	VectorEntry  = mailstore.VectorEntry
	Home         = mailstore.Home
	MailboxFloor = mailstore.MailboxFloor
	Position     = mailstore.Position
	Record       = mailstore.Record
	Ack          = mailstore.Ack
	Applied      = mailstore.Applied
	Conflict     = mailstore.Conflict
	Durability   = mailstore.Durability
	// MissingBodies is the error of records whose bodies are not here.
	MissingBodies = mailstore.MissingBodies
	// Gone are bodies that the partner does not have any more.
	Gone = mailstore.Gone
)

// Account is one account as a channel uses it: a *mailstore.Replica, by
// AccountOf.
type Account interface {
	Position(ctx context.Context) (Position, error)
	BeginAttach(ctx context.Context) (Position, error)
	Attached(ctx context.Context, peer Position) error
	Detach(ctx context.Context) error
	Journal(ctx context.Context, after uint64, maxOctets int) ([]Record, error)
	Missing(ctx context.Context, refs []store.Ref) ([]store.Ref, error)
	Apply(ctx context.Context, raw [][]byte, bodies map[store.Hash]store.Staged, gone Gone) (Applied, error)
	Acked(ctx context.Context, ack Ack) error
	SetHome(ctx context.Context, class uint8) error
	// Pull begins a state merge of this node from the partner, Answer answers a
	// question of the partner's, Joined notes that one was complete.
	Pull(ctx context.Context, deep bool) (Puller, error)
	Answer(ctx context.Context, query []byte) ([]byte, error)
	Joined(ctx context.Context) error
	// Damaged names the mailboxes that are not what was kept of them.
	Damaged(ctx context.Context) ([]string, error)
	// Refers reports whether a message of the account still needs the body.
	Refers(ctx context.Context, ref store.Ref) (bool, error)
}

// Puller is a state merge; see mailstore.Puller.
type Puller interface {
	Query(ctx context.Context) ([]byte, error)
	Take(ctx context.Context, answer []byte) (need []store.Ref, err error)
	Give(ctx context.Context, bodies map[store.Hash]store.Staged, gone Gone) error
	Applied() Applied
}
