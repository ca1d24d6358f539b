package replica

import (
	"context"
	"errors"
	"io"

	"github.com/postern-mail/postern/backend/mailstore"
	"github.com/postern-mail/postern/store"
)

// Bodies is where a channel reads and stages message bodies.
type Bodies interface {
	// Open reads a body of this store; store.ErrNotFound when nobody links it.
	Open(ctx context.Context, ref store.Ref) (store.Body, error)
	// Stage takes in a whole body.
	Stage(ctx context.Context, r io.Reader) (store.Staged, error)
	// Part keeps octets of a body that comes in parts, from offset on, and
	// returns how many there are from its beginning. A part that leaves a gap
	// is not kept. Parts outlive the link.
	Part(ref store.Ref, offset int64, octets []byte) (int64, error)
	// Parts returns how many octets are kept.
	Parts(ref store.Ref) int64
	// Join stages a body whose octets are all there; ErrParts when they are
	// another's. Either way they are kept no longer.
	Join(ctx context.Context, ref store.Ref) (store.Staged, error)
	// Sent reports whether the partner was sent the body lately over this link,
	// by any account, and notes it as sent.
	Sent(store.Hash) bool
}

// ErrParts means that the parts of a body do not make it up.
var ErrParts = errors.New("the parts are not those of the body")

// Events is what a channel tells its owner beside frames. The calls are made
// while the channel works: they must not call it.
type Events interface {
	// Durable says that the partner has this account's own operations up to seq.
	Durable(account mailstore.GUID, seq uint64)
	// Applied tells what a batch of the partner's records did.
	Applied(account mailstore.GUID, records int, applied Applied)
	// Pulled tells of a state merge that is complete.
	Pulled(account mailstore.GUID, applied Applied)
	// Joined says that this node has all the partner had of the account.
	Joined(account mailstore.GUID)
	// Quarantined hands over the record that could not be applied.
	Quarantined(account mailstore.GUID, raw []byte, why error)
	// Stale says that this node (own) or the partner knows less of its own
	// operations than the other.
	Stale(account mailstore.GUID, own bool)
	// Differs says that equal vectors have different digests.
	Differs(account mailstore.GUID)
	// Failed tells of something that was tried again later.
	Failed(account mailstore.GUID, doing string, err error)
}
