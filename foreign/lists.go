package foreign

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/postern-mail/postern/foreign/imap"
)

// listing is what both sides have.
type listing struct {
	raw  [2]map[string]imap.Mailbox // by the server's name
	name [2]map[string]imap.Mailbox // by the common name
}

// lists compares the lists of mailboxes, follows what is new, renamed and
// subscribed, and finds what has to be looked into. Mailboxes that are gone on one
// side are returned.
func (w *worker) lists(ctx context.Context) ([]doomed, error) {
	l, err := w.list(ctx)
	if err != nil {
		return nil, err
	}
	dooms, err := w.follow(ctx, l)
	if err != nil {
		return nil, err
	}
	if err := w.meet(ctx, l); err != nil {
		return nil, err
	}
	for _, m := range w.boxes {
		if err := w.subscriptions(ctx, m, l); err != nil {
			return nil, err
		}
	}
	return dooms, w.choose(ctx, l)
}

func (w *worker) list(ctx context.Context) (*listing, error) {
	l := &listing{}
	for _, s := range sides {
		l.raw[s], l.name[s] = make(map[string]imap.Mailbox), make(map[string]imap.Mailbox)
		all, err := w.links[s].List(ctx, w.links[s].space.prefix)
		if err != nil {
			return nil, on(s, fmt.Errorf("LIST: %w", err))
		}
		for _, m := range all {
			if !m.Selectable {
				continue
			}
			name, ok := w.links[s].space.name(m.Name)
			if !ok {
				w.log.Debug("a mailbox whose name the other side cannot have is left alone", "side", s, "mailbox", m.Name)
				continue
			}
			if excluded(w.cfg.Exclude, name) {
				continue
			}
			l.raw[s][m.Name], l.name[s][name] = m, m
		}
		if _, ok := l.name[s]["INBOX"]; !ok {
			return nil, on(s, &imap.Error{Status: "NO", Text: "the list of mailboxes has no INBOX: it is not believed"})
		}
	}
	return l, nil
}

// identity is what names a mailbox through renames: the server's id, or
// UIDVALIDITY where it has none.
func identity(m imap.Mailbox) string {
	if m.ID != "" {
		return m.ID
	}
	return fmt.Sprintf("uidvalidity %d", m.UIDValidity)
}

// follow finds, for each mailbox of the state, where it is now.
func (w *worker) follow(ctx context.Context, l *listing) ([]doomed, error) {
	var dooms []doomed
	for _, m := range w.inOrder() {
		if excluded(w.cfg.Exclude, m.Name) {
			continue
		}
		var there [2]bool
		var moved [2]string
		for _, s := range sides {
			now, ok := l.raw[s][m.Raw[s]]
			if there[s] = ok; ok && (m.BoxID[s] == "" || identity(now) == m.BoxID[s]) {
				continue
			}
			to, err := w.elsewhere(ctx, l, s, m)
			if err != nil {
				return nil, err
			}
			if to != "" {
				moved[s], there[s] = to, true
			}
		}
		d, err := w.followOne(ctx, l, m, there, moved)
		if err != nil {
			return nil, err
		}
		if d != nil {
			dooms = append(dooms, *d)
		}
	}
	return dooms, nil
}

