package mime

import (
	"bytes"

	"github.com/postern-mail/postern/backend/mailstore/transfer"
)

// content is what a part's Content-* fields say. Its slices are copies; nil
// means that a field was absent. Params, disposition and language are wire
// forms.
type content struct {
	mediaType, subtype    []byte
	params                []byte
	id, description       []byte
	encoding              []byte
	disposition, language []byte
	location, md5         []byte
	boundary              []byte
	charset               string
	attached              bool // its disposition is attachment
	digest                bool // children default to message/rfc822 (RFC 2046 section 5.1.5)
}

func (c *content) isMultipart() bool { return foldEqual(c.mediaType, "multipart") }

func (c *content) isMessage() bool {
	return foldEqual(c.mediaType, "message") && (foldEqual(c.subtype, "rfc822") || foldEqual(c.subtype, "global"))
}

func (c *content) isText() bool { return foldEqual(c.mediaType, "text") }

func (c *content) encodingKind() Encoding { return transfer.Parse(c.encoding) }

// readContent picks the Content-* fields out of a header block. Of a field
// given twice the first counts.
func (s *Scanner) readContent(header []byte, inDigest bool) content {
	var c content
	for f := range fields(header) {
		if len(f.name) < len("content-id") || !foldEqual(f.name[:8], "content-") { // the shortest of them
			continue
		}
		switch rest := f.name[8:]; {
		case c.mediaType == nil && foldEqual(rest, "type"):
			s.readType(&c, f.value)
		case c.encoding == nil && foldEqual(rest, "transfer-encoding"):
			l := lexer{b: f.value}
			c.encoding = s.keep(l.token())
		case c.id == nil && foldEqual(rest, "id"):
			c.id = s.keepText(f.value)
		case c.description == nil && foldEqual(rest, "description"):
			c.description = s.keepText(f.value)
		case c.location == nil && foldEqual(rest, "location"):
			c.location = s.keepText(f.value)
		case c.md5 == nil && foldEqual(rest, "md5"):
			c.md5 = s.keepText(f.value)
		case c.disposition == nil && foldEqual(rest, "disposition"):
			s.readDisposition(&c, f.value)
		case c.language == nil && foldEqual(rest, "language"):
			c.language = s.readLanguage(f.value)
		}
	}
	if c.mediaType == nil {
		c.setDefault(inDigest)
	}
	return c
}

// setDefault is the type of a part whose header names none, or none that can
// be read (RFC 2045 section 5.2).
func (c *content) setDefault(inDigest bool) {
	if inDigest {
		c.mediaType, c.subtype, c.params = []byte("message"), []byte("rfc822"), nil
		return
	}
	c.mediaType, c.subtype = []byte("text"), []byte("plain")
	c.params = []byte(`("charset" "us-ascii")`)
}

func (s *Scanner) readType(c *content, value []byte) {
	l := lexer{b: value}
	mediaType := l.token()
	l.space()
	if !l.take('/') {
		return
	}
	subtype := l.token()
	if len(mediaType) == 0 || len(subtype) == 0 {
		return
	}
	c.mediaType, c.subtype = s.keep(mediaType), s.keep(subtype)
	if c.mediaType == nil || c.subtype == nil {
		c.mediaType = nil
		return
	}
	c.digest = foldEqual(subtype, "digest") && c.isMultipart()
	c.params = s.readParams(&l, func(name, value []byte) {
		switch {
		case c.boundary == nil && foldEqual(name, "boundary") && len(value) <= maxBoundaryOctets:
			c.boundary = bytes.TrimRight(bytes.Clone(value), " \t")
		case c.charset == "" && foldEqual(name, "charset") && len(value) <= maxCharsetOctets:
			c.charset = string(value)
		}
	})
}

// maxCharsetOctets bounds the name of a charset.
const maxCharsetOctets = 40

func (s *Scanner) readDisposition(c *content, value []byte) {
	l := lexer{b: value}
	kind := l.token()
	if len(kind) == 0 {
		return
	}
	c.attached = foldEqual(kind, "attachment")
	out := appendString([]byte{'('}, kind)
	out = append(out, ' ')
	out = append(appendList(out, s.readParams(&l, nil)), ')')
	c.disposition = s.keep(out)
}

func (s *Scanner) readLanguage(value []byte) []byte {
	l := lexer{b: value}
	out := []byte{'('}
	for n := 0; n < maxParams; n++ {
		tag := l.token()
		if len(tag) > 0 {
			if len(out) > 1 {
				out = append(out, ' ')
			}
			out = appendString(out, tag)
		}
		l.space()
		if !l.take(',') {
			break
		}
	}
	if len(out) == 1 {
		return nil
	}
	return s.keep(append(out, ')'))
}

const maxParams = 100

// readParams renders what follows as a list of names and values, or returns
// nil when nothing does. It shows each to see.
func (s *Scanner) readParams(l *lexer, see func(name, value []byte)) []byte {
	var out []byte
	for n := 0; n < maxParams && l.next(';'); n++ {
		name := l.token()
		l.space()
		if len(name) == 0 || !l.take('=') {
			continue
		}
		value := l.value()
		if see != nil {
			see(name, value)
		}
		if out == nil {
			out = append(out, '(')
		} else {
			out = append(out, ' ')
		}
		out = append(appendString(out, name), ' ')
		out = appendString(out, value)
	}
	if out == nil {
		return nil
	}
	return s.keep(append(out, ')'))
}

// keepText is keep for a field's text; an empty one counts as absent.
func (s *Scanner) keepText(value []byte) []byte {
	if text := unfold(value); len(text) > 0 {
		return s.keep(text)
	}
	return nil
}

// keep copies b for the structure, or returns nil when the structure has grown
// too large.
func (s *Scanner) keep(b []byte) []byte {
	if s.rendered += len(b); s.rendered > maxRendered {
		return nil
	}
	return append(make([]byte, 0, len(b)), b...)
}
