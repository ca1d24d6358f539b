package mailstore

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/postern-mail/postern/store"
)

// Check reads every record and verifies the invariants: counts agree with what
// they count, UIDs lie below UIDNEXT and MODSEQs at or below HIGHESTMODSEQ,
// every message has its Meta and its body, the journal is dense and unbroken.
// It expects that nobody writes meanwhile. The error joins all it found.
func (s *Store) Check(ctx context.Context) error {
	var found []error
	err := s.eachAccount(ctx, func(id GUID, name string, damage error) error {
		c := checker{store: s, id: id}
		if err := errors.Join(damage, c.account(ctx)); err != nil {
			found = append(found, fmt.Errorf("account %q: %w", name, err))
		}
		return nil
	})
	return errors.Join(append(found, err)...)
}

type checker struct {
	store *Store
	id    GUID
	head  head
	found []error
	refs  map[store.Ref]bool
}

func (c *checker) failf(format string, args ...any) {
	c.found = append(c.found, fmt.Errorf(format, args...))
}

func (c *checker) account(ctx context.Context) error {
	records := make(map[GUID]mailboxRecord)
	c.refs = make(map[store.Ref]bool)
	err := c.store.kv.View(ctx, func(snap store.Snapshot) error {
		value, err := snap.Get(accountKey(c.id, kindHead))
		if err != nil {
			return err
		}
		if c.head, err = decodeHead(value); err != nil {
			return err
		}
		if err := readTree(snap, c.id, records, make(map[string]bool)); err != nil {
			return err
		}
		c.tree(records)
		if err := c.messages(snap, records); err != nil {
			return err
		}
		return c.journal(snap)
	})
	if err != nil {
		return err
	}
	for ref := range c.refs {
		body, err := c.store.blobs.Open(ctx, ref)
		if err != nil {
			c.failf("body %x: %w", ref.Hash[:8], err)
			continue
		}
		if err := body.Close(); err != nil {
			c.failf("close body %x: %w", ref.Hash[:8], err)
		}
	}
	return errors.Join(c.found...)
}

func (c *checker) tree(records map[GUID]mailboxRecord) {
	names := make(map[string]bool)
	for id, r := range records {
		if normal, err := c.store.cfg.normalize(r.name); err != nil || normal != r.name {
			c.failf("mailbox %s: name %q is not normal", id, r.name)
		}
		if names[r.name] {
			c.failf("name %q is used twice", r.name)
		}
		names[r.name] = true
		if r.uidValidity == 0 || r.uidNext == 0 || r.modseq == 0 || r.modseq > c.head.modseqs<<1|1 {
			c.failf("mailbox %q: %+v", r.name, r)
		}
	}
	if !names[inbox] {
		c.failf("no INBOX")
	}
}

// messages counts what there is against what the records say.
func (c *checker) messages(snap store.Snapshot, records map[GUID]mailboxRecord) error {
	counted := make(map[GUID]*view)
	prefix := accountKey(c.id, kindMessage)
	for pair, err := range snap.Range(prefix, above(prefix), 0, false) {
		if err != nil {
			return err
		}
		mailbox, uid := GUID(pair.Key[len(prefix):][:16]), uidOf(pair.Key)
		var m Message
		if err := decodeMessage(&m, uid, pair.Value); err != nil {
			c.failf("mailbox %s, UID %d: %w", mailbox, uid, err)
			continue
		}
		r, known := records[mailbox]
		if !known {
			if _, err := snap.Get(mailboxKey(c.id, kindGarbage, mailbox)); err != nil {
				c.failf("message of no mailbox %s: %w", mailbox, err)
			}
			continue
		}
		if counted[mailbox] == nil {
			counted[mailbox] = &view{}
		}
		counted[mailbox].count(&m, 1)
		c.refs[m.Body] = true
		c.message(snap, mailbox, &m, &r)
	}
	var octets int64
	for id, r := range records {
		v := counted[id]
		if v == nil {
			v = &view{}
		}
		if v.messages != r.messages || v.unseen != r.unseen || v.deleted != r.deleted || v.mailboxRecord.octets != r.octets {
			c.failf("mailbox %q: counts %+v, found %+v", r.name, r, v.mailboxRecord)
		}
		octets += r.octets
	}
	if octets != c.head.octets {
		c.failf("account has %d octets, its head says %d", octets, c.head.octets)
	}
	return nil
}

func (c *checker) message(snap store.Snapshot, mailbox GUID, m *Message, r *mailboxRecord) {
	if m.UID >= r.uidNext || m.ModSeq > r.modseq || m.ModSeq == 0 {
		c.failf("mailbox %q: UID %d, MODSEQ %d beyond %d, %d", r.name, m.UID, m.ModSeq, r.uidNext, r.modseq)
	}
	if m.Dot.Origin == c.store.origin && m.Dot.Seq > c.head.seq {
		c.failf("mailbox %q: UID %d has dot %d beyond %d", r.name, m.UID, m.Dot.Seq, c.head.seq)
	}
	value, err := snap.Get(messageKey(c.id, kindMeta, mailbox, m.UID))
	if err != nil {
		c.failf("mailbox %q: UID %d has no structure: %w", r.name, m.UID, err)
		return
	}
	trace, _, err := decodeMeta(value)
	if err != nil || int64(len(trace)) != m.Trace() {
		c.failf("mailbox %q: UID %d: trace header of %d octets, want %d: %w", r.name, m.UID, len(trace), m.Trace(), err)
	}
}

// journal checks that sequence numbers are dense to the head's, and that the
// hash chain ends in the head's where the whole journal is still there.
func (c *checker) journal(snap store.Snapshot) error {
	prefix := accountKey(c.id, kindJournal)
	var next uint64
	var chain [32]byte
	whole := true
	for pair, err := range snap.Range(prefix, above(prefix), 0, false) {
		if err != nil {
			return err
		}
		r, err := DecodeJournal(pair.Value)
		if err != nil {
			return fmt.Errorf("journal at %x: %w", pair.Key[len(prefix):], err)
		}
		if next == 0 {
			whole = r.First == 1
			next = r.First
		}
		if r.First != next || !bytes.Equal(pair.Key[len(prefix):], binary.BigEndian.AppendUint64(nil, r.First)) {
			c.failf("journal record %d where %d was expected", r.First, next)
		}
		next = r.First + uint64(len(r.Ops))
		chain = chainJournal(chain, pair.Value)
	}
	if next != 0 && next != c.head.seq+1 {
		c.failf("journal ends before %d, head says %d", next, c.head.seq)
	}
	if next != 0 && whole && chain != c.head.chain {
		c.failf("hash chain of the journal is broken")
	}
	return nil
}
