package mailstore

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/backend/mailstore/mime"
	"github.com/postern-mail/postern/status"
	"github.com/postern-mail/postern/store"
)

// Bounds on the keywords of one message.
const (
	maxMessageKeywords = 64
	maxKeywordOctets   = 128
)

// prepared is a message that is ready to be added.
type prepared struct {
	addition
	name string // mailbox, of a delivery
	err  error  // why it cannot be
}

// prepare does everything that needs no state of the account.
func (s *Store) prepare(content store.Staged, trace []byte, flags Flags, keywords []string, date time.Time) (prepared, error) {
	if len(trace) > MaxTraceOctets || len(trace) > 0 && !bytes.HasSuffix(trace, []byte("\r\n")) {
		return prepared{}, errors.New("malformed trace header")
	}
	if err := checkKeywords(keywords); err != nil {
		return prepared{}, err
	}
	body, found, err := s.content(content)
	if err != nil {
		return prepared{}, err
	}
	if date.IsZero() {
		date = time.Now()
	}
	ref := body.Ref()
	return prepared{addition: addition{
		message: Message{
			Flags: flags & allFlags, Keywords: keywords, InternalDate: date.UTC().Truncate(time.Second),
			Octets: ref.Octets + int64(len(trace)), Body: ref,
		},
		trace: trace,
		meta:  encodeMeta(trace, found),
		link:  func(b *store.Batch) { s.blobs.Link(b, body) },
	}}, nil
}

func checkKeywords(keywords []string) error {
	if len(keywords) > maxMessageKeywords {
		return ErrTooMany
	}
	for _, k := range keywords {
		if k == "" || len(k) > maxKeywordOctets || strings.ContainsFunc(k, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
			return fmt.Errorf("%w: keyword %.20q", ErrTooMany, k)
		}
	}
	return nil
}

// room refuses what would take the account over its limit.
func (t *txn) room(octets int64) error {
	limit := t.account.quota.Load()
	if limit > 0 && t.head.octets+octets > limit {
		return status.Errorf(status.MailboxFull, "account %s uses %d of %d octets", t.account.name, t.head.octets, limit)
	}
	return nil
}

// Append adds messages in order: all of them or, on an error, none. It returns
// their UIDs. ErrNoMailbox when the mailbox was deleted, ErrTooMany when one
// commit cannot hold them (some 100), MailboxFull, MailSystemFull, StoreDown.
// After a StoreDown the messages may have been added.
func (m *Mailbox) Append(ctx context.Context, messages []Append) ([]imap.UID, error) {
	a := m.box.account
	ready := make([]prepared, len(messages))
	for i, n := range messages {
		var err error
		if ready[i], err = a.store.prepare(n.Content, nil, n.Flags, n.Keywords, n.InternalDate); err != nil {
			return nil, err
		}
	}
	var uids []imap.UID
	err := a.change(ctx, func(t *txn) error {
		uids = uids[:0]
		for _, n := range ready {
			if err := t.room(n.message.Octets); err != nil {
				return err
			}
			uid, err := t.add(m.box, n.addition)
			if err != nil {
				return err
			}
			uids = append(uids, uid)
		}
		return nil
	})
	if errors.Is(err, errTooLarge) {
		err = ErrTooMany
	}
	if err != nil {
		return nil, err
	}
	return uids, nil
}

// maxDeliveries is how many deliveries to an account share a commit for sure.
const maxDeliveries = 32

// Deliver adds each message to its mailbox; all that fit share a commit. The
// result has one error for each delivery, nil when the message is on stable
// storage or was stored under this ID before. MailboxFull, MailSystemFull,
// StoreDown: a repeat with the same ID is safe after each of them.
func (a *Account) Deliver(ctx context.Context, deliveries []Delivery) []error {
	errs := make([]error, len(deliveries))
	for start := 0; start < len(deliveries); start += maxDeliveries {
		end := min(start+maxDeliveries, len(deliveries))
		a.deliver(ctx, deliveries[start:end], errs[start:end])
	}
	return errs
}

