package smtpd

import (
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/postern-mail/postern/mail"
)

// dateLayout is RFC 5322's date-time.
const dateLayout = "Mon, 2 Jan 2006 15:04:05 -0700"

// prepend returns what goes on top of the message, as whole lines: header fields
// policy asked for, uppermost like the verdicts of every verifier, and our trace
// field, which together are ours; and on submission what the header lacks.
func (t *transaction) prepend(facts headerFacts, now time.Time) (top string, ours int) {
	cfg := &t.session.handler.cfg
	now = now.UTC()
	var b strings.Builder
	b.Grow(512)
	for _, field := range t.decision.Headers {
		b.WriteString(field)
		b.WriteString("\r\n")
	}
	t.trace(&b, now)
	if cfg.CompleteHeader && !facts.date {
		b.WriteString("Date: " + now.Format(dateLayout) + "\r\n")
	}
	t.messageID = facts.messageID
	if cfg.CompleteHeader && facts.messageID == "" {
		t.messageID = "<" + now.Format("20060102150405") + "." + string(t.tx.QueueID) + "@" + string(cfg.Hostname) + ">"
		b.WriteString("Message-ID: " + t.messageID + "\r\n")
	}
	return b.String(), len(t.decision.Headers) + 1
}

// trace writes the Received field (RFC 5321 section 4.4). The for clause
// stands only when there is one recipient: it must not tell one of another.
func (t *transaction) trace(b *strings.Builder, now time.Time) {
	client := &t.tx.Client
	cfg := &t.session.handler.cfg
	b.WriteString("Received: from " + inert(client.Helo))
	if info := tcpInfo(client); info != "" {
		b.WriteString(" (" + info + ")")
	}
	b.WriteString("\r\n")
	if cfg.TraceLogin && client.Identity != nil {
		b.WriteString("\t(Authenticated sender: " + inert(client.Identity.Authentication) + ")\r\n")
	}
	b.WriteString("\tby " + string(cfg.Hostname) + " (Postern) with " + protocol(client, t.tx.Envelope.SMTPUTF8) + " id " + string(t.tx.QueueID))
	if named := t.tx.Envelope.Recipients; len(named) == 1 {
		b.WriteString("\r\n\tfor " + named[0].Accepted.Path())
	}
	if client.TLS != nil {
		// RFC 8314 section 7.4 registers the clause.
		b.WriteString("\r\n\ttls " + inert(client.TLS.Cipher) + " (" + inert(client.TLS.Version) + ")")
	}
	if p := t.tx.Envelope.Priority; p != 0 {
		// RFC 6710 registers the clause.
		b.WriteString("\r\n\tPRIORITY " + strconv.Itoa(int(p)))
	}
	b.WriteString(";\r\n\t" + now.Format(dateLayout) + "\r\n")
}

// protocol returns the name of what was spoken (RFC 3848, RFC 6531 section 4.3).
func protocol(client *mail.Client, smtpUTF8 bool) string {
	name := "SMTP"
	switch {
	case smtpUTF8:
		name = "UTF8SMTP"
	case client.Extended:
		name = "ESMTP"
	default:
		return name
	}
	if client.TLS != nil {
		name += "S"
	}
	if client.Identity != nil {
		name += "A"
	}
	return name
}

// tcpInfo returns what we know of the client by ourselves.
func tcpInfo(client *mail.Client) string {
	literal := addressLiteral(client.Remote.Addr())
	switch {
	case literal == "":
		return ""
	case client.Hostname == "":
		return literal
	default:
		return inert(client.Hostname) + " " + literal
	}
}

func addressLiteral(ip netip.Addr) string {
	ip = ip.Unmap().WithZone("")
	switch {
	case !ip.IsValid():
		return ""
	case ip.Is6():
		return "[IPv6:" + ip.String() + "]"
	default:
		return "[" + ip.String() + "]"
	}
}

// inert makes what a client claims safe to stand in a trace field: nothing in
// it opens a comment, ends the clause or the line, or looks like an address.
func inert(s string) string {
	if s == "" {
		return "unknown"
	}
	return strings.Map(func(c rune) rune {
		if c <= ' ' || c >= 0x7f || strings.ContainsRune("<>()\\\";@,", c) {
			return '?'
		}
		return c
	}, s)
}

// receivedFrom names the client for reports: the name we verified, else what
// it called itself, else its address.
func receivedFrom(client mail.Client) string {
	switch {
	case client.Hostname != "":
		return inert(client.Hostname)
	case client.Helo != "":
		return inert(client.Helo)
	default:
		return addressLiteral(client.Remote.Addr())
	}
}
