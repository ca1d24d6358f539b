package imapd

import (
	"context"
	"slices"
	"strconv"
	"strings"
)

// maxIDOctets bounds what of a client's ID goes to the log.
const maxIDOctets = 300

// capabilities lists what the client may use in the present state (RFC 3501
// section 6.1.1).
func (s *session) capabilities() string {
	var b strings.Builder
	b.WriteString("IMAP4rev1 LITERAL+ SASL-IR ENABLE ID")
	if s.state != notAuthenticated {
		b.WriteString(" IDLE NAMESPACE UIDPLUS MOVE SPECIAL-USE CREATE-SPECIAL-USE CHILDREN LIST-EXTENDED LIST-STATUS" +
			" STATUS=SIZE ESEARCH UNSELECT CONDSTORE MULTIAPPEND APPENDLIMIT=")
		b.WriteString(strconv.FormatInt(s.cfg.AppendLimitOctets, 10))
		return b.String()
	}
	if s.cfg.TLS != nil && s.client.TLS == nil {
		b.WriteString(" STARTTLS")
	}
	if !s.protected() {
		b.WriteString(" LOGINDISABLED")
		return b.String()
	}
	for _, m := range s.server.deps.Auth.Mechanisms(true) {
		b.WriteString(" AUTH=" + m)
	}
	return b.String()
}

func (s *session) capabilityCode() string { return "CAPABILITY " + s.capabilities() }

func (s *session) capability(context.Context) (result, error) {
	s.w.line("* CAPABILITY " + s.capabilities())
	return result{}, nil
}

// noop is NOOP: what changed is told behind every command.
func (s *session) noop(context.Context) (result, error) { return result{}, nil }

// check is CHECK: nothing waits to be written, ever.
func (s *session) check(context.Context) (result, error) { return result{}, nil }

// parseID reads ID's list (RFC 2971) into one line for the log.
func parseID(p *parser) (string, error) {
	if err := p.sp(); err != nil {
		return "", err
	}
	if p.peek() != '(' {
		if word, err := p.word(); err != nil || word != "NIL" {
			return "", syntax("expected a list or NIL")
		}
		return "", nil
	}
	var fields []string
	err := p.list(func() error {
		key, isText, err := p.text()
		if err != nil || !isText {
			return orSyntax(err, "expected a string")
		}
		if err := p.sp(); err != nil {
			return err
		}
		value, err := p.nstring()
		if fields = append(fields, key+"="+value); len(fields) > 30 { // the RFC's own bound
			return syntax("too many fields")
		}
		return err
	})
	return strings.Join(fields, " "), err
}

func orSyntax(err error, what string) error {
	if err != nil {
		return err
	}
	return syntax(what)
}

func (s *session) id(_ context.Context, fields string) (result, error) {
	if len(fields) > maxIDOctets {
		fields = fields[:maxIDOctets]
	}
	s.log.Debug("client identification", "sid", s.client.Session, "login", s.login(), "id", fields)
	s.w.line(`* ID ("name" "Postern")`)
	return result{}, nil
}

// parseEnable reads ENABLE's capabilities (RFC 5161).
func parseEnable(p *parser) ([]string, error) {
	var names []string
	for p.take(' ') {
		name, err := p.word()
		if err != nil {
			return nil, err
		}
		names = append(names, name)
	}
	if len(names) == 0 {
		return nil, syntax("expected a capability")
	}
	return names, nil
}

func (s *session) enable(_ context.Context, names []string) (result, error) {
	enabled := ""
	if slices.Contains(names, "CONDSTORE") && !s.condstore {
		enabled = " CONDSTORE"
	}
	s.w.line("* ENABLED" + enabled)
	if enabled != "" {
		s.enableCondstore()
	}
	return result{}, nil
}

// enableCondstore is what the first command that shows knowledge of CONDSTORE
// does (RFC 7162 section 3.1): from now on every FETCH response carries MODSEQ.
// A client that has a mailbox selected learns its HIGHESTMODSEQ.
func (s *session) enableCondstore() {
	if s.condstore {
		return
	}
	s.condstore = true
	if s.box != nil {
		s.highestModSeq()
	}
}

func (s *session) namespace(context.Context) (result, error) {
	s.w.line(`* NAMESPACE (("" "` + delimiter + `")) NIL NIL`)
	return result{}, nil
}
