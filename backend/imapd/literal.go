package imapd

import "math"

// literalMark is the announcement of a literal: "{5}", or "{5+}" for one that
// the client sends without waiting (RFC 7888).
type literalMark struct {
	octets  int64
	nonSync bool
	start   int // of the brace, in the line
}

// tooManyOctets is the size of a literal whose number overflows: it is a
// literal, and always over the limit.
const tooManyOctets = math.MaxInt64

// literalAt finds the announcement of a literal at the end of a line.
func literalAt(line []byte) (literalMark, bool) {
	i := len(line) - 1
	if i < 2 || line[i] != '}' {
		return literalMark{}, false
	}
	i--
	var m literalMark
	if line[i] == '+' {
		m.nonSync = true
		i--
	}
	end := i
	for i >= 0 && line[i]-'0' <= 9 {
		i--
	}
	if i < 0 || i == end || line[i] != '{' {
		return literalMark{}, false
	}
	for _, c := range line[i+1 : end+1] {
		if m.octets > (tooManyOctets-9)/10 {
			m.octets = tooManyOctets
			break
		}
		m.octets = m.octets*10 + int64(c-'0')
	}
	m.start = i
	return m, true
}

// hasLiteral reports whether a line announces a literal where there can be
// none: what follows cannot be told from commands.
func hasLiteral(line []byte) bool {
	_, ok := literalAt(line)
	return ok
}
