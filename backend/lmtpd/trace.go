package lmtpd

import (
	"time"

	"github.com/postern-mail/postern/mail"
)

// trace returns the header fields that final delivery adds for one recipient
// (RFC 5321 section 4.4): where replies about the message go, whom it was
// delivered to, and how it came here.
func (t *transaction) trace(path mail.Address, now time.Time) []byte {
	client := t.session.client
	b := make([]byte, 0, 512)
	b = append(b, "Return-Path: "...)
	b = append(b, t.from.ReversePath.Path()...)
	b = append(b, "\r\nDelivered-To: "...)
	b = append(b, path.String()...)
	b = append(b, "\r\nReceived: from "...)
	b = appendName(b, client.Helo)
	b = append(b, " by "...)
	b = append(b, t.handler.cfg.Hostname...)
	b = append(b, " with LMTP"...)
	if client.TLS != nil {
		b = append(b, 'S')
	}
	b = append(b, " id "...)
	b = appendName(b, string(client.Session))
	b = append(b, "\r\n\tfor "...)
	b = append(b, path.Path()...)
	b = append(b, "; "...)
	b = now.AppendFormat(b, time.RFC1123Z)
	return append(b, "\r\n"...)
}

// maxNameOctets bounds what a client's name takes of the header.
const maxNameOctets = 255

// appendName writes a name the client chose, with everything that could mean
// something in a Received field replaced.
func appendName(b []byte, name string) []byte {
	if name == "" {
		return append(b, "unknown"...)
	}
	for i := 0; i < len(name) && i < maxNameOctets; i++ {
		c := name[i]
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9',
			c == '.', c == '-', c == '_', c == ':', c == '[', c == ']':
			b = append(b, c)
		default:
			b = append(b, '?')
		}
	}
	return b
}
