package text

import (
	"bytes"
	"html"
	"strings"
	"unicode/utf8"
)

// stripper turns HTML into the text that is read, piece by piece: without tags,
// comments, scripts and styles, character references resolved, white space as
// one space, and without the signs that only tell where a word may break. It
// takes any octets; what is malformed is text.
type stripper struct {
	state stripState
	tag   []byte // of the tag being read: its beginning
	skip  string // the element whose content is left out until its end
	ref   []byte // the character reference being read, from its "&"
	quote byte   // of the attribute being read
	space bool   // white space is owed
	begun bool
	cut   [utf8.UTFMax]byte // the start of a rune that was cut
	nCut  int
}

type stripState uint8

const (
	inText stripState = iota
	inTag
	inAttribute
	inComment
	inReference
)

const (
	maxTag       = 16
	maxReference = 34
)

func (s *stripper) reset() {
	*s = stripper{tag: s.tag[:0], ref: s.ref[:0]}
}

// add appends the text of src. last is the end of the HTML.
func (s *stripper) add(dst, src []byte, last bool) []byte {
	for len(src) > 0 {
		switch s.state {
		case inText:
			dst, src = s.text(dst, src)
		case inReference:
			dst, src = s.reference(dst, src)
		case inComment:
			src = s.comment(src)
		case inAttribute:
			if i := bytes.IndexByte(src, s.quote); i >= 0 {
				s.state, src = inTag, src[i+1:]
			} else {
				src = nil
			}
		case inTag:
			dst, src = s.inside(dst, src)
		}
	}
	if last {
		if s.state == inReference {
			dst = s.resolve(dst)
		}
		if s.nCut > 0 {
			dst = s.owed(dst, s.cut[:s.nCut])
		}
	}
	return dst
}

// text takes what comes before the next tag or reference.
func (s *stripper) text(dst, src []byte) (out, rest []byte) {
	// Not further than it goes: many references would be looked through many times.
	ends := "<"
	if s.skip == "" {
		ends = "<&"
	}
	n := bytes.IndexAny(src, ends)
	if n < 0 {
		n = len(src)
	}
	if s.skip == "" {
		dst = s.write(dst, src[:n])
	}
	if n == len(src) {
		return dst, nil
	}
	if src[n] == '&' {
		s.state, s.ref = inReference, append(s.ref[:0], '&')
	} else {
		s.state, s.tag = inTag, s.tag[:0]
	}
	return dst, src[n+1:]
}

// write appends text, white space drawn together.
func (s *stripper) write(dst, text []byte) []byte {
	for len(text) > 0 {
		if c := text[0]; c < utf8.RuneSelf && s.nCut == 0 {
			n := 1
			if c > ' ' {
				for n < len(text) && text[n] > ' ' && text[n] < utf8.RuneSelf {
					n++
				}
				dst = s.owed(dst, text[:n])
			} else {
				s.space = true
			}
			text = text[n:]
			continue
		}
		s.cut[s.nCut] = text[0]
		s.nCut++
		text = text[1:]
		if !utf8.FullRune(s.cut[:s.nCut]) {
			continue
		}
		r, size := utf8.DecodeRune(s.cut[:s.nCut])
		octets, n := s.cut, s.nCut
		s.nCut = 0
		dst = s.rune(dst, r, octets[:size])
		if size < n { // what was cut begins no rune
			dst = s.write(dst, octets[size:n])
		}
	}
	return dst
}

func (s *stripper) rune(dst []byte, r rune, octets []byte) []byte {
	switch r {
	case '\u00ad', '\u200b', '\u200c', '\u2060', '\ufeff', '\u034f':
		return dst
	case '\u00a0', '\u2007', '\u202f':
		s.space = true
		return dst
	}
	return s.owed(dst, octets)
}

// owed appends text behind the space that is owed.
func (s *stripper) owed(dst, text []byte) []byte {
	if s.space && s.begun {
		dst = append(dst, ' ')
	}
	s.space, s.begun = false, true
	return append(dst, text...)
}

