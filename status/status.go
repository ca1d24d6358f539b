package status

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Reply is an SMTP or LMTP reply: ours before it is sent, or a peer's as it
// was received.
type Reply struct {
	Code     int
	Enhanced [3]int // zero when the reply carries none
	Text     string // lines separated by "\n"; no line ends in CR
}

// Positive, Transient and Permanent tell the class of the reply code.
func (r Reply) Positive() bool  { return r.Code >= 200 && r.Code < 400 }
func (r Reply) Transient() bool { return r.Code >= 400 && r.Code < 500 }
func (r Reply) Permanent() bool { return r.Code >= 500 && r.Code < 600 }

// Closes reports whether the reply announces that the server ends the
// connection (RFC 5321 section 3.8, RFC 7504).
func (r Reply) Closes() bool { return r.Code == 421 || r.Code == 521 }

// Softened returns the reply with the transient code of its permanent one, as
// soft_bounce has it said; others are returned as they are.
func (r Reply) Softened() Reply {
	if r.Permanent() {
		r.Code -= 100
		if r.Enhanced[0] != 0 {
			r.Enhanced[0] = 4
		}
	}
	return r
}

// String returns the reply in one line, as it stands in logs and reports.
func (r Reply) String() string {
	text := strings.ReplaceAll(r.Text, "\n", " ")
	if r.Enhanced == none {
		return strings.TrimRight(fmt.Sprintf("%d %s", r.Code, text), " ")
	}
	return fmt.Sprintf("%d %s %s", r.Code, r.EnhancedString(), text)
}

// EnhancedString returns the enhanced status code, "5.1.1", or "" when the
// reply carries none.
func (r Reply) EnhancedString() string {
	if r.Enhanced == none {
		return ""
	}
	return strconv.Itoa(r.Enhanced[0]) + "." + strconv.Itoa(r.Enhanced[1]) + "." + strconv.Itoa(r.Enhanced[2])
}

// String returns the reason's name, which stands in logs, audit and metrics.
func (r Reason) String() string {
	if r >= reasonCount {
		return "Reason(" + strconv.Itoa(int(r)) + ")"
	}
	return table[r].name
}

// Reply returns what the reason says on the wire.
func (r Reason) Reply() Reply {
	w := table[r]
	return Reply{Code: w.code, Enhanced: w.enhanced, Text: w.text}
}

// IMAPCode returns the response code of RFC 5530 or RFC 9051 without its
// brackets, or "" when the reason has none.
func (r Reason) IMAPCode() string { return table[r].imap }

// Transient reports whether trying again later may help.
func (r Reason) Transient() bool { return table[r].code >= 400 && table[r].code < 500 }

// Permanent reports whether trying again unchanged is pointless.
func (r Reason) Permanent() bool { return table[r].code >= 500 }

// Reasons returns every reason in table order, for documents and tests.
func Reasons() []Reason {
	all := make([]Reason, reasonCount)
	for i := range all {
		all[i] = Reason(i)
	}
	return all
}

// Error is an error whose class matters to a peer. Err holds the cause for
// the log; it never reaches the peer.
type Error struct {
	Reason Reason
	// Text replaces the table's text for the peer when not empty. It must not
	// name hosts, DNs, tables or paths of ours.
	Text string
	// Remote is a next hop's reply, kept verbatim for reports. Its code
	// decides the class of the error when it is set.
	Remote *Reply
	// Wire is said to the peer instead of the reason's row: the code and text
	// an operator chose in an access table.
	Wire *Reply
	Err  error
}

// New returns an Error for reason caused by err, which may be nil.
func New(reason Reason, err error) *Error { return &Error{Reason: reason, Err: err} }

// Errorf returns an Error for reason with a formatted cause for the log.
func Errorf(reason Reason, format string, args ...any) *Error {
	return &Error{Reason: reason, Err: fmt.Errorf(format, args...)}
}

// Error describes the error for the log.
func (e *Error) Error() string {
	switch {
	case e.Remote != nil && e.Err != nil:
		return e.Err.Error() + ": " + e.Remote.String()
	case e.Remote != nil:
		return e.Remote.String()
	case e.Err != nil:
		return e.Reason.String() + ": " + e.Err.Error()
	default:
		return e.Reason.String() + ": " + table[e.Reason].text
	}
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Reply returns what the peer is told.
func (e *Error) Reply() Reply {
	if e.Remote != nil {
		return *e.Remote
	}
	if e.Wire != nil {
		return *e.Wire
	}
	r := e.Reason.Reply()
	if e.Text != "" {
		r.Text = e.Text
	}
	return r
}

// Of returns the reason of err: that of the first Error in its chain, Timeout's
// outage cousin ServerBusy for a cancelled or expired context, else Unknown.
// A nil error is OK.
func Of(err error) Reason {
	if err == nil {
		return OK
	}
	var known *Error
	if errors.As(err, &known) {
		return known.Reason
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return ServerBusy
	}
	return Unknown
}

// ReplyOf returns what a peer is told about err; err must not be nil.
func ReplyOf(err error) Reply {
	var known *Error
	if errors.As(err, &known) {
		return known.Reply()
	}
	return Of(err).Reply()
}
