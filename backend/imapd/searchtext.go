package imapd

import (
	"bytes"
	"encoding/base64"
	"errors"
	"io"
	stdmime "mime"
	"mime/quotedprintable"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/encoding"
	"golang.org/x/text/encoding/htmlindex"
	"golang.org/x/text/transform"
	"golang.org/x/text/unicode/norm"

	"github.com/postern-mail/postern/backend/mailstore/mime"
	"github.com/postern-mail/postern/store"
)

const (
	// searchStepOctets is how much decoded text is looked at once.
	searchStepOctets = 32 << 10
	// maxSearchHeaderOctets bounds what is read of a header that the index
	// does not keep.
	maxSearchHeaderOctets = 1 << 20
)

var lowerTable = func() (t [256]byte) {
	for c := range t {
		t[c] = lower(byte(c))
	}
	return t
}()

// appendFolded appends s so that text equal but for letter case and form
// becomes equal octets, in the spirit of i;unicode-casemap (RFC 5051).
func appendFolded(dst, s []byte) []byte {
	if isASCII(s) {
		return appendLower(dst, s)
	}
	return norm.NFKD.Append(dst, bytes.Map(unicode.ToLower, bytes.ToValidUTF8(s, []byte("\uFFFD")))...)
}

// foldFor appends s folded as far as looking for text needs: ASCII text can
// only be found in ASCII, so that the rest of Unicode is left alone.
func foldFor(text, dst, s []byte) []byte {
	if isASCII(text) {
		return appendLower(dst, s)
	}
	return appendFolded(dst, s)
}

func appendLower(dst, s []byte) []byte {
	from := len(dst)
	dst = append(dst, s...)
	for i, c := range dst[from:] {
		dst[from+i] = lowerTable[c]
	}
	return dst
}

