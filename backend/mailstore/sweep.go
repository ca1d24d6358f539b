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
// of deleted mailboxes, expired delivery IDs, old journal and expunge records.
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
	now := time.Now()
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
	for _, step := range []func(context.Context, GUID, time.Time) error{s.sweepGarbage, s.sweepDeliveries, s.sweepJournal} {
		err = errors.Join(err, step(ctx, id, now))
	}
	if damage != nil {
		return err
	}
	return errors.Join(err, s.sweepExpunged(ctx, id, name, now))
}

// sweepPage is how many records one step of the sweep reads at most.
const sweepPage = 200

func encodeGarbage(next imap.UID) []byte {
	return binary.AppendUvarint([]byte{recordVersion}, uint64(next))
}

func encodeExpiry(t time.Time) []byte {
	return binary.AppendVarint([]byte{recordVersion}, t.Unix())
}

func decodeExpiry(b []byte) (time.Time, error) {
	d := decoder{b: b}
	d.version()
	t := d.time()
	return t, d.end("delivery")
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

// sweepMailbox removes some messages of a deleted mailbox. The marker says how
// far that came: each step requires the one before, so that no reference is
// ended twice. It returns the new marker, nil at the end.
func (s *Store) sweepMailbox(ctx context.Context, id, mailbox GUID, marker []byte) ([]byte, error) {
	prefix := mailboxKey(id, kindMessage, mailbox)
	messages, err := s.page(ctx, prefix, sweepPage)
	if err != nil {
		return nil, err
	}
	key := mailboxKey(id, kindGarbage, mailbox)
	b := store.NewBatch()
	b.UseReserve = true
	b.IfEquals(key, marker)
	var last imap.UID
	for _, pair := range messages {
		var m Message
		last = uidOf(pair.Key)
		if err := decodeMessage(&m, last, pair.Value); err != nil {
			return nil, err
		}
		b.Delete(pair.Key)
		b.Delete(messageKey(id, kindMeta, mailbox, last))
		s.blobs.Unlink(b, m.Body)
	}
	if len(messages) < sweepPage {
		b.Delete(key)
		marker = nil
	} else {
		marker = encodeGarbage(last)
		b.Put(key, marker)
	}
	if err := s.commitSweep(ctx, b); err != nil {
		return nil, err
	}
	return marker, nil
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
		expires, err := decodeExpiry(value)
		return expires.Before(now), err
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

// sweepJournal drops journal records past their retention, oldest first.
func (s *Store) sweepJournal(ctx context.Context, id GUID, now time.Time) error {
	prefix := accountKey(id, kindJournal)
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
			if !r.Time().Before(oldest) {
				break
			}
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
