package imapd

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/postern-mail/postern/backend/mailstore"
	"github.com/postern-mail/postern/backend/mailstore/acl"
)

// notification is what the client asked for by NOTIFY (RFC 5465). Without it, a
// session tells of the selected mailbox alone, and in commands only. The
// session's goroutine tells everything: whoever changes something interrupts
// the wait for the next command, and no more.
type notification struct {
	notifyArgs
	everything event // of all groups
	// wake is received from in IDLE.
	wake    chan struct{}
	watches []*observed
	virtual map[*mailstore.VirtualMailbox]*watchedVirtual
	// chosen watches the account of the selected mailbox, where that is somebody
	// else's.
	chosen *mailstore.Watcher
	// shared is set when somebody shares something else with the client.
	shared    atomic.Bool
	endShared func()
	// regrouped is set when the client's groups may have changed.
	regrouped    atomic.Bool
	endRegrouped func()
	// told is when something was told last.
	told time.Time
}

// observed is one account whose changes are told.
type observed struct {
	place
	watcher *mailstore.Watcher
	// known are the mailboxes in which the client has other rights than the
	// owner's, or in other people's accounts all that it may see.
	known map[mailstore.GUID]acl.Rights
}

// Bounds of what one session watches.
const (
	maxWatchedAccounts = 100
	maxKnownMailboxes  = 20_000
)

// toObserve are the rights that all events need (RFC 5465 section 5).
const toObserve = acl.Lookup | acl.Read

// setNotify is NOTIFY (RFC 5465 section 3.1).
func (s *session) setNotify(ctx context.Context, a notifyArgs) (result, error) {
	if a.unknown {
		return result{}, refuse("BADEVENT ("+supportedEvents.names()+")", "Some events are not supported")
	}
	n := &notification{notifyArgs: a, wake: make(chan struct{}, 1)}
	for _, g := range a.groups {
		n.everything |= g.events
	}
	if err := s.watchAll(ctx, n); err != nil {
		s.closeNotify(n)
		return result{}, mailboxError(err, "")
	}
	s.closeNotify(s.notify)
	s.notify = nil
	if !a.none { // what gathered is told as by NOOP
		if err := s.sync(syncMode{}); err != nil {
			s.closeNotify(n)
			return result{}, err
		}
	}
	s.notify = n
	s.watchSelected()
	if a.fetch.modSeq = a.fetch.has(fetchModSeqItem); a.fetch.modSeq {
		s.enableCondstore()
	}
	if err := s.firstNotice(ctx); err != nil {
		return result{}, mailboxError(err, "")
	}
	return result{}, nil
}

// woken tells the session that there is something to look at.
func (s *session) woken(n *notification) func() {
	return func() {
		select {
		case n.wake <- struct{}{}:
		default:
		}
		s.handle.Wake()
	}
}

// watchAll begins to watch all that the client wants to know of.
func (s *session) watchAll(ctx context.Context, n *notification) error {
	if n.everything == 0 && n.selected == 0 {
		return nil
	}
	if err := s.watchAccount(ctx, n, place{account: s.account, who: s.who}); err != nil {
		return err
	}
	if !n.reachesOthers(s) {
		return nil
	}
	n.endShared = s.server.deps.Store.WatchSharing(s.who.Identifiers(), func() {
		if !n.shared.Swap(true) {
			s.woken(n)()
		}
	})
	n.endRegrouped = s.whenRegrouped(func() {
		n.regrouped.Store(true)
		s.woken(n)()
	})
	_, err := s.watchOthers(ctx, n)
	return err
}

// reachesOthers reports whether a group may be about mailboxes of others.
func (n *notification) reachesOthers(s *session) bool {
	return s.cfg.Sharing.enabled() && slices.ContainsFunc(n.groups, func(g eventGroup) bool {
		return g.events != 0 && g.filter != filterPersonal
	})
}

