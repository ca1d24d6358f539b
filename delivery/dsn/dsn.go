// Package dsn composes delivery status notifications: a mail.Report goes in, a
// multipart/report message (RFC 3462, 3464; 6533 for internationalised mail)
// and its envelope come out. It has no state and decides nothing about whether
// to report: that is the queue's, from NOTIFY and the kind of event.
//
// A message with a null reverse-path is never reported on (RFC 5321 section
// 6.1). Whatever remote servers and senders wrote into replies and addresses
// stays inside the field it is quoted in.
package dsn

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/postern-mail/postern/mail"
)

// ErrNullReversePath means that there is nobody to report to.
var ErrNullReversePath = errors.New("dsn: the message reported on has a null reverse-path")

// Config says who reports.
type Config struct {
	// Hostname is the reporting MTA and the domain of MAILER-DAEMON; ""
	// means "localhost".
	Hostname string
	// MaxReturned is the size in octets up to which a message that could not
	// be delivered is returned whole; 0 means 50000, Postfix's
	// bounce_size_limit. Larger ones are returned as their header.
	MaxReturned int64
}

// maxHeader bounds the header that is returned alone.
const maxHeader = 50000

// Composer composes reports. It may be used concurrently.
type Composer struct {
	hostname string
	returned int64
}

// New returns a Composer.
func New(cfg Config) (*Composer, error) {
	c := &Composer{hostname: cfg.Hostname, returned: cfg.MaxReturned}
	if c.hostname == "" {
		c.hostname = "localhost"
	}
	if c.returned <= 0 {
		c.returned = 50000
	}
	if strings.ContainsFunc(c.hostname, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune("<>()[]@,;:\"\\", r) }) {
		return nil, fmt.Errorf("dsn: %q is no host name", c.hostname)
	}
	return c, nil
}

// Compose writes the report on r as a message with CRLF line ends to w and
// returns its envelope: from the null reverse-path to r's reverse-path, and
// with NOTIFY=NEVER, so that it is itself never reported on. now is the
// report's date; id must be new for each report and is the left side of its
// Message-ID and part of the boundary.
//
// It returns ErrNullReversePath, and writes nothing, when the message has
// none. A message of which r.Open fails is reported on without it. Any other
// error is w's.
func (c *Composer) Compose(w io.Writer, r mail.Report, now time.Time, id string) (mail.Envelope, error) {
	if r.Envelope.ReversePath.IsNull() {
		return mail.Envelope{}, ErrNullReversePath
	}
	p := &report{Composer: c, Report: r, now: now, id: tokenOf(id)}
	p.utf8 = p.needsUTF8()
	p.original = p.readOriginal()
	var b bytes.Buffer
	p.compose(&b)
	if _, err := w.Write(b.Bytes()); err != nil {
		return mail.Envelope{}, fmt.Errorf("write report: %w", err)
	}
	env := mail.Envelope{
		Body:       mail.Body7Bit,
		SMTPUTF8:   p.utf8,
		RequireTLS: r.Envelope.RequireTLS,
		Recipients: []mail.Recipient{{
			Address: r.Envelope.ReversePath, Accepted: r.Envelope.ReversePath, Notify: mail.NotifyNever,
		}},
	}
	if !isASCII(b.Bytes()) {
		env.Body = mail.Body8BitMIME
	}
	return env, nil
}

// report is one report on its way.
type report struct {
	*Composer
	mail.Report
	now      time.Time
	id       string
	utf8     bool // the RFC 6533 forms
	original original
}

// needsUTF8 reports whether the report speaks of addresses ASCII cannot hold.
// A sender without SMTPUTF8 gets ASCII forms of them.
func (p *report) needsUTF8() bool { return p.Envelope.SMTPUTF8 || !p.Envelope.ReversePath.IsASCII() }

