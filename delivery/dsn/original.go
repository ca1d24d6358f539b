package dsn

import (
	"bytes"
	"errors"
	"io"
	"strings"

	"github.com/postern-mail/postern/mail"
)

// original is what is returned of the message reported on, and what its header
// tells; octets is nil when it could not be read.
type original struct {
	octets []byte
	whole  bool

	messageID string   // with its angle brackets; "" when there is no good one
	languages []string // of its author, best first
	automatic bool     // sent by a program, or to very many
}

// readOriginal reads what is to be returned: all of a small message that
// failed, unless the sender asked for less (RFC 3461 section 4.3); else the
// header. Only as much as is returned is ever held.
func (p *report) readOriginal() {
	if p.Open == nil {
		return
	}
	content, err := p.Open()
	if err != nil {
		return
	}
	defer content.Close()
	size, err := content.Seek(0, io.SeekEnd)
	if err != nil {
		return
	}
	whole := p.returnsWhole() && size <= p.cfg.MaxReturned && !p.Brief
	limit := size
	switch {
	case p.Brief:
		limit = min(size, maxBriefHeader)
	case !whole:
		limit = min(size, maxHeader)
	}
	octets := make([]byte, limit)
	if n, err := content.ReadAt(octets, 0); err != nil && !(errors.Is(err, io.EOF) && int64(n) == limit) {
		return
	}
	header := headerOf(octets, limit < size)
	if whole = whole && fitsMessage(octets); !whole {
		octets = header
	}
	p.original = original{octets: octets, whole: whole}
	p.original.look(header)
}

// returnsWhole reports whether the whole message may be returned. One under
// REQUIRETLS may not, whatever RET says (RFC 8689 section 5).
func (p *report) returnsWhole() bool {
	switch {
	case p.Envelope.RequireTLS:
		return false
	case p.Notice != mail.NoticeNone:
		return p.Notice == mail.NoticeDoubleBounce
	default:
		return p.Kind == mail.ReportFailed && p.Envelope.Return != mail.ReturnHeaders
	}
}

// fitsMessage reports whether a message can be enclosed as it is: parts of type
// message may not be encoded (RFC 2046 section 5.2.1), so it must have what
// 8BITMIME carries.
func fitsMessage(p []byte) bool {
	return bytes.IndexByte(p, 0) < 0 && !hasLongLine(p)
}

// headerOf returns the header at the beginning of p without the empty line.
// Of a header that p does not hold to its end, the last line is dropped when
// p was cut: it may be half a field.
func headerOf(p []byte, cut bool) []byte {
	if bytes.HasPrefix(p, []byte("\r\n")) {
		return p[:0]
	}
	if i := bytes.Index(p, []byte("\r\n\r\n")); i >= 0 {
		return p[:i+2]
	}
	if cut {
		return p[:bytes.LastIndexByte(p, '\n')+1]
	}
	return p
}

// look takes from the header what decides about the report.
func (o *original) look(header []byte) {
	eachField(header, func(name, value string) {
		switch name {
		case "message-id":
			if o.messageID == "" && isMessageID(value) {
				o.messageID = value
			}
		case "accept-language":
			o.languages = append(acceptLanguage(value), o.languages...)
		case "content-language":
			o.languages = append(o.languages, acceptLanguage(value)...)
		case "auto-submitted":
			word, _, _ := strings.Cut(value, ";")
			o.automatic = o.automatic || !strings.EqualFold(strings.TrimSpace(word), "no")
		case "precedence":
			switch strings.ToLower(value) {
			case "bulk", "list", "junk":
				o.automatic = true
			}
		case "list-id":
			o.automatic = true
		}
	})
	o.languages = o.languages[:min(len(o.languages), maxLanguages)]
}

// eachField calls fn with the fields of a header, names in lower case and
// values unfolded.
func eachField(header []byte, fn func(name, value string)) {
	for len(header) > 0 {
		end := bytes.IndexByte(header, '\n') + 1
		for end > 0 && end < len(header) && (header[end] == ' ' || header[end] == '\t') {
			next := bytes.IndexByte(header[end:], '\n') + 1
			if next == 0 {
				end = 0
				break
			}
			end += next
		}
		if end == 0 {
			end = len(header)
		}
		name, value, ok := strings.Cut(string(header[:end]), ":")
		if ok {
			value = strings.NewReplacer("\r\n", "", "\t", " ").Replace(value)
			fn(strings.ToLower(strings.TrimRight(name, " \t")), strings.TrimSpace(value))
		}
		header = header[end:]
	}
}

// isMessageID is strict: the id comes to stand in fields of ours.
func isMessageID(s string) bool {
	return len(s) > 4 && len(s) <= 500 && s[0] == '<' && s[len(s)-1] == '>' &&
		!strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' }) &&
		!strings.ContainsAny(s[1:len(s)-1], "<>")
}

// unwanted reports whether a warning of delay would only bother a program
// (RFC 3834 section 2): who asked for it by NOTIFY gets it.
func (p *report) unwanted() bool {
	if p.Kind != mail.ReportDelayed || p.Notice != mail.NoticeNone || !p.original.automatic {
		return false
	}
	for _, r := range p.Envelope.Recipients {
		if r.Notify&mail.NotifyDelay != 0 {
			return false
		}
	}
	return true
}

// attachment is the body part with the message or its header. What was sent
// under SMTPUTF8 is message/global, which may be encoded (RFC 6532 section
// 3.7), and so may a header alone (RFC 6522 section 4).
func (p *report) attachment() (part, bool) {
	o := &p.original
	if o.octets == nil {
		return part{}, false
	}
	global := p.Envelope.SMTPUTF8
	x := part{content: o.octets, description: "Undelivered message"}
	switch {
	case o.whole && global:
		x.mediaType = "message/global"
	case o.whole:
		x.mediaType, x.encoding = "message/rfc822", eightBit(o.octets)
		return x, true
	case global:
		x.mediaType, x.description = "message/global-headers", "Message header"
	default:
		x.mediaType, x.description = "text/rfc822-headers", "Message header"
	}
	x.encode(p.utf8 && global)
	return x, true
}