// watchOthers watches the accounts of others that a group reaches and that are
// not watched yet, and returns the watches it began.
func (s *session) watchOthers(ctx context.Context, n *notification) (fresh []*observed, err error) {
	sharing := &s.cfg.Sharing
	var tops []string
	for i := range sharing.Public {
		tops = append(tops, sharing.Public[i].Name)
	}
	if sharing.Others != "" && s.reachesBelow(n, sharing.Others) {
		owners, err := s.server.deps.Store.Sharing(ctx, s.who.Identifiers())
		if err != nil {
			return nil, err
		}
		for _, owner := range owners {
			if !strings.ContainsAny(owner, delimiter+"*%") {
				tops = append(tops, sharing.Others+delimiter+owner)
			}
		}
	}
	for _, top := range tops {
		if !s.reachesBelow(n, top) || slices.ContainsFunc(n.watches, func(w *observed) bool { return w.prefix == top+delimiter }) {
			continue
		}
		p, err := s.locate(ctx, top)
		if errors.Is(err, mailstore.ErrNoMailbox) {
			continue
		}
		if err == nil {
			err = s.watchAccount(ctx, n, p)
		}
		if err != nil {
			return nil, err
		}
		if w := n.watches[len(n.watches)-1]; !n.leave(ctx, w) {
			fresh = append(fresh, w)
		}
	}
	return fresh, nil
}

// leave ends the watch of an account in which the client is not to see anything,
// or no longer, and reports that. Once it is, the change of the list rings, and the
// account is watched anew. Public accounts are few, and may show something by
// their configuration alone.
func (n *notification) leave(ctx context.Context, w *observed) bool {
	if w.own() || w.public != nil || len(w.known) > 0 {
		return false
	}
	// What was granted before this look may have rung in vain, for the account was
	// watched: it waits in the watch then.
	list, err := w.account.List(ctx)
	if err != nil || slices.ContainsFunc(list, func(m mailstore.MailboxInfo) bool { return m.Exists && w.rightsIn(m.GUID).Has(toList) }) {
		return false
	}
	w.watcher.Close()
	w.place.close()
	n.watches = slices.DeleteFunc(n.watches, func(o *observed) bool { return o == w })
	return true
}

// reachesBelow reports whether a group may be about mailboxes below top.
func (s *session) reachesBelow(n *notification, top string) bool {
	meets := func(name string) bool {
		_, below := within(name, top)
		return below
	}
	for _, g := range n.groups {
		switch {
		case g.events == 0:
		case g.filter == filterSubscribed:
			if slices.ContainsFunc(s.account.Subscribed(), meets) {
				return true
			}
		case slices.ContainsFunc(g.names, func(name string) bool {
			_, above := within(top, name)
			return meets(name) || above && g.filter == filterSubtree
		}):
			return true
		}
	}
	return false
}

// watchAccount begins to watch one account; the place becomes the watch's.
func (s *session) watchAccount(ctx context.Context, n *notification, p place) error {
	if len(n.watches) >= maxWatchedAccounts {
		p.close()
		return errNotifyTooMuch
	}
	w := &observed{place: p, watcher: p.account.Watch(s, s.woken(n)), known: make(map[mailstore.GUID]acl.Rights)}
	n.watches = append(n.watches, w)
	list, err := p.account.List(ctx)
	if err != nil {
		return err
	}
	for _, m := range list {
		if have := w.rightsIn(m.GUID); m.Exists && (!w.own() && have.Has(toList) || w.own() && !have.Has(toObserve)) {
			w.known[m.GUID] = have
		}
	}
	if len(w.known) > maxKnownMailboxes {
		return errNotifyTooMuch
	}
	return nil
}

// had are the rights that the client had in a mailbox when it was told last.
func (w *observed) had(mailbox mailstore.GUID) acl.Rights {
	if have, known := w.known[mailbox]; known || !w.own() {
		return have
	}
	return acl.All
}

// note keeps the client's present rights in a mailbox.
func (w *observed) note(mailbox mailstore.GUID, have acl.Rights) {
	if w.own() && have.Has(toObserve) || !w.own() && !have.Has(toList) {
		delete(w.known, mailbox)
	} else {
		w.known[mailbox] = have
	}
}

// closeNotify gives back what a notification holds. It may be nil.
func (s *session) closeNotify(n *notification) {
	if n == nil {
		return
	}
	if n.endShared != nil {
		n.endShared()
	}
	if n.endRegrouped != nil {
		n.endRegrouped()
	}
	n.unwatchSelected()
	n.closeVirtual()
	for _, w := range n.watches {
		w.watcher.Close()
		w.place.close()
	}
	n.watches = nil
}

// watchSelected watches the account of the selected mailbox, unless that is
// watched anyway.
func (s *session) watchSelected() {
	if n := s.notify; n != nil && n.selected != 0 && s.box != nil && !s.box.own() {
		n.unwatchSelected()
		n.chosen = s.box.account.Watch(s, s.woken(n))
	}
}

func (n *notification) unwatchSelected() {
	if n != nil && n.chosen != nil {
		n.chosen.Close()
		n.chosen = nil
	}
}