func (p *report) compose(b *bytes.Buffer) {
	boundary := p.boundary()
	subject, _ := p.wording()
	field(b, "From", "Mail Delivery System <MAILER-DAEMON@"+p.hostname+">")
	field(b, "To", p.line(p.Envelope.ReversePath.Path()))
	field(b, "Subject", subject)
	field(b, "Date", p.now.Format(time.RFC1123Z))
	field(b, "Message-ID", "<"+p.id+"@"+p.hostname+">")
	field(b, "Auto-Submitted", "auto-replied")
	field(b, "MIME-Version", "1.0")
	if p.original.eightBit() || p.utf8 {
		field(b, "Content-Transfer-Encoding", "8bit")
	}
	b.WriteString("Content-Type: multipart/report; report-type=delivery-status;\r\n\tboundary=\"" + boundary + "\"\r\n\r\n")
	b.WriteString("This is a delivery report in MIME format.\r\n")

	p.part(b, boundary, "text/plain; charset=utf-8", "Notification", p.explain())
	if p.utf8 {
		p.part(b, boundary, "message/global-delivery-status", "Delivery report", p.fields())
	} else {
		p.part(b, boundary, "message/delivery-status", "Delivery report", p.fields())
	}
	if p.original.octets != nil {
		p.part(b, boundary, p.original.mediaType(p.utf8), p.original.description(), p.original.octets)
	}
	b.WriteString("\r\n--" + boundary + "--\r\n")
}

// boundary is one that the returned message does not contain, even if its
// sender knew the report's id.
func (p *report) boundary() string {
	boundary := "report_" + p.id
	for bytes.Contains(p.original.octets, []byte(boundary)) {
		boundary += "_"
	}
	return boundary
}

// part writes one body part. Its encoding says what its octets are: parts of
// message types may not be encoded any other way (RFC 2046 section 5.2).
func (p *report) part(b *bytes.Buffer, boundary, mediaType, description string, content []byte) {
	b.WriteString("\r\n--" + boundary + "\r\n")
	field(b, "Content-Description", description)
	field(b, "Content-Type", mediaType)
	if !isASCII(content) {
		field(b, "Content-Transfer-Encoding", "8bit")
	}
	b.WriteString("\r\n")
	b.Write(content)
	if !bytes.HasSuffix(content, []byte("\r\n")) {
		b.WriteString("\r\n")
	}
}

// maxLine is where a quoted line is folded; RFC 5322 section 2.1.1 allows 998.
const maxLine = 900

// field writes one header or report field. The value is printable by
// construction or went through text; its line ends become folds, so that
// nothing in it can begin a field of its own.
func field(b *bytes.Buffer, name, value string) {
	b.WriteString(name)
	b.WriteString(": ")
	column := len(name) + 2
	for n, line := range strings.Split(value, "\n") {
		line = strings.TrimRight(line, " ")
		if n > 0 {
			// A fold of white space alone would end the header for some.
			if line == "" {
				continue
			}
			b.WriteString("\r\n\t")
			column = 1
		}
		for len(line) > maxLine-column {
			cut := foldAt(line, maxLine-column)
			b.WriteString(line[:cut])
			b.WriteString("\r\n\t")
			line, column = line[cut:], 1
		}
		b.WriteString(line)
	}
	b.WriteString("\r\n")
}

// foldAt finds the end of the last word before limit, or of the last whole
// rune when there is none.
func foldAt(line string, limit int) int {
	if i := strings.LastIndexByte(line[:limit], ' '); i > limit/2 {
		return i
	}
	for limit > 1 && !utf8.RuneStart(line[limit]) {
		limit--
	}
	return limit
}

// text returns s for use in a field or a line: without control characters,
// its line ends kept as "\n", and in ASCII unless the report is of RFC 6533.
func (p *report) text(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n':
			return r
		case r == '\t':
			return ' '
		case r < ' ', r == 0x7f, r == utf8.RuneError:
			return '?'
		case r >= 0x80 && r < 0xa0, r == 0x2028, r == 0x2029:
			return '?' // C1 controls and the line ends of Unicode
		case r > '~' && !p.utf8:
			return '?'
		}
		return r
	}, s)
}

// line is text in one line.
func (p *report) line(s string) string { return strings.ReplaceAll(p.text(s), "\n", " ") }

// tokenOf keeps of an id what may stand in a Message-ID and a boundary.
func tokenOf(id string) string {
	id = strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '.' || r == '_' || r == '-' {
			return r
		}
		return -1
	}, id)
	if len(id) > 48 {
		id = id[:48]
	}
	return strings.Trim(id, ".")
}

func isASCII(p []byte) bool {
	for _, c := range p {
		if c >= utf8.RuneSelf {
			return false
		}
	}
	return true
}
