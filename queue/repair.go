package queue

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/store"
)

// Salvage is what can still be read of a damaged message, or of a record that
// belongs to none.
type Salvage struct {
	Queue mail.QueueID
	Why   error
	// Part is "" for a message, else what its one record is, as "state 3".
	Part string
	// Arrived and Envelope are zero when the message's first record is
	// unreadable; the envelope has no recipients.
	Arrived  time.Time
	Envelope mail.Envelope
	// Recipients are those of the records that are readable.
	Recipients []SalvagedRecipient
	// Records are all records as they are, by their keys in hexadecimal digits.
	Records map[string][]byte
	// Body is the content, which is whole; nil when nothing tells which it is.
	// It is valid during the call.
	Body store.Body

	newer bool // one of the records may be a newer program's
}

// SalvagedRecipient is a recipient and how far it is: "pending", "delivered",
// "failed", or "unknown" where the record of that is damaged.
type SalvagedRecipient struct {
	mail.Recipient
	Progress string
}

// Repair mends in kv what is safe to: it writes missing due entries, corrects
// counts, removes
// due entries, states, parts and holds that belong to no message, and takes
// damaged messages out of the queue. What it removes of a message it gives to
// salvage first, and removes it only when that returned nil, having made it
// durable. A message whose content cannot be read, or that a newer program
// wrote, stays. repaired is told of each repair once it is durable. Counts of
// references must not be too low, and no Queue may run meanwhile. The error
// joins what kept it from a repair, or from going on.
func Repair(ctx context.Context, kv store.Store, blobs store.Blobs, salvage func(Salvage) error, repaired func(f Finding, how string)) error {
	r := repairer{kv: kv, blobs: blobs, salvage: salvage}
	err := kv.View(ctx, func(v store.Snapshot) (err error) {
		r.shards, r.counted, err = readLayout(v)
		return err
	})
	if err != nil {
		return err
	}
	var failed []error
	err = Check(ctx, kv, blobs, func(f Finding) {
		how, err := r.repair(ctx, f)
		if err != nil {
			failed = append(failed, fmt.Errorf("%v: not repaired: %w", f, err))
		} else if how != "" {
			repaired(f, how)
		}
	}, new(atomic.Int64))
	return errors.Join(append(failed, err)...)
}

type repairer struct {
	kv      store.Store
	blobs   store.Blobs
	salvage func(Salvage) error
	shards  shards
	counted bool
}

// gone adds to b that a message, or only its hold, is removed.
func (r *repairer) gone(b *store.Batch, id mail.QueueID, messages, held int64) {
	if r.counted {
		count(b, r.shards.of(id), -messages, -held)
	}
}

// repair mends one finding and says how; "" when it is not for us to mend.
func (r *repairer) repair(ctx context.Context, f Finding) (how string, err error) {
	b := store.NewBatch()
	b.UseReserve = true
	switch {
	case f.Kind == FoundDamaged:
		if how, err = r.takeOut(ctx, f, b); how == "" || err != nil {
			return "", err
		}
	case f.Kind == FoundNoDue:
		b.Put(f.key, nil)
		how = "due entry written"
	case f.Kind == FoundCount:
		b.Put(f.key, f.value)
		how = "count corrected"
	case (f.Kind == FoundOrphan || f.Kind == FoundStale) && f.key != nil:
		if err := r.keepRecord(ctx, f); err != nil {
			return "", err
		}
		b.Delete(f.key)
		if f.key[1] == 'h' {
			r.gone(b, f.Queue, 0, 1)
		}
		how = "record removed"
	default:
		return "", nil
	}
	if _, err := r.kv.Commit(ctx, b); err != nil {
		return "", err
	}
	return how, nil
}

// keepRecord salvages a record of no message, unless it is a due entry or a
// hold, which hold nothing.
func (r *repairer) keepRecord(ctx context.Context, f Finding) error {
	s := Salvage{Queue: f.Queue, Why: errors.New(string(f.Kind)), Part: f.Err.Error(), Records: make(map[string][]byte)}
	err := r.kv.View(ctx, func(v store.Snapshot) error {
		value, err := v.Get(f.key)
		if err == nil && len(value) > 0 {
			s.add(f.key, value)
			if f.key[1] == 'p' {
				s.addGroups(decodePart(value))
			}
		}
		return err
	})
	if err != nil || len(s.Records) == 0 {
		return err
	}
	return r.salvage(s)
}

