package mailstore

import (
	"context"

	"github.com/postern-mail/postern/internal/mutant"
)

// Base returns the MODSEQ of ours below which a client knows everything that
// presents a MODSEQ it was given earlier, by this node or by its partner
// (RFC 7162). Whoever asks for changes tells those above Base; 0 means that
// everything must be told. The result is never too high: a client may be told
// what it knows, and misses nothing.
//
//   - A value of this node's class is one of ours and is used as it is.
//   - A value of the partner's class is translated: the partner told which of
//     its values stands for which operations, and so it is known for each of
//     ours; see mark. Where nothing is known: 0.
//   - A value that this node has not given out yet is from a store that was
//     lost, or invented: 0.
//
// A store that has no partner has no values of another class.
func (m *Mailbox) Base(presented uint64) uint64 {
	a := m.box.account
	if a.store.isForeign(presented) {
		ctx, cancel := context.WithTimeout(context.Background(), a.store.cfg.CommitTimeout)
		defer cancel()
		base, err := a.translate(ctx, presented)
		if err != nil {
			a.store.log.Warn("marks of MODSEQs unreadable", "account", a.id, "err", err)
			return 0
		}
		return base
	}
	if presented>>1 > a.modseqs() {
		return 0
	}
	return presented
}

// IsForeign reports whether a MODSEQ was given out by the partner of this node.
// What a client with such a value knows is not a state this node was in: it may
// know messages that are not here.
func (m *Mailbox) IsForeign(presented uint64) bool { return m.box.account.store.isForeign(presented) }

// isForeign judges by the class. Without a partner there is one class only; a
// value of another is then the arithmetic of a client, such as the search for
// what is above a value.
func (s *Store) isForeign(presented uint64) bool {
	return s.hasPartner() && presented&1 != s.class() && !s.without(mutant.OwnModSeq)
}

// hasPartner reports whether clients may come with values of another node. The
// second node of a pair has a first one.
func (s *Store) hasPartner() bool { return s.Paired() || s.cfg.Node != 0 }

// modseqs is how many MODSEQs the account has given out.
func (a *account) modseqs() uint64 {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return a.head.modseqs
}

// Bounds of RaiseModSeq.
const (
	// maxRaise is how far one call takes an account's counter ahead: far more
	// commits than one node makes while the other does not hear of it.
	maxRaise = 1 << 24
	// maxRaised is where presented values end to count. From there to the end
	// of 63 bits an account has room for 2^61 commits of its own.
	maxRaised = 1 << 61
)

// RaiseModSeq makes HIGHESTMODSEQ of the mailbox higher than a value of the
// partner's that a client presents, so that a client that comes from there does
// not see it go down. It writes nothing when it is higher already, or when the
// value is out of bounds: more than 16 million commits ahead of this account,
// or beyond 2^61. An invented value can therefore not use up the account's
// numbers; whoever presents one sees a lower HIGHESTMODSEQ and is told
// everything. Values of this node's class never raise anything: those that it
// has not given out must go on to be known as such.
func (m *Mailbox) RaiseModSeq(ctx context.Context, presented uint64) error {
	if !m.raises(presented) {
		return nil
	}
	return m.box.account.change(ctx, func(t *txn) error {
		v := t.draft(m.box)
		if v.gone || v.modseq >= presented {
			return nil
		}
		t.head.modseqs = max(t.head.modseqs, presented>>1)
		v.modseq, v.dirty = t.nextModSeq(), true
		return nil
	})
}

func (m *Mailbox) raises(presented uint64) bool {
	return m.IsForeign(presented) && presented > m.box.current().modseq && presented < maxRaised && presented>>1 <= m.box.account.modseqs()+maxRaise
}
