package attachments

import (
	"bufio"
	"io"
)

// base64Reader decodes what stands in a part, as mail programs do: what is not of
// the alphabet is passed over, and padding ends a group, not the text.
type base64Reader struct {
	r     *bufio.Reader
	group uint32
	bits  int
	err   error
}

func newBase64(r io.Reader) io.Reader { return &base64Reader{r: bufio.NewReader(r)} }

var sextets = func() (table [256]int8) {
	for i := range table {
		table[i] = -1
	}
	for i, c := range "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/" {
		table[c] = int8(i)
	}
	return table
}()

// Read implements io.Reader.
func (b *base64Reader) Read(p []byte) (n int, err error) {
	for n < len(p) {
		if b.err != nil {
			break
		}
		c, err := b.r.ReadByte()
		if err != nil {
			b.err = err
			break
		}
		s := sextets[c]
		if c == '=' {
			b.bits, b.group = 0, 0
			continue
		}
		if s < 0 {
			continue
		}
		b.group, b.bits = b.group<<6|uint32(s), b.bits+6
		if b.bits >= 8 {
			b.bits -= 8
			p[n] = byte(b.group >> b.bits)
			n++
		}
	}
	if n == 0 && len(p) > 0 {
		return 0, b.err
	}
	return n, nil
}

// quotedReader decodes quoted-printable; what is none stays.
type quotedReader struct{ r *bufio.Reader }

func newQuoted(r io.Reader) io.Reader { return &quotedReader{bufio.NewReader(r)} }

// Read implements io.Reader.
func (q *quotedReader) Read(p []byte) (n int, err error) {
	for n < len(p) {
		c, err := q.r.ReadByte()
		if err != nil {
			if n == 0 {
				return 0, err
			}
			break
		}
		if c == '=' {
			next, _ := q.r.Peek(2) // less at the end
			if len(next) == 2 {
				high, low := hex(next[0]), hex(next[1])
				switch {
				case high >= 0 && low >= 0:
					c = byte(high<<4 | low)
				case next[0] == '\r' && next[1] == '\n':
					_, _ = q.r.Discard(2) // it was peeked at
					continue
				default:
					p[n] = c
					n++
					continue
				}
				_, _ = q.r.Discard(2) // it was peeked at
			}
		}
		p[n] = c
		n++
	}
	return n, nil
}

func hex(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c >= 'A' && c <= 'F':
		return int(c-'A') + 10
	case c >= 'a' && c <= 'f':
		return int(c-'a') + 10
	}
	return -1
}
