package mailstore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/store"
)

// maxAutoexpunge bounds the messages that one round takes out of one mailbox;
// the next goes on.
const maxAutoexpunge = 10_000

// Autoexpunge takes messages out of the configured mailboxes that have been
// there for longer than these keep them. Run does it now and then. Accounts are
// opened one after the other, and only those with something to remove. What
// keeps it from one account does not keep it from the others.
func (s *Store) Autoexpunge(ctx context.Context) error {
	before := s.cfg.cutoffs()
	if len(before) == 0 {
		return nil
	}
	var found []error
	err := s.eachAccount(ctx, func(id GUID, name string, damage error) error {
		if damage != nil {
			return ctx.Err() // the sweep tells of it
		}
		old, err := s.mailboxesWithOld(ctx, id, before)
		if err == nil && len(old) > 0 {
			err = s.expungeOld(ctx, name, old, before)
		}
		if err != nil && len(found) < maxSweepErrors {
			found = append(found, fmt.Errorf("account %s: %w", id, err))
		}
		return ctx.Err()
	})
	return errors.Join(append(found, err)...)
}

// cutoffs are, by mailbox, the times before which messages are removed.
func (c *Config) cutoffs() map[string]time.Time {
	before := make(map[string]time.Time)
	for _, m := range c.Mailboxes {
		if m.Autoexpunge > 0 {
			before[m.Name] = c.Now().Add(-m.Autoexpunge)
		}
	}
	return before
}

// mailboxesWithOld returns the names of those mailboxes whose first message is
// to go. It reads what is stored, so that accounts in which nothing is to be
// done stay out of memory.
func (s *Store) mailboxesWithOld(ctx context.Context, account GUID, before map[string]time.Time) (names []string, err error) {
	err = s.kv.View(ctx, func(snap store.Snapshot) error {
		names = nil
		records := make(map[GUID]mailboxRecord)
		if _, err := readTree(snap, account, records, make(map[string]subscription)); err != nil {
			return err
		}
		for id, r := range records {
			cutoff, rule := before[r.name]
			if !rule || r.removed || r.messages == 0 {
				continue
			}
			first, err := firstSaved(snap, account, id)
			if err != nil {
				return err
			}
			if !first.IsZero() && first.Before(cutoff) {
				names = append(names, r.name)
			}
		}
		return nil
	})
	return names, err
}

// firstSaved is when the message with the lowest UID came into a mailbox: UIDs
// are given in that order.
func firstSaved(snap store.Snapshot, account, mailbox GUID) (time.Time, error) {
	prefix := mailboxKey(account, kindMessage, mailbox)
	for pair, err := range snap.Range(prefix, above(prefix), 1, false) {
		if err != nil {
			return time.Time{}, err
		}
		var m Message
		err = decodeMessage(&m, uidOf(pair.Key), pair.Value)
		return m.SaveDate, err
	}
	return time.Time{}, nil
}

// expungeOld removes old messages of an account, and tells Config.Expunged.
func (s *Store) expungeOld(ctx context.Context, account string, names []string, before map[string]time.Time) error {
	a, err := s.Visit(ctx, account)
	if errors.Is(err, ErrNoAccount) {
		return nil // the partner has not sent all of it
	}
	if err != nil {
		return err
	}
	defer a.Close()
	for _, name := range names {
		m, err := a.Mailbox(ctx, name)
		if errors.Is(err, ErrNoMailbox) {
			continue
		}
		if err != nil {
			return err
		}
		gone, err := m.remove(ctx, oldIn(m.View(), before[name]), false)
		m.Close()
		if s.cfg.Expunged != nil && len(gone) > 0 {
			s.cfg.Expunged(account, name, gone)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// oldIn lists the messages saved before a time, the longest saved first.
func oldIn(v View, before time.Time) []imap.UID {
	var uids []imap.UID
	for i := range v.Len() {
		if m := v.At(i); m.SaveDate.Before(before) && len(uids) < maxAutoexpunge {
			uids = append(uids, m.UID)
		}
	}
	return uids
}

// complete makes the mailboxes that every account is to have at any time. One
// that cannot be made keeps nobody from the rest.
func (a *account) complete(ctx context.Context) {
	for _, m := range a.store.cfg.Mailboxes {
		if !m.Always {
			continue
		}
		if _, there := a.box(m.Name); there {
			continue
		}
		_, err := a.createMailbox(ctx, m.Name, m.SpecialUse, m.made())
		if errors.Is(err, ErrSpecialUse) { // another mailbox has the use
			_, err = a.createMailbox(ctx, m.Name, "", m.made())
		}
		if err != nil && !errors.Is(err, ErrMailboxExists) {
			a.store.log.Warn("configured mailbox was not made", "account", a.id, "mailbox", m.Name, "err", err)
		}
	}
}

// made is how the mailbox comes to be there without a client's doing.
func (m *ConfiguredMailbox) made() creation {
	return creation{derived: true, subscribed: !m.Unsubscribed}
}

// useFor is the special use of a mailbox that is made under a configured name.
func (t *txn) useFor(name string, use imap.MailboxAttr) imap.MailboxAttr {
	if use != "" {
		return use
	}
	i := slices.IndexFunc(t.account.store.cfg.Mailboxes, func(m ConfiguredMailbox) bool { return m.Name == name })
	if i < 0 || !t.account.store.cfg.Mailboxes[i].OnDemand {
		return ""
	}
	use = t.account.store.cfg.Mailboxes[i].SpecialUse
	for _, b := range t.account.names {
		if b.current().use == use {
			return ""
		}
	}
	return use
}
