package attachments

import (
	"bytes"
	"cmp"
	"context"
	"io"
	"slices"
	"strings"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/policy/content/mime"
)

// part is what a message has that may be an attachment: the names and types its
// header gives, and where it stands.
type part struct {
	names     []string
	types     []string
	encodings []string
	odd       string // why programs may see another part; "" for nothing
	from, to  int64  // of the body, encoded
}

// finder is the Visitor that finds the parts.
type finder struct {
	parts []part
	now   *part // the one whose body is passed
	next  part  // the one whose header is read
	most  int
	odd   string // why programs may see other parts; "" for nothing
	end   int64  // of the header before
}

// find returns the leaves of a message, and why others may be found in it.
func find(ctx context.Context, m mail.Message, most int) (parts []part, odd string, err error) {
	f := &finder{most: most}
	err = mime.Walk(ctx, mime.Limits{AsPrograms: true}, m.Fields()[m.Ours():], m.Body(), f)
	f.close(m.BodyOctets())
	return f.parts, f.odd, err
}

// Doubt implements mime.Doubter.
func (f *finder) Doubt(reason string) { f.odd = cmp.Or(f.odd, reason) }

// Field implements mime.Visitor.
func (f *finder) Field(field mime.Field) error {
	name, _, _ := bytes.Cut(field.Text, []byte(":"))
	switch strings.ToLower(string(name)) {
	case "content-type":
		f.next.types = append(f.next.types, mime.Value(field.Text))
		f.next.named(field.Text)
	case "content-disposition":
		f.next.named(field.Text)
	case "content-transfer-encoding":
		f.next.encodings = append(f.next.encodings, mime.Value(field.Text))
	default:
		return nil
	}
	if len(f.next.names)+len(f.next.types)+len(f.next.encodings) > 100 {
		return errTooMany
	}
	return nil
}

// named takes the names that a field gives.
func (p *part) named(field []byte) {
	names, whole := nameParameters(field)
	p.names = append(p.names, names...)
	if !whole {
		p.odd = "too many parameters of one field"
	}
}

// Body implements mime.Visitor.
func (f *finder) Body() error {
	if len(f.parts) >= f.most {
		return errTooMany
	}
	f.close(f.end)
	f.parts = append(f.parts, f.next)
	f.now, f.next = &f.parts[len(f.parts)-1], part{}
	f.now.from = -1
	return nil
}

// Line implements mime.Visitor.
func (f *finder) Line(l mime.Line) error {
	switch {
	case l.Boundary:
		f.close(l.Start)
	case l.Blank:
		f.end = l.Start + int64(len("\r\n"))
		if l.Start < 0 {
			f.end = 0
		}
	default:
		if f.now != nil && f.now.from < 0 {
			f.now.from = l.Start
		}
		if f.now != nil && l.Begins && bytes.HasPrefix(l.Text, []byte("begin ")) {
			f.uuencoded(l.Text)
		}
	}
	return nil
}

// uuencoded takes a line that may begin a file in the text.
func (f *finder) uuencoded(line []byte) {
	words := bytes.SplitN(line, []byte(" "), 3)
	if len(words) < 3 || len(words[1]) < 3 || len(words[1]) > 4 || len(bytes.Trim(words[1], "01234567")) > 0 {
		return
	}
	if len(f.now.names) < 100 {
		f.now.names = append(f.now.names, string(words[2]))
		f.now.types = append(f.now.types, typeUuencode)
	}
}

// close ends the body that is passed.
func (f *finder) close(at int64) {
	if f.now != nil && f.now.from >= 0 {
		f.now.to = at
	} else if f.now != nil {
		f.now.from = 0
	}
	f.now = nil
}

// open returns a part decoded. Which of several encodings a mail program takes is
// its own affair: sure is false.
func (p *part) open(body io.ReadSeeker) (r io.Reader, sure bool, err error) {
	if _, err := body.Seek(p.from, io.SeekStart); err != nil {
		return nil, false, err
	}
	encodings := slices.Compact(slices.Sorted(slices.Values(p.encodings)))
	sure = len(encodings) < 2
	r = io.LimitReader(body, max(p.to-p.from, 0))
	for _, e := range encodings {
		switch e {
		case "base64":
			return newBase64(r), sure, nil
		case "quoted-printable":
			return newQuoted(r), sure, nil
		case "x-uuencode", "uuencode", "x-uue", "uue":
			return r, sure, nil
		}
	}
	return r, sure, nil
}

// encoded reports whether anything but the octets themselves stands there.
func (p *part) encoded() bool {
	return slices.ContainsFunc(p.encodings, func(e string) bool { return e != "7bit" && e != "8bit" && e != "binary" && e != "" })
}

// severalTypes reports whether the header gives types that differ.
func (p *part) severalTypes() bool {
	return slices.ContainsFunc(p.types, func(t string) bool { return t != p.types[0] && t != typeUuencode })
}
