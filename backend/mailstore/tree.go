package mailstore

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/emersion/go-imap/v2"
)

// List returns the mailboxes, and the subscribed names that have none, sorted
// by name. Names that exist only as part of others' are left out.
func (a *Account) List(ctx context.Context) ([]MailboxInfo, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	acct := a.account
	acct.mu.RLock()
	list := make([]MailboxInfo, 0, len(acct.names)+len(acct.subscriptions))
	for _, b := range acct.names {
		list = append(list, b.current().info())
	}
	for name := range acct.subscriptions {
		list = append(list, MailboxInfo{Name: name, Subscribed: true})
	}
	acct.mu.RUnlock()
	slices.SortFunc(list, func(a, b MailboxInfo) int { return strings.Compare(a.Name, b.Name) })
	return list, nil
}

// Status answers from kept counts, without loading the index. ErrNoMailbox.
func (a *Account) Status(ctx context.Context, name string) (Status, error) {
	if err := ctx.Err(); err != nil {
		return Status{}, err
	}
	name, err := a.account.store.cfg.normalize(name)
	if err != nil {
		return Status{}, ErrNoMailbox
	}
	b, ok := a.account.box(name)
	if !ok {
		return Status{}, ErrNoMailbox
	}
	return b.current().status(), nil
}

// Create makes a mailbox. Names above it need not exist. A subscription to the
// name carries over. ErrBadName, ErrMailboxExists, ErrSpecialUse, ErrTooMany.
func (a *Account) Create(ctx context.Context, name string, use imap.MailboxAttr) (MailboxInfo, error) {
	return a.account.createMailbox(ctx, name, use, false)
}

func (a *account) createMailbox(ctx context.Context, name string, use imap.MailboxAttr, subscribe bool) (info MailboxInfo, err error) {
	if name, err = a.store.cfg.normalize(name); err != nil {
		return info, err
	}
	if use != "" && !isSpecialUse(use) {
		return info, ErrSpecialUse
	}
	err = a.changeAlone(ctx, func(t *txn) error {
		if a.names[name] != nil {
			return ErrMailboxExists
		}
		if len(a.names)+len(a.subscriptions) >= a.store.cfg.MaxMailboxes && !a.subscriptions[name] {
			return ErrTooMany
		}
		for _, b := range a.names {
			if use != "" && b.current().use == use {
				return ErrSpecialUse
			}
		}
		t.adds = true
		record := mailboxRecord{name: name, use: use, subscribed: subscribe}
		if a.subscriptions[name] {
			record.subscribed = true
			t.batch.Delete(append(accountKey(a.id, kindSubscription), name...))
		}
		t.head.lastUIDValidity = nextUIDValidity(t.head.lastUIDValidity, t.now, a.store.class())
		record.uidValidity = t.head.lastUIDValidity
		info = t.createMailbox(createdGUID(a.id, t.nextDot()), record)
		return nil
	})
	return info, err
}

// createMailbox adds a mailbox with an empty index.
func (t *txn) createMailbox(guid GUID, record mailboxRecord) MailboxInfo {
	a := t.account
	record.uidNext, record.modseq = 1, t.nextModSeq()
	b := newBox(a, guid)
	v := t.draft(b)
	v.mailboxRecord, v.dirty, v.loaded = record, true, true
	t.log(&JournalOp{
		Code: OpCreate, Mailbox: guid, Name: record.name, UIDValidity: record.uidValidity,
		SpecialUse: record.use, Subscribed: record.subscribed,
	})
	t.after = append(t.after, func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.boxes[guid], a.names[record.name] = b, b
		delete(a.subscriptions, record.name)
	})
	return v.info()
}

// Delete removes a mailbox and its messages; mailboxes below it stay, and so
// does a subscription. ErrInbox, ErrNoMailbox.
func (a *Account) Delete(ctx context.Context, name string) error {
	name, err := a.account.store.cfg.normalize(name)
	if err != nil {
		return ErrNoMailbox
	}
	if name == inbox {
		return ErrInbox
	}
	err = a.account.changeAlone(ctx, func(t *txn) error { return t.deleteMailbox(name) })
	if err == nil {
		a.account.store.wakeSweep()
	}
	return err
}

// deleteMailbox takes the mailbox out of the tree at once. Its messages, which
// nobody can reach any more, are left to the sweep.
func (t *txn) deleteMailbox(name string) error {
	a := t.account
	b := a.names[name]
	if b == nil {
		return ErrNoMailbox
	}
	v := t.draft(b)
	v.gone, v.dirty = true, true
	t.head.octets -= v.octets
	t.batch.Delete(mailboxKey(a.id, kindMailbox, b.guid))
	log := mailboxKey(a.id, kindExpunged, b.guid)
	t.batch.DeleteRange(log, above(log))
	t.batch.Put(mailboxKey(a.id, kindGarbage, b.guid), encodeGarbage(0))
	if v.subscribed {
		t.batch.Put(append(accountKey(a.id, kindSubscription), name...), []byte{recordVersion})
	}
	t.log(&JournalOp{Code: OpDelete, Mailbox: b.guid})
	subscribed := v.subscribed
	t.after = append(t.after, func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		delete(a.boxes, b.guid)
		delete(a.names, name)
		if subscribed {
			a.subscriptions[name] = true
		}
	})
	return nil
}

