package replica

import (
	"encoding/binary"
	"errors"

	"github.com/postern-mail/postern/directory"
)

var errCodec = errors.New("a stored entry is damaged")

// appendEntry writes an entry: its name, then for each attribute the type, how
// many values there are, and these; every text with its length before it.
func appendEntry(dst []byte, e directory.Entry) []byte {
	dst = appendText(dst, string(e.DN))
	e.Each(func(attribute string, values []string) {
		dst = appendText(dst, attribute)
		dst = binary.AppendUvarint(dst, uint64(len(values)))
		for _, v := range values {
			dst = appendText(dst, v)
		}
	})
	return dst
}

func appendText(dst []byte, text string) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(text))), text...)
}

// parseEntry reads what appendEntry wrote.
func parseEntry(data []byte) (directory.Entry, error) {
	r := reader{rest: data}
	dn := r.text()
	var attributes []directory.Attribute
	for len(r.rest) > 0 && !r.bad {
		a := directory.Attribute{Type: r.text()}
		n := r.number()
		if n > uint64(len(r.rest)) { // each value takes an octet at least
			return directory.Entry{}, errCodec
		}
		for range n {
			a.Values = append(a.Values, r.text())
		}
		attributes = append(attributes, a)
	}
	if r.bad {
		return directory.Entry{}, errCodec
	}
	return directory.EntryOf(directory.DN(dn), attributes), nil
}

// reader reads stored octets; bad when they end too early.
type reader struct {
	rest []byte
	bad  bool
}

func (r *reader) number() uint64 {
	n, size := binary.Uvarint(r.rest)
	if size <= 0 {
		r.bad, r.rest = true, nil
		return 0
	}
	r.rest = r.rest[size:]
	return n
}

func (r *reader) text() string {
	n := r.number()
	if n > uint64(len(r.rest)) {
		r.bad, r.rest = true, nil
		return ""
	}
	text := string(r.rest[:n])
	r.rest = r.rest[n:]
	return text
}
