package ldif

import (
	"bufio"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/postern-mail/postern/directory"
)

// Bounds of a file. A directory that needs more belongs on a server.
const (
	maxLineOctets = 16 << 20 // a folded line, values in base64 included
	maxEntries    = 1 << 20
	maxMistakes   = 20 // reported at once
)

// line is a logical line: folded lines joined, comments gone.
type line struct {
	number int // of its first physical line
	text   string
}

// mistakes collects what is wrong with a file, each with its place.
type mistakes struct {
	file string
	list []error
}

var errTooManyMistakes = errors.New("too many mistakes")

func (m *mistakes) add(number int, format string, args ...any) {
	if len(m.list) == maxMistakes {
		m.list = append(m.list, errTooManyMistakes)
	}
	if len(m.list) < maxMistakes {
		m.list = append(m.list, fmt.Errorf("%s:%d: %w", m.file, number, fmt.Errorf(format, args...)))
	}
}

func (m *mistakes) full() bool { return len(m.list) > maxMistakes }

// Parse reads LDIF and returns its entries in the order of the file. file
// names the input in errors, which all carry a line number and are joined.
func Parse(file string, r io.Reader) ([]directory.Entry, error) {
	m := &mistakes{file: file}
	lines := &lineReader{r: bufio.NewReaderSize(r, 64<<10), mistakes: m}
	var entries []directory.Entry
	seen := map[string]int{}
	first := true
	for !m.full() {
		record, err := lines.record()
		if first && len(record) > 0 {
			record, first = cutVersion(record, m), false
		}
		if len(record) > 0 {
			if e, ok := parseRecord(record, m); ok {
				if at := seen[e.DN.Key()]; at > 0 {
					m.add(record[0].number, "entry %q stands at line %d already", e.DN, at)
				}
				seen[e.DN.Key()] = record[0].number
				entries = append(entries, e)
			}
		}
		if len(entries) > maxEntries {
			m.add(lines.number, "more than %d entries", maxEntries)
			break
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			m.add(lines.number, "%w", err)
			break
		}
	}
	if len(m.list) > 0 {
		return nil, errors.Join(m.list...)
	}
	return entries, nil
}

// cutVersion drops the version line a file may begin with.
func cutVersion(record []line, m *mistakes) []line {
	name, v, _ := strings.Cut(record[0].text, ":")
	if !strings.EqualFold(name, "version") {
		return record
	}
	if strings.TrimSpace(v) != "1" {
		m.add(record[0].number, "LDIF version %q is not known, only 1", strings.TrimSpace(v))
	}
	return record[1:]
}

// parseRecord reads one entry. It is false when the record is broken.
func parseRecord(record []line, m *mistakes) (directory.Entry, bool) {
	before := len(m.list)
	name, v, err := parseLine(record[0].text)
	switch {
	case err != nil:
		m.add(record[0].number, "%w", err)
		return directory.Entry{}, false
	case !strings.EqualFold(name, "dn"):
		m.add(record[0].number, "an entry begins with its dn, not with %q", name)
		return directory.Entry{}, false
	case v == "" || !utf8.ValidString(v):
		m.add(record[0].number, "the DN is empty or not UTF-8")
		return directory.Entry{}, false
	}
	dn, err := directory.ParseDN(v)
	if err != nil {
		m.add(record[0].number, "%w", err)
	}
	attributes := map[string][]string{}
	for _, l := range record[1:] {
		addAttribute(attributes, l, m)
	}
	if len(attributes) == 0 && len(m.list) == before {
		m.add(record[0].number, "entry %q has no attributes", v)
	}
	return directory.NewEntry(dn, attributes), len(m.list) == before
}

func addAttribute(attributes map[string][]string, l line, m *mistakes) {
	name, v, err := parseLine(l.text)
	switch {
	case err != nil:
		m.add(l.number, "%w", err)
	case strings.EqualFold(name, "changetype"), strings.EqualFold(name, "control"):
		m.add(l.number, "%q: this is a change record, and only entries are read", name)
	case strings.EqualFold(name, "dn"):
		m.add(l.number, "a second dn: an empty line is missing before it")
	default:
		key := strings.ToLower(name)
		attributes[key] = append(attributes[key], v)
	}
}

// parseLine reads "name: value", "name:: base64" or refuses "name:< url".
func parseLine(text string) (name, v string, err error) {
	if text == "-" {
		return "", "", errors.New(`"-": this is a change record, and only entries are read`)
	}
	name, rest, found := strings.Cut(text, ":")
	if !found || !directory.IsAttributeDescription(name) {
		return "", "", fmt.Errorf("%q is not \"attribute: value\"", clip(text))
	}
	if strings.HasPrefix(rest, "<") {
		return "", "", fmt.Errorf("%s: values from URLs are not read", name)
	}
	encoded, isBase64 := strings.CutPrefix(rest, ":")
	if !isBase64 {
		// FILL in RFC 2849 is any number of spaces; what ends in one is kept.
		return name, strings.TrimLeft(rest, " "), nil
	}
	octets, err := base64.StdEncoding.DecodeString(strings.Trim(encoded, " "))
	if err != nil {
		return "", "", fmt.Errorf("%s: malformed base64: %w", name, err)
	}
	return name, string(octets), nil
}

func clip(s string) string {
	if len(s) > 60 {
		return s[:60] + "..."
	}
	return s
}

// lineReader joins folded lines and splits records at empty ones.
type lineReader struct {
	r        *bufio.Reader
	number   int // of the physical line read last
	mistakes *mistakes
}

var errLineTooLong = fmt.Errorf("line longer than %d octets", maxLineOctets)

// record returns the next record's lines; none for repeated empty lines. The
// error is io.EOF with or after the last record.
func (l *lineReader) record() ([]line, error) {
	var lines []line
	inComment := false
	for {
		text, err := l.physical()
		if err != nil && (err != io.EOF || text == "") {
			return lines, err
		}
		switch {
		case text == "":
			return lines, nil
		case text[0] == '#':
			inComment = true
		case text[0] == ' ':
			l.fold(lines, text[1:], inComment)
		default:
			inComment = false
			lines = append(lines, line{number: l.number, text: text})
		}
		if len(lines) > 0 && len(lines[len(lines)-1].text) > maxLineOctets {
			return nil, errLineTooLong
		}
		if err == io.EOF {
			return lines, err
		}
	}
}

func (l *lineReader) fold(lines []line, text string, inComment bool) {
	switch {
	case inComment:
	case len(lines) == 0:
		l.mistakes.add(l.number, "a line begins with a space but continues nothing")
	default:
		lines[len(lines)-1].text += text
	}
}

// physical returns one line without its end.
func (l *lineReader) physical() (string, error) {
	l.number++
	var whole []byte
	for {
		part, err := l.r.ReadSlice('\n')
		whole = append(whole, part...)
		if len(whole) > maxLineOctets {
			return "", errLineTooLong
		}
		if err == bufio.ErrBufferFull {
			continue
		}
		text := strings.TrimSuffix(strings.TrimSuffix(string(whole), "\n"), "\r")
		return text, err
	}
}
