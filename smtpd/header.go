package smtpd

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"sync"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/rewrite"
)

// maxHeadOctets is how much of a message is looked at for its header. What
// lies beyond is passed on unseen.
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
	used   int
}

var headBuffers = sync.Pool{New: func() any { return new([maxHeadOctets]byte) }}

func newHead() *head {
	return &head{buffer: headBuffers.Get().(*[maxHeadOctets]byte)}
}

// free gives the buffer back; neither facts' strings nor the queue keep it.
func (h *head) free() { headBuffers.Put(h.buffer) }

var (
	lineEnd   = []byte("\r\n")
	headerEnd = []byte("\r\n\r\n")
)

// read fills the head until it holds the whole header section, the message
// ends, or the buffer is full.
func (h *head) read(r io.Reader) error {
	for h.used < len(h.buffer) {
		n, err := r.Read(h.buffer[h.used:])
		from := max(0, h.used-len(headerEnd)+1)
		h.used += n
		if bytes.HasPrefix(h.buffer[:h.used], lineEnd) || bytes.Contains(h.buffer[from:h.used], headerEnd) {
			return nil
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
	}
	return nil
}

// section returns the header section, whole fields only.
func (h *head) section() []byte {
	return rewrite.Section(h.buffer[:h.used], h.used < len(h.buffer))
}

// reader returns what was read, from the start.
func (h *head) reader() io.Reader { return bytes.NewReader(h.buffer[:h.used]) }

// readerWith returns what was read with another header section.
func (h *head) readerWith(section []byte) io.Reader {
	if section == nil {
		return h.reader()
	}
	return io.MultiReader(bytes.NewReader(section), bytes.NewReader(h.buffer[len(h.section()):h.used]))
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
	rest := h.buffer[:h.used]
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
