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
	users := make(map[imap.MailboxAttr]*view)
	for _, b := range acct.names {
		v := b.current()
		list = append(list, v.info())
		if first := users[v.use]; v.use != "" && (first == nil || v.isBefore(first)) {
			users[v.use] = v
		}
	}
	for i := range list {
		if m := &list[i]; m.SpecialUse != "" && users[m.SpecialUse].guid != m.GUID {
			m.SpecialUse = ""
		}
	}
	for name, s := range acct.subscriptions {
		if s.on && acct.names[name] == nil {
			list = append(list, MailboxInfo{Name: name, Subscribed: true})
		}
	}
	acct.mu.RUnlock()
	slices.SortFunc(list, func(a, b MailboxInfo) int { return strings.Compare(a.Name, b.Name) })
	return list, nil
}

// isBefore reports whether v has a special use that both have: the one made
// first has it. Only two nodes that did not see each other can have made both.
func (v *view) isBefore(o *view) bool {
	if c := v.created.compare(o.created); c != 0 {
		return c < 0
	}
	return slices.Compare(v.guid[:], o.guid[:]) < 0
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

// Create makes a mailbox. Names above it need not exist; from the nearest
// mailbox above it has its access control list. A subscription to the
// name carries over. ErrBadName, ErrMailboxExists, ErrSpecialUse, ErrTooMany.
func (a *Account) Create(ctx context.Context, name string, use imap.MailboxAttr) (MailboxInfo, error) {
	return a.account.createMailbox(ctx, name, use, creation{})
}

// creation says how a mailbox is made.
type creation struct {
	// derived makes the same that the other node of a pair makes of that name.
	derived    bool
	subscribed bool
}

// createMailbox is Create.
func (a *account) createMailbox(ctx context.Context, name string, use imap.MailboxAttr, how creation) (info MailboxInfo, err error) {
	if name, err = a.store.cfg.newName(name); err != nil {
		return info, err
	}
	if use != "" && !isSpecialUse(use) {
		return info, ErrSpecialUse
	}
	err = a.changeDurably(ctx, func(t *txn) error {
		if a.names[name] != nil {
			return ErrMailboxExists
		}
		if len(a.names) >= a.store.cfg.MaxMailboxes || a.isFull() && !a.subscriptions[name].on {
			return ErrTooManyMailboxes
		}
		for _, b := range a.names {
			if use != "" && b.current().use == use {
				return ErrSpecialUse
			}
		}
		t.adds = true
		guid, uidValidity := configuredGUID(a.id, name), configuredUIDValidity(a.id, name)
		if !how.derived || t.wasUsed(guid, name) {
			t.head.lastUIDValidity = nextUIDValidity(t.head.lastUIDValidity, t.now, a.store.class())
			guid, uidValidity = createdGUID(a.id, t.nextDot()), t.head.lastUIDValidity
		}
		record := mailboxRecord{use: t.useFor(name, use), subscribed: how.subscribed, uidValidity: uidValidity}
		if a.subscriptions[name].on {
			record.subscribed = true
			defer t.subscribeName(name, false)
		}
		record.parent, record.leaf = placeFor(name, t.parents(nil))
		info = t.createMailbox(guid, record)
		info.Name = name
		return t.inheritAccess(guid, name)
	})
	return info, err
}

// wasUsed reports whether there is or was a mailbox with the GUID or one that
// had the name: another one there needs an identity of its own.
func (t *txn) wasUsed(guid GUID, name string) bool {
	for id, b := range t.account.boxes {
		if id == guid || b.current().gone && b.current().name == name {
			return true
		}
	}
	return false
}

// createMailbox adds a mailbox with an empty index, which stands where record's
// register says.
func (t *txn) createMailbox(guid GUID, record mailboxRecord) MailboxInfo {
	record.created = t.stamp()
	v := t.makeBox(guid, record)
	t.log(&JournalOp{
		Code: OpCreate, Mailbox: guid, Parent: record.parent, Leaf: record.leaf, UIDValidity: record.uidValidity,
		SpecialUse: record.use, Subscribed: record.subscribed,
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
	deleted, _ := a.Find(name)
	err = a.account.deleteWhole(ctx, name)
	if err == nil {
		a.endEntries(context.WithoutCancel(ctx), deleted.GUID)
		a.account.store.wakeSweep()
	}
	return err
}

// deleteMailbox takes the mailbox out of the tree at once. Its messages, which
// nobody can reach any more, are left to the sweep. Its record stays: others
// may hang below it, and the other node of a pair may add to it before it knows.
func (t *txn) deleteMailbox(name string) error {
	b := t.account.names[name]
	if b == nil {
		return ErrNoMailbox
	}
	observed := t.observed()
	if t.peek(b).subscribed {
		t.subscribeName(name, true)
	}
	t.log(&JournalOp{Code: OpDelete, Mailbox: b.guid, Observed: observed})
	v := t.draft(b)
	v.erased = unionOf(v.erased, observed)
	t.bury(b, v)
	return nil
}

// bury makes a deleted mailbox of v, of which nothing is left.
func (t *txn) bury(b *box, v *view) {
	t.head.octets -= v.octets + v.pendingOctets
	t.head.unsettled -= uint64(v.pending + v.misplaced)
	v.gone, v.removed, v.dirty = true, true, true
	v.messages, v.unseen, v.deleted, v.octets, v.pending, v.pendingOctets, v.misplaced = 0, 0, 0, 0, 0, 0, 0
	v.digest = [16]byte{}
	v.modseq = t.nextModSeq()
	v.expungeFloor = v.modseq
	v.hiddenList = nil
	if !t.head.merging { // else it is needed: see wasRemoved
		log := mailboxKey(t.account.id, kindExpunged, b.guid)
		t.batch.DeleteRange(log, above(log))
	}
	t.batch.Put(mailboxKey(t.account.id, kindGarbage, b.guid), garbage{}.encode())
	t.retree = true
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
	if to, err = cfg.newName(to); err != nil {
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
	return a.account.changeDurably(ctx, func(t *txn) error { return t.rename(from, to) })
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

// rename changes one mailbox and those below it in one commit. What hangs below
// one that moves comes with it.
func (t *txn) rename(from, to string) error {
	a := t.account
	moves := make(map[*box]string)
	for name, b := range a.names {
		if name == from || isBelow(name, from) {
			moves[b] = to + name[len(from):]
		}
	}
	if len(moves) == 0 {
		return ErrNoMailbox
	}
	if a.names[to] != nil {
		return ErrMailboxExists
	}
	for b, name := range moves {
		if other := a.names[name]; other != nil && moves[other] == "" {
			return ErrMailboxExists
		}
		// A name that breaks a rule of new ones already may go on to.
		_, before := a.store.cfg.newName(t.peek(b).name)
		if _, err := a.store.cfg.newName(name); err != nil && before == nil {
			return err
		}
		if _, err := a.store.cfg.normalize(name); err != nil {
			return err
		}
	}
	var own []*box
	for b := range moves {
		if !t.comesWithParent(b, moves) {
			own = append(own, b)
		}
	}
	if len(own) > maxTxnOps-100 {
		return ErrTooMany
	}
	slices.SortFunc(own, func(x, y *box) int { return strings.Compare(moves[x], moves[y]) })
	parents := t.parents(moves)
	for _, b := range own {
		parent, leaf := placeFor(moves[b], parents)
		t.move(b, parent, leaf)
	}
	t.carrySubscriptions(moves)
	return nil
}

// comesWithParent reports whether b gets its new name by its parent's getting one.
func (t *txn) comesWithParent(b *box, moves map[*box]string) bool {
	v := t.peek(b)
	parent := t.box(v.parent)
	return parent != nil && moves[parent] != "" && t.peek(parent).name+separator+v.leaf == v.name
}

// move renames one mailbox.
func (t *txn) move(b *box, parent GUID, leaf string) {
	v := t.draft(b)
	v.parent, v.leaf, v.moved, v.dirty = parent, leaf, t.stamp(), true
	t.retree = true
	t.log(&JournalOp{Code: OpMove, Mailbox: b.guid, Parent: parent, Leaf: leaf})
}

// carrySubscriptions gives mailboxes the subscriptions to their new names.
func (t *txn) carrySubscriptions(moves map[*box]string) {
	for name, s := range t.account.subscriptions {
		if !s.on {
			continue
		}
		for b, to := range moves {
			if to == name {
				t.subscribeName(name, false)
				t.subscribeBox(b, true)
			}
		}
	}
}
