package policy

import (
	"cmp"
	"context"
	"errors"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// maxReplyOctets is the longest reply line without its line end (RFC 5321
// section 4.5.3.1.5).
const maxReplyOctets = 510

// subject is what a verdict is about; it names itself in the reply.
type subject uint8

const (
	aboutClient subject = iota
	aboutHelo
	aboutSender
	aboutRecipient
	aboutData
	aboutEndOfData
	aboutLogin
	aboutCertificate
	aboutReverseName
	// aboutList is what the list is about in which a class is asked.
	aboutList
)

var subjectClass = [...]string{
	aboutClient:      "Client host",
	aboutHelo:        "Helo command",
	aboutSender:      "Sender address",
	aboutRecipient:   "Recipient address",
	aboutData:        "Data command",
	aboutEndOfData:   "End-of-data",
	aboutLogin:       "SASL login name",
	aboutCertificate: "Client certificate",
	aboutReverseName: "Unverified Client host",
}

// in returns the subject itself, or that of the list which is being asked.
func (s subject) in(ctx context.Context) subject {
	if s != aboutList {
		return s
	}
	if m, ok := ctx.Value(memoryKey{}).(*memory); ok {
		return m.about
	}
	return aboutEndOfData // nobody asks outside of a list
}

// what returns the thing itself in angle brackets, as log watchers expect it.
func (s subject) what(tx *mail.Transaction) string {
	switch s {
	case aboutCertificate:
		if shown := shownCertificate(&tx.Client); shown != nil && shown.Subject.CommonName != "" {
			return "<" + shown.Subject.CommonName + ">"
		}
		return aboutClient.what(tx)
	case aboutClient:
		name := tx.Client.Hostname
		if name == "" {
			name = "unknown"
		}
		return "<" + name + "[" + tx.Client.Remote.Addr().Unmap().String() + "]>"
	case aboutReverseName:
		return "<" + cmp.Or(tx.Client.ReverseName, "unknown") + ">"
	case aboutHelo:
		return "<" + tx.Client.Helo + ">"
	case aboutSender:
		return tx.Envelope.ReversePath.Path()
	case aboutRecipient:
		if tx.Recipient == nil {
			return "<>"
		}
		return tx.Recipient.Address.Path()
	case aboutLogin:
		if tx.Client.Identity == nil {
			return "<>"
		}
		return "<" + tx.Client.Identity.Authentication + ">"
	case aboutData:
		return "<DATA>"
	default:
		return "<END-OF-MESSAGE>"
	}
}

// refuse returns a verdict whose reply reads "<what>: CLASS rejected: text".
func (s subject) refuse(tx *mail.Transaction, action mail.Action, reason status.Reason, text string) mail.Verdict {
	reply := reason.Reply()
	reply.Text = s.what(tx) + ": " + subjectClass[s] + " rejected: " + text
	return mail.Verdict{Action: action, Reason: reason, Reply: &reply}
}

// say returns a verdict whose reply is the reason's own text, after what it
// is about.
func (s subject) say(tx *mail.Transaction, action mail.Action, reason status.Reason) mail.Verdict {
	reply := reason.Reply()
	reply.Text = s.what(tx) + ": " + reply.Text
	return mail.Verdict{Action: action, Reason: reason, Reply: &reply}
}

// correct turns a status code that an access table gave for one kind of
// address into the code for the subject it was used for: a table is written
// once and named in sender and recipient restrictions alike.
func (s subject) correct(enhanced [3]int) [3]int {
	if enhanced[1] != 1 {
		return enhanced
	}
	detail := enhanced[2]
	switch s {
	case aboutSender:
		switch detail {
		case 0, 7, 8:
		case 1, 3, 4, 6:
			detail = 7
		case 2:
			detail = 8
		default:
			detail = 0
		}
	case aboutRecipient:
		switch detail {
		case 0, 1, 2, 3, 4, 5, 6:
		case 7:
			detail = 3
		case 8:
			detail = 2
		default:
			detail = 0
		}
	default:
		return [3]int{enhanced[0], 0, 0}
	}
	return [3]int{enhanced[0], 1, detail}
}

// wire makes a verdict's reply fit for the wire: a refusing code, an enhanced
// code of the same class, one line of printable text.
func wire(v mail.Verdict, utf8Allowed bool) status.Reply {
	r := v.WireReply()
	if !r.Transient() && !r.Permanent() {
		fallback := status.PolicyDefer.Reply()
		r.Code, r.Enhanced = fallback.Code, fallback.Enhanced
	}
	r.Enhanced[0] = r.Code / 100
	r.Text = printable(r.Text, utf8Allowed)
	if over := len("999 ") + len(r.EnhancedString()) + 1 + len(r.Text) - maxReplyOctets; over > 0 {
		r.Text = cut(r.Text, len(r.Text)-over)
	}
	return r
}

func printable(s string, utf8Allowed bool) string {
	return strings.Map(func(c rune) rune {
		switch {
		case c == utf8.RuneError:
			return '?'
		case c >= utf8.RuneSelf && !utf8Allowed:
			return '?'
		case !unicode.IsPrint(c):
			return ' '
		}
		return c
	}, s)
}

// cut shortens s to at most n octets without halving a character.
func cut(s string, n int) string {
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// outage returns the refusal for a stage that could not decide. Whatever the
// error says of itself, the client hears a transient reply.
func outage(s subject, tx *mail.Transaction, err error) mail.Verdict {
	reason := status.Of(err)
	if !reason.Transient() {
		reason = status.Unknown
	}
	text := reason.Reply().Text
	if reason == status.Unknown {
		text = "Temporary lookup failure"
	}
	var known *status.Error
	if errors.As(err, &known) && known.Reason == reason && known.Text != "" {
		text = known.Text
	}
	v := s.refuse(tx, mail.Reject, reason, text)
	if reason != status.ConfigurationError { // which Postfix takes for an action of the table
		v.Reply.Text = s.what(tx) + ": " + text
	}
	if known != nil && known.Reason == reason && known.Wire != nil && known.Wire.Transient() {
		v.Reply = known.Wire
	}
	v.Detail = err.Error()
	return v
}
