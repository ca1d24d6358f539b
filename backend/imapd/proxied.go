package imapd

import (
	"errors"
	"strings"

	"github.com/postern-mail/postern/backend/sessions"
)

// idFields is what ID tells (RFC 2971): one line for the log, and where a
// client comes from that a proxy speaks for, in the fields that Dovecot knows.
type idFields struct {
	line   string
	fields map[string]string // by lower-case name
	origin sessions.Origin
}

func (id *idFields) note(key, value string) {
	if id.fields == nil {
		id.fields = make(map[string]string)
	}
	id.fields[strings.ToLower(key)] = value
	switch strings.ToLower(key) {
	case "x-originating-ip":
		id.origin.Address = value
	case "x-originating-port":
		id.origin.Port = value
	case "x-session-id":
		id.origin.Session = value
	}
}

// errManySessions ends a session that a proxy began for a client with too many.
var errManySessions = &bye{"[UNAVAILABLE] Too many connections", "too many connections of the client"}

// passedOn takes over what a proxy says of its client; once somebody has logged
// in, it is talk.
func (s *session) passedOn(id idFields) error {
	if s.state != notAuthenticated {
		return nil
	}
	switch err := s.handle.PassedOn(id.origin, &s.client); {
	case errors.Is(err, sessions.ErrNoAddress):
		return syntax("x-originating-ip is no address")
	case err != nil:
		return errManySessions
	}
	return nil
}
