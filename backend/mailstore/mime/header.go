package mime

import (
	"bytes"
	"iter"
	"strings"
)

// field is one header field. name has no colon; value is raw, with its
// folding, and begins after the colon; raw is the whole with its line end.
type field struct{ name, value, raw []byte }

// fields yields the fields of a header block. Lines that are none, such as the
// "From " of an mbox, are passed over with their continuation lines.
func fields(header []byte) iter.Seq[field] {
	return func(yield func(field) bool) {
		for len(header) > 0 {
			raw := unfoldedLine(header)
			header = header[len(raw):]
			colon := bytes.IndexByte(raw, ':')
			if colon <= 0 {
				continue
			}
			name := bytes.TrimRight(raw[:colon], " \t")
			if !isFieldName(name) {
				continue
			}
			if !yield(field{name: name, value: raw[colon+1:], raw: raw}) {
				return
			}
		}
	}
}

// unfoldedLine returns the first line of b and the continuation lines that
// belong to it.
func unfoldedLine(b []byte) []byte {
	end := 0
	for {
		i := bytes.IndexByte(b[end:], '\n')
		if i < 0 {
			return b
		}
		end += i + 1
		if end == len(b) || b[end] != ' ' && b[end] != '\t' {
			return b[:end]
		}
	}
}

func isFieldName(name []byte) bool {
	for _, c := range name {
		if c <= ' ' || c >= 0x7f {
			return false
		}
	}
	return len(name) > 0
}

// Fields returns the fields of a header block whose names are listed, in the
// order of the header, or with not those that are not listed, and the blank
// line that ends HEADER.FIELDS (RFC 9051 section 6.4.5).
func Fields(header []byte, names []string, not bool) []byte {
	out := make([]byte, 0, min(len(header), 1<<10)+2)
	for f := range fields(header) {
		listed := false
		for _, name := range names {
			if len(name) == len(f.name) && strings.EqualFold(name, string(f.name)) {
				listed = true
				break
			}
		}
		if listed != not {
			out = append(out, f.raw...)
		}
	}
	if len(out) > 0 && out[len(out)-1] != '\n' {
		out = append(out, '\r', '\n')
	}
	return append(out, '\r', '\n')
}
