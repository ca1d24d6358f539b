package rewrite

import (
	"strings"

	"github.com/postern-mail/postern/mail"
)

// spec is an addr-spec in the body of a header field: where it stands, and
// what it says. A local-part alone has no domain.
type spec struct {
	start, end int
	address    mail.Address
}

// maxTokens bounds what is looked at of one field (Postfix:
// header_address_token_limit); what lies beyond stays as it is.
const maxTokens = 10240

// token is a lexical token of RFC 5322 section 3.2: an atom, a quoted string,
// a domain literal, or one of the characters < > , ; : @ and the dot.
type token struct {
	kind       byte // 'a', 'q', 'l', or the character itself
	start, end int
	comment    bool // one stands between the token before and this one
}

// specs finds the addr-specs in the body of a field that holds a list of
// addresses, and where commas separate them. Comments, names, groups and
// routes are passed over. An element that is no address is left out; false
// means that the body as a whole cannot be read.
func specs(body []byte) (list []spec, commas []int, ok bool) {
	tokens, ok := tokenize(body)
	if !ok {
		return nil, nil, false
	}
	e := element{body: body}
	for _, t := range tokens {
		if e.inAngle && t.kind != '>' {
			e.angle = append(e.angle, t)
			continue
		}
		switch t.kind {
		case '<':
			e.malformed = e.malformed || e.hasAngle
			e.inAngle, e.hasAngle = true, true
		case '>':
			e.malformed = e.malformed || !e.inAngle
			e.inAngle = false
		case ',', ';':
			list = e.finish(list)
			if t.kind == ',' {
				commas = append(commas, t.end)
			}
		case ':': // what came before is the name of a group
			e.reset()
		default:
			e.words = append(e.words, t)
		}
	}
	if e.inAngle {
		return nil, nil, false
	}
	return e.finish(list), commas, true
}

// element is what stands between two commas.
type element struct {
	body              []byte
	words, angle      []token
	inAngle, hasAngle bool
	malformed         bool
}

func (e *element) reset() {
	*e = element{body: e.body, words: e.words[:0], angle: e.angle[:0]}
}

// finish adds the element's addr-spec, if it has one, and begins the next.
func (e *element) finish(list []spec) []spec {
	defer e.reset()
	tokens := e.words
	if e.hasAngle {
		tokens = withoutRoute(e.angle)
	}
	if e.malformed {
		return list
	}
	if s, ok := parseSpec(e.body, tokens); ok {
		list = append(list, s)
	}
	return list
}

// withoutRoute drops the route of RFC 5322 section 4.4: @one,@two:
func withoutRoute(tokens []token) []token {
	if len(tokens) == 0 || tokens[0].kind != '@' {
		return tokens
	}
	for i, t := range tokens {
		if t.kind == ':' {
			return tokens[i+1:]
		}
	}
	return nil
}

// parseSpec reads local-part ["@" domain]. White space around dots and the
// at-sign is obsolete but harmless; where a comment stands inside, replacing
// the whole would lose it, so that is left alone.
func parseSpec(body []byte, tokens []token) (spec, bool) {
	if len(tokens) == 0 {
		return spec{}, false
	}
	var text strings.Builder
	wantWord, at := true, -1
	for i, t := range tokens {
		if i > 0 && t.comment {
			return spec{}, false
		}
		switch t.kind {
		case 'a', 'q', 'l':
			if !wantWord || t.kind == 'q' && at >= 0 || t.kind == 'l' && (at < 0 || i != at+1) {
				return spec{}, false
			}
			wantWord = false
		case '.', '@':
			if wantWord || t.kind == '@' && at >= 0 {
				return spec{}, false
			}
			if t.kind == '@' {
				at = i
			}
			wantWord = true
		default:
			return spec{}, false
		}
		text.Write(body[t.start:t.end])
	}
	if wantWord {
		return spec{}, false
	}
	s := spec{start: tokens[0].start, end: tokens[len(tokens)-1].end}
	if at < 0 {
		text.WriteString("@bare.invalid")
	}
	var err error
	if s.address, err = mail.ParseAddress(text.String()); err != nil {
		return spec{}, false
	}
	if at < 0 {
		s.address.Domain = ""
	}
	return s, true
}

// tokenize divides a body into tokens. It is false when a comment, quoted
// string or domain literal has no end, or there is too much.
func tokenize(body []byte) (tokens []token, ok bool) {
	comment := false
	for i := 0; i < len(body); {
		t := token{start: i, comment: comment}
		switch c := body[i]; c {
		case ' ', '\t', '\r', '\n':
			i++
			continue
		case '(':
			if i = afterComment(body, i); i < 0 {
				return nil, false
			}
			comment = true
			continue
		case '"':
			t.kind, t.end = 'q', afterQuoted(body, i, '"')
		case '[':
			t.kind, t.end = 'l', afterQuoted(body, i, ']')
		case '<', '>', ',', ';', ':', '@', '.':
			t.kind, t.end = c, i+1
		case ')', ']':
			return nil, false
		default:
			t.kind, t.end = 'a', i+1
			for t.end < len(body) && strings.IndexByte(" \t\r\n()<>[]:;@,.\"", body[t.end]) < 0 {
				t.end++
			}
		}
		if t.end < 0 || len(tokens) == maxTokens {
			return nil, false
		}
		tokens = append(tokens, t)
		i, comment = t.end, false
	}
	return tokens, true
}

// afterQuoted returns the place behind the closing character of what begins at
// i, or -1.
func afterQuoted(body []byte, i int, closing byte) int {
	for i++; i < len(body); i++ {
		switch body[i] {
		case '\\':
			i++
		case closing:
			return i + 1
		}
	}
	return -1
}

// afterComment returns the place behind the comment that begins at i, or -1.
func afterComment(body []byte, i int) int {
	depth := 0
	for ; i < len(body); i++ {
		switch body[i] {
		case '\\':
			i++
		case '(':
			depth++
		case ')':
			if depth--; depth == 0 {
				return i + 1
			}
		}
	}
	return -1
}