// Rename gives a mailbox and those below it another name; identities, messages
// and subscriptions stay theirs. From INBOX it moves the messages into a new
// mailbox instead (RFC 9051 section 6.3.6); when that fails midway the rest
// stays in INBOX. ErrNoMailbox, ErrBadName, ErrMailboxExists; ErrTooMany when
// some 800 mailboxes would change their names at once.
func (a *Account) Rename(ctx context.Context, from, to string) error {
	cfg := &a.account.store.cfg
	from, err := cfg.normalize(from)
	if err != nil {
		return ErrNoMailbox
	}
	if to, err = cfg.normalize(to); err != nil {
		return err
	}
	if to == inbox {
		return ErrMailboxExists
	}
	if from == inbox {
		return a.renameInbox(ctx, to)
	}
	if isBelow(to, from) {
		return fmt.Errorf("%w: below itself", ErrBadName)
	}
	return a.account.changeAlone(ctx, func(t *txn) error { return t.rename(from, to) })
}

func (a *Account) renameInbox(ctx context.Context, to string) error {
	if _, err := a.Create(ctx, to, ""); err != nil {
		return err
	}
	source, err := a.Mailbox(ctx, inbox)
	if err != nil {
		return err
	}
	defer source.Close()
	dest, err := a.Mailbox(ctx, to)
	if err != nil {
		return err
	}
	defer dest.Close()
	v := source.View()
	uids := make([]imap.UID, v.Len())
	for i := range uids {
		uids[i] = v.At(i).UID
	}
	_, err = source.Move(ctx, uids, dest)
	return err
}

// rename changes one mailbox and those below it in one commit.
func (t *txn) rename(from, to string) error {
	a := t.account
	moves := make(map[*box]string)
	for name, b := range a.names {
		switch {
		case name == from:
			moves[b] = to
		case isBelow(name, from):
			moves[b] = to + name[len(from):]
		}
	}
	if len(moves) == 0 {
		return ErrNoMailbox
	}
	if len(moves) > maxTxnOps-100 {
		return ErrTooMany
	}
	if a.names[to] != nil {
		return ErrMailboxExists
	}
	for _, name := range moves {
		if other := a.names[name]; other != nil {
			if _, moved := moves[other]; !moved {
				return ErrMailboxExists
			}
		}
		if _, err := a.store.cfg.normalize(name); err != nil {
			return err
		}
	}
	for b, name := range moves {
		t.renameOne(b, name)
	}
	t.after = append(t.after, func() { a.rename(moves) })
	return nil
}

func (t *txn) renameOne(b *box, name string) {
	a := t.account
	v := t.draft(b)
	v.name, v.dirty = name, true
	if a.subscriptions[name] {
		v.subscribed = true
		t.batch.Delete(append(accountKey(a.id, kindSubscription), name...))
	}
	t.log(&JournalOp{Code: OpRename, Mailbox: b.guid, Name: name})
}

func (a *account) rename(moves map[*box]string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for name, b := range a.names {
		if _, moved := moves[b]; moved {
			delete(a.names, name)
		}
	}
	for b, name := range moves {
		a.names[name] = b
		delete(a.subscriptions, name)
	}
}

// Subscribe sets or clears the subscription to a name, which need not have a
// mailbox. ErrBadName, ErrTooMany.
func (a *Account) Subscribe(ctx context.Context, name string, on bool) error {
	acct := a.account
	name, err := acct.store.cfg.normalize(name)
	if err != nil {
		return err
	}
	return acct.changeAlone(ctx, func(t *txn) error {
		if b := acct.names[name]; b != nil {
			if b.current().subscribed == on {
				return nil
			}
			v := t.draft(b)
			v.subscribed, v.dirty = on, true
			t.log(&JournalOp{Code: OpSubscribe, Mailbox: b.guid, Name: name, Subscribed: on})
			return nil
		}
		return t.subscribeName(name, on)
	})
}

// subscribeName is Subscribe for a name without a mailbox.
func (t *txn) subscribeName(name string, on bool) error {
	a := t.account
	if a.subscriptions[name] == on {
		return nil
	}
	if on && len(a.names)+len(a.subscriptions) >= a.store.cfg.MaxMailboxes {
		return ErrTooMany
	}
	key := append(accountKey(a.id, kindSubscription), name...)
	if on {
		t.batch.Put(key, []byte{recordVersion})
		t.adds = true
	} else {
		t.batch.Delete(key)
	}
	t.log(&JournalOp{Code: OpSubscribe, Name: name, Subscribed: on})
	t.after = append(t.after, func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		if on {
			a.subscriptions[name] = true
		} else {
			delete(a.subscriptions, name)
		}
	})
	return nil
}
