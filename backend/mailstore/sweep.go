package mailstore

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/store"
)

// Run removes what is no longer needed, now and then, until ctx ends: messages
// that are too old for their mailbox (see Autoexpunge), those of deleted mailboxes, expired delivery IDs, old journal and expunge records.
// Nothing depends on it but the room they take.
func (s *Store) Run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		case <-s.garbage:
		}
		if err := s.Sweep(ctx); err != nil && ctx.Err() == nil {
			s.log.Warn("sweep of mailboxes ended early", "err", err)
		}
		if err := s.Autoexpunge(ctx); err != nil && ctx.Err() == nil {
			s.log.Warn("old messages were not removed everywhere", "err", err)
		}
		timer.Reset(s.cfg.SweepInterval)
	}
}

func (s *Store) wakeSweep() {
	select {
	case s.garbage <- struct{}{}:
	default:
	}
}

// maxSweepErrors is how many accounts' troubles one sweep tells of.
const maxSweepErrors = 10

// Sweep is one round of Run. What is wrong with one account does not keep it
// from the others.
func (s *Store) Sweep(ctx context.Context) error {
	now := s.cfg.Now()
	var found []error
	err := s.eachAccount(ctx, func(id GUID, name string, damage error) error {
		if err := s.sweepAccount(ctx, id, name, damage, now); err != nil && len(found) < maxSweepErrors {
			found = append(found, fmt.Errorf("account %s: %w", id, err))
		}
		return ctx.Err()
	})
	return errors.Join(append(found, err)...)
}

func (s *Store) sweepAccount(ctx context.Context, id GUID, name string, damage error, now time.Time) error {
	err := damage
	for _, step := range []func(context.Context, GUID, time.Time) error{s.sweepGarbage, s.sweepDeliveries, s.sweepJournals, s.sweepMarks} {
		err = errors.Join(err, step(ctx, id, now))
	}
	if damage != nil {
		return err
	}
	return errors.Join(err, s.sweepExpunged(ctx, id, name, now), s.sweepDeleted(ctx, id, name, now))
}

// sweepPage is how many records one step of the sweep reads at most.
const sweepPage = 200

// garbage says how far the sweep of a mailbox came, and in how many steps.
type garbage struct {
	next imap.UID
	step uint64
}

func (g garbage) encode() []byte {
	b := binary.AppendUvarint([]byte{recordVersion}, uint64(g.next))
	return binary.AppendUvarint(b, g.step)
}

func decodeGarbage(b []byte) (garbage, error) {
	d := decoder{b: b}
	d.version()
	g := garbage{next: imap.UID(d.uint32())}
	if len(d.b) > 0 { // the first release counted no steps
		g.step = d.uvarint()
	}
	return g, d.end("deleted mailbox")
}

// sweepGarbage ends the references of deleted mailboxes' messages.
func (s *Store) sweepGarbage(ctx context.Context, id GUID, _ time.Time) error {
	prefix := accountKey(id, kindGarbage)
	deleted, err := s.page(ctx, prefix, 0)
	if err != nil {
		return err
	}
	for _, pair := range deleted {
		mailbox := GUID(pair.Key[len(prefix):])
		for marker := pair.Value; marker != nil; {
			if marker, err = s.sweepMailbox(ctx, id, mailbox, marker); err != nil {
				return err
			}
		}
	}
	return nil
}

