package mailstore

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/postern-mail/postern/internal/mutant"
	"github.com/postern-mail/postern/store"
)

// remote is a record of the partner's on its way in.
type remote struct {
	*JournalRecord
	raw []byte
	// prepared are the structures of the messages it adds, by the dot of the
	// Add; those of copies that can be had here are not among them.
	prepared map[Dot]preparedBody
	unions   []union // see uniteTwins
}

// preparedBody is the body of a message of the partner's with its structure.
type preparedBody struct {
	staged store.Staged // nil when this store has the body
	meta   []byte
}

// knows reports whether the record's writer knew an operation.
func (r *remote) knows(d Dot) bool {
	return d.Origin == r.Origin && d.Seq < r.First || covers(r.Known, d)
}

// errTooLate ends a commit before the record under way: it needs what the
// commit so far has changed.
var errTooLate = errors.New("needs a commit of its own")

// Apply applies the partner's records, in order, several in a commit. Those
// that were applied before are passed over. bodies are what the partner sent of
// messages; messages whose bodies are gone there are not stored. The caller discards the bodies, whatever the result. Errors:
// ErrGap, ErrChain, *MissingBodies, ErrMalformed, MailSystemFull, StoreDown.
// After an error some records may have been applied: the result tells.
func (r *Replica) Apply(ctx context.Context, raw [][]byte, bodies map[store.Hash]store.Staged, gone Gone) (Applied, error) {
	var done Applied
	err := r.with(ctx, func(a *account) error {
		if a.link == nil {
			return ErrAlone
		}
		records, err := a.openRecords(raw)
		if err != nil {
			return err
		}
		for i := range records {
			if err := a.prepareRemote(ctx, &records[i], bodies, gone); err != nil {
				return err
			}
		}
		for at := 0; len(records) > 0; {
			n, err := a.applySome(ctx, records[:cmp.Or(at, len(records))], &done)
			if at == 0 && len(records) > 1 && errors.Is(err, store.ErrTooLarge) {
				at = 1 // together they were more than they seemed
				continue
			}
			if err != nil {
				return a.applyFailure(records, gone, err)
			}
			records = records[n:]
		}
		if err := a.settle(ctx); err != nil {
			return err
		}
		conflicts, err := a.housekeep(ctx)
		if err != nil {
			return err
		}
		done.Conflicts = append(done.Conflicts, conflicts...)
		return a.applied(ctx, &done)
	})
	return done, err
}

// openRecords reads records, which must follow each other.
func (a *account) openRecords(raw [][]byte) ([]remote, error) {
	records := make([]remote, 0, len(raw))
	for _, octets := range raw {
		octets = bytes.Clone(octets)
		r, err := DecodeJournal(octets)
		switch {
		case err != nil:
			return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
		case r.version < 2 || len(r.Ops) == 0 || r.First == 0 || len(octets) > store.MaxValueOctets:
			return nil, fmt.Errorf("%w: record %d of version %d with %d operations", ErrMalformed, r.First, r.version, len(r.Ops))
		case r.Origin == a.store.origin || r.Origin == 0:
			return nil, fmt.Errorf("%w: record %d is one of this node's own", ErrMalformed, r.First)
		}
		if err := r.check(); err != nil {
			return nil, err
		}
		if n := len(records); n > 0 && (records[n-1].Origin != r.Origin || records[n-1].Last()+1 != r.First) {
			return nil, fmt.Errorf("%w: record %d after %d", ErrGap, r.First, records[n-1].Last())
		}
		records = append(records, remote{JournalRecord: r, raw: octets})
	}
	return records, nil
}

// applySome applies as many records as one commit holds, at least one.
func (a *account) applySome(ctx context.Context, records []remote, done *Applied) (n int, err error) {
	var conflicts []Conflict
	var touched []*box
	err = a.changeAlone(ctx, func(t *txn) error {
		n, conflicts = 0, nil
		for i := range records {
			mark := t.save()
			err := t.applyRecord(&records[i])
			if n > 0 && (errors.Is(err, errTooLate) || err == nil && (t.isFull() || t.bodies > store.MaxBatchOctets)) {
				t.restore(mark)
				break
			}
			if err != nil {
				return err
			}
			n++
		}
		if err := t.settleTouched(); err != nil {
			return err
		}
		t.nameMailboxes()
		conflicts, touched = t.conflicts, t.order
		return nil
	})
	if err != nil {
		return 0, err
	}
	done.Conflicts = append(done.Conflicts, conflicts...)
	done.note(touched)
	return n, nil
}

