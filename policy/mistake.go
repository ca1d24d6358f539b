package policy

import (
	"errors"
	"strconv"
	"strings"

	"github.com/postern-mail/postern/table"
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

// asMistakes turns what is wrong with a table into mistakes, each with its
// place: at says where the table is named, for those that have none.
func asMistakes(at Pos, err error) Mistakes {
	var inFile table.Mistakes
	if !errors.As(err, &inFile) {
		return Mistakes{{Pos: at, Problem: err.Error()}}
	}
	var all Mistakes
	for _, m := range inFile {
		mistake := Mistake{Problem: m.Err.Error()}
		var ours *Mistake
		if errors.As(m.Err, &ours) {
			mistake = *ours
		}
		mistake.Pos = Pos{File: m.File, Line: m.Line}
		all = append(all, mistake)
	}
	return all
}
