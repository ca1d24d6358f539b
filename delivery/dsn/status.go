package dsn

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// fields composes the machine's part: one group of fields for the message,
// then one for each recipient (RFC 3464 section 2).
func (p *report) fields() []byte {
	var b bytes.Buffer
	field(&b, "Reporting-MTA", "dns; "+p.hostname)
	if p.Envelope.EnvelopeID != "" {
		field(&b, "Original-Envelope-Id", p.line(p.Envelope.EnvelopeID))
	}
	if p.ReceivedFrom != "" {
		field(&b, "Received-From-MTA", "dns; "+p.line(p.ReceivedFrom))
	}
	if !p.Arrived.IsZero() {
		field(&b, "Arrival-Date", p.Arrived.Format(time.RFC1123Z))
	}
	if p.QueueID != "" {
		field(&b, "X-Postern-Queue-ID", p.line(string(p.QueueID)))
	}
	field(&b, "X-Postern-Sender", p.addressField(p.Envelope.ReversePath))
	for _, o := range p.Outcomes {
		b.WriteString("\r\n")
		p.recipientFields(&b, o)
	}
	return b.Bytes()
}

func (p *report) recipientFields(b *bytes.Buffer, o mail.Outcome) {
	rcpt := p.recipient(o.Recipient)
	if original := p.originalRecipient(rcpt); original != "" {
		field(b, "Original-Recipient", original)
	}
	field(b, "Final-Recipient", p.addressField(o.Recipient))
	field(b, "Action", p.action())
	field(b, "Status", p.status(o.Reply))
	if o.RemoteMTA != "" {
		field(b, "Remote-MTA", "dns; "+p.line(o.RemoteMTA))
	}
	if o.Reply.Code != 0 {
		field(b, "Diagnostic-Code", p.diagnostic(o))
	}
	if !o.At.IsZero() {
		field(b, "Last-Attempt-Date", o.At.Format(time.RFC1123Z))
	}
	if p.Kind == mail.ReportDelayed && !p.Until.IsZero() {
		field(b, "Will-Retry-Until", p.Until.Format(time.RFC1123Z))
	}
}

// recipient finds what the sender asked for at an outcome's address.
func (p *report) recipient(a mail.Address) mail.Recipient {
	for _, r := range p.Envelope.Recipients {
		if r.Address == a {
			return r
		}
	}
	return mail.Recipient{Address: a}
}

// originalRecipient is ORCPT as it was given, or the address RCPT named when
// an alias or a group has led elsewhere.
func (p *report) originalRecipient(r mail.Recipient) string {
	if kind, address, found := strings.Cut(r.Original, ";"); found {
		return p.typed(kind, address)
	}
	if r.Accepted.IsNull() || r.Accepted == r.Address {
		return ""
	}
	return p.addressField(r.Accepted)
}

// addressField returns an address with its type (RFC 3464 section 2.1.2, RFC
// 6533 section 3).
func (p *report) addressField(a mail.Address) string {
	if a.IsASCII() {
		return p.typed("rfc822", a.String())
	}
	return p.typed("utf-8", a.String())
}

// typed returns "type;address". An address ASCII cannot hold is written in
// the 7-bit form of RFC 6533 section 3 where the report is ASCII.
func (p *report) typed(kind, address string) string {
	kind = p.line(strings.TrimSpace(kind))
	if p.utf8 || !strings.EqualFold(kind, "utf-8") {
		return kind + ";" + p.line(address)
	}
	var b strings.Builder
	for _, r := range address {
		if r > ' ' && r <= '~' && r != '\\' && r != '+' && r != '=' {
			b.WriteRune(r)
		} else {
			fmt.Fprintf(&b, `\x{%X}`, r)
		}
	}
	return kind + ";" + b.String()
}

var actions = map[mail.ReportKind]string{
	mail.ReportFailed:    "failed",
	mail.ReportDelayed:   "delayed",
	mail.ReportDelivered: "delivered",
	mail.ReportRelayed:   "relayed",
	mail.ReportExpanded:  "expanded",
}

func (p *report) action() string { return actions[p.Kind] }

// status is the reply's enhanced status code, or what its first digit says. A
// delay is transient and a success is one, whatever the reply claims; a
// failure may well be a transient condition that lasted too long.
func (p *report) status(r status.Reply) string {
	class := r.Code / 100
	switch p.Kind {
	case mail.ReportDelayed:
		class = 4
	case mail.ReportDelivered, mail.ReportRelayed, mail.ReportExpanded:
		class = 2
	default:
		if class != 4 {
			class = 5
		}
	}
	if r.Enhanced[0] == class {
		return r.EnhancedString()
	}
	if r.Enhanced[0] != 0 {
		r.Enhanced[0] = class
		return r.EnhancedString()
	}
	return strconv.Itoa(class) + ".0.0"
}

// diagnostic is the reply with its type: the next hop's words, or ours. Lines
// of the reply stay lines.
func (p *report) diagnostic(o mail.Outcome) string {
	if !o.FromPeer {
		return "x-postern; " + p.line(o.Reply.String())
	}
	return "smtp; " + p.text(verbatim(o.Reply))
}

// verbatim returns the reply with the line ends it came with.
func verbatim(r status.Reply) string {
	words := strconv.Itoa(r.Code)
	for _, w := range []string{r.EnhancedString(), r.Text} {
		if w != "" {
			words += " " + w
		}
	}
	return words
}
