package policy

import (
	"errors"
	"strconv"
	"strings"
)

// Pos is a place in a file of the operator's. Line and Column count from 1;
// 0 is unknown.
type Pos struct {
	File         string
	Line, Column int
}

// String returns "file:line:column", as far as it is known.
func (p Pos) String() string {
	s := p.File
	if p.Line > 0 {
		s += ":" + strconv.Itoa(p.Line)
		if p.Column > 0 {
			s += ":" + strconv.Itoa(p.Column)
		}
	}
	return s
}

// Mistake is one thing wrong in the configuration or a table.
type Mistake struct {
	Pos     Pos
	Problem string
	Remedy  string
}

// Error returns the mistake in one line.
func (m Mistake) Error() string {
	s := m.Problem
	if at := m.Pos.String(); at != "" {
		s = at + ": " + s
	}
	if m.Remedy != "" {
		s += " (" + m.Remedy + ")"
	}
	return s
}

// Mistakes are all that was found at once.
type Mistakes []Mistake

// Error returns the mistakes, one a line.
func (m Mistakes) Error() string {
	lines := make([]string, len(m))
	for i, mistake := range m {
		lines[i] = mistake.Error()
	}
	return strings.Join(lines, "\n")
}

func (m Mistakes) orNil() error {
	if len(m) == 0 {
		return nil
	}
	return m
}

// asMistakes turns an error about a file into mistakes.
func asMistakes(file string, err error) Mistakes {
	var known Mistakes
	if errors.As(err, &known) {
		return known
	}
	return Mistakes{{Pos: Pos{File: file}, Problem: err.Error()}}
}
