package mailstore

import (
	"context"
	"errors"
	"fmt"
	"sort"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/backend/mailstore/uid"
)

// ErrKept means that UIDs or UIDVALIDITY of another store cannot be kept here.
var ErrKept = errors.New("UIDs cannot be kept")

// Incoming is a message that comes from another store.
type Incoming struct {
	Append
	// ID as in Delivery: a second message with it stores nothing and succeeds.
	ID string
	// UID is what the message is to have, 0 for the next one. Where that one is
	// not above all UIDs of the mailbox, or the store is one of a pair, it gets
	// the next one.
	UID imap.UID
}

// TakenIn is what became of an Incoming.
type TakenIn struct {
	// UID is the message's, 0 where it is not known, as when a message stored
	// before under the ID is gone.
	UID imap.UID
	// Repeated: a message was stored under this ID before.
	Repeated bool
	// Err is why this one was not stored: ErrTooMany, MailboxFull.
	Err error
}

// TakeIn adds messages in order, each or not; those that were added are on
// stable storage. An error is about all: ErrNoMailbox, MailSystemFull,
// StoreDown. A repeat with the same IDs is safe after each of them.
func (m *Mailbox) TakeIn(ctx context.Context, messages []Incoming) ([]TakenIn, error) {
	results := make([]TakenIn, len(messages))
	for start := 0; start < len(messages); start += maxDeliveries {
		end := min(start+maxDeliveries, len(messages))
		if err := m.takeIn(ctx, messages[start:end], results[start:end]); err != nil {
			return results, m.box.account.store.failure("take messages in", err)
		}
	}
	return results, nil
}

func (m *Mailbox) takeIn(ctx context.Context, messages []Incoming, results []TakenIn) error {
	a := m.box.account
	ready, uids := make([]prepared, len(messages)), make([]imap.UID, len(messages))
	for i, n := range messages {
		p, err := a.store.prepare(n.Content, nil, n.Flags, n.Keywords, n.InternalDate)
		if p.err = err; n.ID != "" {
			p.delivery = markDelivery(a.id, n.ID)
		}
		ready[i], uids[i] = p, n.UID
	}
	return m.takeInPrepared(ctx, ready, uids, results)
}

// takeInPrepared adds messages with the UIDs they are to have.
func (m *Mailbox) takeInPrepared(ctx context.Context, ready []prepared, uids []imap.UID, results []TakenIn) error {
	a := m.box.account
	list := make([]added, len(ready))
	seq, err := a.changeSeq(ctx, func(t *txn) error {
		if t.peek(m.box).gone {
			return ErrNoMailbox
		}
		for i := range ready {
			results[i] = TakenIn{}
			mark := t.save()
			if list[i], results[i].Err = t.takeIn(m.box, &ready[i], uids[i], &results[i].Repeated); results[i].Err != nil {
				t.restore(mark)
			}
		}
		return nil
	})
	if errors.Is(err, errTooLarge) && len(ready) > 1 { // unusually large headers
		for i := range ready {
			if err := m.takeInPrepared(ctx, ready[i:i+1], uids[i:i+1], results[i:i+1]); err != nil {
				return err
			}
		}
		return nil
	}
	if errors.Is(err, errTooLarge) {
		results[0] = TakenIn{Err: ErrTooMany}
		return nil
	}
	if err == nil {
		err = a.awaitUIDs(ctx, list)
	}
	if err == nil {
		err = a.durable(ctx, seq, DurabilityDefault)
	}
	for i := range list {
		results[i].UID = list[i].uid
	}
	return err
}

// takeIn adds one message, unless that was done before.
func (t *txn) takeIn(b *box, p *prepared, wanted imap.UID, repeated *bool) (added, error) {
	if p.err != nil {
		return added{}, p.err
	}
	named := p.delivery != (deliveryMark{})
	if named {
		before, again, err := t.wasDelivered(p.delivery)
		if err != nil {
			return added{}, err
		}
		if *repeated = again; again {
			u, err := t.uidOf(b, before)
			return added{dot: before, uid: u}, err
		}
	}
	if err := t.room(b, p.message.Octets, 1); err != nil {
		return added{}, err
	}
	if wanted > 0 && t.account.link == nil {
		t.skipTo(b, wanted)
	}
	made, err := t.add(b, p.addition)
	if err == nil && named {
		t.noteDelivery(p.delivery, twin{b.guid, made.dot}, t.now)
	}
	return made, err
}

