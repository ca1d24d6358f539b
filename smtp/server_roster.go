package smtp

import (
	"sync"

	"github.com/postern-mail/postern/mail"
)

// roster is the sessions of a server whose clients logged in.
type roster struct {
	mu       sync.Mutex
	sessions map[*serverSession]mail.Identity
}

func (r *roster) enter(s *serverSession, id mail.Identity) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.sessions == nil {
		r.sessions = make(map[*serverSession]mail.Identity)
	}
	r.sessions[s] = id
}

func (r *roster) leave(s *serverSession) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.sessions, s)
}

// Identities returns who is logged in, some perhaps more than once.
func (s *Server) Identities() []mail.Identity {
	s.roster.mu.Lock()
	defer s.roster.mu.Unlock()
	all := make([]mail.Identity, 0, len(s.roster.sessions))
	for _, id := range s.roster.sessions {
		all = append(all, id)
	}
	return all
}

// Disconnect ends the sessions of the clients that whose selects, each before
// its next command with 421, and returns how many these are. whose must not
// block.
func (s *Server) Disconnect(whose func(mail.Identity) bool) int {
	s.roster.mu.Lock()
	defer s.roster.mu.Unlock()
	n := 0
	for session, id := range s.roster.sessions {
		if whose(id) {
			session.wire.stop()
			n++
		}
	}
	return n
}
