package smtpd

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"sync"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/rewrite"
	"github.com/postern-mail/postern/status"
)

// maxHeadOctets is how much of a message is looked at for its header before it
// is certain that it has one. What is no header is passed on unseen beyond.
const maxHeadOctets = 100 << 10

// incoming counts what is read of a message and keeps the reader's error.
type incoming struct {
	source io.Reader
	octets int64
	err    error // other than io.EOF
}

// Read implements io.Reader.
func (r *incoming) Read(p []byte) (int, error) {
	n, err := r.source.Read(p)
	r.octets += int64(n)
	if err != nil && !errors.Is(err, io.EOF) {
		r.err = err
	}
	return n, err
}

// head is the beginning of a message, read until its header section ends.
type head struct {
	buffer *[maxHeadOctets]byte
	octets []byte // in buffer while they fit
	// cut tells that what looked like a header went on as something else, and
	// was not read to an empty line.
	cut bool
}

var headBuffers = sync.Pool{New: func() any { return new([maxHeadOctets]byte) }}

func newHead() *head {
	buffer := headBuffers.Get().(*[maxHeadOctets]byte)
	return &head{buffer: buffer, octets: buffer[:0]}
}

// free gives the buffer back; neither facts' strings nor the queue keep it.
func (h *head) free() { headBuffers.Put(h.buffer) }

var (
	lineEnd   = []byte("\r\n")
	headerEnd = []byte("\r\n\r\n")
)

// sectionLimit is how many times the largest field the whole header section
// may have: it is in memory while the message comes in.
const sectionLimit = 4

// read fills the head until it holds the whole header section or the message
// ends. A field of more than limit octets is HeaderTooBig, and so is a section
// of more than sectionLimit times that.
func (h *head) read(r io.Reader, limit int) error {
	for {
		n, err := r.Read(h.octets[len(h.octets):cap(h.octets)])
		from := max(0, len(h.octets)-len(headerEnd)+1)
		h.octets = h.octets[:len(h.octets)+n]
		switch {
		case bytes.HasPrefix(h.octets, lineEnd) || bytes.Contains(h.octets[from:], headerEnd), errors.Is(err, io.EOF):
			_, err := h.within(limit)
			return err
		case err != nil:
			return err
		case len(h.octets) < cap(h.octets):
			continue
		}
		ended, err := h.within(limit)
		if err != nil {
			return err
		}
		if ended {
			h.cut = true
			return nil
		}
		h.octets = append(make([]byte, 0, 2*cap(h.octets)), h.octets...)
	}
}

// within holds the header section to its limits and reports whether it ended:
// by the empty line, or by a line that is no field.
func (h *head) within(limit int) (ended bool, err error) {
	if len(h.octets) <= limit && len(h.octets) < cap(h.octets) {
		return true, nil
	}
	field := 0 // where the present one begins
	for at := 0; at < len(h.octets) && !ended; {
		line := h.octets[at:]
		end := bytes.IndexByte(line, '\n')
		if end >= 0 {
			line = line[:end+1]
		}
		switch {
		case end < 0 && mayBeName(line): // its colon has not been read yet
			field = at
		case at > 0 && (line[0] == ' ' || line[0] == '\t'):
		case len(bytes.TrimRight(line, "\r\n")) == 0, isHeadless(line):
			ended = true
			continue
		default:
			field = at
		}
		if at += len(line); at-field > limit || at > sectionLimit*limit {
			return false, status.Errorf(status.HeaderTooBig, "header of %d octets, a field of %d", at, at-field)
		}
	}
	return ended, nil
}

// maxNameOctets is the longest name of a field that is waited for.
const maxNameOctets = 998

// mayBeName reports whether the end of what was read may be the beginning of a
// field's name.
func mayBeName(line []byte) bool {
	return len(line) < maxNameOctets && bytes.IndexFunc(line, func(c rune) bool { return c <= ' ' || c >= 0x7f }) < 0
}

// section returns the header section, whole fields only.
func (h *head) section() []byte {
	return rewrite.Section(h.octets, !h.cut)
}