func isASCII(s []byte) bool {
	for _, c := range s {
		if c >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// words decodes encoded-words (RFC 2047), unknown charsets as they stand.
var words = stdmime.WordDecoder{CharsetReader: func(name string, r io.Reader) (io.Reader, error) {
	return charsetReader(name, r), nil
}}

// charsetReader turns text of a charset into UTF-8; of an unknown one nothing
// is changed.
func charsetReader(name string, r io.Reader) io.Reader {
	if isUTF8(name) {
		return r
	}
	e, err := htmlindex.Get(name)
	if err != nil || e == encoding.Nop {
		return r
	}
	return transform.NewReader(r, e.NewDecoder())
}

func isUTF8(name string) bool {
	return name == "" || strings.EqualFold(name, "utf-8") || strings.EqualFold(name, "us-ascii")
}

// header returns the message's header block; one too long for the index is
// read from the body.
func (c *candidate) header() ([]byte, error) {
	at := c.meta.Root.Header
	if c.meta.Header != nil || at.Len() == 0 {
		return c.meta.Header, nil
	}
	body, err := c.body()
	if err != nil {
		return nil, err
	}
	return readHeader(body, at)
}

// readHeader reads a header block, or the bounded beginning of a huge one.
func readHeader(body store.Body, at mime.Span) ([]byte, error) {
	at.End = min(at.End, at.Start+maxSearchHeaderOctets)
	return readSpan(body, at)
}

// nextField cuts the first field with its continuation lines off a header.
func nextField(header []byte) (field, rest []byte) {
	for end := 0; ; {
		i := bytes.IndexByte(header[end:], '\n')
		if i < 0 {
			return header, nil
		}
		if end += i + 1; end == len(header) || header[end] != ' ' && header[end] != '\t' {
			return header[:end], header[end:]
		}
	}
}

// fieldValue returns a field's value when the field has the name; any field
// has the name "".
func fieldValue(field []byte, name string) ([]byte, bool) {
	colon := bytes.IndexByte(field, ':')
	if name == "" {
		return field, true
	}
	if colon < len(name) || !strings.EqualFold(string(field[:len(name)]), name) ||
		len(bytes.TrimRight(field[len(name):colon], " \t")) > 0 {
		return nil, false
	}
	return field[colon+1:], true
}

// headerContains reports whether a field of that name has text in it, encoded
// words decoded; with empty text, whether there is such a field.
func headerContains(header []byte, name string, text []byte) bool {
	for len(header) > 0 {
		var field []byte
		field, header = nextField(header)
		value, ok := fieldValue(field, name)
		if ok && (len(text) == 0 || bytes.Contains(foldedValue(text, value), text)) {
			return true
		}
	}
	return false
}

// foldedValue unfolds and decodes a field's value to look for text in it.
func foldedValue(text, value []byte) []byte {
	flat := bytes.ReplaceAll(bytes.ReplaceAll(value, []byte("\r\n"), nil), []byte("\n"), nil)
	if bytes.Contains(flat, []byte("=?")) {
		if decoded, err := words.DecodeHeader(string(flat)); err == nil {
			flat = []byte(decoded)
		}
	}
	return foldFor(text, nil, flat)
}

// textContains is the key TEXT: header or body.
func (c *candidate) textContains(text []byte) (bool, error) {
	header, err := c.header()
	if err != nil {
		return false, err
	}
	if headerContains(header, "", text) {
		return true, nil
	}
	return c.bodyContains(text)
}

// bodyContains is the key BODY: the text of every part that has text, decoded,
// and the headers of enclosed messages.
func (c *candidate) bodyContains(text []byte) (bool, error) {
	if len(text) == 0 {
		return true, nil
	}
	body, err := c.body()
	if err != nil {
		return false, err
	}
	header, err := c.header()
	if err != nil {
		return false, err
	}
	return partContains(body, c.meta.Root, header, text)
}

func partContains(body store.Body, p *mime.Part, header, text []byte) (bool, error) {
	if p.Kind == mime.Leaf {
		media, charset := contentType(header)
		if !strings.HasPrefix(media, "text/") {
			return false, nil
		}
		return spanContains(body, p, charset, text)
	}
	for _, kid := range p.Parts {
		header, err := readHeader(body, kid.Header)
		if err != nil {
			return false, err
		}
		if p.Kind == mime.Message && headerContains(header, "", text) {
			return true, nil
		}
		if ok, err := partContains(body, kid, header, text); ok || err != nil {
			return ok, err
		}
	}
	return false, nil
}

// contentType reads media type and charset, tolerantly, from a part's header.
func contentType(header []byte) (media, charset string) {
	for len(header) > 0 {
		var field []byte
		field, header = nextField(header)
		value, ok := fieldValue(field, "Content-Type")
		if !ok {
			continue
		}
		media, rest, _ := strings.Cut(strings.ToLower(string(value)), ";")
		if i := strings.Index(rest, "charset="); i >= 0 {
			charset = strings.TrimLeft(rest[i+len("charset="):], `"' `)
			if end := strings.IndexAny(charset, "\"'; \t\r\n"); end >= 0 {
				charset = charset[:end]
			}
		}
		return strings.TrimSpace(media), charset
	}
	return "text/plain", ""
}

// spanContains looks through one part's decoded text in bounded memory.
func spanContains(body store.Body, p *mime.Part, charset string, text []byte) (bool, error) {
	failed := &errorKeeper{r: io.NewSectionReader(body, p.Body.Start, p.Body.Len())}
	var r io.Reader = failed
	switch p.Encoding {
	case mime.Base64:
		r = base64.NewDecoder(base64.StdEncoding, r)
	case mime.QuotedPrintable:
		r = quotedprintable.NewReader(r)
	case mime.OtherEncoding:
		return false, nil
	}
	ok := readerContains(charsetReader(charset, r), text)
	return ok, failed.err
}

// errorKeeper tells a failure to read from a failure to decode: the latter is
// the message's fault and only ends its text.
type errorKeeper struct {
	r   io.Reader
	err error
}

func (k *errorKeeper) Read(p []byte) (int, error) {
	n, err := k.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		k.err = err
	}
	return n, err
}

var searchBuffers = sync.Pool{New: func() any { return &searchBuffer{} }}

type searchBuffer struct {
	raw    [searchStepOctets]byte
	folded []byte
}

// readerContains looks for folded text in what r gives until it fails or ends.
func readerContains(r io.Reader, text []byte) bool {
	b := searchBuffers.Get().(*searchBuffer)
	defer searchBuffers.Put(b)
	b.folded = b.folded[:0]
	kept := 0 // octets in raw that are the start of a rune
	for {
		n, err := io.ReadAtLeast(r, b.raw[kept:], len(b.raw)-kept)
		n += kept
		whole := n
		if err == nil {
			whole = wholeRunes(b.raw[:n])
		}
		b.folded = foldFor(text, b.folded, b.raw[:whole])
		if bytes.Contains(b.folded, text) {
			return true
		}
		if err != nil {
			return false
		}
		kept = copy(b.raw[:], b.raw[whole:n])
		tail := max(0, len(b.folded)-len(text)+1)
		b.folded = b.folded[:copy(b.folded, b.folded[tail:])]
	}
}

// wholeRunes returns the length of b without a rune that is cut off at its end.
func wholeRunes(b []byte) int {
	for i := 1; i <= utf8.UTFMax && i <= len(b); i++ {
		if c := b[len(b)-i]; utf8.RuneStart(c) {
			if c >= utf8.RuneSelf && !utf8.FullRune(b[len(b)-i:]) {
				return len(b) - i
			}
			return len(b)
		}
	}
	return len(b)
}
