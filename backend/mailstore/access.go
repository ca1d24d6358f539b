package mailstore

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"

	"github.com/postern-mail/postern/backend/mailstore/acl"
	"github.com/postern-mail/postern/store"
)

// ErrNoAccount means that nobody has used an account of that name yet.
var ErrNoAccount = errors.New("no such account")

// Visit opens an account for somebody else than its owner: unlike Account it
// makes none, and leaves the limits as they are. The caller closes the handle.
// ErrNoAccount.
func (s *Store) Visit(ctx context.Context, name string) (*Account, error) {
	a := s.hold(accountGUID(name), name)
	err := a.open(ctx)
	if err == nil {
		err = s.available(a)
	}
	if _, made := a.box(inbox); err == nil && !made {
		err = ErrNoAccount
	}
	if err == nil && a.isUnsettled() {
		err = a.settle(ctx)
	}
	if err != nil {
		s.release(a)
		return nil, s.failure("visit account", err)
	}
	return &Account{account: a}, nil
}

// Find describes the mailbox of a name. ErrNoMailbox.
func (a *Account) Find(name string) (MailboxInfo, error) {
	name, err := a.account.store.cfg.normalize(name)
	if err != nil {
		return MailboxInfo{}, ErrNoMailbox
	}
	b, ok := a.account.box(name)
	if !ok {
		return MailboxInfo{}, ErrNoMailbox
	}
	return b.current().info(), nil
}

// FindGUID describes a mailbox by its identity. ErrNoMailbox.
func (a *Account) FindGUID(mailbox GUID) (MailboxInfo, error) {
	a.account.mu.RLock()
	defer a.account.mu.RUnlock()
	if b := a.account.boxes[mailbox]; b != nil {
		if v := b.current(); v.isNamed() {
			return v.info(), nil
		}
	}
	return MailboxInfo{}, ErrNoMailbox
}

// Access is the access control list of a mailbox as it was set, sorted by
// identifier; nil when none was, and the server's defaults hold. It is in
// memory, and not to be changed.
func (a *Account) Access(mailbox GUID) acl.List {
	a.account.mu.RLock()
	defer a.account.mu.RUnlock()
	return a.account.access[mailbox]
}

// maxGrants bounds a list, so that a new mailbox can have it in one commit.
const maxGrants = 200

// SetAccess sets what an identifier may do with a mailbox, or with nil rights
// takes its line out of the list. The identifier is one that acl.Check takes.
// ErrEntry.
func (a *Account) SetAccess(ctx context.Context, mailbox GUID, identifier string, rights *acl.Rights) error {
	e := Entry{Space: SpaceACL, Mailbox: mailbox, Key: identifier}
	if rights != nil {
		if _, named := a.Access(mailbox).Of(identifier); !named && len(a.Access(mailbox)) >= maxGrants {
			return ErrEntry
		}
	}
	if rights != nil {
		e.Value = append([]byte{}, rights.String()...)
	}
	return a.SetEntry(ctx, e)
}

// inheritAccess gives a new mailbox the list of the nearest mailbox above it.
func (t *txn) inheritAccess(mailbox GUID, name string) error {
	a := t.account
	for i := strings.LastIndex(name, separator); i >= 0; i = strings.LastIndex(name, separator) {
		name = name[:i]
		above := a.names[name]
		if above == nil {
			continue
		}
		t.flushJournal(0)
		for _, grant := range a.access[above.guid] {
			rights := []byte(grant.Rights.String())
			t.putEntry(entryName(SpaceACL, mailbox, grant.Identifier), entry{at: t.stamp(), value: rights})
			t.log(&JournalOp{Code: OpEntry, Mailbox: mailbox, Space: SpaceACL, Key: grant.Identifier, Value: rights})
		}
		return nil
	}
	return nil
}

// endEntries ends what was kept with a mailbox that was deleted: nobody asks for
// it again, and it must not gather. What a failure leaves harms nobody.
func (a *Account) endEntries(ctx context.Context, mailbox GUID) {
	const atOnce = 100
	for _, space := range []byte{SpaceACL, SpaceMetadata} {
		list, err := a.Entries(ctx, space, mailbox)
		for i := range list {
			list[i].Value = nil
		}
		for some := range slices.Chunk(list, atOnce) {
			err = errors.Join(err, a.SetEntries(ctx, some))
		}
		if err != nil {
			a.account.store.log.Warn("entries of a deleted mailbox are left", "account", a.account.id, "mailbox", mailbox, "err", err)
			return
		}
	}
}

