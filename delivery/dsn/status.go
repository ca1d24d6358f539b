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
	field(&b, "Reporting-MTA", "dns; "+p.cfg.Hostname)
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
	if !p.Envelope.ReversePath.IsNull() {
		field(&b, "X-Postern-Sender", p.addressField(p.Envelope.ReversePath))
	}
	told := make(map[string]bool, len(p.Outcomes))
	for _, o := range p.Outcomes {
		var group bytes.Buffer
		p.recipientFields(&group, o)
		// Members of a group who are not to be told apart may say the same.
		if !told[group.String()] {
			told[group.String()] = true
			b.WriteString("\r\n")
			b.Write(group.Bytes())
		}
	}
	return b.Bytes()
}

func (p *report) recipientFields(b *bytes.Buffer, o mail.Outcome) {
	rcpt := p.recipient(o.Recipient)
	if original := p.originalRecipient(rcpt); original != "" {
		field(b, "Original-Recipient", original)
	}
	field(b, "Final-Recipient", p.addressField(p.final(rcpt)))
	field(b, "Action", p.action())
	field(b, "Status", p.status(o.Reply))
	if o.RemoteMTA != "" && !p.conceals(rcpt) {
		field(b, "Remote-MTA", "dns; "+p.line(o.RemoteMTA))
	}
	if o.Reply.Code != 0 {
		field(b, "Diagnostic-Code", p.diagnostic(rcpt, o))
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
	for i := range p.Envelope.Recipients {
		if p.Envelope.Recipients[i].Address == a {
			return p.Envelope.Recipients[i]
		}
	}
	return mail.Recipient{Address: a}
}

// conceals reports whether the reader is not to learn that mail for r went to
// r.Address: RFC 3464 section 4.2 asks for that where somebody forwards. Who
// is of ours, and the postmaster, may know.
func (p *report) conceals(r mail.Recipient) bool {
	return p.cfg.Local != nil && p.Notice == mail.NoticeNone && !p.cfg.Local(p.to.Domain) &&
		!r.Accepted.IsNull() && r.Accepted.Fold() != r.Address.Fold()
}

// final is the recipient as the reader may know it.
func (p *report) final(r mail.Recipient) mail.Address {
	if p.conceals(r) {
		return r.Accepted
	}
	return r.Address
}

// reply is what was said about r, in the reader's terms: a concealed address
// gives way to the one that the sender used.
func (p *report) reply(r mail.Recipient, reply status.Reply) status.Reply {
	if p.conceals(r) {
		reply.Text = replaceFold(reply.Text, r.Address.String(), r.Accepted.String())
	}
	return reply
}

// replaceFold replaces from in s, in whatever letter case.
func replaceFold(s, from, to string) string {
	if from == "" {
		return s
	}
	var b strings.Builder
	for len(s) >= len(from) {
		if strings.EqualFold(s[:len(from)], from) {
			b.WriteString(to)
			s = s[len(from):]
			continue
		}
		b.WriteByte(s[0])
		s = s[1:]
	}
	return b.String() + s
}

// originalRecipient is ORCPT as it was given. Without one, an alias or a group
// that has led elsewhere is told in its place, as Postfix does though RFC 3461
// section 6.3 would have nothing said: the sender wrote to that address.
func (p *report) originalRecipient(r mail.Recipient) string {
	if kind, address, found := strings.Cut(r.Original, ";"); found {
		return p.typed(kind, address)
	}
	if r.Accepted.IsNull() || r.Accepted == r.Address || p.conceals(r) {
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
func (p *report) diagnostic(r mail.Recipient, o mail.Outcome) string {
	reply := p.reply(r, o.Reply)
	if !o.FromPeer {
		return "x-postern; " + p.line(reply.String())
	}
	return "smtp; " + p.text(verbatim(reply))
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
