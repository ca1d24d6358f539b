package imapd

import (
	"context"
	"slices"
	"sync"
	"time"
)

// accountsNews tells sessions that the directory may say something else of
// accounts now.
type accountsNews struct {
	mu    sync.Mutex // guards wakes
	wakes map[*func()]struct{}
}

// watch has wake called with every change. It must not block. The caller ends it
// by stop.
func (n *accountsNews) watch(wake func()) (stop func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.wakes == nil {
		n.wakes = make(map[*func()]struct{})
	}
	n.wakes[&wake] = struct{}{}
	return func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		delete(n.wakes, &wake)
	}
}

func (n *accountsNews) tell() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for wake := range n.wakes {
		(*wake)()
	}
}

// AccountsChanged tells that the directory may say something else of accounts
// now: sessions ask it anew, each before its next command, and at once those
// that are told of mailboxes of others while they wait.
func (s *Server) AccountsChanged() {
	s.accountsAge.Add(1)
	s.accountsNews.tell()
}

const (
	// groupsPatience bounds how long a command waits for the directory's word
	// on groups: without it the command goes by what was said before.
	groupsPatience = 2 * time.Second
	// groupsRest is how many times as long as a question without an answer took
	// nobody asks again, so that an outage of the directory does not slow
	// everybody's mail down.
	groupsRest = 10
)

// refreshGroups asks the directory which groups the client belongs to, where it
// may say otherwise than when it was asked last. While it does not answer, what
// it said before holds, and it is asked again at a later command, or before the
// client is told something of mailboxes without one.
func (s *session) refreshGroups(ctx context.Context) {
	age := s.server.accountsAge.Load()
	if s.account == nil || s.cfg.Sharing.GroupAttribute == "" || s.groupsAge == age || time.Now().Before(s.groupsAgain) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, groupsPatience)
	defer cancel()
	began := time.Now()
	account, err := s.server.deps.Accounts.Account(ctx, s.account.Name())
	if err != nil {
		s.groupsAgain = time.Now().Add(groupsRest * time.Since(began))
		s.log.Debug("groups are not known now", "sid", s.client.Session, "login", s.login(), "error", err)
		return
	}
	s.groupsAge = age
	before := s.who.Identifiers()
	s.who = s.cfg.Sharing.who(&account)
	if s.box != nil {
		s.box.who = s.who
	}
	switch {
	case s.notify == nil:
	case s.notify.reachesOthers(s) && !slices.Equal(before, s.who.Identifiers()):
		s.overflow() // it watches what others shared with whom the client was
	default:
		for _, w := range s.notify.watches {
			w.who = s.who
		}
	}
}

// whenRegrouped has wake called when the client's groups may have changed, where
// these matter to it.
func (s *session) whenRegrouped(wake func()) (stop func()) {
	if s.cfg.Sharing.GroupAttribute == "" {
		return func() {}
	}
	return s.server.accountsNews.watch(wake)
}
