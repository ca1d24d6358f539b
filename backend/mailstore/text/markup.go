package text

import (
	"bytes"
	"html"
)

// markup turns the XML of a document into the text that is read, piece by piece.
// It takes any octets, of whatever depth: it keeps no more than a tag. Entities that
// the XML itself defines are nothing to it.
type markup struct {
	form  form
	out   *stripper // draws white space together
	state markupState
	tag   []byte // the tag, or the reference, being read: its beginning
	quote byte   // of the attribute being read, 0 for none
	dashes,
	brackets int // how many of them came last
	on     bool // what comes is text
	number bool // the cell being read names a text elsewhere
}

type markupState uint8

const (
	inMarkupText markupState = iota
	inMarkupTag
	inMarkupComment
	inMarkupData
	inMarkupReference
)

// maxMarkupTag is what is kept of a tag: more than its name and a few attributes.
const maxMarkupTag = 512

func (m *markup) reset(f form, out *stripper) {
	*m = markup{form: f, out: out, tag: m.tag[:0], on: f != openXML}
	out.reset()
}

// add appends the text of src. last is the end of the XML.
func (m *markup) add(dst, src []byte, last bool) []byte {
	for len(src) > 0 {
		switch m.state {
		case inMarkupText:
			dst, src = m.text(dst, src)
		case inMarkupTag:
			src = m.inTag(src)
		case inMarkupComment:
			src = m.inComment(src)
		case inMarkupData:
			dst, src = m.inData(dst, src)
		case inMarkupReference:
			dst, src = m.reference(dst, src)
		}
	}
	if last {
		dst = m.out.add(dst, nil, true)
	}
	return dst
}

// text takes what comes before the next tag or reference.
func (m *markup) text(dst, src []byte) (out, rest []byte) {
	// Not further than it goes: many references would be looked through many times.
	ends := "<"
	if m.on {
		ends = "<&"
	}
	n := bytes.IndexAny(src, ends)
	if n < 0 {
		n = len(src)
	}
	if m.on {
		dst = m.out.write(dst, src[:n])
	}
	if n == len(src) {
		return dst, nil
	}
	m.tag, m.state = m.tag[:0], inMarkupTag
	if src[n] == '&' {
		m.state = inMarkupReference
	}
	return dst, src[n+1:]
}

// inTag reads a tag. A ">" in the value of an attribute does not end it.
func (m *markup) inTag(src []byte) []byte {
	for i, c := range src {
		switch {
		case m.quote != 0:
			if c == m.quote {
				m.quote = 0
			}
		case c == '>':
			m.state = inMarkupText
			m.element()
			return src[i+1:]
		case (c == '"' || c == '\'') && len(m.tag) > 0 && m.tag[0] != '!':
			m.quote = c
		}
		if len(m.tag) < maxMarkupTag {
			m.tag = append(m.tag, c)
		} else {
			m.tag[maxMarkupTag-1] = c // the last octet tells an empty element
		}
		switch string(m.tag) {
		case "!--":
			m.state, m.dashes = inMarkupComment, 0
			return src[i+1:]
		case "![CDATA[":
			m.state, m.brackets = inMarkupData, 0
			return src[i+1:]
		}
	}
	return nil
}

// inComment passes over what comes before "-->".
func (m *markup) inComment(src []byte) []byte {
	for i, c := range src {
		switch {
		case c == '-':
			m.dashes++
		case c == '>' && m.dashes >= 2:
			m.state = inMarkupText
			return src[i+1:]
		default:
			m.dashes = 0
		}
	}
	return nil
}

// inData takes what comes before "]]>" as it stands.
func (m *markup) inData(dst, src []byte) (out, rest []byte) {
	for i, c := range src {
		if c == '>' && m.brackets >= 2 {
			m.state = inMarkupText
			return dst, src[i+1:]
		}
		if c == ']' {
			m.brackets++
			continue
		}
		if m.on {
			for ; m.brackets > 0; m.brackets-- {
				dst = m.out.write(dst, []byte{']'})
			}
			dst = m.out.write(dst, src[i:i+1])
		}
		m.brackets = 0
	}
	return dst, nil
}

// reference reads a character reference to its end.
func (m *markup) reference(dst, src []byte) (out, rest []byte) {
	for i, c := range src {
		switch {
		case len(m.tag) < maxReference && (isLetter(c) || c >= '0' && c <= '9' || c == '#' && len(m.tag) == 0):
			m.tag = append(m.tag, c)
			continue
		case c == ';':
			i++
		}
		m.state = inMarkupText
		return m.out.write(dst, []byte(html.UnescapeString("&"+string(m.tag)+";"))), src[i:]
	}
	return dst, nil
}

// element takes in a tag that was read to its end.
func (m *markup) element() {
	tag, end := bytes.CutPrefix(m.tag, []byte{'/'})
	name := tag
	if i := bytes.IndexAny(tag, " \t\r\n/"); i >= 0 {
		name = tag[:i]
	}
	if i := bytes.IndexByte(name, ':'); i >= 0 {
		name = name[i+1:]
	}
	switch m.form {
	case openXML:
		opens := !end && !bytes.HasSuffix(tag, []byte{'/'})
		m.openXML(string(name), tag, opens)
	case openText:
		m.out.space = m.out.space || !openTextInline[string(name)]
	default:
		m.out.space = true
	}
}

// openXML finds text: runs of characters, which are parts of words, and cells of
// tables. A cell that names its text by a number has none of its own.
func (m *markup) openXML(name string, tag []byte, opens bool) {
	m.on = false
	switch name {
	case "t":
		m.on = opens
	case "text": // of comments
		m.on, m.out.space = opens, true
	case "v":
		m.on, m.out.space = opens && !m.number, true
	case "c":
		m.number = opens && (bytes.Contains(tag, []byte(` t="s"`)) || bytes.Contains(tag, []byte(` t='s'`)))
	case "p", "br", "cr", "tab", "tc", "si", "is", "row", "comment":
		m.out.space = true
	}
}

// openTextInline are the elements of OpenDocument that do not part words.
var openTextInline = map[string]bool{
	"span": true, "a": true, "bookmark": true, "bookmark-start": true, "bookmark-end": true, "reference-mark": true,
	"reference-mark-start": true, "reference-mark-end": true, "change": true, "change-start": true, "change-end": true,
	"soft-page-break": true, "annotation-end": true, "meta": true, "ruby": true, "ruby-base": true,
}
