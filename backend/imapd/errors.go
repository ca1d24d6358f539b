package imapd

import (
	"errors"

	"github.com/postern-mail/postern/backend/sessions"
	"github.com/postern-mail/postern/status"
)

// refusal is a clear no to a well-formed command; it is answered with NO.
type refusal struct {
	code string // response code without brackets, or ""
	text string
}

func (e *refusal) Error() string { return e.text }

func refuse(code, text string) error { return &refusal{code, text} }

// bye ends the session after telling the client why.
type bye struct {
	text  string // with its response code
	cause string // for log and audit
}

func (e *bye) Error() string { return e.cause }

var (
	errShutdown     = &bye{"[UNAVAILABLE] Server is shutting down", "shutdown"}
	errIdleTimeout  = &bye{"Autologout; idle for too long", "idle timeout"}
	errAuthTimeout  = &bye{"Logged out; no authentication in time", "authentication timeout"}
	errTooManyBad   = &bye{"Too many invalid commands", "too many invalid commands"}
	errTooManyAuth  = &bye{"Too many failed authentications", "too many failed authentications"}
	errBigLine      = &bye{"[TOOBIG] Command line too long", "command line too long"}
	errBigLiteral   = &bye{"[TOOBIG] Literal too large", "literal too large"}
	errStrayLiteral = &bye{"Literal where none is allowed", "stray literal"}
	errGone         = &bye{"[UNAVAILABLE] Mailbox was deleted or replaced", "mailbox is gone"}
	errLogout       = &bye{"Logging out", "logout"}

	// errStream ends the session at once: a response is half written.
	errStream = errors.New("message could not be read to its end")
)

// result is what a successful command answers.
type result struct {
	code string // response code without brackets, or ""
	text string // "" for "Completed"
	// modSeq adds HIGHESTMODSEQ, as it is when everything has been told, for
	// clients that enabled QRESYNC; there must be no other code.
	modSeq bool
	// answered is true when the handler wrote the tagged response itself.
	answered bool
}

// tagged writes the tagged response of a command.
func (s *session) tagged(tag string, res result, err error) {
	if err == nil {
		s.response(tag, "OK", res.code, orElse(res.text, "Completed"))
		return
	}
	var bad *syntaxError
	var no *refusal
	switch {
	case errors.As(err, &bad):
		s.response(tag, "BAD", bad.code, "Invalid command: "+bad.what)
	case errors.As(err, &no):
		s.response(tag, "NO", no.code, no.text)
	default:
		reason := status.Of(err)
		s.response(tag, "NO", reason.IMAPCode(), sessions.OneLine(status.ReplyOf(err).Text))
	}
}

// response writes a status response; tag is "*" for an untagged one.
func (s *session) response(tag, kind, code, text string) {
	s.w.str(tag)
	s.w.char(' ')
	s.w.str(kind)
	s.w.char(' ')
	if code != "" {
		s.w.char('[')
		s.w.str(code)
		s.w.str("] ")
	}
	s.w.line(text)
}

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

// causeOf describes the end of a session for log and audit.
func causeOf(err error) string {
	var end *bye
	switch {
	case errors.As(err, &end):
		return end.cause
	case errors.Is(err, errStream):
		return err.Error()
	default:
		return sessions.CauseOf(err)
	}
}
