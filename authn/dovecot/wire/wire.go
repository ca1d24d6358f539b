// Package wire is the notation of Dovecot's authentication protocol: lines of
// fields with a TAB in between, and within a field an escape for the octets
// that would end it. What the fields mean is left to the client and the server.
package wire

import (
	"bufio"
	"bytes"
	"errors"
	"strings"
)

const (
	// Major is the version of the protocol; another one cannot be spoken.
	Major = "1"
	// Minor is the version of its extensions, which never need the other
	// side's agreement.
	Minor = "2"
	// MaxLineOctets bounds a line with its end. Dovecot's own bound.
	MaxLineOctets = 16384
)

// ErrLineLong is what ReadLine returns for a line beyond MaxLineOctets.
var ErrLineLong = errors.New("line longer than the protocol allows")

// NewReader returns a reader whose buffer holds the longest line.
func NewReader(r interface{ Read([]byte) (int, error) }) *bufio.Reader {
	return bufio.NewReaderSize(r, MaxLineOctets)
}

// ReadLine reads one line of a NewReader and returns its fields; the first is
// the command. A line that ends with the connection is no line.
func ReadLine(r *bufio.Reader) ([]string, error) {
	line, err := r.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		return nil, ErrLineLong
	}
	if err != nil {
		return nil, err
	}
	return Parse(line[:len(line)-1]), nil
}

// Parse splits a line, without its end, into fields and takes the escapes out.
func Parse(line []byte) []string {
	fields := make([]string, 0, 8)
	for {
		field, rest, more := bytes.Cut(line, []byte{'\t'})
		fields = append(fields, unescape(field))
		if !more {
			return fields
		}
		line = rest
	}
}

const escape = '\x01'

func unescape(field []byte) string {
	if bytes.IndexByte(field, escape) < 0 {
		return string(field)
	}
	var out strings.Builder
	for i := 0; i < len(field); i++ {
		c := field[i]
		if c == escape && i+1 < len(field) {
			i++
			switch c = field[i]; c {
			case '0':
				c = 0
			case '1':
				c = escape
			case 't':
				c = '\t'
			case 'r':
				c = '\r'
			case 'n', 'l': // Dovecot writes the first and documents the second
				c = '\n'
			}
		}
		out.WriteByte(c)
	}
	return out.String()
}

// Append appends a line of fields to dst, escaped and with its end.
func Append(dst []byte, fields ...string) []byte {
	for i, field := range fields {
		if i > 0 {
			dst = append(dst, '\t')
		}
		for j := 0; j < len(field); j++ {
			switch c := field[j]; c {
			case 0:
				dst = append(dst, escape, '0')
			case escape:
				dst = append(dst, escape, '1')
			case '\t':
				dst = append(dst, escape, 't')
			case '\r':
				dst = append(dst, escape, 'r')
			case '\n':
				dst = append(dst, escape, 'n')
			default:
				dst = append(dst, c)
			}
		}
	}
	return append(dst, '\n')
}

// Value finds the parameter name=value among fields.
func Value(fields []string, name string) (value string, given bool) {
	for _, field := range fields {
		if v, found := strings.CutPrefix(field, name); found && strings.HasPrefix(v, "=") {
			return v[1:], true
		}
	}
	return "", false
}
