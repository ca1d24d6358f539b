package imapd

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/backend/mailstore"
	"github.com/postern-mail/postern/backend/mailstore/acl"
)

// news are the responses that one look at the changes makes: about each name
// once, as it is now.
type news struct {
	*session
	*notification
	names    []namedNews
	at       map[string]int // of names
	statuses []statusNews
	// entries are those that changed, by mailbox; "" is the server.
	entries map[string][]string
}

// namedNews is a LIST response.
type namedNews struct {
	name, oldName string
	noAccess      bool // the client may not read what is there
	gone          bool // the client may not see what is there, if anything is
}

// statusNews is a STATUS response.
type statusNews struct {
	watch *observed
	info  mailstore.MailboxInfo
	items statusItems
}

func (n *news) list(l namedNews) {
	if i, known := n.at[l.name]; known {
		have := &n.names[i]
		have.oldName, have.noAccess, have.gone = orElse(l.oldName, have.oldName), l.noAccess, l.gone
		return
	}
	if n.at == nil {
		n.at = make(map[string]int)
	}
	n.at[l.name] = len(n.names)
	n.names = append(n.names, l)
}

// named is a change of a name that the client sees: the level above is affected
// with it.
func (n *news) named(l namedNews) {
	n.list(l)
	if i := strings.LastIndex(l.name, delimiter); i >= 0 {
		above := l.name[:i]
		if _, known := n.at[above]; !known && n.events(n.session, above, n.account.IsSubscribed(above)).has(eventMailboxName) {
			n.list(namedNews{name: above})
		}
	}
}

// wanted are the events that the client wants of a mailbox.
func (n *news) wanted(name string) event {
	return n.events(n.session, name, n.account.IsSubscribed(name))
}

// hidden reports whether a mailbox of the client's own account is not to be seen,
// because a namespace of others or a virtual mailbox has its name.
func (n *news) hidden(w *observed, name string) bool {
	ns, _ := n.cfg.Sharing.namespaceOf(name)
	return w.own() && (ns != nil || n.cfg.virtualOf(name) != nil)
}

// gather notes what an account's changes make.
func (n *news) gather(ctx context.Context, w *observed, c *mailstore.Changes) error {
	for i := range c.Mailboxes {
		m := &c.Mailboxes[i]
		info, err := w.account.FindGUID(m.Mailbox)
		exists := err == nil
		switch {
		case m.What&mailstore.ChangedName != 0 || m.What&mailstore.ChangedAccess != 0:
			n.gatherName(w, m, info, exists)
		case exists:
			n.gatherMessages(w, m, info)
		}
	}
	if w.own() {
		if len(c.Mailboxes) > 0 {
			if err := n.gatherVirtual(ctx, w, false); err != nil {
				return err
			}
		}
		if err := n.gatherSubscriptions(ctx, c.Subscriptions); err != nil {
			return err
		}
	}
	n.gatherEntries(w, c.Entries)
	return nil
}

// gatherName is a mailbox that was made, renamed or deleted, or which the client
// may see since now, or no longer.
func (n *news) gatherName(w *observed, m *mailstore.MailboxChange, info mailstore.MailboxInfo, exists bool) {
	had, have := w.had(m.Mailbox), acl.Rights(0)
	if exists {
		have = w.rightsIn(m.Mailbox)
	}
	before, now := info.Name, info.Name
	if m.What&mailstore.ChangedName != 0 {
		before = m.Before
	}
	w.note(m.Mailbox, have)
	was, is := before != "" && had.Has(toList) && !n.hidden(w, before), exists && have.Has(toList) && !n.hidden(w, now)
	before, now = w.prefix+before, w.prefix+now
	blind := is && !have.Has(acl.Read)
	switch {
	case is && !was:
		if wanted := n.wanted(now); wanted.has(eventMailboxName) || blind && wanted != 0 {
			n.named(namedNews{name: now, noAccess: blind})
		}
	case was && !is:
		// That the client may not see it any more looks as if it were gone.
		if wanted := n.wanted(before); wanted.has(eventMailboxName) {
			n.named(namedNews{name: before, gone: true, noAccess: exists})
		} else if exists && wanted != 0 {
			n.list(namedNews{name: before, noAccess: true, gone: true})
		}
	case is && before != now:
		if (n.wanted(now) | n.wanted(before)).has(eventMailboxName) {
			n.list(namedNews{name: now, oldName: before, noAccess: blind})
		}
	case is && blind != !had.Has(acl.Read):
		if n.wanted(now) != 0 {
			n.list(namedNews{name: now, noAccess: blind})
		}
	}
	if is {
		n.gatherMessages(w, m, info)
	}
}

