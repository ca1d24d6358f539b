package imapd

import (
	"context"
	"strings"
)

// maxIDOctets bounds what of a client's ID goes to the log.
const maxIDOctets = 300

// noop is NOOP: what changed is told behind every command.
func (s *session) noop(context.Context) (result, error) { return result{}, nil }

// check is CHECK: nothing waits to be written, ever.
func (s *session) check(context.Context) (result, error) { return result{}, nil }

// parseID reads ID's list (RFC 2971) into one line for the log.
func parseID(p *parser) (idFields, error) {
	var id idFields
	if err := p.sp(); err != nil {
		return id, err
	}
	if p.peek() != '(' {
		if word, err := p.word(); err != nil || word != "NIL" {
			return id, syntax("expected a list or NIL")
		}
		return id, nil
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
		id.note(key, value)
		if fields = append(fields, key+"="+value); len(fields) > 30 { // the RFC's own bound
			return syntax("too many fields")
		}
		return err
	})
	id.line = strings.Join(fields, " ")
	return id, err
}

func orSyntax(err error, what string) error {
	if err != nil {
		return err
	}
	return syntax(what)
}

func (s *session) id(_ context.Context, id idFields) (result, error) {
	if err := s.passedOn(id); err != nil {
		return result{}, err
	}
	fields := id.line
	if len(fields) > maxIDOctets {
		fields = fields[:maxIDOctets]
	}
	s.log.Debug("client identification", "sid", s.client.Session, "login", s.login(), "id", fields)
	s.w.line(`* ID ("name" "Postern")`)
	s.identified(id.fields)
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