func (a *Account) deliver(ctx context.Context, deliveries []Delivery, errs []error) {
	acct := a.account
	ready := make([]prepared, len(deliveries))
	for i, d := range deliveries {
		ready[i] = acct.prepareDelivery(ctx, d)
	}
	err := acct.change(ctx, func(t *txn) error {
		for i := range ready {
			mark := t.save()
			if errs[i] = t.deliver(&ready[i]); errs[i] != nil {
				t.restore(mark)
			}
		}
		return nil
	})
	if errors.Is(err, errTooLarge) && len(deliveries) > 1 {
		for i := range deliveries {
			a.deliver(ctx, deliveries[i:i+1], errs[i:i+1])
		}
		return
	}
	for i := range errs {
		if err != nil {
			errs[i] = err
		}
		errs[i] = acct.store.failure("deliver", errs[i])
	}
}

// prepareDelivery readies a delivery and sees to its mailbox. One that cannot
// be made (a bad name, too many) is replaced by INBOX: mail is not lost for it.
func (a *account) prepareDelivery(ctx context.Context, d Delivery) prepared {
	p, err := a.store.prepare(d.Content, d.Trace, d.Flags, d.Keywords, time.Time{})
	if err != nil {
		return prepared{err: err}
	}
	if d.ID != "" {
		p.delivery = markDelivery(a.id, d.ID)
	}
	p.name = inbox
	if d.Mailbox == "" {
		return p
	}
	name, err := a.store.cfg.normalize(d.Mailbox)
	if err != nil {
		return p
	}
	if _, ok := a.box(name); !ok {
		if _, err := a.createMailbox(ctx, name, "", true); err != nil && !errors.Is(err, ErrMailboxExists) {
			if !isOurs(err) {
				p.err = err
			}
			return p
		}
	}
	p.name = name
	return p
}

// deliver adds one delivery, unless it was made before.
func (t *txn) deliver(p *prepared) error {
	if p.err != nil {
		return p.err
	}
	a := t.account
	if p.delivery != (deliveryMark{}) {
		repeated, err := t.wasDelivered(p.delivery)
		if err != nil || repeated {
			return err
		}
	}
	if err := t.room(p.message.Octets); err != nil {
		return err
	}
	b := a.names[p.name]
	if b == nil {
		b = a.names[inbox] // deleted since it was looked up
	}
	if _, err := t.add(b, p.addition); err != nil {
		return err
	}
	if p.delivery != (deliveryMark{}) {
		expires := t.now.Add(a.store.cfg.DeliveryMemory)
		t.batch.Put(deliveryKey(a.id, p.delivery), encodeExpiry(expires))
		t.remember(p.delivery)
	}
	return nil
}

// wasDelivered looks for a delivery in this commit and in those before.
func (t *txn) wasDelivered(id deliveryMark) (bool, error) {
	if t.ids[id] {
		return true, nil
	}
	if t.account.delivered.isNew(id) {
		return false, nil
	}
	found := false
	err := t.account.store.kv.View(t.ctx, func(snap store.Snapshot) error {
		value, err := snap.Get(deliveryKey(t.account.id, id))
		if errors.Is(err, store.ErrNotFound) {
			return nil
		} else if err != nil {
			return err
		}
		expires, err := decodeExpiry(value)
		found = err == nil && expires.After(t.now)
		return err
	})
	return found, err
}

func (t *txn) remember(id deliveryMark) {
	if t.ids == nil {
		t.ids = make(map[deliveryMark]bool)
	}
	t.ids[id] = true
	t.undo = append(t.undo, func() { delete(t.ids, id) })
}

// readMeta reads the records of messages' Meta, nil for those that are gone.
func (b *box) readMeta(ctx context.Context, list []*Message) ([][]byte, error) {
	a := b.account
	records := make([][]byte, len(list))
	err := a.store.kv.View(ctx, func(snap store.Snapshot) error {
		if b.neighbours(list) {
			return b.scanMeta(snap, list, records)
		}
		for i, m := range list {
			value, err := snap.Get(messageKey(a.id, kindMeta, b.guid, m.UID))
			if errors.Is(err, store.ErrNotFound) {
				continue
			} else if err != nil {
				return err
			}
			records[i] = bytes.Clone(value)
		}
		return nil
	})
	return records, a.store.failure("read message structures", err)
}