// gatherMessages is the STATUS of a mailbox in which messages came, went or were
// changed (RFC 5465 sections 5.1 to 5.3).
func (n *news) gatherMessages(w *observed, m *mailstore.MailboxChange, info mailstore.MailboxInfo) {
	if m.What&(mailstore.ChangedMessages|mailstore.ChangedFlags) == 0 || n.isSelected(w, info.GUID) || n.hidden(w, info.Name) {
		return
	}
	wanted := n.wanted(w.prefix + info.Name)
	if !wanted.has(messageEvents) || !w.rightsIn(info.GUID).Has(toObserve) {
		return
	}
	items := statusUIDValidity | statusUnseen
	if n.condstore {
		items |= statusHighestModSeq
	}
	switch {
	case m.What&mailstore.ChangedMessages != 0:
		items |= statusMessages | statusUIDNext
	case !wanted.has(eventFlagChange), !n.condstore && m.What&mailstore.ChangedUnseen == 0:
		return // nothing that STATUS could tell
	}
	n.statuses = append(n.statuses, statusNews{w, info, items})
}

// isSelected reports whether a mailbox is the selected one: that is told of
// otherwise.
func (n *news) isSelected(w *observed, mailbox mailstore.GUID) bool {
	return n.box != nil && n.box.info.GUID == mailbox && n.box.account.GUID() == w.account.GUID()
}

// gatherSubscriptions is names that the client is subscribed to since now, or no
// longer. Those of others may bring more accounts to watch.
func (n *news) gatherSubscriptions(ctx context.Context, names []string) error {
	others := false
	for _, name := range names {
		ns, _ := n.cfg.Sharing.namespaceOf(name)
		others = others || ns != nil
		if n.events(n.session, name, true).has(eventSubscriptionChange) {
			n.list(namedNews{name: name})
		}
	}
	if others && n.reachesOthers(n.session) {
		_, err := n.watchOthers(ctx, n.notification)
		return err
	}
	return nil
}

// reshared looks for accounts that share something with the client since now.
func (n *news) reshared(ctx context.Context) error {
	fresh, err := n.watchOthers(ctx, n.notification)
	if err != nil {
		return err
	}
	for _, w := range fresh {
		for guid, have := range w.known {
			info, err := w.account.FindGUID(guid)
			if err != nil {
				continue
			}
			blind := !have.Has(acl.Read)
			if wanted := n.wanted(w.prefix + info.Name); wanted.has(eventMailboxName) || blind && wanted != 0 {
				n.named(namedNews{name: w.prefix + info.Name, noAccess: blind})
			}
		}
	}
	return nil
}

// gatherEntries is annotations of mailboxes, and of the server. The client's own
// are kept in its account, whoever's the mailbox is.
func (n *news) gatherEntries(w *observed, entries []mailstore.EntryChange) {
	for _, e := range entries {
		if e.Space == mailstore.SpaceSeen {
			n.gatherSeen(w, e)
			continue
		}
		private := strings.HasPrefix(e.Key, privateEntries)
		if e.Space != mailstore.SpaceMetadata || private && !w.own() {
			continue
		}
		if e.Mailbox == (mailstore.GUID{}) {
			if w.own() && n.everything.has(eventServerMetadata) {
				n.entry("", e.Key)
			}
			continue
		}
		for _, at := range n.watches {
			info, err := at.account.FindGUID(e.Mailbox)
			if err != nil || !private && at != w || n.hidden(at, info.Name) {
				continue
			}
			if n.wanted(at.prefix+info.Name).has(eventMailboxMetadata) && at.rightsIn(e.Mailbox).Has(toObserve) {
				n.entry(at.prefix+info.Name, e.Key)
			}
		}
	}
}

// gatherSeen is what the client has read, in a mailbox where it has a \Seen of
// its own.
func (n *news) gatherSeen(w *observed, e mailstore.EntryChange) {
	if own := n.account.GUID(); w.reader == nil || e.Key != string(own[:]) {
		return
	}
	if info, err := w.account.FindGUID(e.Mailbox); err == nil {
		n.gatherMessages(w, &mailstore.MailboxChange{What: mailstore.ChangedFlags | mailstore.ChangedUnseen}, info)
	}
}

func (n *news) entry(mailbox, key string) {
	if n.entries == nil {
		n.entries = make(map[string][]string)
	}
	n.entries[mailbox] = append(n.entries[mailbox], key)
}

