package pop3d

import (
	"errors"

	"github.com/postern-mail/postern/backend/sessions"
	"github.com/postern-mail/postern/status"
)

// Response codes (RFC 2449 section 8, RFC 3206).
const (
	codeTemporary  = "SYS/TEMP"
	codePermanent  = "SYS/PERM"
	codeAuth       = "AUTH"
	codeInUse      = "IN-USE"
	codeLoginDelay = "LOGIN-DELAY"
)

// codeOf is the response code of what went wrong behind a command.
func codeOf(reason status.Reason) string {
	if reason.Permanent() {
		return codePermanent
	}
	return codeTemporary
}

// refusal is a clear no; it is answered with -ERR.
type refusal struct {
	code string // response code without brackets, or ""
	text string
}

func (e *refusal) Error() string { return e.text }

func refuse(code, text string) error { return &refusal{code, text} }

// invalid is a command that cannot be carried out as it was sent. Too many of
// them end the session.
type invalid struct{ what string }

func (e *invalid) Error() string { return e.what }

func syntax(what string) error { return &invalid{what} }

// bye ends the session after telling the client why.
type bye struct {
	text  string // with its response code; "" to say nothing
	cause string // for log and audit
}

func (e *bye) Error() string { return e.cause }

const nothingDeleted = "; nothing was deleted"

var (
	errShutdown    = &bye{"[" + codeTemporary + "] Server is shutting down" + nothingDeleted, "shutdown"}
	errDraining    = &bye{"[" + codeTemporary + "] Server is going down for maintenance; please connect again", "drained"}
	errDisabled    = &bye{"[" + codeAuth + "] This account may not be used any more", "account disabled"}
	errKicked      = &bye{"[" + codeTemporary + "] Ended by the administrator" + nothingDeleted, "kicked"}
	errIdleTimeout = &bye{"", "idle timeout"} // RFC 1939 section 3: without a response
	errAuthTimeout = &bye{"", "authentication timeout"}
	errSlowCommand = &bye{"", "command timeout"}
	errTooManyBad  = &bye{"Too many invalid commands", "too many invalid commands"}
	errTooManyAuth = &bye{"[" + codeAuth + "] Too many failed authentications", "too many failed authentications"}
	errBigLine     = &bye{"Command line too long", "command line too long"}
	errQuit        = &bye{"", "quit"}

	// errStream ends the session at once: a message is half sent, and its end
	// must not look like one.
	errStream = errors.New("message could not be read to its end")
)

// whyEnd returns how a session is to end that was asked to go.
func (s *session) whyEnd() error {
	switch s.handle.Why() {
	case sessions.Drained:
		return errDraining
	case sessions.Disabled:
		return errDisabled
	case sessions.Kicked:
		return errKicked
	default:
		return errShutdown
	}
}

// connError is a failure of the connection inside a command.
type connError struct{ err error }

func (e *connError) Error() string { return e.err.Error() }
func (e *connError) Unwrap() error { return e.err }

// ends reports whether err is the end of the session rather than an answer.
func ends(err error) bool {
	var end *bye
	var lost *connError
	var handshake *sessions.HandshakeError
	return errors.As(err, &end) || errors.As(err, &lost) || errors.As(err, &handshake) || errors.Is(err, errStream)
}

// answer writes what a command that failed is answered with.
func (s *session) answer(err error) {
	var bad *invalid
	var no *refusal
	switch {
	case errors.As(err, &bad):
		s.err("", "Invalid command: "+bad.what)
	case errors.As(err, &no):
		s.err(no.code, no.text)
	default:
		s.err(codeOf(status.Of(err)), sessions.OneLine(status.ReplyOf(err).Text))
	}
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
