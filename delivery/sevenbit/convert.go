package sevenbit

import (
	"bytes"
	"encoding/base64"
	"io"
)

// Reader returns the message in seven bits. r must give what Look read.
func (c Conversion) Reader(r io.Reader) io.Reader {
	v := &converter{plan: c.parts, do: keep}
	if len(c.parts) > 0 {
		v.do = c.parts[0]
	}
	v.walker = newWalker(r, v)
	return v
}

// labels are what the parts of each action are called.
var labels = map[action]string{relabel: "7bit", quotedPrintable: "quoted-printable", base64Encode: "base64"}

// converter is a visitor that writes the message anew, and the reader of it.
type converter struct {
	walker *walker
	plan   []action
	next   int    // of plan, the one after the present part
	do     action // with the present part
	out    []byte
	read   int // of out
	failed error

	versioned bool   // the message says that it is MIME
	dropping  bool   // the field being read is replaced
	pending   bool   // a line end that belongs to the content unless a boundary follows
	column    int    // of quoted-printable
	blank     byte   // white space that may end the line, 0 for none
	ends      bool   // a CR that may be of the line end
	rest      []byte // of base64, less than a line's worth
}

// Read implements io.Reader.
func (v *converter) Read(p []byte) (int, error) {
	for v.read == len(v.out) {
		if v.failed != nil {
			return 0, v.failed
		}
		v.out, v.read = v.out[:0], 0
		if err := v.walker.step(); err != nil {
			if err == io.EOF {
				v.partEnds(false)
			}
			v.failed = err
		}
	}
	n := copy(p, v.out[v.read:])
	v.read += n
	return n, nil
}

func (v *converter) field(line []byte, first bool) {
	if first {
		// The field belongs to the part whose content comes next.
		v.do = v.planned()
		v.versioned = v.versioned || v.walker.name == "mime-version"
		v.dropping = v.do != keep && v.walker.name == "content-transfer-encoding"
	}
	if !v.dropping {
		v.out = append(v.out, line...)
	}
}

// planned is what is done with the part whose header is being read.
func (v *converter) planned() action {
	if v.next < len(v.plan) {
		return v.plan[v.next]
	}
	return keep
}

func (v *converter) headerEnds(_ part, line []byte) {
	v.do = v.planned()
	v.next++
	if label, changed := labels[v.do]; changed {
		if !v.versioned {
			v.out, v.versioned = append(v.out, "MIME-Version: 1.0\r\n"...), true
		}
		v.out = append(append(append(v.out, "Content-Transfer-Encoding: "...), label...), "\r\n"...)
	}
	v.out = append(v.out, line...)
	v.dropping, v.pending, v.column, v.blank, v.ends, v.rest = false, false, 0, 0, false, v.rest[:0]
}

func (v *converter) body(line []byte, whole bool) {
	switch v.do {
	case quotedPrintable:
		v.lineEnd(v.quote)
		v.quoted(line, whole)
	case base64Encode:
		v.lineEnd(v.base64)
		if whole {
			line = bytes.TrimSuffix(bytes.TrimSuffix(line, []byte("\n")), []byte("\r"))
		}
		v.base64(line)
		v.pending = whole
	default:
		v.out = append(v.out, line...)
	}
}

// lineEnd writes the line end that turned out to belong to the content.
func (v *converter) lineEnd(write func([]byte)) {
	if v.pending {
		v.pending = false
		write([]byte("\r\n"))
	}
}

func (v *converter) between(line []byte, boundary, _ bool) {
	if boundary {
		v.partEnds(true)
		v.out = append(v.out, line...)
		v.do = keep
		return
	}
	for _, c := range line { // nobody reads it
		if c > 127 {
			c = '?'
		}
		v.out = append(v.out, c)
	}
}

// partEnds completes the content of a part, before a boundary, to which the last
// line end belongs, or at the end of the message.
func (v *converter) partEnds(boundary bool) {
	switch v.do {
	case quotedPrintable:
		v.strayCR()
		v.endBlank()
		if v.pending {
			v.out = append(v.out, '\r', '\n')
		}
	case base64Encode:
		if v.pending && !boundary {
			v.base64([]byte("\r\n"))
		}
		if len(v.rest) > 0 {
			v.out = base64.StdEncoding.AppendEncode(v.out, v.rest)
			v.out = append(v.out, '\r', '\n')
		}
		v.rest = v.rest[:0]
	}
	v.pending, v.do = false, keep
}

// quoted writes a line, or a fragment of one, in quoted-printable (RFC 2045
// section 6.7).
func (v *converter) quoted(line []byte, whole bool) {
	if whole {
		line = line[:len(line)-1]
	}
	for _, c := range line {
		v.octet(c)
	}
	if whole {
		v.ends = false // the CR of the line end
		v.endBlank()
		v.pending, v.column = true, 0
	}
}

func (v *converter) octet(c byte) {
	v.strayCR()
	if c != '\r' {
		v.inBlank()
	}
	switch {
	case c == '\r':
		v.ends = true
	case c == ' ' || c == '\t':
		v.blank = c
	case c > ' ' && c < 127 && c != '=':
		v.plain(c)
	default:
		v.escape(c)
	}
}

// strayCR writes a CR that turned out not to end a line.
func (v *converter) strayCR() {
	if v.ends {
		v.ends = false
		v.inBlank()
		v.escape('\r')
	}
}

// inBlank writes white space that something follows.
func (v *converter) inBlank() {
	if v.blank != 0 {
		v.plain(v.blank)
		v.blank = 0
	}
}

// endBlank writes white space at the end of a line, where it would be lost.
func (v *converter) endBlank() {
	if v.blank != 0 {
		v.escape(v.blank)
		v.blank = 0
	}
}

// maxQuoted is the longest line of quoted-printable, its "=" included.
const maxQuoted = 76

func (v *converter) plain(c byte) {
	v.room(1)
	v.out = append(v.out, c)
}

func (v *converter) escape(c byte) {
	const hex = "0123456789ABCDEF"
	v.room(3)
	v.out = append(v.out, '=', hex[c>>4], hex[c&15])
}

// room breaks the line softly when n octets and the break do not fit.
func (v *converter) room(n int) {
	if v.column+n > maxQuoted-1 {
		v.out = append(v.out, '=', '\r', '\n')
		v.column = 0
	}
	v.column += n
}

// quote writes a line end of the content.
func (v *converter) quote(p []byte) { v.out = append(v.out, p...) }

// base64Line is how many octets make a line of base64.
const base64Line = 57

func (v *converter) base64(p []byte) {
	for len(p) > 0 {
		n := min(base64Line-len(v.rest), len(p))
		v.rest = append(v.rest, p[:n]...)
		p = p[n:]
		if len(v.rest) == base64Line {
			v.out = base64.StdEncoding.AppendEncode(v.out, v.rest)
			v.out = append(v.out, '\r', '\n')
			v.rest = v.rest[:0]
		}
	}
}
