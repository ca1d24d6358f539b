package mailstore

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/backend/mailstore/fulltext"
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
	err := s.eachAccount(ctx, func(id GUID, name string, damage error) error {
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
	return errors.Join(err, s.verifyShared(ctx, report))
}

type checker struct {
	sums   map[GUID][16]byte // of messages, by mailbox
	store  *Store
	id     GUID
	head   head
	hidden map[Dot]bool // messages that wait for a UID
	report func(Finding)
	seen   *atomic.Int64
}

// sum adds a message to the digest of its mailbox.
func (c *checker) sum(mailbox GUID, r *mailboxRecord, m *Message) {
	if c.sums == nil {
		c.sums = make(map[GUID][16]byte)
	}
	sum := c.sums[mailbox]
	addSum(&sum, r.sumOf(mailbox, m))
	c.sums[mailbox] = sum
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
		_, err = readTree(snap, c.id, records, make(map[string]subscription))
		return err
	})
	if err != nil {
		return err
	}
	for id, r := range records {
		if r.removed {
			delete(records, id)
		}
	}
	c.tree(records)
	return errors.Join(
		c.pending(ctx, records),
		c.messages(ctx, records),
		c.structures(ctx, records),
		c.sortKeys(ctx, records),
		c.entries(ctx),
		c.seenAt(ctx),
		c.virtual(ctx),
		c.store.kv.View(ctx, c.journal),
		c.store.kv.View(ctx, c.foreign),
		c.marks(ctx),
		c.shared(ctx),
		c.index(ctx),
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
	blocks := flagBlocks{account: c.id}
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
		if !known || covers(r.erased, m.Dot) {
			if _, err := snap.Get(mailboxKey(c.id, kindGarbage, mailbox)); err != nil {
				c.report(Finding{Mailbox: mailboxText(mailbox, &r), UID: uid, Err: fmt.Errorf("message of no mailbox: %w", err)})
			}
			return nil
		}
		found, err := blocks.apply(snap, mailbox, &m)
		if err == nil && found && !r.blocks {
			err = errors.New("flags in a block that its mailbox does not know of")
		}
		if err != nil {
			c.report(Finding{Mailbox: r.name, UID: uid, Err: err})
		}
		if counted[mailbox] == nil {
			counted[mailbox] = &view{}
		}
		counted[mailbox].count(&m, 1)
		c.sum(mailbox, &r, &m)
		if m.isMisplaced() {
			counted[mailbox].misplaced++
		}
		c.message(ctx, snap, mailbox, &m, &r)
		return nil
	})
	if err != nil {
		return err
	}
	var octets, unsettled int64
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
		if v.misplaced != r.misplaced {
			c.report(Finding{Mailbox: r.name, Err: fmt.Errorf("counts %d messages to be renumbered, found %d", r.misplaced, v.misplaced)})
		}
		if r.summed && r.digest != c.sums[id] {
			c.report(Finding{Mailbox: r.name, Err: errors.New("the kept digest is not that of its messages: some may be missing")})
		}
		octets += r.octets + r.pendingOctets
		unsettled += r.pending + r.misplaced
	}
	if unsettled != int64(c.head.unsettled) {
		c.failf("mailboxes have %d messages that wait for a UID or another, the account's head says %d", unsettled, c.head.unsettled)
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
	c.dot(m, failf)
	if c.hidden[m.Dot] {
		failf("waits for a UID and has one")
	}
	c.body(ctx, m, failf)
	c.structure(snap, messageKey(c.id, kindMeta, mailbox, m.UID), m, failf)
}

// dot checks that the account knows the operation that added m.
func (c *checker) dot(m *Message, failf func(string, ...any)) {
	v := c.head.vector()
	if c.head.origin == 0 {
		v = Vector{{Origin: c.store.origin, Seq: c.head.seq}}
	}
	if !v.Covers(m.Dot) {
		failf("dot %d of origin %x beyond %d", m.Dot.Seq, uint64(m.Dot.Origin), v.Of(m.Dot.Origin).Seq)
	}
}

func (c *checker) body(ctx context.Context, m *Message, failf func(string, ...any)) {
	if body, err := c.store.blobs.Open(ctx, m.Body); err != nil {
		failf("body: %w", err)
	} else if err := body.Close(); err != nil {
		failf("body: close: %w", err)
	}
}

