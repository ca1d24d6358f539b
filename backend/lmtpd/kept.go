package lmtpd

import (
	"context"
	"encoding/base64"
	"encoding/binary"

	"github.com/postern-mail/postern/backend/mailstore"
	"github.com/postern-mail/postern/smtp"
)

// keeps reports whether the client is asked to keep what is delivered to the
// account: it can, and the account's mode says so.
func (t *transaction) keeps(account *mailstore.Account) bool {
	return t.from.Keep && t.from.DeliveryID != "" && t.handler.deps.Keeper != nil && t.handler.deps.Keeper.Keeps(account.Name())
}

// deliverKept is deliver for a client that keeps the message: nobody waits for
// the partner. Of a repeat, too, it is told whether the partner has the message.
func (t *transaction) deliverKept(ctx context.Context, group []int, deliveries []mailstore.Delivery, errs []error) {
	account := t.recipients[group[0]].account
	dots, results := account.DeliverKept(ctx, deliveries)
	for i, n := range group {
		errs[n] = results[i]
		if results[i] != nil {
			continue
		}
		// A dot that is not this node's own came from the partner.
		replicated, own, err := t.handler.deps.Keeper.Replicated(ctx, account.GUID(), dots[i])
		if err != nil {
			errs[n] = err // a repeat is safe
		} else if own && !replicated {
			t.recipients[n].token = keepToken(account.GUID(), dots[i])
		}
	}
}

// Kept implements smtp.KeptSession.
func (s *session) Kept(ctx context.Context, tokens []string) ([]smtp.Standing, error) {
	standings := make([]smtp.Standing, len(tokens))
	for i, token := range tokens {
		standings[i] = smtp.StandingUnknown
		account, dot, ok := parseKeepToken(token)
		if !ok || s.handler.deps.Keeper == nil {
			continue
		}
		replicated, known, err := s.handler.deps.Keeper.Replicated(ctx, account, dot)
		switch {
		case err != nil:
			return nil, err
		case replicated:
			standings[i] = smtp.StandingReplicated
		case known:
			standings[i] = smtp.StandingWaits
		}
	}
	return standings, nil
}

// A token is the account, the origin and the number of the message's operation.
const fixedToken = len(mailstore.GUID{}) + 8

func keepToken(account mailstore.GUID, dot mailstore.Dot) string {
	b := append(make([]byte, 0, fixedToken+binary.MaxVarintLen64), account[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(dot.Origin))
	return base64.RawURLEncoding.EncodeToString(binary.AppendUvarint(b, dot.Seq))
}

func parseKeepToken(token string) (account mailstore.GUID, dot mailstore.Dot, ok bool) {
	b, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil || len(b) <= fixedToken {
		return account, dot, false
	}
	copy(account[:], b)
	dot.Origin = mailstore.Origin(binary.BigEndian.Uint64(b[len(account):]))
	seq, n := binary.Uvarint(b[fixedToken:])
	dot.Seq = seq
	return account, dot, n == len(b)-fixedToken
}
