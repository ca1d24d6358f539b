package mailstore

import (
	"context"
	"slices"
	"strings"
	"sync"
)

// MailboxChange is what happened to one mailbox since a watcher looked last.
type MailboxChange struct {
	Mailbox GUID
	What    ChangeKind
	// Before is the name that it had before ChangedName, "" where there was no
	// such mailbox.
	Before string
}

// ChangeKind is a set of kinds of changes.
type ChangeKind uint8

// Kinds of changes of a mailbox.
const (
	// ChangedMessages: messages came or went, or all UIDs did.
	ChangedMessages ChangeKind = 1 << iota
	// ChangedFlags: other data of messages.
	ChangedFlags
	// ChangedUnseen: how many are unseen; comes with one of the others.
	ChangedUnseen
	// ChangedName: it was made, renamed or deleted.
	ChangedName
	// ChangedAlong: it has another name because one above it was renamed.
	ChangedAlong
	// ChangedAccess: its access control list.
	ChangedAccess
)

// EntryChange names an entry that was set or removed. Of what a Reader has read
// (SpaceSeen) the Key is only whose it is.
type EntryChange struct {
	Space   byte
	Mailbox GUID
	Key     string
}

// Changes is what happened in an account. It says where to look: what is there
// now may be newer.
type Changes struct {
	// Lost: more happened than was kept, and anything may have changed.
	Lost bool
	// Mailboxes are in the order of their first change, each once.
	Mailboxes []MailboxChange
	// Subscriptions are names whose subscription began or ended.
	Subscriptions []string
	Entries       []EntryChange // without those of access control lists
}

// maxPendingChanges bounds what a watcher keeps of what it was not asked for.
const maxPendingChanges = 2000

// Watcher gathers the changes of an account, of all its mailboxes, whoever makes
// them: sessions, deliveries, the partner. What it gathers is bounded, and
// nobody who changes something ever waits for it. It may be used concurrently.
type Watcher struct {
	feed  *feed
	actor any
	wake  func()
	ready chan struct{}

	mu       sync.Mutex
	pending  Changes
	at       map[GUID]int // of pending.Mailboxes
	unlooked bool         // something is pending
}

// feed is an account's watchers. Its mutex is held while a commit is published,
// so that who begins to watch sees either the commit's result or its change.
type feed struct {
	mu       sync.Mutex
	watchers []*Watcher
}

// Watch begins to gather changes: all that are made after what the account shows
// when Watch returns. Changes in commits that actor alone made (see As) are left
// out; nil is for none. wake, unless nil, is called when something is there to
// Take and was not before. It must not block, nor use the Watcher. The caller
// closes the Watcher before the account.
func (a *Account) Watch(actor any, wake func()) *Watcher {
	f := &a.account.feed
	w := &Watcher{feed: f, actor: actor, wake: wake, ready: make(chan struct{}, 1)}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.watchers = append(f.watchers, w)
	return w
}

// Close ends it. A second call does nothing.
func (w *Watcher) Close() {
	w.feed.mu.Lock()
	defer w.feed.mu.Unlock()
	w.feed.watchers = slices.DeleteFunc(w.feed.watchers, func(o *Watcher) bool { return o == w })
}

// Ready is the channel that can be received from when there is something to
// Take; now and then also when there is not.
func (w *Watcher) Ready() <-chan struct{} { return w.ready }

// Pending reports whether there is something to Take.
func (w *Watcher) Pending() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.unlooked
}

// Take returns what was gathered, and begins anew.
func (w *Watcher) Take() Changes {
	w.mu.Lock()
	defer w.mu.Unlock()
	c := w.pending
	w.pending, w.at, w.unlooked = Changes{}, nil, false
	return c
}

type actorKey struct{}

// As returns a context for changes that actor makes, a pointer that nobody else
// has: its own watchers are not told of them.
func As(ctx context.Context, actor any) context.Context {
	return context.WithValue(ctx, actorKey{}, actor)
}

// add gathers a commit's changes.
func (w *Watcher) add(c *Changes) {
	w.mu.Lock()
	defer w.mu.Unlock()
	first := !w.unlooked
	w.unlooked = true
	w.join(c)
	if !first {
		return
	}
	select {
	case w.ready <- struct{}{}:
	default:
	}
	if w.wake != nil {
		w.wake()
	}
}

func (w *Watcher) join(c *Changes) {
	p := &w.pending
	if p.Lost {
		return
	}
	for _, m := range c.Mailboxes {
		i, known := w.at[m.Mailbox]
		if !known {
			if w.at == nil {
				w.at = make(map[GUID]int)
			}
			w.at[m.Mailbox] = len(p.Mailboxes)
			p.Mailboxes = append(p.Mailboxes, m)
			continue
		}
		if have := &p.Mailboxes[i]; have.What&ChangedName == 0 {
			have.Before = m.Before
		}
		p.Mailboxes[i].What |= m.What
	}
	for _, name := range c.Subscriptions {
		if !slices.Contains(p.Subscriptions, name) {
			p.Subscriptions = append(p.Subscriptions, name)
		}
	}
	for _, e := range c.Entries {
		if !slices.Contains(p.Entries, e) {
			p.Entries = append(p.Entries, e)
		}
	}
	if c.Lost || len(p.Mailboxes)+len(p.Subscriptions)+len(p.Entries) > maxPendingChanges {
		w.pending, w.at = Changes{Lost: true}, nil
	}
}

