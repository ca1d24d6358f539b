package pop3d

import (
	"context"
	"errors"
	"strings"

	"github.com/postern-mail/postern/backend/sessions"
)

// greet says that the server is there, and to proxies that it listens to what
// they say of their clients: the way of Dovecot's, so that either can stand in
// front of the other.
func (s *session) greet() {
	if s.handle.FromProxy() {
		s.ok("[XCLIENT] " + s.cfg.Hostname + " POP3 server ready")
		return
	}
	s.ok(s.cfg.Hostname + " POP3 server ready")
}

// errManySessions ends a session that a proxy began for a client with too many.
var errManySessions = &bye{"[" + codeTemporary + "] Too many connections", "too many connections of the client"}

// xclient is XCLIENT, by which a proxy says for whom it comes: ADDR, PORT and
// SESSION. Whatever else it tells is passed over. Nobody else has the command.
func (s *session) xclient(_ context.Context, args []string) error {
	if !s.handle.FromProxy() {
		return syntax("unknown command")
	}
	var origin sessions.Origin
	for _, arg := range args {
		key, value, _ := strings.Cut(arg, "=")
		switch strings.ToUpper(key) {
		case "ADDR":
			origin.Address = strings.TrimPrefix(strings.ToUpper(value), "IPV6:")
		case "PORT":
			origin.Port = value
		case "SESSION":
			origin.Session = value
		}
	}
	switch err := s.handle.PassedOn(origin, &s.client); {
	case errors.Is(err, sessions.ErrNoAddress):
		return syntax("ADDR is no address")
	case err != nil:
		return errManySessions
	}
	s.ok("Updated")
	return nil
}
