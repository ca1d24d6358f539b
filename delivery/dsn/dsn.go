// Package dsn composes delivery status notifications: a mail.Report goes in, a
// multipart/report message (RFC 6522, 3464; 6533 for internationalised mail)
// and its envelope come out. It has no state and decides nothing about whether
// to report: that is the queue's, from NOTIFY and the kind of event. It decides
// what is told, to whom, and in which language.
//
// A message with a null reverse-path is never reported on (RFC 5321 section
// 6.1) but to the postmaster. Whatever remote servers and senders wrote into
// replies and addresses stays inside the field it is quoted in. A report has
// 7 bits wherever that is possible, so that every way back can carry it.
package dsn

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/postern-mail/postern/mail"
)

var (
	// ErrNullReversePath means that there is nobody to report to.
	ErrNullReversePath = errors.New("dsn: the message reported on has a null reverse-path")
	// ErrUnwanted means that a warning would reach a machine: the message is
	// automatic or bulk, and did not ask for warnings.
	ErrUnwanted = fmt.Errorf("dsn: a program sent the message and did not ask for a warning: %w", mail.ErrNoReport)
)

// Config says who reports, and how.
type Config struct {
	// Hostname is the reporting MTA and the domain of MAILER-DAEMON; ""
	// means "localhost".
	Hostname string
	// MaxReturned is the size in octets up to which a message that could not
	// be delivered is returned whole; 0 means 50000, Postfix's
	// bounce_size_limit. Larger ones are returned as their header.
	MaxReturned int64
	// Threaded adds In-Reply-To and References with the message's Message-ID.
	Threaded bool
	// Local tells domains of ours. A sender elsewhere is not told where our
	// aliases lead: nil tells everybody.
	Local func(mail.Domain) bool
	// Languages are those of a report about whose reader nothing is known,
	// such as "de", in this order in one report; none means English.
	Languages []string
	// LanguagesOf holds other Languages for readers at a domain, such as
	// "example.cn", or at all domains below one, as ".cn".
	LanguagesOf map[string][]string
	// IgnoreSender leaves the Accept-Language and Content-Language of the
	// message reported on out of account.
	IgnoreSender bool
	// Files are texts that replace or add to the built-in ones.
	Files []File
}

// maxHeader bounds the header that is returned alone, maxBriefHeader that in a
// brief report.
const (
	maxHeader      = 50000
	maxBriefHeader = 4096
)

// Composer composes reports. It may be used concurrently.
type Composer struct {
	cfg   Config
	texts texts
}

// New returns a Composer. The error holds every mistake of cfg.
func New(cfg Config) (*Composer, error) {
	if cfg.Hostname == "" {
		cfg.Hostname = "localhost"
	}
	if cfg.MaxReturned <= 0 {
		cfg.MaxReturned = 50000
	}
	if len(cfg.Languages) == 0 {
		cfg.Languages = []string{fallback}
	}
	c := &Composer{cfg: cfg, texts: builtin()}
	var err error
	if strings.ContainsFunc(cfg.Hostname, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune("<>()[]@,;:\"\\", r) }) {
		err = fmt.Errorf("dsn: %q is no host name", cfg.Hostname)
	}
	for _, f := range cfg.Files {
		err = errors.Join(err, c.texts.add(f))
	}
	return c, errors.Join(err, c.checkLanguages())
}

