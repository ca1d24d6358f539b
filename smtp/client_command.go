package smtp

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/postern-mail/postern/mail"
)

// mailCommand composes MAIL with the parameters the peer understands.
func (t *clientTransaction) mailCommand() string {
	c, from := t.c, t.m.From
	var b strings.Builder
	b.WriteString("MAIL FROM:")
	b.WriteString(from.ReversePath.Path())
	if c.offers("SIZE") && t.m.Octets > 0 {
		b.WriteString(" SIZE=" + strconv.FormatInt(t.m.Octets, 10))
	}
	if c.offers("8BITMIME") && from.Body != "" {
		b.WriteString(" BODY=" + string(from.Body))
	}
	if c.offers("SMTPUTF8") && t.needsUTF8() {
		b.WriteString(" SMTPUTF8")
	}
	if c.offers("DSN") {
		if from.Return != "" {
			b.WriteString(" RET=" + string(from.Return))
		}
		if from.EnvelopeID != "" {
			b.WriteString(" ENVID=" + clientXtext(from.EnvelopeID))
		}
	}
	if from.RequireTLS && c.OffersRequireTLS() {
		b.WriteString(" REQUIRETLS")
	}
	b.WriteString(c.priorityParameter(from.Priority))
	if c.cfg.LMTP && c.offers("XPOSTERN") && from.DeliveryID != "" {
		b.WriteString(" DELIVERYID=" + clientXtext(from.DeliveryID))
		if from.Keep && c.OffersKeep() {
			b.WriteString(" KEEP")
		}
	}
	return b.String()
}

func (t *clientTransaction) needsUTF8() bool {
	if t.m.From.SMTPUTF8 || !t.m.From.ReversePath.IsASCII() {
		return true
	}
	for _, to := range t.m.To {
		if !to.ForwardPath.IsASCII() {
			return true
		}
	}
	return false
}

func (t *clientTransaction) rcptCommand(to RcptCommand) string {
	line := "RCPT TO:" + to.ForwardPath.Path()
	if !t.c.offers("DSN") {
		return line
	}
	if to.Notify != 0 {
		line += " NOTIFY=" + clientNotify(to.Notify)
	}
	if kind, address, found := strings.Cut(to.Original, ";"); found && clientIsAtom(kind) {
		line += " ORCPT=" + kind + ";" + clientOriginal(kind, address)
	}
	return line
}

func clientNotify(n mail.Notify) string {
	if n&mail.NotifyNever != 0 {
		return "NEVER"
	}
	var words []string
	for _, e := range []struct {
		event mail.Notify
		word  string
	}{{mail.NotifySuccess, "SUCCESS"}, {mail.NotifyFailure, "FAILURE"}, {mail.NotifyDelay, "DELAY"}} {
		if n&e.event != 0 {
			words = append(words, e.word)
		}
	}
	return strings.Join(words, ",")
}

// clientOriginal encodes the address of ORCPT. In one of type utf-8, characters
// outside ASCII are embedded by their number, which any peer that offers DSN can
// pass on (RFC 6533 section 3, utf-8-addr-xtext).
func clientOriginal(kind, address string) string {
	if !strings.EqualFold(kind, "utf-8") || !utf8.ValidString(address) {
		return clientXtext(address)
	}
	var b strings.Builder
	for _, r := range address {
		if r >= '!' && r <= '~' && r != '+' && r != '=' && r != '\\' {
			b.WriteRune(r)
		} else {
			fmt.Fprintf(&b, `\x{%02X}`, r)
		}
	}
	return b.String()
}

// clientXtext encodes a parameter value (RFC 3461 section 4). Octets above
// 127 are encoded too, so that the value stays ASCII whatever the peer offers.
func clientXtext(s string) string {
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if c := s[i]; c >= '!' && c <= '~' && c != '+' && c != '=' {
			b.WriteByte(c)
		} else {
			b.Write([]byte{'+', hex[c>>4], hex[c&15]})
		}
	}
	return b.String()
}

func clientIsAtom(s string) bool {
	for i := 0; i < len(s); i++ {
		c := s[i] | 0x20
		if (c < 'a' || c > 'z') && (s[i] < '0' || s[i] > '9') && s[i] != '-' {
			return false
		}
	}
	return s != ""
}

// clientUnsafe reports whether s could break out of its command line.
func clientUnsafe(s string) bool {
	return strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f })
}
