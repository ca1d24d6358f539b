package imapd

import (
	"context"

	"github.com/postern-mail/postern/backend/mailstore"
)

// noteMine notes what the client itself did to a mailbox, or to its rights
// there. It is not told of that, and what happens later is compared with it.
func (s *session) noteMine(account *mailstore.Account, mailbox mailstore.GUID) {
	if s.notify == nil {
		return
	}
	for _, w := range s.notify.watches {
		if w.account.GUID() == account.GUID() {
			w.note(mailbox, w.rightsIn(mailbox))
		}
	}
}

// noteSubscribed begins to watch the account of others in which a mailbox lies
// that the client has just subscribed to.
func (s *session) noteSubscribed(ctx context.Context, name string) {
	ns, _ := s.cfg.Sharing.namespaceOf(name)
	if s.notify == nil || ns == nil || !s.notify.reachesOthers(s) {
		return
	}
	if _, err := s.watchOthers(ctx, s.notify); err != nil {
		s.log.Warn("cannot watch what was subscribed to", "sid", s.client.Session, "login", s.login(), "error", err)
		s.overflow()
	}
}
