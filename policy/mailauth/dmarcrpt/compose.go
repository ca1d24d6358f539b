package dmarcrpt

import (
	"bytes"
	"fmt"
	"time"

	"github.com/postern-mail/postern/internal/dailyreport"
	"github.com/postern-mail/postern/mail"
)

// compose writes the report as a message with CRLF line ends (RFC 7489 section
// 7.2.1.1), and its envelope.
func (r *Reporter) compose(s subject, to mail.Address, packed []byte, now time.Time) (mail.Envelope, []byte) {
	var b bytes.Buffer
	boundary := dailyreport.Boundary("dmarc", s.day)
	r.header(&b, s, to, "dmarc.", now)
	fmt.Fprintf(&b, "MIME-Version: 1.0\r\nContent-Type: multipart/mixed;\r\n\tboundary=\"%s\"\r\n", boundary)
	text := fmt.Sprintf("This is a DMARC aggregate report of %s on mail from %s,\r\nfor %s (UTC).\r\n", r.cfg.Hostname, s.domain, s.day)
	dailyreport.WriteParts(&b, boundary, text, dailyreport.Attachment{Type: "application/gzip", Filename: r.cfg.Filename(s.day, s.domain, "xml.gz"), Octets: packed})
	return r.cfg.Envelope(to), b.Bytes()
}

// header writes the fields that all messages have.
func (r *Reporter) header(b *bytes.Buffer, s subject, to mail.Address, kind string, now time.Time) {
	id := r.cfg.ID(s.day, s.domain)
	for _, field := range [][2]string{
		{"From", r.cfg.From.String()},
		{"To", to.String()},
		{"Subject", fmt.Sprintf("Report Domain: %s\r\n\tSubmitter: %s\r\n\tReport-ID: <%s>", s.domain, r.cfg.Hostname, id)},
		{"Date", now.UTC().Format(dailyreport.DateLayout)},
		{"Message-ID", "<" + kind + id + ">"},
		{"Auto-Submitted", "auto-generated"},
	} {
		b.WriteString(field[0] + ": " + field[1] + "\r\n")
	}
}

// tooLarge says that a report is larger than its address takes (section 7.2.2).
func (r *Reporter) tooLarge(s subject, to mail.Address, octets int, limit int64, now time.Time) (mail.Envelope, []byte) {
	var b bytes.Buffer
	r.header(&b, s, to, "dmarc-error.", now)
	b.WriteString("MIME-Version: 1.0\r\nContent-Type: text/plain; charset=us-ascii\r\n\r\n")
	fmt.Fprintf(&b, "Report-Date: %s\r\nReport-Domain: %s\r\nReport-ID: <%s>\r\nReport-Size: %d\r\nSubmitter: %s\r\nSubmitting-URI: mailto:%s\r\n\r\n",
		now.UTC().Format(dailyreport.DateLayout), s.domain, r.cfg.ID(s.day, s.domain), octets, r.cfg.Hostname, to)
	fmt.Fprintf(&b, "The report of this day is larger than the %d octets that your record allows.\r\n", limit)
	return r.cfg.Envelope(to), b.Bytes()
}
