package mailstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/emersion/go-imap/v2"

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
		date = s.cfg.Now()
	}
	ref := body.Ref()
	return prepared{addition: addition{
		message: Message{Flags: flags & allFlags, Keywords: keywords, Instance: &Instance{
			InternalDate: date.UTC().Truncate(time.Second), Octets: ref.Octets + int64(len(trace)), Body: ref,
		}},
		trace: trace,
		meta:  encodeMeta(trace, found),
		link:  func(b *store.Batch) { s.blobs.Link(b, body) },
	}}, nil
}

// atomSpecials end an atom (RFC 9051 section 9), so that a keyword with one of
// them would break the answers to clients.
const atomSpecials = "(){%*\"\\]"

func checkKeywords(keywords []string) error {
	if len(keywords) > maxMessageKeywords {
		return ErrTooMany
	}
	for _, k := range keywords {
		if !isKeyword(k) || strings.ContainsAny(k, atomSpecials) {
			return fmt.Errorf("%w: %.20q", ErrKeyword, k)
		}
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
		if ready[i], err = a.store.prepare(n.Content, nil, n.Flags&^m.unstored(), n.Keywords, n.InternalDate); err != nil {
			return nil, err
		}
	}
	var list []added
	seq, err := a.changeSeq(ctx, func(t *txn) error {
		list = list[:0]
		for _, n := range ready {
			if err := t.room(m.box, n.message.Octets, 1); err != nil {
				return err
			}
			one, err := t.add(m.box, n.addition)
			if err != nil {
				return err
			}
			list = append(list, one)
		}
		return nil
	})
	if errors.Is(err, errTooLarge) {
		err = ErrTooMany
	}
	if err == nil {
		err = a.awaitUIDs(ctx, list)
	}
	if err == nil {
		err = a.durable(ctx, seq, DurabilityDefault)
	}
	if err != nil {
		return nil, err
	}
	uids := uidsIn(list)
	m.markAppended(ctx, uids, messages)
	return uids, nil
}

// maxDeliveries is how many deliveries to an account share a commit for sure.
const maxDeliveries = 32

// Deliver adds each message to its mailbox; all that fit share a commit. The
// result has one error for each delivery, nil when the message is on stable
// storage or was stored under this ID before. MailboxFull, MailSystemFull,
// StoreDown: a repeat with the same ID is safe after each of them.
func (a *Account) Deliver(ctx context.Context, deliveries []Delivery) []error {
	_, errs := a.deliverAll(ctx, deliveries, DurabilityDefault)
	return errs
}

// deliverAll is Deliver with a durability. It returns the dots of the messages,
// too, zero for one whose dot is not known any more.
func (a *Account) deliverAll(ctx context.Context, deliveries []Delivery, mode Durability) ([]Dot, []error) {
	dots, errs := make([]Dot, len(deliveries)), make([]error, len(deliveries))
	for start := 0; start < len(deliveries); start += maxDeliveries {
		end := min(start+maxDeliveries, len(deliveries))
		a.deliver(ctx, deliveries[start:end], mode, dots[start:end], errs[start:end])
	}
	return dots, errs
}

func (a *Account) deliver(ctx context.Context, deliveries []Delivery, mode Durability, dots []Dot, errs []error) {
	acct := a.account
	ready := make([]prepared, len(deliveries))
	for i, d := range deliveries {
		ready[i] = acct.prepareDelivery(ctx, d)
	}
	seq, err := acct.changeSeq(ctx, func(t *txn) error {
		for i := range ready {
			mark := t.save()
			if dots[i], errs[i] = t.deliver(&ready[i]); errs[i] != nil {
				t.restore(mark)
			}
		}
		return nil
	})
	if errors.Is(err, errTooLarge) && len(deliveries) > 1 {
		for i := range deliveries {
			a.deliver(ctx, deliveries[i:i+1], mode, dots[i:i+1], errs[i:i+1])
		}
		return
	}
	if err == nil {
		err = acct.durable(ctx, seq, mode)
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
		if _, err := a.createMailbox(ctx, name, "", creation{derived: true, subscribed: true}); err != nil && !errors.Is(err, ErrMailboxExists) {
			if !isOurs(err) {
				p.err = err
			}
			return p
		}
	}
	p.name = name
	return p
}

// deliver adds one delivery, unless it was made before, and returns the dot of
// its message.
func (t *txn) deliver(p *prepared) (Dot, error) {
	if p.err != nil {
		return Dot{}, p.err
	}
	a := t.account
	if p.delivery != (deliveryMark{}) {
		before, repeated, err := t.wasDelivered(p.delivery)
		if err != nil || repeated {
			return before, err
		}
	}
	b := a.names[p.name]
	if b == nil {
		b = a.names[inbox] // deleted since it was looked up
	}
	if err := t.room(b, p.message.Octets, 1); err != nil {
		return Dot{}, err
	}
	made, err := t.add(b, p.addition)
	if err != nil {
		return Dot{}, err
	}
	if p.delivery != (deliveryMark{}) {
		t.noteDelivery(p.delivery, twin{b.guid, made.dot}, t.now)
	}
	return made.dot, nil
}

// wasDelivered looks for a delivery in this commit and in those before.
func (t *txn) wasDelivered(id deliveryMark) (Dot, bool, error) {
	if made, now := t.ids[id]; now {
		return made.dot, true, nil
	}
	if t.account.delivered.isNew(id) {
		return Dot{}, false, nil
	}
	d, err := t.readDelivery(id)
	return d.twin.dot, d.expires.After(t.now), err
}

// readDelivery reads what is remembered of a delivery, nothing when there was
// none.
func (t *txn) readDelivery(id deliveryMark) (d delivery, err error) {
	err = t.account.store.kv.View(t.ctx, func(snap store.Snapshot) error {
		value, err := snap.Get(deliveryKey(t.account.id, id))
		if errors.Is(err, store.ErrNotFound) {
			return nil
		} else if err != nil {
			return err
		}
		d, err = decodeDelivery(value)
		return err
	})
	return d, err
}

// noteDelivery remembers a delivery and the message it was stored as.
func (t *txn) noteDelivery(id deliveryMark, made twin, at time.Time) {
	d := delivery{expires: at.Add(t.account.store.cfg.DeliveryMemory), twin: made}
	t.batch.Put(deliveryKey(t.account.id, id), d.encode())
	if t.ids == nil {
		t.ids = make(map[deliveryMark]twin)
	}
	before, known := t.ids[id]
	t.ids[id] = made
	t.undo = append(t.undo, func() {
		if known {
			t.ids[id] = before
		} else {
			delete(t.ids, id)
		}
	})
}
