package rules

import (
	"bufio"
	"encoding/base64"
	"errors"
	"html"
	"io"
	"mime"
	"mime/quotedprintable"
	"strconv"
	"strings"

	"golang.org/x/text/encoding"
	"golang.org/x/text/encoding/htmlindex"

	"github.com/postern-mail/postern/mail"
)

const (
	// maxBannerDepth is how deep a text may lie that gets a banner.
	maxBannerDepth = 8
	// maxBannerScan is how far into a message its texts are looked for.
	maxBannerScan = 1 << 20
	// maxPartHeader bounds the header of a part that is looked at.
	maxPartHeader = 32 << 10
)

// insertion is text that goes into a body at a place.
type insertion struct {
	at   int64
	text string
}

// withBanner returns the message's body with a banner above its first plain text
// and its first HTML text, or nil where there is none that may be changed: a
// signed or encrypted message stays as it is.
func withBanner(m mail.Message, banner string) io.Reader {
	p := partOf(m.Fields())
	s := &scanner{in: bufio.NewReader(io.LimitReader(m.Body(), maxBannerScan)), banner: banner}
	s.part(p, nil)
	if len(s.found) == 0 {
		return nil
	}
	var readers []io.Reader
	done := int64(0)
	for _, i := range s.found {
		readers = append(readers, section(m, done, i.at-done), strings.NewReader(i.text))
		done = i.at
	}
	return io.MultiReader(append(readers, section(m, done, m.BodyOctets()-done))...)
}

// section reads octets of the body when it is come to.
func section(m mail.Message, from, octets int64) io.Reader {
	return &late{open: func() (io.Reader, error) {
		body := m.Body()
		_, err := body.Seek(from, io.SeekStart)
		return io.LimitReader(body, octets), err
	}}
}

// late is a reader that is opened by its first Read.
type late struct {
	open func() (io.Reader, error)
	r    io.Reader
}

// Read implements io.Reader.
func (l *late) Read(p []byte) (int, error) {
	if l.r == nil {
		r, err := l.open()
		if err != nil {
			return 0, err
		}
		l.r = r
	}
	return l.r.Read(p)
}

// part is what the header of a message or of a part says of its body.
type part struct {
	kind       string // "text/plain", lower case
	charset    string
	boundary   string
	encoding   string // lower case
	attachment bool
}

func partOf(fields []mail.Field) part {
	p := part{kind: "text/plain", encoding: "7bit"}
	for _, f := range fields {
		switch {
		case f.Is("Content-Type"):
			kind, params, err := mime.ParseMediaType(f.Unfolded())
			if err != nil {
				kind = "application/octet-stream" // nobody knows what it is
			}
			p.kind, p.charset, p.boundary = kind, strings.ToLower(params["charset"]), params["boundary"]
		case f.Is("Content-Transfer-Encoding"):
			p.encoding = strings.ToLower(f.Unfolded())
		case f.Is("Content-Disposition"):
			kind, _, err := mime.ParseMediaType(f.Unfolded())
			p.attachment = err != nil || kind == "attachment"
		}
	}
	return p
}

// scanner goes through a body, line by line, for texts.
type scanner struct {
	in          *bufio.Reader
	at          int64 // octets read
	banner      string
	found       []insertion
	plain, html bool // found one
}

// part looks at one part, whose body begins here, up to a line that begins with
// one of the boundaries around it. It returns that line, or "" at the end.
func (s *scanner) part(p part, around []string) string {
	switch {
	case p.attachment:
	case p.kind == "text/plain" && !s.plain:
		s.plain = s.insert(p, s.banner+"\r\n\r\n")
	case p.kind == "text/html" && !s.html:
		return s.document(p, around)
	case (p.kind == "multipart/alternative" || p.kind == "multipart/mixed" || p.kind == "multipart/related") &&
		p.boundary != "" && len(around) < maxBannerDepth:
		return s.parts(p, around)
	}
	return s.skip(around)
}

// parts goes through the parts of a multipart. Only the first of a mixed one is
// its text.
func (s *scanner) parts(p part, around []string) string {
	inner := append(around[:len(around):len(around)], "--"+p.boundary)
	line := s.skip(inner)
	for n := 0; line != "" && isDelimiter(line, inner[len(inner)-1]) && !isDelimiter(line, inner[len(inner)-1]+"--"); n++ {
		fields, ok := s.header()
		if !ok {
			return ""
		}
		if n > 0 && p.kind != "multipart/alternative" {
			line = s.skip(inner)
			continue
		}
		line = s.part(partOf(fields), inner)
	}
	if line != "" && !isDelimiter(line, inner[len(inner)-1]) {
		return line // the end of one around
	}
	return s.skip(around)
}

// isDelimiter reports whether a line is a boundary, with white space after it.
func isDelimiter(line, boundary string) bool {
	rest, ok := strings.CutPrefix(line, boundary)
	return ok && (strings.Trim(rest, " \t\r\n") == "" || strings.HasPrefix(rest, "--"))
}

// skip reads on to a boundary.
func (s *scanner) skip(around []string) string {
	for {
		line, ok := s.line()
		if !ok {
			return ""
		}
		for _, boundary := range around {
			if isDelimiter(line, boundary) {
				return line
			}
		}
	}
}

