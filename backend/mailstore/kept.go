package mailstore

import (
	"context"

	"github.com/postern-mail/postern/status"
)

// DeliverKept is Deliver for a client that keeps the messages until the partner
// has them, too: it does not wait for that, whatever the pair is configured
// with. The result has the dots of the messages beside the errors: for a
// repeat, that of the message as it was stored first, which is the zero Dot
// when it is not known any more.
func (a *Account) DeliverKept(ctx context.Context, deliveries []Delivery) ([]Dot, []error) {
	return a.deliverAll(ctx, deliveries, DurabilityShadow)
}

// Replicated reports whether the partner is known to have the operation of a
// dot on an account. known is false for an operation that this store does not
// have as its own: of another account, node or incarnation.
func (s *Store) Replicated(ctx context.Context, account GUID, dot Dot) (replicated, known bool, err error) {
	head, err := s.Head(ctx, account)
	if err != nil {
		return false, false, status.New(status.StoreDown, err)
	}
	known = head.Name != "" && dot.Origin == s.origin && dot.Seq > 0 && dot.Seq <= head.Seq
	return known && head.Acked >= dot.Seq, known, nil
}

// WithoutKeeper is the mode for what nobody keeps for the partner: a message of
// a client that does not know how, an APPEND, a change of flags. In shadow mode
// that waits as in semi-sync.
func (d Durability) WithoutKeeper() Durability {
	if d == DurabilityShadow {
		return DurabilitySemiSync
	}
	return d
}