// reader returns what was read, from the start.
func (h *head) reader() io.Reader { return bytes.NewReader(h.octets) }

// readerWith returns what was read with another header section.
func (h *head) readerWith(section []byte) io.Reader {
	if section == nil {
		return h.reader()
	}
	return io.MultiReader(bytes.NewReader(section), bytes.NewReader(h.octets[len(h.section()):]))
}

// headerFacts is what is to be known of a message's header.
type headerFacts struct {
	// headless tells that the message begins with neither a header field nor
	// the empty line that would end an empty header section.
	headless  bool
	received  int // Received fields
	date      bool
	messageID string // as it stands there; "" when there is none
	// requirements counts TLS-Required fields, refusals those that say No.
	requirements, refusals int
	// deliveredTo are the addresses that the message was forwarded or
	// delivered to before.
	deliveredTo []mail.Address
}

// tlsOptional reports whether the header has the field "TLS-Required: No" (RFC
// 8689 section 3). Of several, or with another value, it counts for nothing.
func (f *headerFacts) tlsOptional() bool { return f.requirements == 1 && f.refusals == 1 }

// facts looks through the header section.
func (h *head) facts() headerFacts {
	rest := h.octets
	f := headerFacts{headless: isHeadless(rest)}
	for len(rest) > 0 {
		line := rest
		if end := bytes.IndexByte(rest, '\n'); end >= 0 {
			line, rest = rest[:end], rest[end+1:]
		} else {
			rest = nil
		}
		if len(bytes.TrimRight(line, "\r")) == 0 {
			break
		}
		f.note(line, rest)
	}
	return f
}

// isHeadless looks at the first line (RFC 5322 section 2.2).
func isHeadless(message []byte) bool {
	if len(message) == 0 || bytes.HasPrefix(message, lineEnd) {
		return false
	}
	line, _, _ := bytes.Cut(message, lineEnd)
	name, _, found := bytes.Cut(line, []byte(":"))
	name = bytes.TrimRight(name, " \t")
	return !found || len(name) == 0 || bytes.IndexFunc(name, func(c rune) bool { return c <= ' ' || c >= 0x7f }) >= 0
}

// note looks at one line of the header; next is what follows it.
func (f *headerFacts) note(line, next []byte) {
	switch line[0] | 0x20 {
	case 'r', 'd', 'm', 't':
	default:
		return
	}
	colon := bytes.IndexByte(line, ':')
	if colon < 0 {
		return
	}
	// RFC 5322 section 4.5: white space before the colon is obsolete syntax.
	switch name := bytes.TrimRight(line[:colon], " \t"); {
	case bytes.EqualFold(name, []byte("received")):
		f.received++
	case bytes.EqualFold(name, []byte("date")):
		f.date = true
	case bytes.EqualFold(name, []byte("tls-required")):
		f.requirements++
		if bytes.EqualFold(fieldBody(line[colon+1:], next), []byte("no")) {
			f.refusals++
		}
	case bytes.EqualFold(name, []byte("delivered-to")):
		if a, err := mail.ParseAddress(string(fieldBody(line[colon+1:], next))); err == nil {
			f.deliveredTo = append(f.deliveredTo, a.Fold())
		}
	case bytes.EqualFold(name, []byte("message-id")):
		value := fieldBody(line[colon+1:], next)
		f.messageID = strings.ToValidUTF8(string(value[:min(len(value), maxMessageIDOctets)]), "?")
	}
}

// fieldBody returns a short field body, which may stand on the line behind the
// one of the field's name.
func fieldBody(first, next []byte) []byte {
	value := bytes.TrimSpace(first)
	if len(value) == 0 && len(next) > 0 && (next[0] == ' ' || next[0] == '\t') {
		folded, _, _ := bytes.Cut(next, lineEnd)
		value = bytes.TrimSpace(folded)
	}
	return value
}

// maxMessageIDOctets bounds what audit keeps of a Message-ID: a line's length.
const maxMessageIDOctets = 998