// uidOf returns the UID of a message of b, 0 where it is not there or, in a
// pair, not shown. A store of its own adds messages in the order of their dots.
func (t *txn) uidOf(b *box, d Dot) (imap.UID, error) {
	if t.account.link != nil {
		m, err := t.find(b, d)
		if err != nil || m == nil {
			return 0, err
		}
		return m.UID, nil
	}
	v := t.peek(b)
	i := sort.Search(v.list.len(), func(i int) bool { return v.list.at(i).Dot.Seq >= d.Seq })
	if i < v.list.len() && v.list.at(i).Dot == d {
		return v.list.at(i).UID, nil
	}
	return 0, nil
}

// skipTo leaves UIDs out, so that the next one is u, if that is not passed.
func (t *txn) skipTo(b *box, u imap.UID) {
	v := t.draft(b)
	v.allocate(func(m *uid.Mailbox) {
		if m.Report() < uint32(u) {
			m.Allocated = uint32(u) - 1
		}
	})
}

// maxKeptUIDValidity leaves room for those that are made later, which must be
// above all of before.
const maxKeptUIDValidity = 1<<32 - 1<<24

// KeepUIDs gives a mailbox that never held a message the UIDVALIDITY it has in
// another store, so that clients that know its UIDs go on with them. Sessions
// should not have the mailbox open. ErrKept, with the reason, where that is not
// possible: not in a pair, whose nodes agree on UIDs by their own rules.
func (m *Mailbox) KeepUIDs(ctx context.Context, uidValidity uint32) error {
	return m.box.account.changeDurably(ctx, func(t *txn) error {
		v := t.peek(m.box)
		switch {
		case v.gone:
			return ErrNoMailbox
		case t.account.link != nil:
			return fmt.Errorf("%w: this server is one of a pair, whose servers agree on UIDs by rules of their own", ErrKept)
		case v.uidValidity == uidValidity:
			return nil
		case uidValidity == 0 || uidValidity > maxKeptUIDValidity:
			return fmt.Errorf("%w: UIDVALIDITY %d is out of range", ErrKept, uidValidity)
		case v.messages > 0 || v.uidNext > 1:
			return fmt.Errorf("%w: mailbox %q holds messages, or did, under UIDVALIDITY %d", ErrKept, v.name, v.uidValidity)
		}
		v = t.draft(m.box)
		v.uidValidity, v.dirty = uidValidity, true
		t.head.lastUIDValidity = max(t.head.lastUIDValidity, uidValidity)
		t.registersChanged()
		return nil
	})
}

// ReserveUIDs has the next UID of a mailbox be next at least, as it was in
// another store: UIDs of messages that were expunged there are not used again.
// Nothing happens in a pair.
func (m *Mailbox) ReserveUIDs(ctx context.Context, next imap.UID) error {
	return m.box.account.changeDurably(ctx, func(t *txn) error {
		v := t.peek(m.box)
		if alloc := v.allocator(); v.gone || t.account.link != nil || next == 0 || alloc.Report() >= uint32(next)-1 {
			return nil
		}
		v = t.draft(m.box)
		v.allocate(func(a *uid.Mailbox) {
			a.Allocated = uint32(next) - 1
			a.Expose(a.Allocated)
		})
		v.dirty = true
		return nil
	})
}

// Pictured is a mailbox as it was at the instant of a Picture.
type Pictured struct {
	*Mailbox
	View View
	Info MailboxInfo
}

// Picture opens every mailbox of the account, and returns how all of them were
// at one instant: a message that is moved is in one of them. The caller closes
// the mailboxes, also after an error.
func (a *Account) Picture(ctx context.Context) (all []Pictured, err error) {
	acct := a.account
	err = acct.changeAlone(ctx, func(t *txn) error {
		for _, p := range all {
			p.Close()
		}
		all = all[:0]
		for _, b := range acct.inOrder() {
			if b.current().gone {
				continue
			}
			b.hold()
			all = append(all, Pictured{Mailbox: &Mailbox{box: b}})
			if err := t.loadBox(b); err != nil {
				return err
			}
		}
		for i := range all {
			v := all[i].box.current()
			all[i].View, all[i].Info = v, v.info()
		}
		return nil
	})
	return all, acct.store.failure("open all mailboxes", err)
}
