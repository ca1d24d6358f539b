package imapd

import (
	"context"
	"time"

	"github.com/postern-mail/postern/backend/mailstore/acl"
	"github.com/postern-mail/postern/internal/clientcert"
)

// mayUnauthenticate tells whether the other end is who logged in. A proxy speaks
// for its client until that is logged in, and passes octets on from then: the
// client must not come to where the proxy is believed.
func (s *session) mayUnauthenticate() bool { return !s.client.Via.IsValid() || s.client.ViaTCP }

// unauthenticate is UNAUTHENTICATE (RFC 8437): the connection is nobody's again,
// with nothing of what the last user selected, searched or enabled. TLS and
// compression stay.
func (s *session) unauthenticate(context.Context) (result, error) {
	if !s.mayUnauthenticate() {
		return result{}, refuse("CANNOT", "This connection is a proxy's; end it and begin another")
	}
	s.unselect()
	s.closeNotify(s.notify)
	s.account.Close()
	s.notify = nil
	s.account, s.client.Identity, s.who = nil, nil, acl.Who{}
	s.dialect, s.condstore, s.qresync, s.w.utf8 = dialect{}, false, false, false
	s.state, s.failures = notAuthenticated, 0
	s.r.limit = time.Now().Add(s.cfg.AuthTimeout)
	if s.client.TLS != nil {
		st := s.secure.ConnectionState() // mechanisms look at it
		clientcert.Verify(s.cfg.TLS, &st)
		info := *s.client.TLS
		info.Connection = &st
		s.client.TLS = &info
	}
	s.handle.Logout()
	return result{code: s.capabilityCode(), text: "Logged out; somebody else may log in"}, nil
}
