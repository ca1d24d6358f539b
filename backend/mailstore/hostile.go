package mailstore

import (
	"fmt"
	"math"
	"strings"
)

// What a record of the partner's may say. Stored as it is, some of it could not
// be read again, and the account would be lost for its owner: such a record is
// refused as a whole.

const (
	// maxHLC is where a partner's clock ends to count: the year 5000 or so. A
	// clock at its end could not go on.
	maxHLC = 1 << 63
	// maxUID is the highest a message can have: UIDNEXT is a UID, too.
	maxUID = math.MaxUint32 - 1
)

// check says what this node could not store of a record.
func (r *JournalRecord) check() error {
	if r.HLC >= maxHLC {
		return fmt.Errorf("%w: record %d: clock %x", ErrMalformed, r.First, r.HLC)
	}
	for i := range r.Ops {
		if err := r.Ops[i].check(); err != nil {
			return fmt.Errorf("operation %d.%d: %w", r.Origin, r.First+uint64(i), err)
		}
	}
	return nil
}

func (op *JournalOp) check() error {
	for _, u := range append(op.UIDs, op.UID, op.Message.UID) {
		if u > maxUID {
			return fmt.Errorf("%w: UID %d", ErrMalformed, u)
		}
	}
	for _, list := range [][]string{op.Message.Keywords, op.SetKeywords} {
		for _, k := range list {
			if !isKeyword(k) {
				return fmt.Errorf("%w: keyword %.20q", ErrMalformed, k)
			}
		}
	}
	switch m := &op.Message; {
	case m.Flags&^allFlags != 0:
		return fmt.Errorf("%w: flags %x", ErrMalformed, m.Flags)
	case len(op.Trace) > MaxTraceOctets:
		return fmt.Errorf("%w: trace header of %d octets", ErrMalformed, len(op.Trace))
	case op.Home.Class > 1:
		return fmt.Errorf("%w: home of class %d", ErrMalformed, op.Home.Class)
	}
	return nil
}

// isKeyword reports whether a keyword is one that a client can be told.
func isKeyword(k string) bool {
	return k != "" && len(k) <= maxKeywordOctets && !strings.ContainsFunc(k, func(r rune) bool { return r <= ' ' || r >= 0x7f })
}

// checkVectors keeps a commit from making lists of origins longer than this
// program reads: see decoder.vector.
func (t *txn) checkVectors() error {
	if len(t.head.others) > maxOrigins {
		return fmt.Errorf("%w: %d origins", ErrMalformed, len(t.head.others))
	}
	for _, b := range t.order {
		if v := t.drafts[b]; len(v.erased) > maxOrigins || len(v.used) > maxOrigins {
			return fmt.Errorf("%w: mailbox %s of %d origins", ErrMalformed, b.guid, max(len(v.erased), len(v.used)))
		}
	}
	return nil
}