// pending reports whether somebody has something to tell.
func (n *notification) pending() bool {
	if n == nil {
		return false
	}
	return n.shared.Load() || n.regrouped.Load() || n.chosen != nil && n.chosen.Pending() ||
		slices.ContainsFunc(n.watches, func(w *observed) bool { return w.watcher.Pending() })
}

// rest is how long the client is left in peace before it is told more: what many
// commits change in a moment is told together.
func (n *notification) rest(pause time.Duration) time.Duration {
	if n == nil || n.told.IsZero() {
		return 0
	}
	return max(0, pause-time.Since(n.told))
}

// take takes what every watch has gathered, in their order.
func (n *notification) take() []mailstore.Changes {
	if n.chosen != nil {
		n.chosen.Take()
	}
	taken := make([]mailstore.Changes, len(n.watches))
	for i, w := range n.watches {
		taken[i] = w.watcher.Take()
	}
	return taken
}

// events are those that the client wants of a mailbox, by its whole name, which
// is not the selected one.
func (n *notification) events(s *session, name string, subscribed bool) (wanted event) {
	for i := range n.groups {
		if g := &n.groups[i]; g.events&^wanted != 0 && g.covers(s, name, subscribed) {
			wanted |= g.events
		}
	}
	return wanted
}

func (g *eventGroup) covers(s *session, name string, subscribed bool) bool {
	switch g.filter {
	case filterPersonal:
		ns, _ := s.cfg.Sharing.namespaceOf(name)
		return ns == nil
	case filterSubscribed:
		return subscribed
	}
	return slices.ContainsFunc(g.names, func(top string) bool {
		below, ok := within(name, top)
		return ok && (g.filter == filterSubtree || below == "")
	})
}

// tellNotified tells what happened, outside of commands or in IDLE. delayed says
// that this is no time for expunges where the client wants these kept back.
func (s *session) tellNotified(ctx context.Context, outside bool) error {
	s.began = time.Now()
	// Asked whatever woke the session: the selected mailbox may be shared with a
	// group, and the directory may not have answered when it was asked last.
	s.notify.regrouped.Store(false)
	s.refreshGroups(ctx)
	ctx = mailstore.As(ctx, s)
	n, quietly := s.notify, len(s.w.buf)
	if n.pending() {
		defer func() { n.told = time.Now() }()
	}
	// Taken before the look at the selected mailbox: what is committed behind
	// that look is gathered anew, and wakes the session again.
	taken := n.take()
	if err := s.sync(syncMode{keepNumbers: outside && s.notify.delayed, outside: outside}); err != nil {
		return err
	}
	if err := s.contextsFollow(ctx); err != nil {
		return err
	}
	if s.qresync && s.box != nil && len(s.w.buf) != quietly {
		s.box.vanished, s.box.beyond = false, false
		s.highestModSeq()
	}
	return s.tellOthers(ctx, taken)
}

// overflow ends all notifications: more happened than can be told (RFC 5465
// section 5.8).
func (s *session) overflow() {
	s.closeNotify(s.notify)
	s.notify = &notification{notifyArgs: notifyArgs{none: true}, wake: make(chan struct{}, 1)}
	s.response("*", "OK", "NOTIFICATIONOVERFLOW", "Too much has changed; ask again")
}

// tellOthers tells of mailboxes that are not selected what was taken.
func (s *session) tellOthers(ctx context.Context, taken []mailstore.Changes) error {
	n := s.notify
	news := &news{session: s, notification: n}
	if n.shared.Swap(false) {
		if err := news.reshared(ctx); err != nil {
			return s.noNews(ctx, err)
		}
	}
	for i := range taken {
		c, w := &taken[i], n.watches[i]
		if n.everything == 0 {
			continue
		}
		if c.Lost || len(w.known) > maxKnownMailboxes {
			s.overflow()
			return nil
		}
		if err := news.gather(ctx, w, c); err != nil {
			return s.noNews(ctx, err)
		}
	}
	if err := news.tell(ctx); err != nil {
		return s.noNews(ctx, err)
	}
	for _, w := range slices.Clone(n.watches) {
		n.leave(ctx, w)
	}
	return nil
}

// noNews is what follows when the store cannot say what happened: what was lost
// the client must ask for itself.
func (s *session) noNews(ctx context.Context, err error) error {
	if ends(err) || ctx.Err() != nil {
		return err
	}
	s.log.Warn("cannot tell what changed", "sid", s.client.Session, "login", s.login(), "error", err)
	s.overflow()
	return nil
}
