package mailstore

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/store"
)

// Finding is one thing that is wrong, and where.
type Finding struct {
	Account string
	Mailbox string   // "" for what is about the account as a whole
	UID     imap.UID // 0 for what is about no message
	Err     error
}

func (f Finding) Error() string {
	text := fmt.Sprintf("account %q", f.Account)
	if f.Mailbox != "" {
		text += fmt.Sprintf(", mailbox %q", f.Mailbox)
	}
	if f.UID != 0 {
		text += fmt.Sprintf(", UID %d", f.UID)
	}
	return text + ": " + f.Err.Error()
}

// Unwrap returns what is wrong, without the place.
func (f Finding) Unwrap() error { return f.Err }

// Check is Verify; its error joins all that was found.
func (s *Store) Check(ctx context.Context) error {
	var found []error
	err := s.Verify(ctx, func(f Finding) { found = append(found, f) }, new(atomic.Int64))
	return errors.Join(append(found, err)...)
}

// Verify reads every record and tells report where an invariant does not hold:
// counts agree with what they count, UIDs lie below UIDNEXT and MODSEQs at or
// below HIGHESTMODSEQ, every message has its Meta and its body, every Meta its
// message, the journal is dense and unbroken. It expects that nobody writes
// meanwhile. messages grows by each message that was looked at. The error is
// one that keeps it from going on to further accounts.
func (s *Store) Verify(ctx context.Context, report func(Finding), messages *atomic.Int64) error {
	return s.eachAccount(ctx, func(id GUID, name string, damage error) error {
		c := checker{store: s, id: id, seen: messages}
		c.report = func(f Finding) {
			if f.Account = name; name == "" {
				f.Account = id.String()
			}
			report(f)
		}
		if damage != nil {
			c.failf("name: %w", damage)
		}
		if err := c.account(ctx); err != nil {
			c.failf("%w", err)
		}
		return ctx.Err()
	})
}

type checker struct {
	store  *Store
	id     GUID
	head   head
	report func(Finding)
	seen   *atomic.Int64
}

// failf reports what is about the account as a whole.
func (c *checker) failf(format string, args ...any) {
	c.report(Finding{Err: fmt.Errorf(format, args...)})
}

// account returns an error when it cannot go on.
func (c *checker) account(ctx context.Context) error {
	records := make(map[GUID]mailboxRecord)
	err := c.store.kv.View(ctx, func(snap store.Snapshot) error {
		value, err := snap.Get(accountKey(c.id, kindHead))
		if err != nil {
			return fmt.Errorf("account head: %w", err)
		}
		if c.head, err = decodeHead(value); err != nil {
			return err
		}
		return readTree(snap, c.id, records, make(map[string]bool))
	})
	if err != nil {
		return err
	}
	c.tree(records)
	return errors.Join(
		c.messages(ctx, records),
		c.structures(ctx, records),
		c.store.kv.View(ctx, c.journal),
	)
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
			c.report(Finding{Mailbox: r.name, Err: fmt.Errorf("UIDVALIDITY %d, UIDNEXT %d, MODSEQ %d of %d given", r.uidValidity, r.uidNext, r.modseq, c.head.modseqs<<1|1)})
		}
	}
	if !names[inbox] {
		c.failf("no INBOX")
	}
}

// checkAtOnce is how many records are read in one view.
const checkAtOnce = 1000

// each calls fn for every record of a kind, in the view that read it.
func (c *checker) each(ctx context.Context, kind byte, fn func(snap store.Snapshot, key []byte, value []byte) error) error {
	from := accountKey(c.id, kind)
	return store.Scan(ctx, c.store.kv, from, above(from), checkAtOnce, fn)
}

// messageKeyOctets is the length of a key of a message or of its Meta.
const messageKeyOctets = accountPrefixOctets + 1 + 16 + 4