// takeOut salvages a damaged message and adds to b what removes it.
func (r *repairer) takeOut(ctx context.Context, f Finding, b *store.Batch) (how string, err error) {
	s := Salvage{Queue: f.Queue, Why: f.Err, Records: make(map[string][]byte)}
	var ref store.Ref
	var unknown error // why ref is
	var held int64
	err = r.kv.View(ctx, func(v store.Snapshot) error {
		first, err := v.Get(messageKey(f.Queue))
		if err != nil {
			return err
		}
		if _, err := v.Get(holdKey(f.Queue)); err == nil {
			held = 1
		}
		s.add(messageKey(f.Queue), first)
		ref, unknown = decodeRef(first)
		return s.read(v, first)
	})
	if err != nil || s.newer {
		return "", err
	}
	if unknown == nil {
		if s.Body, err = r.blobs.Open(ctx, ref); err != nil {
			return "", err
		}
		defer s.Body.Close()
	}
	if err := r.salvage(s); err != nil {
		return "", err
	}
	r.gone(b, f.Queue, 1, held)
	b.Delete(messageKey(f.Queue))
	b.Delete(holdKey(f.Queue))
	b.DeleteRange(partRange(f.Queue))
	b.DeleteRange(stateRange(f.Queue))
	if unknown == nil {
		r.blobs.Unlink(b, ref)
	}
	return "message salvaged and removed", nil
}

func (s *Salvage) add(key, value []byte) {
	s.Records[fmt.Sprintf("%x", key)] = bytes.Clone(value)
	newest := byte(formatVersion)
	if key[1] == 'm' {
		newest = extendedVersion
	}
	s.newer = s.newer || len(value) > 0 && value[0] > newest
}

// read reads what is readable of a message's further records.
func (s *Salvage) read(v store.Snapshot, first []byte) error {
	var groups [][]mail.Recipient
	var states [][]byte // by group, as far as the groups are known to be in order
	if m, err := decodeMessage(first, nil); err == nil {
		s.Arrived, s.Envelope, groups = m.arrived, m.envelope, m.groups
	}
	inOrder := groups != nil
	lo, hi := partRange(s.Queue)
	next := uint32(0)
	for pair, err := range v.Range(lo, hi, 0, false) {
		if err != nil {
			return err
		}
		s.add(pair.Key, pair.Value)
		part := decodePart(pair.Value)
		n, _ := stateGroup(pair.Key)
		inOrder = inOrder && uint32(n) == next && part != nil
		next++
		groups = append(groups, part...)
	}
	states = make([][]byte, len(groups))
	lo, hi = stateRange(s.Queue)
	for pair, err := range v.Range(lo, hi, 0, false) {
		if err != nil {
			return err
		}
		s.add(pair.Key, pair.Value)
		if g, ok := stateGroup(pair.Key); ok && g < len(states) {
			states[g] = bytes.Clone(pair.Value)
		}
	}
	s.addGroups(groups)
	if inOrder {
		s.addProgress(groups, states)
	}
	return nil
}

func (s *Salvage) addGroups(groups [][]mail.Recipient) {
	for _, g := range groups {
		for _, recipient := range g {
			s.Recipients = append(s.Recipients, SalvagedRecipient{recipient, "unknown"})
		}
	}
}

// addProgress tells of each recipient how far it is.
func (s *Salvage) addProgress(groups [][]mail.Recipient, states [][]byte) {
	names := map[progress]string{pending: "pending", delivered: "delivered", failed: "failed"}
	at := 0
	for g, recipients := range groups {
		state := newGroupState(len(recipients))
		var err error
		if states[g] != nil {
			state, err = decodeState(states[g], recipients)
		}
		for i := range recipients {
			if err == nil {
				s.Recipients[at].Progress = names[state.recipients[i].progress]
			}
			at++
		}
	}
}

// decodePart reads a record of further groups; nil when it is damaged.
func decodePart(octets []byte) [][]mail.Recipient {
	d := decoder{buf: octets}
	d.version(formatVersion)
	groups := d.groups(nil)
	if d.end() != nil {
		return nil
	}
	return groups
}