// Compose writes the report on r as a message with CRLF line ends to w and
// returns its envelope: from the null reverse-path to r's reverse-path, or to
// the postmaster, and with NOTIFY=NEVER, so that it is itself never reported
// on. now is the report's date; id must be new for each report and is the left
// side of its Message-ID and part of the boundary.
//
// It returns ErrNullReversePath or ErrUnwanted, and writes nothing, when there
// is nobody to tell. A message of which r.Open fails is reported on without it.
// Any other error is w's.
func (c *Composer) Compose(w io.Writer, r mail.Report, now time.Time, id string) (mail.Envelope, error) {
	p := &report{Composer: c, Report: r, to: r.Envelope.ReversePath, now: now, id: tokenOf(id)}
	if r.Notice != mail.NoticeNone {
		p.to = r.Postmaster
	}
	if p.to.IsNull() {
		return mail.Envelope{}, ErrNullReversePath
	}
	p.utf8 = !p.to.IsASCII()
	p.readOriginal()
	if p.unwanted() {
		return mail.Envelope{}, ErrUnwanted
	}
	var b bytes.Buffer
	p.compose(&b)
	if _, err := w.Write(b.Bytes()); err != nil {
		return mail.Envelope{}, fmt.Errorf("write report: %w", err)
	}
	env := mail.Envelope{
		Body:     mail.Body7Bit,
		SMTPUTF8: p.utf8,
		// RFC 8689 section 5: what came under protection goes back under it.
		RequireTLS: r.Envelope.RequireTLS,
		Recipients: []mail.Recipient{{Address: p.to, Accepted: p.to, Notify: mail.NotifyNever}},
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
	to  mail.Address
	now time.Time
	id  string
	// utf8 is true where the way back must carry UTF-8 anyway, to an address
	// that ASCII cannot hold. All other reports are ASCII with the encodings
	// of RFC 6533, and need no SMTPUTF8 on their way.
	utf8     bool
	original original
}

// part is a body part before its encoding.
type part struct {
	mediaType, description string
	language               string // of the text; "" for none
	content                []byte
	encoding               string
}

func (p *report) compose(b *bytes.Buffer) {
	subject, from, text := p.explain()
	text.encode(p.utf8)
	parts := []part{text}
	if len(p.Outcomes) > 0 {
		fields := part{mediaType: "message/delivery-status", description: "Delivery report", content: p.fields()}
		if p.utf8 {
			fields.mediaType = "message/global-delivery-status"
		}
		fields.encoding = eightBit(fields.content)
		parts = append(parts, fields)
	}
	if attached, ok := p.attachment(); ok {
		parts = append(parts, attached)
	}
	field(b, "From", phrase(from)+" <MAILER-DAEMON@"+p.cfg.Hostname+">")
	field(b, "To", p.line(p.to.Path()))
	field(b, "Subject", phrase(subject))
	field(b, "Date", p.now.Format(time.RFC1123Z))
	field(b, "Message-ID", "<"+p.id+"@"+p.cfg.Hostname+">")
	if id := p.original.messageID; p.cfg.Threaded && id != "" {
		field(b, "In-Reply-To", id)
		field(b, "References", id)
	}
	// RFC 3834 section 5: no program answers this.
	field(b, "Auto-Submitted", map[bool]string{false: "auto-replied", true: "auto-generated"}[p.Notice != mail.NoticeNone])
	field(b, "MIME-Version", "1.0")
	if len(p.Outcomes) == 0 {
		parts[0].header(b)
		b.Write(parts[0].content)
		return
	}
	p.multipart(b, parts)
}

func (p *report) multipart(b *bytes.Buffer, parts []part) {
	boundary := "report_" + p.id
	for _, x := range parts {
		// No part ends by what its author knew of the report's id.
		for bytes.Contains(x.content, []byte(boundary)) {
			boundary += "_"
		}
	}
	for _, x := range parts {
		if x.encoding == "8bit" {
			field(b, "Content-Transfer-Encoding", "8bit")
			break
		}
	}
	b.WriteString("Content-Type: multipart/report; report-type=delivery-status;\r\n\tboundary=\"" + boundary + "\"\r\n\r\n")
	b.WriteString("This is a delivery report in MIME format.\r\n")
	for _, x := range parts {
		b.WriteString("\r\n--" + boundary + "\r\n")
		x.header(b)
		b.Write(x.content)
		if !bytes.HasSuffix(x.content, []byte("\r\n")) {
			b.WriteString("\r\n")
		}
	}
	b.WriteString("\r\n--" + boundary + "--\r\n")
}

// header writes the part's header and the empty line after it.
func (x part) header(b *bytes.Buffer) {
	if x.description != "" {
		field(b, "Content-Description", x.description)
	}
	field(b, "Content-Type", x.mediaType)
	if x.language != "" {
		field(b, "Content-Language", x.language)
	}
	if x.encoding != "" {
		field(b, "Content-Transfer-Encoding", x.encoding)
	}
	b.WriteString("\r\n")
}

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