// reference reads a character reference to its end.
func (s *stripper) reference(dst, src []byte) (out, rest []byte) {
	for i, c := range src {
		switch {
		case c == ';':
			s.ref = append(s.ref, c)
			return s.resolve(dst), src[i+1:]
		case len(s.ref) < maxReference && (isLetter(c) || c >= '0' && c <= '9' || c == '#' && len(s.ref) == 1):
			s.ref = append(s.ref, c)
		default:
			return s.resolve(dst), src[i:]
		}
	}
	return dst, nil
}

func (s *stripper) resolve(dst []byte) []byte {
	if len(s.ref) > 0 {
		dst = s.write(dst, []byte(html.UnescapeString(string(s.ref))))
	}
	s.state, s.ref = inText, s.ref[:0]
	return dst
}

// comment passes over what comes before "-->".
func (s *stripper) comment(src []byte) []byte {
	for i, c := range src {
		switch {
		case c == '-':
			if len(s.tag) < 2 {
				s.tag = append(s.tag, c)
			}
		case c == '>' && len(s.tag) == 2:
			s.state = inText
			return src[i+1:]
		default:
			s.tag = s.tag[:0]
		}
	}
	return nil
}

// inside reads a tag. What begins with "<" and is none, as in "a < b", is text.
func (s *stripper) inside(dst, src []byte) (out, rest []byte) {
	for i, c := range src {
		switch {
		case len(s.tag) == 0 && !isLetter(c) && c != '/' && c != '!' && c != '?':
			s.state = inText
			if s.skip == "" {
				dst = s.write(dst, []byte{'<'})
			}
			return dst, src[i:]
		case c == '>':
			s.close()
			return dst, src[i+1:]
		case c == '<':
			s.tag = s.tag[:0]
		case (c == '"' || c == '\'') && s.skip == "" && s.tag[len(s.tag)-1] == '=' && s.tag[0] != '!':
			s.state, s.quote = inAttribute, c
			s.remember(' ')
			return dst, src[i+1:]
		case c > ' ':
			s.remember(c)
		case s.tag[len(s.tag)-1] != '=':
			s.remember(' ')
		}
		if string(s.tag) == "!--" {
			s.state, s.tag = inComment, s.tag[:0]
			return dst, src[i+1:]
		}
	}
	return dst, nil
}

// remember keeps the beginning of a tag, and as its last octet what came last.
func (s *stripper) remember(c byte) {
	if len(s.tag) < maxTag {
		s.tag = append(s.tag, c)
	} else {
		s.tag[maxTag-1] = c
	}
}

// inline are the elements that do not part words.
var inline = map[string]bool{
	"a": true, "abbr": true, "acronym": true, "b": true, "bdi": true, "bdo": true, "big": true, "cite": true, "code": true,
	"del": true, "em": true, "font": true, "i": true, "ins": true, "kbd": true, "mark": true, "q": true, "s": true,
	"samp": true, "small": true, "span": true, "strike": true, "strong": true, "sub": true, "sup": true, "tt": true,
	"u": true, "var": true, "wbr": true, "o:p": true,
}

// unread are the elements whose content nobody reads.
var unread = map[string]bool{"script": true, "style": true}

// close ends a tag.
func (s *stripper) close() {
	s.state = inText
	end := len(s.tag) > 0 && s.tag[0] == '/'
	name := strings.ToLower(string(bytes.TrimPrefix(s.tag, []byte{'/'})))
	if i := strings.IndexAny(name, " /="); i >= 0 {
		name = name[:i]
	}
	switch {
	case s.skip != "":
		if end && name == s.skip {
			s.skip = ""
		}
	case !end && unread[name]:
		s.skip = name
		s.space = true
	case name != "" && !inline[name]:
		s.space = true
	}
}

func isLetter(c byte) bool { return 'a' <= c|0x20 && c|0x20 <= 'z' }
