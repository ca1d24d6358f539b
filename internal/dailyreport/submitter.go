package dailyreport

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"hash/fnv"
	"strings"
	"time"

	"github.com/postern-mail/postern/mail"
)

// Submitter is who reports.
type Submitter struct {
	// Organization and Contact say who we are and how to reach us; required.
	Organization string
	Contact      string
	// From is the address reports are sent from; required.
	From mail.Address
	// Hostname is the name of the submitter and the domain of report ids;
	// required.
	Hostname string
}

// Check tells what is missing or cannot be written into a report.
func (s Submitter) Check() error {
	switch {
	case s.Organization == "" || s.Contact == "" || s.Hostname == "":
		return errors.New("organization, contact and hostname are required")
	case s.From.IsNull():
		return errors.New("an address to send from is required")
	}
	for _, text := range []string{s.Organization, s.Contact, s.Hostname} {
		if strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			return fmt.Errorf("%q holds control characters", text)
		}
	}
	return nil
}

// ID names the report about a domain: the same whenever it is written.
func (s Submitter) ID(d Day, domain string) string {
	return fmt.Sprintf("%s.%s@%s", d.compact(), domain, s.Hostname)
}

// Filename is the name of the report as RFC 7489 (section 7.2.1.1) and RFC 8460
// (section 5.1) want it.
func (s Submitter) Filename(d Day, domain, extension string) string {
	return fmt.Sprintf("%s!%s!%d!%d.%s", s.Hostname, domain, d.Start().Unix(), d.Last().Unix(), extension)
}

const (
	// MinDelay leaves the last counts of a day the time to be written; with
	// MaxDelay, which is RFC 8460's (section 4.1), reporters spread over four
	// hours.
	MinDelay = 5 * time.Minute
	MaxDelay = 4 * time.Hour
)

// ReportTime is when the reports about a day are sent: always the same, and for
// each host another.
func (s Submitter) ReportTime(d Day) time.Time {
	h := fnv.New64a()
	fmt.Fprintf(h, "%s %d", s.Hostname, d)
	spread := uint64((MaxDelay - MinDelay) / time.Second)
	return d.End().Add(MinDelay + time.Duration(h.Sum64()%spread)*time.Second) // #nosec G115 -- below four hours
}

// Due returns when the report about a day is to be tried; state is nil before
// the first attempt.
func (s Submitter) Due(d Day, state *Sending) time.Time {
	if state != nil {
		return state.Next
	}
	return s.ReportTime(d)
}

// Envelope is that of a report, of whose delivery nobody is told.
func (s Submitter) Envelope(to mail.Address) mail.Envelope {
	return mail.Envelope{
		ReversePath: s.From, Body: mail.Body7Bit,
		Recipients: []mail.Recipient{{Address: to, Accepted: to, Notify: mail.NotifyNever}},
	}
}

// DateLayout is the form of dates in messages.
const DateLayout = "Mon, 2 Jan 2006 15:04:05 -0700"

// Boundary divides the parts of a report about a day.
func Boundary(kind string, d Day) string { return kind + "_" + d.compact() }

// Attachment is a report that was packed.
type Attachment struct {
	Type, Filename string
	Octets         []byte
}

// WriteParts writes the body of a report's message: a text, and the report.
func WriteParts(b *bytes.Buffer, boundary, text string, report Attachment) {
	fmt.Fprintf(b, "\r\n--%s\r\nContent-Type: text/plain; charset=us-ascii\r\n\r\n%s", boundary, text)
	fmt.Fprintf(b, "\r\n--%s\r\nContent-Type: %s\r\nContent-Transfer-Encoding: base64\r\n", boundary, report.Type)
	fmt.Fprintf(b, "Content-Disposition: attachment;\r\n\tfilename=\"%s\"\r\n\r\n", report.Filename)
	writeBase64(b, report.Octets)
	fmt.Fprintf(b, "--%s--\r\n", boundary)
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

// Plain returns a text in printable ASCII, cut at a number of octets.
func Plain(s string, limit int) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s)
	return s[:min(len(s), limit)]
}
