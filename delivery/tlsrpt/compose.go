package tlsrpt

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"time"

	"github.com/postern-mail/postern/mail"
)

const dateLayout = "Mon, 2 Jan 2006 15:04:05 -0700"

// compose writes the report as a message with CRLF line ends (RFC 8460 section
// 5.3), and its envelope: opportunistic, for the report may well be about the
// TLS that fails, and never reported on.
func (r *Reporter) compose(s subject, to mail.Address, packed []byte, now time.Time) (mail.Envelope, []byte) {
	var b bytes.Buffer
	id := r.id(s)
	boundary := "tlsrpt_" + s.day.start().Format("20060102")
	for _, field := range [][2]string{
		{"From", r.cfg.From.String()},
		{"To", to.String()},
		{"Subject", fmt.Sprintf("Report Domain: %s Submitter: %s\r\n\tReport-ID: <%s>", s.domain, r.cfg.Hostname, id)},
		{"Date", now.UTC().Format(dateLayout)},
		{"Message-ID", "<tlsrpt." + id + ">"},
		{"Auto-Submitted", "auto-generated"},
		{"TLS-Report-Domain", s.domain},
		{"TLS-Report-Submitter", r.cfg.Hostname},
		{"TLS-Required", "No"},
		{"MIME-Version", "1.0"},
		{"Content-Type", "multipart/report; report-type=\"tlsrpt\";\r\n\tboundary=\"" + boundary + "\""},
	} {
		b.WriteString(field[0] + ": " + field[1] + "\r\n")
	}
	fmt.Fprintf(&b, "\r\n--%s\r\nContent-Type: text/plain; charset=us-ascii\r\n\r\n", boundary)
	fmt.Fprintf(&b, "This is an aggregate TLS report of %s on mail to %s,\r\nfor %s (UTC).\r\n", r.cfg.Hostname, s.domain, s.day)
	fmt.Fprintf(&b, "\r\n--%s\r\nContent-Type: application/tlsrpt+gzip\r\nContent-Transfer-Encoding: base64\r\n", boundary)
	fmt.Fprintf(&b, "Content-Disposition: attachment;\r\n\tfilename=\"%s\"\r\n\r\n", r.filename(s))
	writeBase64(&b, packed)
	fmt.Fprintf(&b, "--%s--\r\n", boundary)
	return mail.Envelope{
		ReversePath: r.cfg.From, Body: mail.Body7Bit, TLSOptional: true,
		Recipients: []mail.Recipient{{Address: to, Accepted: to, Notify: mail.NotifyNever}},
	}, b.Bytes()
}

// filename is that of RFC 8460 section 5.1.
func (r *Reporter) filename(s subject) string {
	return fmt.Sprintf("%s!%s!%d!%d.json.gz", r.cfg.Hostname, s.domain, s.day.start().Unix(), s.day.last().Unix())
}

// maxLineOctets is MIME's for encoded lines.
const maxLineOctets = 76

func writeBase64(b *bytes.Buffer, octets []byte) {
	text := base64.StdEncoding.EncodeToString(octets)
	for len(text) > 0 {
		n := min(len(text), maxLineOctets)
		b.WriteString(text[:n] + "\r\n")
		text = text[n:]
	}
}