// inOrder lists the mailboxes of the state, those above others first.
func (w *worker) inOrder() []*mailbox {
	all := make([]*mailbox, 0, len(w.boxes))
	for _, m := range w.boxes {
		all = append(all, m)
	}
	slices.SortFunc(all, func(a, b *mailbox) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// elsewhere finds a mailbox that is not under its name any more, by its identity
// and, where that is UIDVALIDITY only, by what is in it.
func (w *worker) elsewhere(ctx context.Context, l *listing, s Side, m *mailbox) (string, error) {
	if m.BoxID[s] == "" || m.Name == "INBOX" {
		return "", nil
	}
	found := ""
	for raw, c := range l.raw[s] {
		if identity(c) != m.BoxID[s] || w.byRaw(s, raw) != nil {
			continue
		}
		if found != "" {
			return "", nil // two of the same: neither is certain
		}
		found = raw
	}
	if found == "" || l.raw[s][found].ID != "" {
		return found, nil
	}
	same, err := w.sameContent(ctx, s, m, found)
	if !same {
		return "", err
	}
	return found, err
}

// sameContent holds the last few messages that the state knows of a mailbox
// against one that may be it.
func (w *worker) sameContent(ctx context.Context, s Side, m *mailbox, raw string) (bool, error) {
	pairs, err := w.book.within(ctx, m.ID, s, everything)
	if err != nil || len(pairs) == 0 {
		return err == nil, err
	}
	pairs = pairs[max(0, len(pairs)-8):]
	known := make(map[uint32]fingerprint)
	var uids []uint32
	for _, p := range pairs {
		known[p.uid[s]] = p.print
		uids = append(uids, p.uid[s])
	}
	sel, err := w.links[s].open(ctx, raw, nil)
	if err != nil {
		return false, err
	}
	same := sel.UIDValidity == m.Validity[s] && sel.UIDNext >= m.Next[s]
	met := 0
	err = w.links[s].Fetch(ctx, imap.SetOf(uids).String(), func(c imap.Message) error {
		if print, ok := known[c.UID]; ok && c.Date != "" {
			met++
			same = same && printOf(c) == print
		}
		return nil
	})
	return same && met > 0, on(s, err)
}

// followOne does what follows from where a mailbox is on both sides.
func (w *worker) followOne(ctx context.Context, l *listing, m *mailbox, there [2]bool, moved [2]string) (*doomed, error) {
	for _, s := range sides {
		if moved[s] != "" {
			m.Raw[s] = moved[s]
		}
	}
	switch {
	case there[Left] && there[Right]:
		return nil, w.renamed(ctx, l, m, moved)
	case !there[Left] && !there[Right]:
		w.event("mailbox-gone", m.Name, "on both sides")
		return nil, w.forgetMailbox(ctx, m)
	}
	gone := Left
	if there[Left] {
		gone = Right
	}
	if m.Name == "INBOX" || gone == Right && w.cfg.Direction == LeftToRight {
		return nil, w.trouble(ctx, m, "the mailbox is not there on the "+gone.String()+" any more; its messages are left as they are")
	}
	if w.lostAll(l, gone) {
		w.event("restored", m.Name, "the account on the "+gone.String()+" lost its mailboxes")
		return nil, w.forgetMailbox(ctx, m)
	}
	if certain, err := w.certainlyGone(ctx, gone, m); err != nil || !certain {
		return nil, err
	}
	n, err := w.book.count(ctx, m.ID)
	return &doomed{m, gone, int(n)}, err
}

// certainlyGone asks for a mailbox that LIST did not show: only a server that
// says that it does not exist is believed.
func (w *worker) certainlyGone(ctx context.Context, s Side, m *mailbox) (bool, error) {
	l := w.links[s]
	_, err := l.open(ctx, m.Raw[s], nil)
	code, refused := imap.Refused(err)
	if err != nil && !refused {
		return false, err
	}
	if refused && code != "NONEXISTENT" {
		// Dovecot 2.3 tells why to RENAME only. This one can never be done:
		// INBOX is always there.
		err := l.Rename(ctx, m.Raw[s], "INBOX")
		if code, refused = imap.Refused(err); err != nil && !refused {
			return false, on(s, err)
		}
	}
	if code == "NONEXISTENT" {
		return true, nil
	}
	return false, w.trouble(ctx, m, s.String()+": LIST does not show the mailbox, and the server does not say that there is none (NONEXISTENT)")
}

// lostAll reports whether the account on a side is another one than it was: its
// INBOX is not the one that was known. What is missing there was not removed by
// anybody.
func (w *worker) lostAll(l *listing, s Side) bool {
	m := w.byRaw(s, "INBOX")
	return m != nil && m.Paired && l.raw[s]["INBOX"].UIDValidity != m.Validity[s]
}

func (w *worker) forgetMailbox(ctx context.Context, m *mailbox) error {
	delete(w.boxes, m.ID)
	delete(w.dirty, m.ID)
	e := w.book.write()
	e.forget(m.ID, true)
	return e.commit(ctx)
}

// renamed follows a rename. Where both sides renamed, the left one's name wins.
func (w *worker) renamed(ctx context.Context, l *listing, m *mailbox, moved [2]string) error {
	leader := Left
	if moved[Left] == "" {
		leader = Right
	}
	if moved[leader] == "" {
		return nil
	}
	other := leader.Other()
	name, _ := w.links[leader].space.name(moved[leader])
	want, ok := w.links[other].space.raw(name)
	if leader == Right && w.cfg.Direction == LeftToRight {
		ok = false
	}
	if _, taken := l.raw[other][want]; ok && !taken && want != m.Raw[other] {
		w.step("rename")
		err := w.links[other].Rename(ctx, m.Raw[other], want)
		if _, refused := imap.Refused(err); refused {
			return w.trouble(ctx, m, err.Error()) // the messages go on under both names
		}
		if err != nil {
			return on(other, err)
		}
		w.event("mailbox-renamed", name, m.Name+" on the "+other.String())
		w.renamedBelow(l, other, m.Raw[other], want)
		m.Raw[other] = want
	}
	m.Name = name
	e := w.book.write()
	e.mailbox(m)
	return e.commit(ctx)
}

// renamedBelow takes over the names that a RENAME changed with its mailbox.
func (w *worker) renamedBelow(l *listing, s Side, from, to string) {
	below := from + w.links[s].space.delimiter
	raw, name := make(map[string]imap.Mailbox), make(map[string]imap.Mailbox)
	for old, m := range l.raw[s] {
		if rest, ok := strings.CutPrefix(old, below); old == from {
			m.Name = to
		} else if ok && w.links[s].space.delimiter != "" {
			m.Name = to + w.links[s].space.delimiter + rest
		}
		common, _ := w.links[s].space.name(m.Name)
		raw[m.Name], name[common] = m, m
	}
	l.raw[s], l.name[s] = raw, name
	for _, m := range w.boxes {
		if rest, ok := strings.CutPrefix(m.Raw[s], below); ok && w.links[s].space.delimiter != "" {
			m.Raw[s] = to + w.links[s].space.delimiter + rest
		}
	}
}

// meet begins mailboxes that the state does not know, and makes them where they
// are missing.
func (w *worker) meet(ctx context.Context, l *listing) error {
	for _, from := range w.froms() {
		for _, name := range sortedKeys(l.name[from]) {
			if w.byRaw(from, l.name[from][name].Name) != nil {
				continue
			}
			if err := w.meetOne(ctx, l, from, name); err != nil {
				return err
			}
		}
	}
	return nil
}

func sortedKeys(m map[string]imap.Mailbox) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

func (w *worker) meetOne(ctx context.Context, l *listing, from Side, name string) error {
	to := from.Other()
	raw, ok := w.links[to].space.raw(name)
	if !ok {
		w.log.Debug("a mailbox whose name the other side cannot have is left alone", "side", from, "mailbox", name)
		return nil
	}
	if w.byRaw(to, raw) != nil {
		return nil // that one belongs to a mailbox that goes by two names
	}
	id, err := w.book.numbers(ctx, 1)
	if err != nil {
		return err
	}
	m := &mailbox{ID: id, Name: name}
	m.Raw[from], m.Raw[to] = l.name[from][name].Name, raw
	if _, there := l.raw[to][raw]; !there {
		w.step("create")
		err := w.links[to].Create(ctx, raw)
		if code, refused := imap.Refused(err); refused && code != "ALREADYEXISTS" {
			w.log.Warn("a mailbox cannot be made", "side", to, "mailbox", name, "err", err)
			w.report.uncreated(name, on(to, err).Error())
			return nil
		} else if err != nil && !refused {
			return on(to, err)
		}
		status, err := w.links[to].Status(ctx, raw)
		if err != nil {
			if _, refused := imap.Refused(err); refused {
				return nil // gone again; the next list shows it
			}
			return on(to, err)
		}
		made := imap.Mailbox{Name: raw, Selectable: true, Status: status}
		l.raw[to][raw], l.name[to][name] = made, made
	}
	m.Subscribed = l.raw[from][m.Raw[from]].Subscribed && l.raw[to][raw].Subscribed
	w.boxes[id] = m
	w.dirty[id] = true
	e := w.book.write()
	e.mailbox(m)
	return e.commit(ctx)
}

// subscriptions merges whether a mailbox is subscribed to.
func (w *worker) subscriptions(ctx context.Context, m *mailbox, l *listing) error {
	var is [2]bool
	for _, s := range sides {
		now, ok := l.raw[s][m.Raw[s]]
		if !ok {
			return nil
		}
		is[s] = now.Subscribed
	}
	want := is[Left]
	if is[Left] != is[Right] {
		want = !m.Subscribed
	}
	if w.cfg.Direction == LeftToRight {
		want = is[Left]
		if want == m.Subscribed {
			return nil
		}
		is[Left] = want
	}
	for _, s := range sides {
		if is[s] == want {
			continue
		}
		err := w.links[s].Subscribe(ctx, m.Raw[s], want)
		if _, refused := imap.Refused(err); refused {
			return w.trouble(ctx, m, on(s, err).Error())
		}
		if err != nil {
			return on(s, err)
		}
	}
	if m.Subscribed == want {
		return nil
	}
	m.Subscribed = want
	e := w.book.write()
	e.mailbox(m)
	return e.commit(ctx)
}

// choose marks the mailboxes that are not where the state left them, and keeps
// their identities.
func (w *worker) choose(ctx context.Context, l *listing) error {
	e := w.book.write()
	for _, m := range w.boxes {
		known := true
		for _, s := range sides {
			now, ok := l.raw[s][m.Raw[s]]
			if known = known && ok; !ok {
				continue
			}
			if id := identity(now); m.BoxID[s] != id {
				m.BoxID[s] = id
				e.mailbox(m)
			}
			if (s == Left || w.cfg.Direction == Both) && (now.UIDValidity != m.Validity[s] || now.ModSeq != m.ModSeq[s] || now.UIDNext != m.Next[s]) {
				w.dirty[m.ID] = true
			}
		}
		due, err := w.due(ctx, m)
		if err != nil {
			return err
		}
		if !m.Paired || m.Trouble != "" || due {
			w.dirty[m.ID] = true
		}
		if !known {
			delete(w.dirty, m.ID)
		}
	}
	return e.commit(ctx)
}

// due reports whether messages of a mailbox wait that are to be tried now.
func (w *worker) due(ctx context.Context, m *mailbox) (bool, error) {
	for _, s := range w.froms() {
		all, err := w.book.waitings(ctx, m.ID, s)
		if err != nil {
			return false, err
		}
		for _, one := range all {
			if !time.Now().Before(one.Next) {
				return true, nil
			}
		}
	}
	return false, nil
}

// removeMailbox removes on the other side a mailbox that is gone on one: the
// messages that were on both, and the mailbox itself if that leaves it empty.
func (w *worker) removeMailbox(ctx context.Context, d doomed, restore bool) error {
	s := d.gone.Other()
	if restore {
		w.event("restored", d.m.Name, "mailbox gone on the "+d.gone.String())
		return w.forgetMailbox(ctx, d.m) // met as new, it comes back whole
	}
	if _, err := w.links[s].open(ctx, d.m.Raw[s], nil); err != nil {
		return err
	}
	pairs, err := w.book.within(ctx, d.m.ID, s, everything)
	if err != nil {
		return err
	}
	for part := range slices.Chunk(pairs, chunk) {
		uids := make([]uint32, len(part))
		for i, p := range part {
			uids[i] = p.uid[s]
		}
		if err := w.remove(ctx, s, imap.SetOf(uids)); err != nil {
			return err
		}
		w.count.expunged.WithLabelValues(s.String()).Add(float64(len(part)))
	}
	if err := w.deleteEmpty(ctx, s, d.m); err != nil {
		return err
	}
	return w.forgetMailbox(ctx, d.m)
}

// deleteEmpty deletes a mailbox without the chance that DELETE takes mail with it
// that just came: it is moved out of the way of deliveries, looked into, and
// deleted or moved back.
func (w *worker) deleteEmpty(ctx context.Context, s Side, m *mailbox) error {
	l := w.links[s]
	status, err := l.Status(ctx, m.Raw[s])
	if err != nil || status.Messages > 0 {
		return on(s, err) // what stayed comes to the other side with a new mailbox
	}
	below, err := l.List(ctx, m.Raw[s]+l.space.delimiter)
	if err != nil {
		return on(s, err)
	}
	if l.space.delimiter != "" && slices.ContainsFunc(below, func(b imap.Mailbox) bool { return strings.HasPrefix(b.Name, m.Raw[s]+l.space.delimiter) }) {
		return nil // mailboxes below it stay, and so does it
	}
	if err := l.leave(ctx); err != nil {
		return err
	}
	var random [4]byte
	_, _ = rand.Read(random[:]) // never fails since Go 1.24
	aside := m.Raw[s] + "-deleted-" + hex.EncodeToString(random[:])
	if err := l.Rename(ctx, m.Raw[s], aside); err != nil {
		return on(s, err)
	}
	w.step("aside")
	status, err = l.Status(ctx, aside)
	switch {
	case err != nil:
		return on(s, err)
	case status.Messages > 0:
		return on(s, l.Rename(ctx, aside, m.Raw[s]))
	}
	w.event("mailbox-removed", m.Name, "on the "+s.String())
	if err := l.Delete(ctx, aside); err != nil {
		return on(s, err)
	}
	return on(s, l.Subscribe(ctx, m.Raw[s], false))
}
