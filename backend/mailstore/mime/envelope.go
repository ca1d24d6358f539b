package mime

import (
	"bytes"
	"strings"
)

// envelopeFields are the fields of an ENVELOPE in its order. Of a field given
// twice the first counts.
var envelopeFields = [...]struct {
	name      string
	addresses bool
}{
	{"date", false}, {"subject", false}, {"from", true}, {"sender", true}, {"reply-to", true},
	{"to", true}, {"cc", true}, {"bcc", true}, {"in-reply-to", false}, {"message-id", false},
}

// Places in envelopeFields that ENVELOPE treats specially.
const (
	envelopeFrom    = 2
	envelopeSender  = 3
	envelopeReplyTo = 4
)

// appendEnvelope writes the ENVELOPE of a header block. rendered is how much
// the structure holds already; it returns the new sum. Past the bound strings
// and lists are NIL.
func appendEnvelope(dst, header []byte, rendered int) ([]byte, int) {
	var values [len(envelopeFields)][]byte
	for f := range fields(header) {
		for i := range envelopeFields {
			if values[i] == nil && foldEqual(f.name, envelopeFields[i].name) {
				values[i] = unfold(f.value)
				break
			}
		}
	}
	dst = append(dst, '(')
	for i := range values {
		if i > 0 {
			dst = append(dst, ' ')
		}
		start := len(dst)
		if envelopeFields[i].addresses {
			dst = appendAddresses(dst, values[i])
			// Sender and Reply-To default to From (RFC 9051 section 7.5.2); one
			// without an address counts as an absent one.
			if (i == envelopeSender || i == envelopeReplyTo) && string(dst[start:]) == "NIL" {
				dst = appendAddresses(dst[:start], values[envelopeFrom])
			}
		} else {
			dst = appendNString(dst, values[i])
		}
		if rendered += len(dst) - start; rendered > maxRendered {
			dst = append(dst[:start], "NIL"...)
		}
	}
	return append(dst, ')'), rendered
}

const maxAddresses = 2000

// appendAddresses writes a list of addresses, NIL when there is none.
func appendAddresses(dst, value []byte) []byte {
	start := len(dst)
	dst = append(dst, '(')
	p := addressParser{lexer: lexer{b: value}, dst: dst}
	for n := 0; n < maxAddresses && len(p.b) > 0; n++ {
		p.address()
	}
	p.endGroup()
	if len(p.dst) == start+1 {
		return append(p.dst[:start], "NIL"...)
	}
	return append(p.dst, ')')
}

// addressParser reads an address-list of RFC 5322 the tolerant way: whatever
// it is given it makes progress, and what it writes is well formed.
type addressParser struct {
	lexer
	dst     []byte
	inGroup bool
}

// address reads one address, the start or the end of a group, and the comma
// after it.
func (p *addressParser) address() {
	p.comment = nil
	var words []byte // display name or local-part, as far as one cannot know
	for {
		p.space()
		if len(p.b) == 0 {
			p.bare(words, nil)
			return
		}
		switch c := p.b[0]; c {
		case ',':
			p.b = p.b[1:]
			p.bare(words, nil)
			return
		case ';':
			p.b = p.b[1:]
			p.bare(words, nil)
			p.endGroup()
			return
		case ':':
			p.b = p.b[1:]
			p.startGroup(words)
			return
		case '<':
			p.b = p.b[1:]
			p.angle(words)
			return
		case '@':
			p.b = p.b[1:]
			domain := p.domain()
			p.space()
			p.bare(words, domain)
			p.skipToDelimiter()
			return
		case '"':
			words = joinWord(words, p.quoted())
		default:
			words = joinWord(words, p.atom())
		}
	}
}

func joinWord(words, word []byte) []byte {
	if len(words) > 0 && len(word) > 0 && word[0] != '.' && words[len(words)-1] != '.' {
		words = append(words[:len(words):len(words)], ' ')
	}
	return append(words[:len(words):len(words)], word...)
}

// atom reads at least one octet, up to the next that has a meaning.
func (p *addressParser) atom() []byte {
	i := 1
	for i < len(p.b) && strings.IndexByte(" \t\r\n()<>@,;:\"", p.b[i]) < 0 {
		i++
	}
	a := p.b[:i]
	p.b = p.b[i:]
	return a
}

// domain reads a dot-atom or a domain-literal.
func (p *addressParser) domain() []byte {
	p.space()
	i := 0
	if len(p.b) > 0 && p.b[0] == '[' {
		i = bytes.IndexByte(p.b, ']') + 1
	}
	if i == 0 {
		i = bytes.IndexAny(p.b, " \t\r\n()<>@,;:\"")
		if i < 0 {
			i = len(p.b)
		}
	}
	d := p.b[:i]
	p.b = p.b[i:]
	return d
}

// angle reads what follows "<": a route, local-part, domain and ">".
func (p *addressParser) angle(name []byte) {
	var route, local, domain []byte
	p.space()
	if len(p.b) > 0 && p.b[0] == '@' {
		if i := bytes.IndexAny(p.b, ":>"); i >= 0 && p.b[i] == ':' {
			route, p.b = p.b[:i], p.b[i+1:] // obsolete
		}
	}
	for {
		p.space()
		if len(p.b) == 0 {
			break
		}
		if p.b[0] == '>' {
			p.b = p.b[1:]
			break
		}
		switch p.b[0] {
		case '@':
			p.b = p.b[1:]
			domain = p.domain()
		case '"':
			local = joinWord(local, p.quoted())
		default:
			local = joinWord(local, p.atom())
		}
	}
	if len(name) > 0 || len(local) > 0 || len(domain) > 0 {
		p.emit(name, route, local, domain)
	}
	p.skipToDelimiter()
}

// skipToDelimiter passes over what has no place after an address, and over
// the comma that follows, but not over the end of a group.
func (p *addressParser) skipToDelimiter() {
	for {
		p.space()
		if len(p.b) == 0 || p.b[0] == ';' {
			return
		}
		if p.b[0] == ',' {
			p.b = p.b[1:]
			return
		}
		if p.b[0] == '"' {
			p.quoted()
		} else {
			p.b = p.b[1:]
		}
	}
}

// bare writes an address without angle brackets, whose name, if it has one,
// stands in a comment: "kim@example.org (Kim)".
func (p *addressParser) bare(local, domain []byte) {
	if len(local) == 0 && len(domain) == 0 {
		return
	}
	var name []byte
	if p.comment != nil {
		name = bytes.TrimSpace(p.comment)
	}
	p.emit(name, nil, local, domain)
}

// emit writes one address. The host is never NIL: that would mark a group.
func (p *addressParser) emit(name, route, local, domain []byte) {
	if len(name) == 0 {
		name = nil
	}
	p.dst = append(p.dst, '(')
	p.dst = append(appendNString(p.dst, name), ' ')
	p.dst = append(appendNString(p.dst, route), ' ')
	p.dst = append(appendString(p.dst, local), ' ')
	p.dst = append(appendString(p.dst, domain), ')')
}

func (p *addressParser) startGroup(name []byte) {
	p.endGroup()
	p.dst = append(p.dst, "(NIL NIL "...)
	p.dst = append(appendString(p.dst, name), " NIL)"...)
	p.inGroup = true
}

func (p *addressParser) endGroup() {
	if p.inGroup {
		p.dst = append(p.dst, "(NIL NIL NIL NIL)"...)
		p.inGroup = false
	}
}
