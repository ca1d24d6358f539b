package proxy

import (
	"context"
	"slices"
	"strings"

	"github.com/postern-mail/postern/backend/sessions"
	"github.com/postern-mail/postern/mail"
)

// imapDialect is IMAP before the login: RFC 3501 and 9051 with LITERAL+ (RFC
// 7888), SASL-IR (RFC 4959) and ID (RFC 2971).
type imapDialect struct{}

// imapSession is what a session remembers.
type imapSession struct {
	tag string   // of the login under way
	id  []string // what the client said of itself, key and value in turn
}

func (imapDialect) service() string { return "imap" }

func (imapDialect) bye(text string) string {
	code := ""
	if text != errLogout.text && text != errTooManyBad.text && text != errBigLine.text {
		code = "[UNAVAILABLE] "
	}
	return "* BYE " + code + text + "\r\n"
}

func (d imapDialect) parting(text string) string { return d.bye(text) }

func (imapDialect) farewell() string { return "* BYE " }

func (imapDialect) leaves([]byte) bool { return false } // the node's BYE tells

func (s *session) imap() *imapSession { return s.dialogue.(*imapSession) }

// earlyCapabilities are those before the login.
func (s *session) earlyCapabilities() string {
	text := "CAPABILITY IMAP4rev1 LITERAL+ SASL-IR ID"
	if s.cfg.TLS != nil && s.client.TLS == nil {
		text += " STARTTLS"
	}
	mechanisms := s.mechanisms()
	if !sessions.TakesPasswords(mechanisms) {
		text += " LOGINDISABLED"
	}
	for _, m := range mechanisms {
		text += " AUTH=" + m
	}
	return text
}

func (imapDialect) greet(s *session) {
	s.dialogue = &imapSession{}
	s.say("* OK [" + s.earlyCapabilities() + "] " + s.cfg.Hostname + " IMAP proxy ready\r\n")
}

// command implements Dialect.
func (d imapDialect) command(ctx context.Context, s *session) (identity mail.Identity, done bool, err error) {
	line, err := readIMAPCommand(s)
	if err != nil {
		return identity, false, err
	}
	p := &imapParser{b: line}
	tag, verb := p.word(), strings.ToUpper(p.nextWord())
	if tag == "" || verb == "" || tag == "*" || tag == "+" {
		s.imap().tag = "*"
		return identity, false, &badCommand{"tag and command are missing"}
	}
	s.imap().tag = tag
	ok := func(text string) { s.say(s.imap().tag + " OK " + text + "\r\n") }
	switch verb {
	case "CAPABILITY":
		s.say("* " + s.earlyCapabilities() + "\r\n")
		ok("Completed")
	case "NOOP":
		ok("Completed")
	case "LOGOUT":
		s.say("* BYE " + errLogout.text + "\r\n")
		ok("Completed")
		return identity, false, errLogout
	case "ID":
		fields, err := p.idList()
		if err != nil {
			return identity, false, err
		}
		s.imap().id = fields
		s.say("* ID (\"name\" \"Postern\")\r\n")
		ok("Completed")
	case "STARTTLS":
		return identity, false, s.startTLS(ctx, tag+" OK Begin TLS negotiation now\r\n")
	case "LOGIN":
		identity, err = d.loginCommand(ctx, s, p)
		return identity, err == nil, err
	case "AUTHENTICATE":
		identity, err = d.authenticate(ctx, s, p)
		return identity, err == nil, err
	default:
		return identity, false, &badCommand{"log in first"}
	}
	return identity, false, nil
}

func (d imapDialect) loginCommand(ctx context.Context, s *session, p *imapParser) (mail.Identity, error) {
	if err := s.mayUsePasswords(); err != nil {
		return mail.Identity{}, err
	}
	login, err := p.nextString()
	if err != nil {
		return mail.Identity{}, err
	}
	password, err := p.nextString()
	if err != nil {
		return mail.Identity{}, err
	}
	if strings.IndexByte(login+password, 0) >= 0 || !p.ended() {
		return mail.Identity{}, &badCommand{"malformed login"}
	}
	return s.server.deps.Auth.Login(ctx, login, password, s.client)
}

func (d imapDialect) authenticate(ctx context.Context, s *session, p *imapParser) (mail.Identity, error) {
	mechanism, initial := strings.ToUpper(p.nextWord()), p.nextWord()
	if !p.ended() {
		return mail.Identity{}, &badCommand{"unexpected text"}
	}
	return s.authenticate(ctx, mechanism, initial)
}

// answer implements Dialect.
func (imapDialect) answer(s *session, v verdict) {
	text := "NO [" + v.reason.IMAPCode() + "] " + v.text
	switch {
	case v.malformed != "":
		text = "BAD Invalid command: " + v.malformed
	case v.limit:
		text = "NO [LIMIT] Too many connections of this account"
	case v.said != "":
		text = "NO " + v.said
	}
	s.say(s.imap().tag + " " + text + "\r\n")
}

// admit implements Dialect. What a client could do to end its login and begin
// another behind the proxy's back is not offered.
func (d imapDialect) admit(s *session, b *backend) {
	code := ""
	if offered := strings.Fields(b.capabilities); len(offered) > 0 {
		offered = slices.DeleteFunc(offered, func(c string) bool { return strings.EqualFold(c, "UNAUTHENTICATE") })
		code = "[CAPABILITY " + strings.Join(offered, " ") + "] "
	}
	s.say(s.imap().tag + " OK " + code + "Logged in\r\n")
}

// readIMAPCommand reads a command with its literals in their places.
func readIMAPCommand(s *session) ([]byte, error) {
	var command []byte
	for {
		from := len(command)
		line, err := s.readLine(command)
		if err != nil {
			return nil, err
		}
		command = line
		octets, nonSync, found := literalAt(command[from:])
		if !found {
			return command, nil
		}
		if octets > maxEarlyOctets-len(command) {
			return nil, errBigLine
		}
		if !nonSync {
			s.say("+ OK\r\n")
		}
		command = append(command, "\r\n"...)
		at := len(command)
		command = append(command, make([]byte, octets)...)
		for n := 0; n < octets; {
			if err := s.await(); err != nil {
				return nil, asConnection(err)
			}
			k, err := s.in.Read(command[at+n:])
			s.handle.Resume()
			if err != nil {
				return nil, asConnection(s.lost(err))
			}
			n += k
		}
	}
}