// messages counts what there is against what the records say.
func (c *checker) messages(ctx context.Context, records map[GUID]mailboxRecord) error {
	counted := make(map[GUID]*view)
	err := c.each(ctx, kindMessage, func(snap store.Snapshot, key, value []byte) error {
		c.seen.Add(1)
		if len(key) != messageKeyOctets {
			c.failf("message key %x: %w", key, errRecord)
			return nil
		}
		mailbox, uid := GUID(key[accountPrefixOctets+1:][:16]), uidOf(key)
		r, known := records[mailbox]
		var m Message
		if err := decodeMessage(&m, uid, value); err != nil {
			c.report(Finding{Mailbox: mailboxText(mailbox, &r), UID: uid, Err: err})
			return nil
		}
		if !known {
			if _, err := snap.Get(mailboxKey(c.id, kindGarbage, mailbox)); err != nil {
				c.report(Finding{Mailbox: mailboxText(mailbox, &r), UID: uid, Err: fmt.Errorf("message of no mailbox: %w", err)})
			}
			return nil
		}
		if counted[mailbox] == nil {
			counted[mailbox] = &view{}
		}
		counted[mailbox].count(&m, 1)
		c.message(ctx, snap, mailbox, &m, &r)
		return nil
	})
	if err != nil {
		return err
	}
	var octets int64
	for id, r := range records {
		v := counted[id]
		if v == nil {
			v = &view{}
		}
		if v.messages != r.messages || v.unseen != r.unseen || v.deleted != r.deleted || v.mailboxRecord.octets != r.octets {
			c.report(Finding{Mailbox: r.name, Err: fmt.Errorf(
				"counts %d messages, %d unseen, %d deleted, %d octets; found %d, %d, %d, %d",
				r.messages, r.unseen, r.deleted, r.octets, v.messages, v.unseen, v.deleted, v.mailboxRecord.octets)})
		}
		octets += r.octets
	}
	if octets != c.head.octets {
		c.failf("mailboxes have %d octets, the account's head says %d", octets, c.head.octets)
	}
	return nil
}

// mailboxText names a mailbox, by its GUID where its name is not known.
func mailboxText(id GUID, r *mailboxRecord) string {
	if r.name != "" {
		return r.name
	}
	return id.String()
}

func (c *checker) message(ctx context.Context, snap store.Snapshot, mailbox GUID, m *Message, r *mailboxRecord) {
	failf := func(format string, args ...any) {
		c.report(Finding{Mailbox: r.name, UID: m.UID, Err: fmt.Errorf(format, args...)})
	}
	if m.UID >= r.uidNext || m.ModSeq > r.modseq || m.ModSeq == 0 {
		failf("UID, MODSEQ %d beyond %d, %d", m.ModSeq, r.uidNext, r.modseq)
	}
	if m.Dot.Origin == c.store.origin && m.Dot.Seq > c.head.seq {
		failf("dot %d beyond %d", m.Dot.Seq, c.head.seq)
	}
	if body, err := c.store.blobs.Open(ctx, m.Body); err != nil {
		failf("body: %w", err)
	} else if err := body.Close(); err != nil {
		failf("body: close: %w", err)
	}
	value, err := snap.Get(messageKey(c.id, kindMeta, mailbox, m.UID))
	if err != nil {
		failf("no structure: %w", err)
		return
	}
	trace, _, err := decodeMeta(value)
	switch {
	case err != nil:
		failf("structure: %w", err)
	case int64(len(trace)) != m.Trace():
		failf("trace header of %d octets, want %d", len(trace), m.Trace())
	}
}

// structures looks for Metas without a message.
func (c *checker) structures(ctx context.Context, records map[GUID]mailboxRecord) error {
	return c.each(ctx, kindMeta, func(snap store.Snapshot, key, _ []byte) error {
		if len(key) != messageKeyOctets {
			c.failf("structure key %x: %w", key, errRecord)
			return nil
		}
		mailbox, uid := GUID(key[accountPrefixOctets+1:][:16]), uidOf(key)
		_, err := snap.Get(messageKey(c.id, kindMessage, mailbox, uid))
		if errors.Is(err, store.ErrNotFound) {
			r := records[mailbox]
			c.report(Finding{Mailbox: mailboxText(mailbox, &r), UID: uid, Err: errors.New("structure without a message")})
			return nil
		}
		return err
	})
}

// References calls each for every reference that a message holds to its body,
// also those of deleted mailboxes that await the sweep. It returns how many
// messages cannot be read, whose references are not known. It expects that
// nobody writes meanwhile.
func (s *Store) References(ctx context.Context, each func(store.Ref)) (unreadable int64, err error) {
	err = s.eachAccount(ctx, func(id GUID, _ string, _ error) error {
		c := checker{store: s, id: id}
		return c.each(ctx, kindMessage, func(_ store.Snapshot, key, value []byte) error {
			var m Message
			if err := decodeMessage(&m, uidOf(key), value); err != nil {
				unreadable++
				return nil
			}
			each(m.Body)
			return nil
		})
	})
	return unreadable, err
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
