package table

import (
	"strconv"
	"strings"
)

// Mistake is one thing that is wrong in a file. Err says what to do about it
// where that is not plain.
type Mistake struct {
	File string
	Line int // counts from 1; 0 is the file as a whole
	Err  error
}

// Error returns "file:line: what is wrong".
func (m Mistake) Error() string {
	at := m.File
	if m.Line > 0 {
		at += ":" + strconv.Itoa(m.Line)
	}
	return at + ": " + m.Err.Error()
}

// Unwrap returns what is wrong, without the place.
func (m Mistake) Unwrap() error { return m.Err }

// Mistakes are all that was found in one reading, in order of lines.
type Mistakes []Mistake

// Error returns the mistakes, one a line.
func (m Mistakes) Error() string {
	lines := make([]string, len(m))
	for i, one := range m {
		lines[i] = one.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap returns the mistakes one by one.
func (m Mistakes) Unwrap() []error {
	all := make([]error, len(m))
	for i, one := range m {
		all[i] = one
	}
	return all
}

// maxMistakes are told of one file.
const maxMistakes = 20

// notes collects what there is to say of a file.
type notes struct {
	file     string
	mistakes Mistakes
	warnings Mistakes
}

func (n *notes) mistake(line int, err error) {
	if len(n.mistakes) < maxMistakes {
		n.mistakes = append(n.mistakes, Mistake{n.file, line, err})
	}
}

func (n *notes) warn(line int, err error) {
	if len(n.warnings) < maxMistakes {
		n.warnings = append(n.warnings, Mistake{n.file, line, err})
	}
}

func (n *notes) err() error {
	if len(n.mistakes) == 0 {
		return nil
	}
	return n.mistakes
}