// sweepMailbox removes some messages of a deleted mailbox, or those that its
// deletion took from one that lives on. The marker says how far that came: each
// step requires the one before, so that no reference is ended twice. It returns
// the new marker, nil at the end.
func (s *Store) sweepMailbox(ctx context.Context, id, mailbox GUID, marker []byte) ([]byte, error) {
	at, err := decodeGarbage(marker)
	if err != nil {
		return nil, err
	}
	key := mailboxKey(id, kindGarbage, mailbox)
	b := store.NewBatch()
	b.UseReserve = true
	b.IfEquals(key, marker)
	more := false
	err = s.kv.View(ctx, func(snap store.Snapshot) error {
		isErased, isGone, err := readErased(snap, id, mailbox)
		if err != nil {
			return err
		}
		shown := mailboxKey(id, kindMessage, mailbox)
		more, err = s.sweepMessages(b, snap, messageKey(id, kindMessage, mailbox, at.next), above(shown), func(key []byte) []byte {
			at.next = uidOf(key) + 1
			return messageKey(id, kindMeta, mailbox, uidOf(key))
		}, isErased)
		if err != nil || more {
			return err
		}
		hidden := mailboxKey(id, kindPending, mailbox)
		more, err = s.sweepMessages(b, snap, hidden, above(hidden), func(key []byte) []byte {
			return append(mailboxKey(id, kindPendingMeta, mailbox), key[len(hidden):]...)
		}, isErased)
		if err != nil || more {
			return err
		}
		derived := [][]byte{mailboxKey(id, kindSortKeys, mailbox)}
		if isGone {
			derived = append(derived, mailboxKey(id, kindFlagBlock, mailbox), mailboxKey(id, kindLineEnds, mailbox),
				entryKey(id, entryName(SpaceSeen, mailbox, "")), mailboxKey(id, kindSeenAt, mailbox))
		}
		for _, prefix := range derived {
			b.DeleteRange(prefix, above(prefix))
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	at.step++
	marker = at.encode()
	if more {
		b.Put(key, marker)
	} else {
		b.Delete(key)
		marker = nil
	}
	if err := s.commitSweep(ctx, b); err != nil {
		return nil, err
	}
	return marker, nil
}

// sweepMessages removes messages of a range, as many as a commit holds, and
// reports whether there may be more.
func (s *Store) sweepMessages(b *store.Batch, snap store.Snapshot, from, end []byte, meta func(key []byte) []byte, isErased func(Dot) bool) (more bool, err error) {
	for pair, err := range snap.Range(from, end, 0, false) {
		if err != nil {
			return false, err
		}
		if len(b.Ops) >= 4*sweepPage {
			return true, nil
		}
		var m Message
		if err := decodeInstance(&m, 0, pair.Value); err != nil {
			return false, err
		}
		metaKey := meta(pair.Key)
		if !isErased(m.Dot) {
			continue
		}
		b.Delete(slices.Clone(pair.Key))
		b.Delete(metaKey)
		s.blobs.Unlink(b, m.Body)
	}
	return false, nil
}

// readErased tells which messages of a mailbox its deletion took, and whether
// that was all there is of it.
func readErased(snap store.Snapshot, id, mailbox GUID) (isErased func(Dot) bool, isGone bool, err error) {
	value, err := snap.Get(mailboxKey(id, kindMailbox, mailbox))
	if errors.Is(err, store.ErrNotFound) {
		return func(Dot) bool { return true }, true, nil // deleted by the first release
	} else if err != nil {
		return nil, false, err
	}
	r, err := decodeMailbox(value)
	return func(d Dot) bool { return covers(r.erased, d) }, r.removed, err
}

// commitSweep commits b. A conflict means that another sweep was here; then
// the next one looks again.
func (s *Store) commitSweep(ctx context.Context, b *store.Batch) error {
	_, err := s.kv.Commit(ctx, b)
	if errors.Is(err, store.ErrUnknown) {
		_, err = s.kv.Commit(ctx, b)
	}
	return err
}

// sweepDeliveries forgets delivery IDs that expired.
func (s *Store) sweepDeliveries(ctx context.Context, id GUID, now time.Time) error {
	return s.sweepWhere(ctx, accountKey(id, kindDelivery), func(value []byte) (bool, error) {
		d, err := decodeDelivery(value)
		return d.expires.Before(now), err
	})
}

// sweepWhere deletes the records under prefix that are of no use, reading them
// page by page.
func (s *Store) sweepWhere(ctx context.Context, prefix []byte, useless func(value []byte) (bool, error)) error {
	from, end := prefix, above(prefix)
	for from != nil {
		b := store.NewBatch()
		b.UseReserve = true
		n := 0
		var next []byte
		err := s.kv.View(ctx, func(snap store.Snapshot) error {
			for pair, err := range snap.Range(from, end, 5*sweepPage, false) {
				if err != nil {
					return err
				}
				drop, err := useless(pair.Value)
				if err != nil {
					return err
				}
				if drop && len(b.Ops) < 4*sweepPage {
					b.Delete(slices.Clone(pair.Key))
				}
				if n++; n == 5*sweepPage {
					next = append(slices.Clone(pair.Key), 0)
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		if len(b.Ops) > 0 {
			if err := s.commitSweep(ctx, b); err != nil {
				return err
			}
		}
		from = next
	}
	return nil
}

// sweepJournals drops journal records, the node's own and those of others, that
// are past their retention or too many.
func (s *Store) sweepJournals(ctx context.Context, id GUID, now time.Time) error {
	own := accountKey(id, kindJournal)
	err := s.sweepJournal(ctx, own, now)
	foreign := accountKey(id, kindForeign)
	for from := foreign; ; {
		var origin Origin
		viewErr := s.kv.View(ctx, func(snap store.Snapshot) error {
			origin = 0
			for pair, err := range snap.Range(from, above(foreign), 1, false) {
				if err != nil {
					return err
				}
				if len(pair.Key) != len(foreign)+16 {
					return fmt.Errorf("key %x: %w", pair.Key, errRecord)
				}
				origin = Origin(binary.BigEndian.Uint64(pair.Key[len(foreign):]))
			}
			return nil
		})
		if viewErr != nil || origin == 0 {
			return errors.Join(err, viewErr)
		}
		prefix := foreignKey(id, origin)
		err = errors.Join(err, s.sweepJournal(ctx, prefix, now))
		from = above(prefix)
	}
}

// sweepJournal drops the records under prefix past their retention, and those
// over the bound of a journal, oldest first.
func (s *Store) sweepJournal(ctx context.Context, prefix []byte, now time.Time) error {
	over, err := s.journalOver(ctx, prefix)
	if err != nil {
		return err
	}
	oldest := now.Add(-s.cfg.JournalRetention)
	for {
		records, err := s.page(ctx, prefix, sweepPage)
		if err != nil {
			return err
		}
		keep := 0
		for keep < len(records) {
			r, err := DecodeJournal(records[keep].Value)
			if err != nil {
				return err
			}
			if over <= 0 && !r.Time().Before(oldest) {
				break
			}
			over -= int64(len(records[keep].Value))
			keep++
		}
		if keep == 0 {
			return nil
		}
		b := store.NewBatch()
		b.UseReserve = true
		b.DeleteRange(prefix, append(slices.Clone(records[keep-1].Key), 0))
		if err := s.commitSweep(ctx, b); err != nil || keep < len(records) {
			return err
		}
	}
}

// typicalOp is more than most operations take in a journal: one is only
// measured that may be over its bound by this.
const typicalOp = 1 << 10

// journalOver is by how many octets a journal is over its bound.
func (s *Store) journalOver(ctx context.Context, prefix []byte) (int64, error) {
	var first, last uint64
	err := s.kv.View(ctx, func(snap store.Snapshot) error {
		for pair, err := range snap.Range(prefix, above(prefix), 1, false) {
			if err != nil {
				return err
			}
			first = numberOf(pair.Key)
		}
		for pair, err := range snap.Range(prefix, above(prefix), 1, true) {
			if err != nil {
				return err
			}
			last = numberOf(pair.Key)
		}
		return nil
	})
	if err != nil || int64(last-first) <= s.cfg.JournalOctets/typicalOp {
		return 0, err
	}
	octets := -s.cfg.JournalOctets
	err = store.Scan(ctx, s.kv, prefix, above(prefix), 5*sweepPage, func(_ store.Snapshot, _, value []byte) error {
		octets += int64(len(value))
		return nil
	})
	return octets, err
}

// sweepMarks thins the marks of MODSEQs.
func (s *Store) sweepMarks(ctx context.Context, id GUID, _ time.Time) error {
	return errors.Join(s.thinMarks(ctx, id, 0), s.thinMarks(ctx, id, 1))
}

// oldExpunges finds, for each mailbox with expunges from before oldest, the
// MODSEQ of the last of these.
func (s *Store) oldExpunges(ctx context.Context, prefix []byte, oldest time.Time) (map[GUID]uint64, error) {
	floors := make(map[GUID]uint64)
	for from := prefix; from != nil; {
		var next []byte
		err := s.kv.View(ctx, func(snap store.Snapshot) error {
			n := 0
			for pair, err := range snap.Range(from, above(prefix), 5*sweepPage, false) {
				if err != nil {
					return err
				}
				at, _, err := decodeExpunged(pair.Value)
				if err != nil || len(pair.Key) != len(prefix)+16+8 {
					return errors.Join(err, errRecord)
				}
				if at.Before(oldest) {
					floors[GUID(pair.Key[len(prefix):][:16])] = binary.BigEndian.Uint64(pair.Key[len(prefix)+16:])
				}
				if n++; n == 5*sweepPage {
					next = append(slices.Clone(pair.Key), 0)
				}
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		from = next
	}
	return floors, nil
}

// sweepExpunged forgets old expunges, mailbox by mailbox, and notes how far.
func (s *Store) sweepExpunged(ctx context.Context, id GUID, name string, now time.Time) error {
	floors, err := s.oldExpunges(ctx, accountKey(id, kindExpunged), now.Add(-s.cfg.ExpungeRetention))
	if err != nil || len(floors) == 0 {
		return err
	}
	a := s.hold(id, name)
	defer s.release(a)
	if err := a.open(ctx); err != nil {
		return err
	}
	return a.changeAlone(ctx, func(t *txn) error {
		for guid, floor := range floors {
			b := a.boxes[guid]
			if b == nil {
				continue
			}
			v := t.draft(b)
			v.expungeFloor, v.dirty = max(v.expungeFloor, floor), true
			log := mailboxKey(id, kindExpunged, guid)
			t.batch.DeleteRange(log, numberKey(log, floor+1))
		}
		return nil
	})
}

// page reads up to limit records under prefix, all of them for 0.
func (s *Store) page(ctx context.Context, prefix []byte, limit int) ([]store.Pair, error) {
	var pairs []store.Pair
	err := s.kv.View(ctx, func(snap store.Snapshot) error {
		for pair, err := range snap.Range(prefix, above(prefix), limit, false) {
			if err != nil {
				return err
			}
			pairs = append(pairs, store.Pair{Key: slices.Clone(pair.Key), Value: slices.Clone(pair.Value)})
		}
		return nil
	})
	return pairs, err
}
