package table

import (
	"bufio"
	"errors"
	"io"
	"strings"
	"unicode/utf8"
)

// maxLineOctets bounds a line of a file, and a logical line made of several.
const maxLineOctets = 1 << 20

// entry is a logical line of a file.
type entry struct {
	line int
	text string
}

var (
	errContinuesNothing = errors.New("the first line begins with white space: it continues nothing; begin it with the key")
	errNotUTF8          = errors.New("the line is not valid UTF-8; convert the file")
	errControl          = errors.New("control character in the line; remove it")
	errNotClosed        = errors.New("a quoted string is not closed")
	errLong             = errors.New("the line is too long")
)

// eachLine calls take with each logical line: one that begins with white space
// goes on with the one before; empty lines and those whose first character is
// # do not count, wherever they stand.
func (n *notes) eachLine(r io.Reader, take func(entry)) {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxLineOctets)
	var e entry
	number := 0
	finish := func() {
		if e.line > 0 {
			take(e)
		}
		e = entry{}
	}
	for lines.Scan() {
		number++
		raw := strings.TrimRight(lines.Text(), " \t\r")
		text := strings.TrimLeft(raw, " \t")
		switch {
		case text == "" || text[0] == '#':
		case !utf8.ValidString(text):
			n.mistake(number, errNotUTF8)
		case hasControl(text):
			n.mistake(number, errControl)
		case len(text) == len(raw):
			finish()
			e = entry{number, text}
		case e.line == 0:
			n.mistake(number, errContinuesNothing)
		case len(e.text)+len(raw) > maxLineOctets:
			n.mistake(e.line, errLong)
			e = entry{}
		default:
			e.text += raw // with the white space, as Postfix has it
		}
	}
	finish()
	if err := lines.Err(); err != nil {
		n.mistake(number+1, err)
	}
}

func hasControl(text string) bool {
	return strings.IndexFunc(text, func(c rune) bool { return c < ' ' && c != '\t' || c == 0x7f }) >= 0
}

// splitEntry cuts a line behind its key, in which quoted strings hide white
// space.
func splitEntry(text string) (key, value string, closed bool) {
	quoted := false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case !quoted && (c == ' ' || c == '\t'):
			return text[:i], strings.TrimSpace(text[i:]), true
		}
	}
	return text, "", !quoted
}
