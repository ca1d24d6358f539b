package directory

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"
)

// PostfixParameter is a setting of a file in Postfix's notation.
type PostfixParameter struct {
	Name, Value string
	Line        int // where it begins, from 1
}

// Bounds of a file of parameters.
const (
	maxPostfixOctets = 1 << 20
	maxPostfixLine   = 64 << 10
)

var errPostfixFile = errors.New("not a file of Postfix parameters")

// ParsePostfixFile reads "name = value" lines as Postfix does in main.cf and in
// the files of its tables: a line that begins with white space continues the
// one before, also past comments and empty lines. Names are in lower case as
// they are in Postfix. A name may come twice; the last one counts there.
func ParsePostfixFile(r io.Reader) ([]PostfixParameter, error) {
	lines := bufio.NewScanner(io.LimitReader(r, maxPostfixOctets+1))
	lines.Buffer(make([]byte, 0, 4096), maxPostfixLine)
	var all []PostfixParameter
	var logical strings.Builder
	begun, octets := 0, 0
	finish := func() error {
		if begun == 0 {
			return nil
		}
		name, value, ok := strings.Cut(logical.String(), "=")
		name = strings.TrimSpace(name)
		if !ok || name == "" || strings.ContainsAny(name, " \t") {
			return fmt.Errorf("%w: line %d: %.60q is not of the form name = value", errPostfixFile, begun, logical.String())
		}
		all = append(all, PostfixParameter{Name: name, Value: strings.TrimSpace(value), Line: begun})
		logical.Reset()
		begun = 0
		return nil
	}
	for n := 1; lines.Scan(); n++ {
		line := lines.Text()
		if octets += len(line) + 1; octets > maxPostfixOctets {
			return nil, fmt.Errorf("%w: more than %d octets", errPostfixFile, maxPostfixOctets)
		}
		text := strings.TrimSpace(line)
		switch {
		case strings.ContainsRune(line, 0):
			return nil, fmt.Errorf("%w: line %d: a NUL", errPostfixFile, n)
		case text == "" || text[0] == '#':
		case line[0] == ' ' || line[0] == '\t':
			if begun == 0 {
				return nil, fmt.Errorf("%w: line %d continues nothing", errPostfixFile, n)
			}
			logical.WriteString(" " + text)
		default:
			if err := finish(); err != nil {
				return nil, err
			}
			logical.WriteString(text)
			begun = n
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("%w: %w", errPostfixFile, err)
	}
	return all, finish()
}

// PostfixList splits the value of a parameter that is a list.
func PostfixList(value string) []string {
	return strings.FieldsFunc(value, func(r rune) bool { return r == ',' || r == ' ' || r == '\t' })
}
