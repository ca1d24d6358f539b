package text

import (
	"bytes"
	"strings"
	"sync"
)

// fields reads the fields of a header block for searching. It is not safe for
// concurrent use; what it returns is good until the next call.
type fields struct {
	words  words
	flat   []byte
	folded []byte
	plain  []byte
}

var fieldReaders = sync.Pool{New: func() any { return new(fields) }}

// next cuts the first field with its continuation lines off a header.
func next(header []byte) (field, rest []byte) {
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

// value returns a field's value when the field has the name; any field, whole,
// has the name "".
func value(field []byte, name string) ([]byte, bool) {
	if name == "" {
		return field, true
	}
	if len(field) <= len(name) || !equalFold(field[:len(name)], name) {
		return nil, false
	}
	rest := bytes.TrimLeft(field[len(name):], " \t")
	if len(rest) == 0 || rest[0] != ':' {
		return nil, false
	}
	return rest[1:], true
}

func equalFold(s []byte, t string) bool {
	for i, c := range s {
		d := t[i]
		if c != d && (c|0x20 != d|0x20 || c|0x20 < 'a' || c|0x20 > 'z') {
			return false
		}
	}
	return true
}

// fold returns a field's value without line ends, decoded and folded.
func (f *fields) fold(value []byte) []byte {
	f.folded = Fold(f.folded[:0], f.words.decode(f.unfold(value)))
	return f.folded
}

func (f *fields) unfold(value []byte) []byte {
	value = bytes.TrimRight(value, "\r\n")
	if bytes.IndexByte(value, '\n') < 0 {
		return value
	}
	f.flat = f.flat[:0]
	for len(value) > 0 {
		i := bytes.IndexByte(value, '\n')
		if i < 0 {
			f.flat = append(f.flat, value...)
			break
		}
		f.flat = append(f.flat, bytes.TrimSuffix(value[:i], []byte{'\r'})...)
		value = value[i+1:]
	}
	return f.flat
}

// HeaderContains reports whether a field of that name, any for "", has the
// needle in its value: unfolded, encoded-words decoded. With an empty needle it
// reports whether there is such a field.
func HeaderContains(header []byte, name string, needle Needle) bool {
	if needle.Empty() && name == "" {
		return true
	}
	f := fieldReaders.Get().(*fields)
	defer fieldReaders.Put(f)
	for len(header) > 0 {
		var field []byte
		field, header = next(header)
		v, ok := value(field, name)
		if ok && (needle.Empty() || needle.in(f.fold(v), &f.plain)) {
			return true
		}
	}
	return false
}

// contentType reads media type and charset, tolerantly, from a part's header.
func contentType(header []byte) (media, charset string) {
	for len(header) > 0 {
		var field []byte
		field, header = next(header)
		v, ok := value(field, "Content-Type")
		if !ok {
			continue
		}
		media, rest, _ := strings.Cut(strings.ToLower(string(v)), ";")
		if i := strings.Index(rest, "charset"); i >= 0 {
			charset = strings.TrimLeft(rest[i+len("charset"):], " \t\r\n*=\"'")
			if end := strings.IndexAny(charset, "\"'; \t\r\n"); end >= 0 {
				charset = charset[:end]
			}
		}
		return strings.TrimSpace(media), charset
	}
	return "text/plain", ""
}