// tellLocked hands changes to everybody but their author.
func (f *feed) tellLocked(c *Changes, actor any) {
	if c == nil || !c.Lost && len(c.Mailboxes)+len(c.Subscriptions)+len(c.Entries) == 0 {
		return
	}
	for _, w := range f.watchers {
		if actor == nil || w.actor != actor {
			w.add(c)
		}
	}
}

// changesLocked is what the commit changes, worked out before that is shown: nil
// when nobody asks. Its subscriptions are candidates: see changedSubscriptions.
func (t *txn) changesLocked() *Changes {
	if len(t.account.feed.watchers) == 0 {
		return nil
	}
	c := &Changes{}
	renamed := t.renamed()
	for _, b := range t.order {
		if what := t.kindsOf(b, renamed); what != 0 {
			m := MailboxChange{Mailbox: b.guid, What: what}
			if before := b.current(); what&ChangedName != 0 && before.isNamed() {
				m.Before = before.name
			}
			c.Mailboxes = append(c.Mailboxes, m)
		}
	}
	t.entryChanges(c)
	t.subscriptionCandidates(c)
	return c
}

// isNamed reports whether it is a mailbox that somebody can name.
func (v *view) isNamed() bool { return v.name != "" && !v.gone }

// renamed maps the new names of mailboxes that the commit renames to the old.
func (t *txn) renamed() map[string]string {
	if !t.retree {
		return nil
	}
	names := make(map[string]string)
	for _, b := range t.order {
		before, v := b.current(), t.drafts[b]
		if before.isNamed() && v.isNamed() && before.name != v.name {
			names[v.name] = before.name
		}
	}
	return names
}

// kindsOf compares a mailbox with what was shown last.
func (t *txn) kindsOf(b *box, renamed map[string]string) (what ChangeKind) {
	before, v := b.current(), t.drafts[b]
	was, is := before.isNamed(), v.isNamed()
	switch {
	case was != is:
		what |= ChangedName
	case is && before.name != v.name && comesAlong(before.name, v.name, renamed):
		what |= ChangedAlong
	case is && before.name != v.name:
		what |= ChangedName
	}
	if !is || !v.dirty {
		return what
	}
	switch {
	case len(v.expunged) > 0, v.messages != before.messages, was && v.uidValidity != before.uidValidity:
		what |= ChangedMessages
	case was && v.modseq > before.modseq:
		what |= ChangedFlags
	}
	if v.unseen != before.unseen {
		what |= ChangedUnseen
	}
	return what
}

// comesAlong reports whether a mailbox has its new name because one above it was
// renamed.
func comesAlong(from, to string, renamed map[string]string) bool {
	for i := strings.LastIndex(to, separator); i >= 0; i = strings.LastIndex(to[:i], separator) {
		if above, ok := renamed[to[:i]]; ok && above+to[i:] == from {
			return true
		}
	}
	return false
}

func (t *txn) entryChanges(c *Changes) {
	for name := range t.entries {
		mailbox, key, ok := ofEntry([]byte(name))
		if !ok {
			continue
		}
		if name[0] == SpaceSeen { // whose, and no more
			if e := (EntryChange{Space: SpaceSeen, Mailbox: mailbox, Key: key[:min(len(key), 16)]}); !slices.Contains(c.Entries, e) {
				c.Entries = append(c.Entries, e)
			}
			continue
		}
		if name[0] != SpaceACL {
			c.Entries = append(c.Entries, EntryChange{Space: name[0], Mailbox: mailbox, Key: key})
			continue
		}
		at := slices.IndexFunc(c.Mailboxes, func(m MailboxChange) bool { return m.Mailbox == mailbox })
		if at < 0 {
			at = len(c.Mailboxes)
			c.Mailboxes = append(c.Mailboxes, MailboxChange{Mailbox: mailbox})
		}
		c.Mailboxes[at].What |= ChangedAccess
	}
	slices.SortFunc(c.Entries, func(a, b EntryChange) int { return strings.Compare(a.Key, b.Key) })
}

// subscriptionCandidates notes the names whose subscription the commit may
// change, those that are subscribed before it first.
func (t *txn) subscriptionCandidates(c *Changes) {
	names := make(map[string]bool)
	for name := range t.subscriptions {
		names[name] = true
	}
	for _, b := range t.order {
		before, v := b.current(), t.drafts[b]
		if before.subscribed || v.subscribed {
			if before.subscribed == v.subscribed && before.name == v.name && before.gone == v.gone {
				continue
			}
			names[before.name], names[v.name] = true, true
		}
	}
	delete(names, "")
	for name := range names {
		if t.account.isSubscribed(name) {
			t.unsubscribed = append(t.unsubscribed, name)
		} else {
			c.Subscriptions = append(c.Subscriptions, name)
		}
	}
}

// changedSubscriptions leaves those candidates that are otherwise now.
func (t *txn) changedSubscriptions(c *Changes) {
	c.Subscriptions = slices.DeleteFunc(c.Subscriptions, func(name string) bool { return !t.account.isSubscribed(name) })
	for _, name := range t.unsubscribed {
		if !t.account.isSubscribed(name) {
			c.Subscriptions = append(c.Subscriptions, name)
		}
	}
	slices.Sort(c.Subscriptions)
}

// isSubscribed is the leader's.
func (a *account) isSubscribed(name string) bool {
	b := a.names[name]
	return b != nil && b.current().subscribed || a.subscriptions[name].on
}

// lose tells everybody who watches that anything may have changed.
func (f *feed) lose() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.tellLocked(&Changes{Lost: true}, nil)
}
