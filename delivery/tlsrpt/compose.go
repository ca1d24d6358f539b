package tlsrpt

import (
	"bytes"
	"fmt"
	"time"

	"github.com/postern-mail/postern/internal/dailyreport"
	"github.com/postern-mail/postern/mail"
)

// compose writes the report as a message with CRLF line ends (RFC 8460 section
// 5.3), and its envelope: opportunistic, for the report may well be about the
// TLS that fails, and never reported on.
func (r *Reporter) compose(s subject, to mail.Address, packed []byte, now time.Time) (mail.Envelope, []byte) {
	var b bytes.Buffer
	id := r.cfg.ID(s.day, s.domain)
	boundary := dailyreport.Boundary("tlsrpt", s.day)
	for _, field := range [][2]string{
		{"From", r.cfg.From.String()},
		{"To", to.String()},
		{"Subject", fmt.Sprintf("Report Domain: %s Submitter: %s\r\n\tReport-ID: <%s>", s.domain, r.cfg.Hostname, id)},
		{"Date", now.UTC().Format(dailyreport.DateLayout)},
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
	text := fmt.Sprintf("This is an aggregate TLS report of %s on mail to %s,\r\nfor %s (UTC).\r\n", r.cfg.Hostname, s.domain, s.day)
	dailyreport.WriteParts(&b, boundary, text, dailyreport.Attachment{Type: "application/tlsrpt+gzip", Filename: r.cfg.Filename(s.day, s.domain, "json.gz"), Octets: packed})
	envelope := r.cfg.Envelope(to)
	envelope.TLSOptional = true
	return envelope, b.Bytes()
}
