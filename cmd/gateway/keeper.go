package main

import (
	"context"

	"github.com/postern-mail/postern/backend/lmtpd"
	"github.com/postern-mail/postern/backend/mailstore"
)

// keeper tells lmtpd of what is kept for the partner, nil where there is none.
func (s *server) keeper() lmtpd.Keeper {
	if s.pair == nil {
		return nil
	}
	return pairKeeper{s}
}

// pairKeeper is the node of a pair, and the configuration of its accounts.
type pairKeeper struct{ *server }

// Keeps implements lmtpd.Keeper.
func (k pairKeeper) Keeps(account string) bool {
	r := k.current.Load().file.Backend.Replica
	return r != nil && r.Keeps(account)
}

// Replicated implements lmtpd.Keeper.
func (k pairKeeper) Replicated(ctx context.Context, account mailstore.GUID, dot mailstore.Dot) (replicated, known bool, err error) {
	replicated, known, err = k.mailstore.Replicated(ctx, account, dot)
	if known && !replicated {
		replicated = k.pair.node.Watermark(ctx, account, dot.Seq)
	}
	return replicated, known, err
}
