package mime

import (
	"bytes"
	"strings"
)

// kind is what the type of a body means for what stands in it.
type kind uint8

const (
	kindText      kind = iota // and where nothing is said
	kindOther                 // and around the parts of a multipart
	kindMultipart             // parts follow
	kindMessage               // a header follows: message/rfc822, message/global
	kindFragment              // other message/ types
)

var contentType = []byte("content-type:")

// look notes what a field says of the body that follows.
func (w *walker) look() {
	if w.limits.Flat || len(w.field) < len(contentType) || !bytes.EqualFold(w.field[:len(contentType)], contentType) {
		return
	}
	s := scanner{text: w.field[len(contentType):]}
	first := s.parameter()
	if len(first) == 0 || first[0].form != word {
		return
	}
	subtype := ""
	if len(first) >= 3 && first[1].is("/") && first[2].form == word {
		subtype = strings.ToLower(first[2].text)
	}
	switch strings.ToLower(first[0].text) {
	case "text":
		w.kind = kindText
	case "message":
		if w.kind = kindFragment; subtype == "rfc822" || subtype == "global" {
			w.kind = kindMessage
		}
	case "multipart":
		w.kind = kindMultipart
		parts := kindText
		if subtype == "digest" {
			parts = kindMessage
		}
		if w.limits.AsPrograms {
			w.divided(parts)
			return
		}
		// Several boundaries are a mistake, behind which something may hide: each
		// of them counts.
		for !s.ended() {
			p := s.parameter()
			if len(p) >= 3 && p[0].form == word && strings.EqualFold(p[0].text, "boundary") && p[1].is("=") {
				w.push(p[2].text, parts)
			}
		}
	default:
		w.kind = kindOther
	}
}

// push makes parts out of what a boundary divides.
func (w *walker) push(text string, parts kind) {
	if len(w.stack) >= w.limits.Nesting {
		w.deep = true
		return
	}
	w.stack = append(w.stack, boundary{[]byte(text[:min(len(text), w.limits.BoundaryOctets)]), parts})
}

// token is a word, a quoted string, or a special character of a field.
type token struct {
	text   string
	form   form
	spaced bool // white space stands ahead of it
}

type form uint8

const (
	special form = iota
	word
	quoted
)

func (t token) is(text string) bool { return t.form == special && t.text == text }

// scanner divides the body of a field into tokens (RFC 2045 section 5.1).
type scanner struct {
	text []byte
	at   int
	// odd tells that a comment was passed, or a quoted string had no end.
	odd bool
}

// maxTokens is how many tokens of one parameter count.
const maxTokens = 8

const specials = "()<>@,;:\\\"[]?/="

func (s *scanner) ended() bool { return s.at >= len(s.text) }

// parameter returns the first tokens up to the next semicolon, which it passes.
func (s *scanner) parameter() []token { return s.tokens(maxTokens) }

func (s *scanner) tokens(most int) []token {
	var all []token
	for !s.ended() {
		from := s.at
		t, ok := s.next()
		if !ok || t.is(";") {
			break
		}
		if t.spaced = s.text[from] <= ' '; len(all) < most {
			all = append(all, t)
		}
	}
	return all
}

func (s *scanner) next() (token, bool) {
	for s.at < len(s.text) {
		switch c := s.text[s.at]; {
		case c == ' ' || c == '\t' || c == '\n' || c == '\r':
			s.at++
		case c == '(':
			s.comment()
		case c == '"':
			return token{text: s.quoted(), form: quoted}, true
		case strings.IndexByte(specials, c) >= 0:
			s.at++
			return token{text: string(c)}, true
		default:
			from := s.at
			for s.at < len(s.text) && s.text[s.at] > ' ' && s.text[s.at] != 0x7f && strings.IndexByte(specials, s.text[s.at]) < 0 {
				s.at++
			}
			if s.at == from { // a control character
				s.at++
				continue
			}
			return token{text: string(s.text[from:s.at]), form: word}, true
		}
	}
	return token{}, false
}

// comment passes a comment, with those in it.
func (s *scanner) comment() {
	s.odd = true
	depth := 0
	for ; s.at < len(s.text); s.at++ {
		switch s.text[s.at] {
		case '\\':
			s.at++
		case '(':
			depth++
		case ')':
			if depth--; depth == 0 {
				s.at++
				return
			}
		}
	}
}

// quoted returns a quoted string without its quotes.
func (s *scanner) quoted() string {
	var b strings.Builder
	for s.at++; s.at < len(s.text); s.at++ {
		switch c := s.text[s.at]; c {
		case '"':
			s.at++
			return b.String()
		case '\\':
			if s.at++; s.at < len(s.text) {
				b.WriteByte(s.text[s.at])
			}
		case '\n', '\r':
		default:
			b.WriteByte(c)
		}
	}
	s.odd = true
	return b.String()
}

// Value returns the first words of a field: "text/plain", "base64", in small
// letters.
func Value(field []byte) string {
	_, value, _ := bytes.Cut(field, []byte(":"))
	s := scanner{text: value}
	text := ""
	for _, t := range s.parameter() {
		text += t.text
	}
	return strings.ToLower(text)
}