// tell writes the responses.
func (n *news) tell(ctx context.Context) error {
	if len(n.names) > 0 {
		if err := n.tellNames(ctx); err != nil {
			return err
		}
	}
	for _, st := range n.statuses {
		if err := n.tellStatus(ctx, st.watch, st.info, st.items); err != nil {
			return err
		}
	}
	mailboxes := make([]string, 0, len(n.entries))
	for mailbox := range n.entries {
		mailboxes = append(mailboxes, mailbox)
	}
	slices.Sort(mailboxes)
	for _, mailbox := range mailboxes {
		n.tellEntries(mailbox, n.entries[mailbox])
	}
	return nil
}

// tellNames writes LIST responses with all attributes as they are now.
func (n *news) tellNames(ctx context.Context) error {
	patterns := make([]pattern, 0, 2*len(n.names))
	for _, l := range n.names {
		if len(patterns) < maxPatterns {
			patterns = append(patterns, pattern(l.name), newPattern("", l.name+delimiter+"*"))
		}
	}
	if len(patterns) >= maxPatterns {
		patterns = []pattern{newPattern("", "*")}
	}
	infos, err := n.mailboxes(ctx, patterns)
	if err != nil {
		return err
	}
	all := tree(infos)
	a := &listArgs{extended: true, returnSubscribed: true}
	for _, l := range n.names {
		known := listed{MailboxInfo: mailstore.MailboxInfo{Name: l.name}}
		if at, found := slices.BinarySearchFunc(all, l.name, func(l listed, name string) int { return cmp.Compare(l.Name, name) }); found {
			known = all[at]
		}
		attrs := a.attributes(known)
		if l.noAccess && (known.Exists || l.gone) {
			attrs = append([]imap.MailboxAttr{noAccess}, attrs...)
		}
		n.writeList("LIST", known, attrs)
		if l.oldName != "" && known.Exists {
			n.w.str(` ("OLDNAME" (`)
			n.writeMailbox(l.oldName)
			n.w.str("))")
		}
		n.w.line("")
	}
	return nil
}

// noAccess is the attribute of a mailbox that the client may not read.
const noAccess imap.MailboxAttr = `\NoAccess`

// tellStatus writes the STATUS of a mailbox; one that is gone meanwhile has none.
func (s *session) tellStatus(ctx context.Context, w *observed, info mailstore.MailboxInfo, items statusItems) error {
	at := w.place
	at.info = info
	st, err := at.status(ctx, items)
	if err != nil || st.GUID != info.GUID {
		return ctx.Err()
	}
	s.writeStatus(w.prefix+info.Name, items, st)
	return nil
}

// maxEntriesTold is how many names of entries one response has.
const maxEntriesTold = 100

// tellEntries names entries that changed (RFC 5464 section 4.4.2).
func (s *session) tellEntries(mailbox string, keys []string) {
	slices.Sort(keys)
	for some := range slices.Chunk(slices.Compact(keys), maxEntriesTold) {
		s.w.str("* METADATA ")
		if mailbox == "" {
			s.w.str(`""`)
		} else {
			s.writeMailbox(mailbox)
		}
		for _, key := range some {
			s.w.char(' ')
			s.w.astring(key)
		}
		s.w.line("")
	}
}

// firstNotice tells what NOTIFY SET owes at once: which mailboxes the client
// cannot be told of, and where it wants that the STATUS of the others.
func (s *session) firstNotice(ctx context.Context) error {
	n := &news{session: s, notification: s.notify}
	for _, w := range s.notify.watches {
		if s.notify.everything == 0 {
			break
		}
		list, err := w.account.List(ctx)
		if err != nil {
			return err
		}
		for _, m := range list {
			have := w.rightsIn(m.GUID)
			if !m.Exists || n.hidden(w, m.Name) || !have.Has(toList) {
				continue
			}
			wanted := n.wanted(w.prefix + m.Name)
			switch {
			case wanted != 0 && !have.Has(acl.Read):
				n.list(namedNews{name: w.prefix + m.Name, noAccess: true})
			case s.notify.status && wanted.has(messageEvents) && !n.isSelected(w, m.GUID):
				items := statusMessages | statusUIDNext | statusUIDValidity | statusUnseen
				if s.condstore || wanted.has(eventFlagChange) {
					items |= statusHighestModSeq
				}
				n.statuses = append(n.statuses, statusNews{w, m, items})
			}
		}
		if w.own() {
			if err := n.gatherVirtual(ctx, w, true); err != nil {
				return err
			}
		}
	}
	return n.tell(ctx)
}
