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
// order of the header, or with not everything but those, and the blank line that
// ends the block, if there is one (RFC 9051 section 6.4.5).
func Fields(header []byte, names []string, not bool) []byte {
	out := make([]byte, 0, min(len(header), 1<<10)+2)
	rest := header
	for len(rest) > 0 {
		raw := unfoldedLine(rest)
		rest = rest[len(raw):]
		if isBlank(raw) {
			continue
		}
		if isListed(raw, names) != not {
			out = append(out, raw...)
		}
	}
	if !endsBlank(header) {
		return out
	}
	if len(out) > 0 && out[len(out)-1] != '\n' {
		out = append(out, '\r', '\n')
	}
	return append(out, '\r', '\n')
}

// isListed reports whether the line is a field with one of the names.
func isListed(raw []byte, names []string) bool {
	colon := bytes.IndexByte(raw, ':')
	if colon <= 0 {
		return false
	}
	name := bytes.TrimRight(raw[:colon], " \t")
	for _, listed := range names {
		if len(listed) == len(name) && strings.EqualFold(listed, string(name)) {
			return true
		}
	}
	return false
}

func isBlank(line []byte) bool { return len(line) == 1 && line[0] == '\n' || string(line) == "\r\n" }

// endsBlank reports whether a header block has its blank line.
func endsBlank(header []byte) bool {
	header, found := bytes.CutSuffix(header, newline)
	if !found {
		return false
	}
	header = bytes.TrimSuffix(header, []byte{'\r'})
	return len(header) == 0 || header[len(header)-1] == '\n'
}