// line reads one line with its end. A longer one than the buffer comes in
// pieces; only the first can be a boundary.
func (s *scanner) line() (string, bool) {
	line, err := s.in.ReadSlice('\n')
	s.at += int64(len(line))
	text := string(line)
	for errors.Is(err, bufio.ErrBufferFull) {
		line, err = s.in.ReadSlice('\n')
		s.at += int64(len(line))
	}
	return text, err == nil || text != ""
}

// header reads the header of a part.
func (s *scanner) header() ([]mail.Field, bool) {
	var fields []mail.Field
	for octets := 0; octets < maxPartHeader; {
		line, ok := s.line()
		if !ok {
			return nil, false
		}
		octets += len(line)
		switch text := strings.TrimRight(line, "\r\n"); {
		case text == "":
			return fields, true
		case (text[0] == ' ' || text[0] == '\t') && len(fields) > 0:
			fields[len(fields)-1] += mail.Field("\r\n" + text)
		default:
			fields = append(fields, mail.Field(text))
		}
	}
	return nil, false
}

// document looks for the start of an HTML text's body, and puts the banner
// there, or at its beginning where that cannot be seen.
func (s *scanner) document(p part, around []string) string {
	text := "<p>" + strings.ReplaceAll(html.EscapeString(s.banner), "\n", "<br>") + "</p>\r\n"
	text = numeric(text)
	start := s.at
	if p.encoding == "base64" {
		s.html = s.insert(p, text)
		return s.skip(around)
	}
	for s.at-start < maxPartHeader {
		before := s.at
		line, ok := s.line()
		if !ok {
			break
		}
		for _, boundary := range around {
			if isDelimiter(line, boundary) {
				s.html = s.insertAt(start, p, text)
				return line
			}
		}
		if end := bodyTag(line); end >= 0 {
			s.html = s.insertAt(before+int64(end), p, text)
			return s.skip(around)
		}
	}
	s.html = s.insertAt(start, p, text)
	return s.skip(around)
}

// bodyTag returns where "<body ...>" ends in a line, or -1.
func bodyTag(line string) int {
	lower := strings.ToLower(line)
	at := strings.Index(lower, "<body")
	if at < 0 || at+5 >= len(line) || !strings.ContainsRune(" \t>", rune(line[at+5])) {
		return -1
	}
	end := strings.IndexByte(line[at:], '>')
	if end < 0 {
		return -1
	}
	return at + end + 1
}

// numeric writes what is not ASCII as character references, which every charset
// has.
func numeric(text string) string {
	var b strings.Builder
	for _, r := range text {
		if r < 0x80 {
			b.WriteRune(r)
			continue
		}
		b.WriteString("&#x")
		b.WriteString(strconv.FormatInt(int64(r), 16))
		b.WriteByte(';')
	}
	return b.String()
}

func (s *scanner) insert(p part, text string) bool { return s.insertAt(s.at, p, text) }

// insertAt notes a text for a place, in the part's charset and encoding, and
// reports whether it can be put there.
func (s *scanner) insertAt(at int64, p part, text string) bool {
	text = strings.ReplaceAll(strings.ReplaceAll(text, "\r\n", "\n"), "\n", "\r\n")
	octets, ok := inCharset(p, text)
	if !ok {
		return false
	}
	switch p.encoding {
	case "7bit", "8bit", "binary", "":
	case "quoted-printable":
		var b strings.Builder
		w := quotedprintable.NewWriter(&b)
		_, _ = w.Write([]byte(octets)) // a Builder takes all
		_ = w.Close()
		octets = b.String()
	case "base64":
		for len(octets)%3 != 0 { // without padding, so that the rest can follow
			octets = " " + octets
		}
		octets = wrapped(base64.StdEncoding.EncodeToString([]byte(octets)))
	default:
		return false
	}
	s.found = append(s.found, insertion{at, octets})
	return true
}

// wrapped cuts base64 into lines.
func wrapped(encoded string) string {
	var b strings.Builder
	for len(encoded) > 76 {
		b.WriteString(encoded[:76] + "\r\n")
		encoded = encoded[76:]
	}
	return b.String() + encoded + "\r\n"
}

// inCharset returns text in the charset of a part; what it lacks becomes "?".
func inCharset(p part, text string) (string, bool) {
	if isASCII(text) && p.charset != "utf-16" && p.charset != "utf-32" {
		return text, true
	}
	switch p.charset {
	case "utf-8", "utf8":
		if p.encoding != "7bit" && p.encoding != "" {
			return text, true
		}
		return question7(text), true
	case "", "us-ascii", "ascii":
		return question7(text), true
	}
	e, err := htmlindex.Get(p.charset)
	if err != nil || strings.HasPrefix(p.charset, "utf-") || strings.HasPrefix(p.charset, "iso-2022-") || p.encoding == "7bit" {
		return question7(text), !strings.HasPrefix(p.charset, "utf-")
	}
	out, err := encoding.ReplaceUnsupported(e.NewEncoder()).String(text)
	return out, err == nil
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}

// question7 is text in ASCII.
func question7(text string) string {
	return strings.Map(func(r rune) rune {
		if r >= 0x80 {
			return '?'
		}
		return r
	}, text)
}
