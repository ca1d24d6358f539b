package proxy

import (
	"bytes"
	"context"
	"strings"

	"github.com/postern-mail/postern/backend/sessions"
	"github.com/postern-mail/postern/mail"
)

// pop3Dialect is POP3 before the login: RFC 1939 with CAPA (RFC 2449), STLS
// (RFC 2595) and AUTH (RFC 5034).
type pop3Dialect struct{}

// pop3Session is what a session remembers.
type pop3Session struct {
	user string // what USER named
}

func (pop3Dialect) service() string { return "pop3" }

func (pop3Dialect) bye(text string) string {
	switch text {
	case errLogout.text, errAuthTimeout.text: // RFC 1939 section 3: without a response
		return ""
	case errTooManyBad.text, errBigLine.text:
		return "-ERR " + text + "\r\n"
	case errTooManyAuth.text:
		return "-ERR [AUTH] " + text + "\r\n"
	}
	return "-ERR [SYS/TEMP] " + text + "\r\n"
}

// parting is nothing: whatever comes unasked would be taken for an answer, or
// for a line of the message under way.
func (pop3Dialect) parting(string) string { return "" }

func (pop3Dialect) farewell() string { return "" }

// leaves implements Dialect. Many a node closes behind its answer to QUIT
// before the client does.
func (pop3Dialect) leaves(p []byte) bool {
	line := bytes.TrimRight(p, "\r\n")
	line = line[bytes.LastIndexByte(line, '\n')+1:]
	return len(line) < len(p) && bytes.EqualFold(bytes.TrimSpace(line), []byte("QUIT"))
}

func (s *session) pop3() *pop3Session { return s.dialogue.(*pop3Session) }

func (pop3Dialect) greet(s *session) {
	s.dialogue = &pop3Session{}
	s.say("+OK " + s.cfg.Hostname + " POP3 proxy ready\r\n")
}

// command implements Dialect.
func (d pop3Dialect) command(ctx context.Context, s *session) (identity mail.Identity, done bool, err error) {
	line, err := s.readLine(nil)
	if err != nil {
		return identity, false, err
	}
	verb, rest, _ := strings.Cut(string(line), " ")
	switch strings.ToUpper(verb) {
	case "CAPA":
		s.say(d.capabilities(s))
	case "QUIT":
		s.say("+OK Bye\r\n")
		return identity, false, errLogout
	case "STLS":
		s.pop3().user = "" // whoever said it was not protected
		return identity, false, s.startTLS(ctx, "+OK Begin TLS negotiation now\r\n")
	case "USER":
		return identity, false, d.user(s, rest)
	case "PASS":
		identity, err = d.pass(ctx, s, rest)
		return identity, err == nil, err
	case "AUTH":
		mechanism, initial, _ := strings.Cut(strings.TrimSpace(rest), " ")
		if mechanism == "" {
			s.say("+OK Mechanisms follow\r\n" + lines(s.mechanisms()) + ".\r\n")
			return identity, false, nil
		}
		identity, err = s.authenticate(ctx, strings.ToUpper(mechanism), strings.TrimSpace(initial))
		return identity, err == nil, err
	default:
		return identity, false, &badCommand{"log in first"}
	}
	return identity, false, nil
}

func lines(all []string) string {
	if len(all) == 0 {
		return ""
	}
	return strings.Join(all, "\r\n") + "\r\n"
}

// capabilities answers CAPA before the login; behind it the node does.
func (pop3Dialect) capabilities(s *session) string {
	all := []string{"TOP", "UIDL", "RESP-CODES", "AUTH-RESP-CODE", "PIPELINING"}
	mechanisms := s.mechanisms()
	if sessions.TakesPasswords(mechanisms) {
		all = append(all, "USER")
	}
	if len(mechanisms) > 0 {
		all = append(all, "SASL "+strings.Join(mechanisms, " "))
	}
	if s.cfg.TLS != nil && s.client.TLS == nil {
		all = append(all, "STLS")
	}
	return "+OK Capability list follows\r\n" + lines(append(all, "IMPLEMENTATION Postern")) + ".\r\n"
}

// user is USER, answered alike for all names.
func (pop3Dialect) user(s *session, name string) error {
	if err := s.mayUsePasswords(); err != nil {
		return err
	}
	if name == "" || strings.IndexByte(name, 0) >= 0 {
		return &badCommand{"USER needs a name"}
	}
	s.pop3().user = name
	s.say("+OK Password is needed\r\n")
	return nil
}

// pass is PASS; a password may hold spaces, and end with them.
func (pop3Dialect) pass(ctx context.Context, s *session, password string) (mail.Identity, error) {
	name := s.pop3().user
	s.pop3().user = ""
	switch {
	case name == "":
		return mail.Identity{}, &badCommand{"USER comes before PASS"}
	case strings.IndexByte(password, 0) >= 0:
		return mail.Identity{}, &badCommand{"NUL in a password"}
	}
	return s.server.deps.Auth.Login(ctx, name, password, s.client)
}

// answer implements Dialect.
func (pop3Dialect) answer(s *session, v verdict) {
	text := "[SYS/TEMP] " + v.text
	switch {
	case v.malformed != "":
		text = "Invalid command: " + v.malformed
	case v.limit:
		text = "[SYS/TEMP] Too many connections of this account"
	case v.said != "":
		text = v.said
	case v.reason.Permanent():
		text = "[AUTH] " + v.text
	}
	s.say("-ERR " + text + "\r\n")
}

// admit implements Dialect.
func (pop3Dialect) admit(s *session, _ *backend) { s.say("+OK Logged in\r\n") }