func (c *checker) structure(snap store.Snapshot, key []byte, m *Message, failf func(string, ...any)) {
	value, err := snap.Get(key)
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

// dotKeyOctets is the length of a key of a message that waits for a UID.
const dotKeyOctets = accountPrefixOctets + 1 + 16 + 16

// pending checks messages that wait for a UID.
func (c *checker) pending(ctx context.Context, records map[GUID]mailboxRecord) error {
	c.hidden = make(map[Dot]bool)
	counted := make(map[GUID]*mailboxRecord)
	err := c.each(ctx, kindPending, func(snap store.Snapshot, key, value []byte) error {
		if len(key) != dotKeyOctets {
			c.failf("message key %x: %w", key, errRecord)
			return nil
		}
		mailbox := GUID(key[accountPrefixOctets+1:][:16])
		r, known := records[mailbox]
		failf := func(format string, args ...any) {
			c.report(Finding{Mailbox: mailboxText(mailbox, &r), Err: fmt.Errorf("message that waits for a UID: "+format, args...)})
		}
		var m Message
		if err := decodeInstance(&m, 0, value); err != nil {
			failf("%w", err)
			return nil
		}
		if !bytes.Equal(key[len(key)-16:], m.Dot.bytes()) {
			failf("key %x is not that of dot %v", key[len(key)-16:], m.Dot)
		}
		if !known || covers(r.erased, m.Dot) {
			if _, err := snap.Get(mailboxKey(c.id, kindGarbage, mailbox)); err != nil {
				failf("of no mailbox: %w", err)
			}
			return nil
		}
		if counted[mailbox] == nil {
			counted[mailbox] = &mailboxRecord{}
		}
		c.sum(mailbox, &r, &m)
		counted[mailbox].pending++
		counted[mailbox].pendingOctets += m.Octets
		c.hidden[m.Dot] = true
		c.dot(&m, failf)
		c.body(ctx, &m, failf)
		c.structure(snap, dotKey(c.id, kindPendingMeta, mailbox, m.Dot), &m, failf)
		return nil
	})
	for id, r := range records {
		found := counted[id]
		if found == nil {
			found = &mailboxRecord{}
		}
		if found.pending != r.pending || found.pendingOctets != r.pendingOctets {
			c.report(Finding{Mailbox: r.name, Err: fmt.Errorf("counts %d messages that wait for a UID, %d octets; found %d, %d",
				r.pending, r.pendingOctets, found.pending, found.pendingOctets)})
		}
	}
	return errors.Join(err, c.each(ctx, kindPendingMeta, func(snap store.Snapshot, key, _ []byte) error {
		message := bytes.Clone(key)
		message[accountPrefixOctets] = kindPending
		if _, err := snap.Get(message); errors.Is(err, store.ErrNotFound) {
			c.failf("structure %x without a message", key[accountPrefixOctets:])
		}
		return nil
	}))
}

// foreign checks that the journal of each other origin is dense to what the
// vector says, and that its chain is the one in the head where all is there.
func (c *checker) foreign(snap store.Snapshot) error {
	prefix := accountKey(c.id, kindForeign)
	var at VectorEntry // as read so far
	first := uint64(0)
	end := func() {
		known := c.head.others.Of(at.Origin)
		switch {
		case first == 0:
		case at.Seq != known.Seq:
			c.failf("journal of origin %x ends at %d, the vector says %d", uint64(at.Origin), at.Seq, known.Seq)
		case first == 1 && at.Chain != known.Chain:
			c.failf("hash chain of the journal of origin %x is broken", uint64(at.Origin))
		}
	}
	for pair, err := range snap.Range(prefix, above(prefix), 0, false) {
		if err != nil {
			return err
		}
		r, err := DecodeJournal(pair.Value)
		if err != nil {
			return fmt.Errorf("journal at %x: %w", pair.Key[len(prefix):], err)
		}
		if r.Origin != at.Origin || first == 0 {
			end()
			at, first = VectorEntry{Origin: r.Origin, Seq: r.First - 1}, r.First
		}
		if r.First != at.Seq+1 || !bytes.Equal(pair.Key, numberKey(foreignKey(c.id, r.Origin), r.First)) {
			c.failf("journal record %d of origin %x where %d was expected", r.First, uint64(r.Origin), at.Seq+1)
		}
		at.Seq, at.Chain = r.Last(), chainJournal(at.Chain, pair.Value)
	}
	end()
	return nil
}

// marks checks that the marks of MODSEQs can be read.
func (c *checker) marks(ctx context.Context) error {
	return c.each(ctx, kindMark, func(_ store.Snapshot, key, value []byte) error {
		if m, err := decodeMark(key, value); err != nil {
			c.failf("%w", err)
		} else if m.modseq&1 == c.store.class() && m.modseq>>1 > c.head.modseqs {
			c.failf("mark of MODSEQ %d beyond %d", m.modseq, c.head.modseqs<<1|1)
		}
		return nil
	})
}

// References calls each for every reference that a message holds to its body,
// also those of deleted mailboxes that await the sweep. It returns how many
// messages cannot be read, whose references are not known. It expects that
// nobody writes meanwhile.
func (s *Store) References(ctx context.Context, each func(store.Ref)) (unreadable int64, err error) {
	err = s.eachAccount(ctx, func(id GUID, _ string, _ error) error {
		c := checker{store: s, id: id}
		look := func(_ store.Snapshot, _, value []byte) error {
			var m Message
			if err := decodeInstance(&m, 0, value); err != nil {
				unreadable++
				return nil
			}
			each(m.Body)
			return nil
		}
		if err := c.each(ctx, kindMessage, look); err != nil {
			return err
		}
		return c.each(ctx, kindPending, look)
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

// index checks that the search index can be read. It is derived: that it cannot
// is no harm to mail.
func (c *checker) index(ctx context.Context) error {
	err := c.store.indexOf(c.id).Verify(ctx)
	if err != nil && fulltext.IsDamaged(err) {
		c.failf("search index, which is built anew: %w", err)
		err = nil
	}
	return err
}
