package delegation

import (
	"bufio"
	"errors"
	"fmt"
	"strings"
)

// Bounds of a message of the protocol, in either direction.
const (
	maxLine       = 16 << 10
	maxMessage    = 64 << 10
	maxAttributes = 200
)

// attribute is one line: a name and its value.
type attribute struct{ name, value string }

var (
	errTooLarge  = fmt.Errorf("a message of more than %d octets, or %d attributes", maxMessage, maxAttributes)
	errMalformed = errors.New("a line that is no attribute")
)

// appendMessage appends attributes as they go over the wire: NAME=VALUE lines,
// and an empty one.
func appendMessage(b []byte, attributes []attribute) []byte {
	for _, a := range attributes {
		b = append(append(append(b, a.name...), '='), clean(a.value)...)
		b = append(b, '\n')
	}
	return append(b, '\n')
}

// clean keeps a value within its line: what a stranger said must not become an
// attribute of its own.
func clean(value string) string {
	if len(value) > maxLine/4 {
		value = value[:maxLine/4]
	}
	if strings.IndexFunc(value, isControl) < 0 {
		return value
	}
	return strings.Map(func(c rune) rune {
		if isControl(c) {
			return '?'
		}
		return c
	}, value)
}

func isControl(c rune) bool { return c < ' ' || c == 0x7f }

// readMessage reads the lines of one message up to the empty one, and calls
// begun once there is a first octet of it.
func readMessage(r *bufio.Reader, begun func()) ([]attribute, error) {
	var all []attribute
	octets := 0
	if _, err := r.Peek(1); err != nil {
		return nil, err
	}
	begun()
	for {
		line, err := readLine(r)
		if err != nil {
			return nil, err
		}
		if octets += len(line) + 1; octets > maxMessage {
			return nil, errTooLarge
		}
		if line == "" {
			return all, nil
		}
		name, value, ok := strings.Cut(line, "=")
		if name = strings.TrimSpace(name); !ok || name == "" {
			return nil, errMalformed
		}
		if len(all) == maxAttributes {
			return nil, errTooLarge
		}
		all = append(all, attribute{name, strings.TrimSpace(value)})
	}
}

// readLine reads a line without its end, LF or CRLF.
func readLine(r *bufio.Reader) (string, error) {
	line, err := r.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		return "", errTooLarge
	}
	if err != nil {
		return "", err
	}
	return strings.TrimSuffix(string(line[:len(line)-1]), "\r"), nil
}

// valueOf returns the value of the last attribute of that name.
func valueOf(all []attribute, name string) (value string, found bool) {
	for _, a := range all {
		if a.name == name {
			value, found = a.value, true
		}
	}
	return value, found
}