// readAccess reads all lists of an account. A line that cannot be read grants
// nothing, and keeps nobody from the rest of the account.
func (s *Store) readAccess(snap store.Snapshot, account GUID) (map[GUID]acl.List, error) {
	var all map[GUID]acl.List
	prefix := entryKey(account, []byte{SpaceACL})
	for pair, err := range snap.Range(prefix, above(prefix), 0, false) {
		if err != nil {
			return nil, err
		}
		mailbox, identifier, ok := ofEntry(pair.Key[accountPrefixOctets+1:])
		if !ok {
			continue
		}
		e, err := decodeEntry(pair.Value)
		if err != nil {
			s.log.Warn("access control list is damaged", "account", account, "mailbox", mailbox, "identifier", identifier, "err", err)
			continue
		}
		if e.removed {
			continue
		}
		if all == nil {
			all = make(map[GUID]acl.List)
		}
		all[mailbox] = append(all[mailbox], acl.Grant{Identifier: identifier, Rights: rightsOf(&e)})
	}
	return all, nil
}

// rightsOf reads an entry's rights. What does not make sense grants nothing.
func rightsOf(e *entry) acl.Rights {
	r, err := acl.Parse(string(e.value))
	if err != nil {
		return 0
	}
	return r
}

// ofEntry takes an entry's name apart.
func ofEntry(name []byte) (mailbox GUID, key string, ok bool) {
	if len(name) < entryNameOctets {
		return mailbox, "", false
	}
	return GUID(name[1:entryNameOctets]), string(name[entryNameOctets:]), true
}

// putAccess keeps what is derived from an entry of an access control list: the
// list in memory, and the index of who shares with whom.
func (t *txn) putAccess(name []byte, e *entry) {
	mailbox, identifier, ok := ofEntry(name)
	if !ok {
		return
	}
	a := t.account
	if key := sharedKey(identifier, a.id, mailbox); key != nil {
		if e.removed {
			t.batch.Delete(key)
		} else {
			t.batch.Put(key, []byte{recordVersion})
		}
	}
	removed, rights := e.removed, rightsOf(e)
	t.after = append(t.after, func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		list := slices.Clone(a.access[mailbox])
		at, found := slices.BinarySearchFunc(list, identifier, func(g acl.Grant, id string) int { return strings.Compare(g.Identifier, id) })
		switch {
		case found && removed:
			list = slices.Delete(list, at, at+1)
		case found:
			list[at].Rights = rights
		case !removed:
			list = slices.Insert(list, at, acl.Grant{Identifier: identifier, Rights: rights})
		}
		all := maps.Clone(a.access)
		if all == nil {
			all = make(map[GUID]acl.List)
		}
		if all[mailbox] = list; len(list) == 0 {
			delete(all, mailbox)
		}
		a.access = all
		a.store.sharing.ring(identifier)
	})
}

// maxSharers bounds the accounts that Sharing names.
const maxSharers = 10_000

// Sharing returns the names of the accounts in which a mailbox names one of
// the identifiers. What it grants, and whether the mailbox is still there, they
// know. The names are sorted.
func (s *Store) Sharing(ctx context.Context, identifiers []string) ([]string, error) {
	names := make(map[GUID]string)
	err := s.kv.View(ctx, func(snap store.Snapshot) error {
		for _, identifier := range identifiers {
			prefix := sharedPrefix(identifier)
			if prefix == nil {
				continue
			}
			if err := sharers(snap, prefix, names); err != nil {
				return err
			}
		}
		return nil
	})
	sorted := slices.Collect(maps.Values(names))
	slices.Sort(sorted)
	return slices.DeleteFunc(sorted, func(name string) bool { return name == "" }), s.failure("read who shares", err)
}

// sharers adds the accounts below a prefix of the index, stepping from one to
// the next.
func sharers(snap store.Snapshot, prefix []byte, names map[GUID]string) error {
	from, end := prefix, above(prefix)
	for len(names) < maxSharers {
		var at []byte
		for pair, err := range snap.Range(from, end, 1, false) {
			if err != nil {
				return err
			}
			at = slices.Clone(pair.Key)
		}
		if at == nil {
			return nil
		}
		if len(at) != len(prefix)+32 {
			from = append(at, 0)
			continue
		}
		account := GUID(at[len(prefix):][:16])
		if _, known := names[account]; !known {
			name, err := readAccountName(snap, account)
			if err != nil && !errors.Is(err, store.ErrNotFound) {
				return err
			}
			names[account] = name // "" when the account is gone
		}
		if from = above(at[:len(prefix)+16]); from == nil {
			return nil
		}
	}
	return nil
}

// IsShared reports whether a mailbox of the account names one of the
// identifiers.
func (s *Store) IsShared(ctx context.Context, account string, identifiers []string) (found bool, err error) {
	id := accountGUID(account)
	err = s.kv.View(ctx, func(snap store.Snapshot) error {
		for _, identifier := range identifiers {
			prefix := sharedPrefix(identifier)
			if prefix == nil {
				continue
			}
			prefix = append(prefix, id[:]...)
			for _, err := range snap.Range(prefix, above(prefix), 1, false) {
				if err != nil {
					return err
				}
				found = true
			}
		}
		return nil
	})
	return found, s.failure("read who shares", err)
}