// scanWaste is how many records a scan may step over for one that is wanted:
// to look one up costs about as much, or more.
const scanWaste = 8

// neighbours reports whether list is in UID order and lies close enough
// together in the mailbox for a scan.
func (b *box) neighbours(list []*Message) bool {
	if len(list) < 2 || !slices.IsSortedFunc(list, func(a, b *Message) int { return cmp.Compare(a.UID, b.UID) }) {
		return false
	}
	v := b.current()
	from, _ := v.Find(list[0].UID)
	to, _ := v.Find(list[len(list)-1].UID)
	return to-from < scanWaste*len(list)
}

// scanMeta fills in the records of messages in UID order by reading the range
// they lie in.
func (b *box) scanMeta(snap store.Snapshot, list []*Message, records [][]byte) error {
	from := messageKey(b.account.id, kindMeta, b.guid, list[0].UID)
	to := append(messageKey(b.account.id, kindMeta, b.guid, list[len(list)-1].UID), 0)
	var slab []byte
	i := 0
	for pair, err := range snap.Range(from, to, 0, false) {
		if err != nil {
			return err
		}
		uid := uidOf(pair.Key)
		for i < len(list) && list[i].UID < uid {
			i++
		}
		for ; i < len(list) && list[i].UID == uid; i++ {
			records[i], slab = appendRecord(slab, pair.Value, len(list)-i)
		}
	}
	return nil
}

// appendRecord copies value into slab, or into a new one that is likely to
// hold so many more of its kind, and returns the copy and the slab.
func appendRecord(slab, value []byte, more int) (record, rest []byte) {
	if cap(slab)-len(slab) < len(value) {
		slab = make([]byte, 0, max(len(value), min(more*len(value), maxSlabOctets)))
	}
	start := len(slab)
	slab = append(slab, value...)
	return slab[start:len(slab):len(slab)], slab
}

// maxSlabOctets bounds what one record that is kept can keep in memory.
const maxSlabOctets = 64 << 10

// Meta reads what is kept of a message beside its Message. ErrNoMessage when
// it was expunged meanwhile.
func (m *Mailbox) Meta(ctx context.Context, message *Message) (*Meta, error) {
	metas, err := m.Metas(ctx, []*Message{message})
	if err != nil {
		return nil, err
	}
	if metas[0] == nil {
		return nil, ErrNoMessage
	}
	return metas[0], nil
}

// Metas is Meta for many messages in one read of the store, some 100 at a
// time; nil for those that were expunged meanwhile.
func (m *Mailbox) Metas(ctx context.Context, list []*Message) ([]*Meta, error) {
	records, err := m.box.readMeta(ctx, list)
	if err != nil {
		return nil, err
	}
	metas := make([]*Meta, len(list))
	for i, record := range records {
		if record == nil {
			continue
		}
		if metas[i], err = m.box.meta(ctx, list[i], record); err != nil {
			return nil, err
		}
	}
	return metas, nil
}

// meta reads a record, and the body where the record is not the whole.
func (b *box) meta(ctx context.Context, m *Message, record []byte) (*Meta, error) {
	s := b.account.store
	trace, found, err := decodeMeta(record)
	if err != nil {
		return nil, s.failure("read message structure", err)
	}
	if found == nil {
		if found, err = s.scanBody(ctx, m.Body); err != nil {
			return nil, s.failure("scan message", err)
		}
	}
	return newMeta(trace, found), nil
}

// scanBody parses a stored body, with the whole of a header that the scanner
// found too long to keep.
func (s *Store) scanBody(ctx context.Context, ref store.Ref) (*mime.Result, error) {
	body, err := s.blobs.Open(ctx, ref)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	found, err := mime.Scan(body)
	if err != nil || found.Header != nil {
		return found, err
	}
	found.Header = make([]byte, min(found.Root.Header.Len(), maxReadHeader))
	if n, err := body.ReadAt(found.Header, 0); n < len(found.Header) {
		return nil, err
	}
	return found, nil
}

// maxReadHeader bounds the header kept in memory of a message that has little
// else; sections read from the body have the whole.
const maxReadHeader = 4 << 20