// note remembers which mailboxes were touched.
func (d *Applied) note(touched []*box) {
	for _, b := range touched {
		f := MailboxFloor{Mailbox: b.guid}
		known := false
		for _, have := range d.Floors {
			known = known || have.Mailbox == b.guid
		}
		if !known {
			d.Floors = append(d.Floors, f)
		}
	}
}

// applied fills in where the account stands after records were applied.
func (a *account) applied(ctx context.Context, done *Applied) error {
	if a.link != nil {
		done.Conflicts = append(done.Conflicts, a.link.takeUntold()...)
	}
	return a.changeAlone(ctx, func(t *txn) error {
		done.Seq, done.Vector, done.Settled = t.head.seq, t.head.vector(), t.head.unsettled == 0
		if done.Settled && !t.head.merging {
			done.ModSeq = t.head.modseqs<<1 | a.store.class()
		}
		floors := done.Floors[:0]
		for _, f := range done.Floors {
			if b := a.boxes[f.Mailbox]; b != nil {
				f.UID = t.peek(b).report()
				floors = append(floors, f)
			}
		}
		done.Floors = floors
		var err error
		done.Digest, err = t.digest()
		return err
	})
}

// applyFailure says what an error of the store means for the records.
func (a *account) applyFailure(records []remote, gone Gone, err error) error {
	switch {
	case errors.Is(err, store.ErrNotFound):
		// A body went while we looked away: the partner sends it once more.
		missing := &MissingBodies{}
		for i := range records {
			for j := range records[i].Ops {
				op := &records[i].Ops[j]
				if op.Code == OpAdd && !gone.covers(op.Message.Body.Hash, records[i].First) && records[i].prepared[op.Message.Dot].staged == nil {
					missing.Refs = append(missing.Refs, op.Message.Body)
				}
			}
		}
		if len(missing.Refs) > 0 {
			return missing
		}
	case errors.Is(err, errTooLarge), errors.Is(err, errTooLate), errors.Is(err, store.ErrTooLarge):
		return fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return err
}

// applyRecord applies one record with all it says of itself.
func (t *txn) applyRecord(r *remote) error {
	a := t.account
	known := t.head.others.Of(r.Origin)
	switch {
	case r.Last() <= known.Seq && !a.store.without(mutant.NoDedupe):
		return nil
	case r.First > known.Seq+1:
		return fmt.Errorf("%w: record %d, %d was applied last", ErrGap, r.First, known.Seq)
	case r.First <= known.Seq && !a.store.without(mutant.NoDedupe):
		return fmt.Errorf("%w: record %d to %d, %d was applied last", ErrGap, r.First, r.Last(), known.Seq)
	case known.Closed:
		return fmt.Errorf("%w: origin %x was closed", ErrChain, uint64(r.Origin))
	}
	if err := t.preload(r); err != nil {
		return err
	}
	// What the commit has logged so far was written without knowing this record,
	// what it logs from now on comes after it, by the clock, too.
	t.flushJournal(0)
	t.hlc, r.unions = 0, nil
	t.head.hlc = max(t.head.hlc, r.HLC)
	if t.modseq == 0 && r.ModSeq < maxRaised {
		t.head.modseqs = max(t.head.modseqs, r.ModSeq>>1)
	}
	if a.headRecord == nil {
		t.batch.Put(accountKey(a.id, kindInfo), appendBlock([]byte{recordVersion}, a.name))
	}
	a.link.peerKnows = r.Known
	t.after = append(t.after, func() { a.link.stable = max(a.link.stable, ownSeq(r.Known, a.store.origin)) })
	t.head.learn(VectorEntry{Origin: r.Origin, Seq: r.Last(), Chain: chainJournal(known.Chain, r.raw)})
	t.batch.Put(numberKey(foreignKey(a.id, r.Origin), r.First), r.raw)
	t.logged = len(t.batch.Ops)
	for i := range r.Ops {
		if err := t.applyOp(&r.Ops[i], r, Dot{r.Origin, r.First + uint64(i)}); err != nil {
			if errors.Is(err, errTooLate) {
				return err
			}
			return fmt.Errorf("operation %d.%d: %w", r.Origin, r.First+uint64(i), err)
		}
	}
	if err := t.uniteTwins(r); err != nil {
		return err
	}
	if r.ModSeq != 0 {
		t.peerMark = &mark{modseq: r.ModSeq, known: withDot(r.Known, Dot{r.Origin, r.Last()})}
	}
	t.changed = true
	return nil
}

// applyOp applies one operation, whose dot is dot.
func (t *txn) applyOp(op *JournalOp, r *remote, dot Dot) error {
	switch op.Code {
	case OpAdd:
		return t.applyAdd(op, r)
	case OpExpunge:
		return t.applyExpunge(op)
	case OpFlags:
		return t.applyFlags(op, r, dot)
	case OpCreate:
		return t.applyCreate(op, r, dot)
	case OpMove, OpRename:
		return t.applyMove(op, r, dot)
	case OpDelete:
		return t.applyDelete(op, r, dot)
	case OpSubscribe:
		return t.applySubscribe(op, r, dot)
	case OpEntry:
		return t.applyEntry(op, r, dot)
	case OpUid:
		return t.applyUIDs(op)
	case OpNeedUid:
		return t.applyNeedUID(op)
	case OpFloor:
		if b := t.box(op.Mailbox); b != nil {
			t.draft(b).heard(op.UID)
		}
		return nil
	case OpHome:
		t.applyHome(op.Home)
		return nil
	case OpMerged:
		return nil
	}
	return fmt.Errorf("%w: %w %d", ErrMalformed, errUnknownOp, op.Code)
}

// preload brings the indexes into memory that the record's operations look
// messages up in. errTooLate when the commit has changed one of them already.
func (t *txn) preload(r *remote) error {
	for i := range r.Ops {
		op := &r.Ops[i]
		b := t.box(op.Mailbox)
		switch op.Code {
		case OpAdd:
			twin, err := t.twinOf(op)
			if err != nil {
				return err
			}
			// Nobody looks for the message itself, which is new, unless a state
			// merge that was broken off has brought it.
			if b != nil && t.head.merging {
				if err := t.load(b); err != nil {
					return err
				}
			}
			if b = t.box(twin.mailbox); b == nil {
				continue
			}
		case OpExpunge, OpFlags, OpNeedUid, OpDelete:
		case OpUid:
			if b == nil {
				continue
			}
			if all, err := t.areHidden(b, op.Dots); err != nil || all {
				if err != nil {
					return err
				}
				continue
			}
		default:
			continue
		}
		if b == nil {
			continue
		}
		if err := t.load(b); err != nil {
			return err
		}
	}
	return nil
}

// areHidden reports whether all the messages are hidden ones.
func (t *txn) areHidden(b *box, dots []Dot) (bool, error) {
	if t.peek(b).pending < int64(len(dots)) {
		return false, nil
	}
	hidden, err := t.hidden(b)
	if err != nil {
		return false, err
	}
	known := make(map[Dot]bool, len(hidden))
	for _, m := range hidden {
		known[m.Dot] = true
	}
	for _, d := range dots {
		if !known[d] {
			return false, nil
		}
	}
	return true, nil
}

// conflict notes one that was resolved.
func (t *txn) conflict(kind ConflictKind, mailbox, format string, args ...any) {
	t.conflicts = append(t.conflicts, Conflict{Kind: kind, Mailbox: mailbox, Detail: fmt.Sprintf(format, args...)})
}

// settleTouched gives UIDs in the mailboxes that this commit changed, as far as
// there is room in it, and in all once home has caught up.
func (t *txn) settleTouched() error {
	stores, _ := t.toStore()
	room := (maxTxnOps - len(t.batch.Ops) - stores) / 8
	for _, b := range append([]*box(nil), t.order...) {
		if room <= 0 {
			return nil
		}
		n, err := t.settle(b, room)
		if err != nil && !errors.Is(err, errTooLate) {
			return err
		}
		room -= n
	}
	return nil
}
