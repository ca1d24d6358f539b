package dmarc

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/postern-mail/postern/mail"
)

// The bounds of From fields.
const (
	maxFromOctets = 64 << 10
	maxAuthors    = 10 // domains
	maxDepth      = 50 // of comments
)

// The reasons why the author of a message is not certain.
var (
	ErrNoFrom       = errors.New("no From field")
	ErrFromSyntax   = errors.New("malformed From field")
	ErrNoAuthor     = errors.New("no address in the From field")
	ErrManyAuthors  = errors.New("too many domains in the From field")
	ErrAuthorDomain = errors.New("no domain in the From field that could publish a policy")
)

// Authors are the domains in a message's From fields.
type Authors struct {
	// Domains are without repeats, in the order of the fields.
	Domains []string
	// Fields is how many From fields there are; RFC 5322 allows one.
	Fields int
}

// FindAuthors reads the values of all From fields of a message, with or without
// folds. Mailboxes in groups count like others (section 6.6.1 and RFC 6854). An
// error means that the author is not certain; Authors then holds every domain
// that somebody who reads more generously may be shown, up to ten.
func FindAuthors(values []string) (Authors, error) {
	a := Authors{Fields: len(values)}
	if len(values) == 0 {
		return a, ErrNoFrom
	}
	addresses := 0
	var wrong error
	for _, value := range values {
		specs, err := domainsIn(value)
		if wrong == nil {
			wrong = err
		}
		addresses += len(specs)
		for _, spec := range specs {
			domain, err := mail.ParseDomain(spec)
			if err != nil || domain.IsLiteral() || !strings.Contains(string(domain), ".") {
				if wrong == nil {
					wrong = fmt.Errorf("%w: %.100q", ErrAuthorDomain, spec)
				}
				continue
			}
			if slices.Contains(a.Domains, string(domain)) {
				continue
			}
			if len(a.Domains) == maxAuthors {
				return a, ErrManyAuthors
			}
			a.Domains = append(a.Domains, string(domain))
		}
	}
	if addresses == 0 && wrong == nil {
		wrong = ErrNoAuthor
	}
	return a, wrong
}

// domainsIn returns the domains of the addresses in a field. Of a malformed one
// it returns, beside the error, whatever follows an at-sign.
func domainsIn(value string) ([]string, error) {
	var err error
	if len(value) > maxFromOctets {
		err = fmt.Errorf("%w: %d octets", ErrFromSyntax, len(value))
	} else {
		var specs []string
		if specs, err = addrSpecs(value); err == nil {
			return specs, nil
		}
	}
	var guesses []string
	for _, part := range strings.Split(value, "@")[1:] {
		part = strings.TrimLeft(part, " \t\r\n")
		end := strings.IndexFunc(part, func(c rune) bool {
			return c <= ' ' || c < 0x80 && c != '-' && c != '.' && c != '_' && (c < '0' || c > '9') && (c|0x20 < 'a' || c|0x20 > 'z')
		})
		if end >= 0 {
			part = part[:end]
		}
		if part = strings.TrimRight(part, "."); part != "" {
			guesses = append(guesses, part)
		}
	}
	return guesses, err
}

// addrSpecs returns the domains of the mailboxes in an address-list (RFC 5322
// section 3.4).
func addrSpecs(value string) (domains []string, err error) {
	r := &fromReader{rest: value}
	for {
		kind := r.next()
		switch kind {
		case tokenEnd, tokenComma, tokenColon, tokenSemicolon:
			// What stood before a colon is the name of a group.
			if kind != tokenColon {
				if domain, ok, err := r.mailbox(); err != nil {
					return nil, err
				} else if ok {
					domains = append(domains, domain)
				}
			}
			r.words, r.angle, r.closed = r.words[:0], nil, false
			if kind == tokenEnd {
				return domains, r.err
			}
		case tokenOpen:
			if r.angle != nil || r.closed {
				return nil, ErrFromSyntax
			}
			r.angle = []token{}
		case tokenClose:
			if r.angle == nil || r.closed {
				return nil, ErrFromSyntax
			}
			r.closed = true
		}
		if r.err != nil {
			return nil, r.err
		}
	}
}

// The kinds of tokens.
type tokenKind uint8

const (
	tokenEnd tokenKind = iota
	tokenWord
	tokenAt
	tokenDot
	tokenComma
	tokenColon
	tokenSemicolon
	tokenOpen
	tokenClose
)

type token struct {
	kind tokenKind
	text string
}

// fromReader cuts an address-list into tokens and keeps those of the address
// that is being read.
type fromReader struct {
	rest   string
	words  []token // outside angle brackets
	angle  []token // inside; nil before
	closed bool
	err    error
}

// next reads up to a token that ends or brackets an address, and keeps the
// others.
func (r *fromReader) next() tokenKind {
	for r.err == nil {
		r.space()
		if r.rest == "" {
			return tokenEnd
		}
		switch c := r.rest[0]; c {
		case ',', ';', ':', '<', '>':
			if r.angle != nil && !r.closed && c != '>' {
				// Inside brackets only the source routes of old have these.
				if c != ',' && c != ':' {
					r.err = ErrFromSyntax
					return tokenEnd
				}
				r.rest = r.rest[1:]
				r.angle = r.angle[:0]
				continue
			}
			r.rest = r.rest[1:]
			return map[byte]tokenKind{',': tokenComma, ';': tokenSemicolon, ':': tokenColon, '<': tokenOpen, '>': tokenClose}[c]
		case '@':
			r.take(tokenAt, 1)
		case '.':
			r.take(tokenDot, 1)
		case '"':
			r.quoted()
		case '[':
			end := strings.IndexByte(r.rest, ']')
			if end < 0 {
				r.err = ErrFromSyntax
				return tokenEnd
			}
			r.take(tokenWord, end+1)
		default:
			end := strings.IndexAny(r.rest, " \t\r\n,;:<>@.\"[(")
			if end < 0 {
				end = len(r.rest)
			}
			r.take(tokenWord, max(end, 1))
		}
	}
	return tokenEnd
}

func (r *fromReader) take(kind tokenKind, n int) {
	t := token{kind, r.rest[:n]}
	r.rest = r.rest[n:]
	switch {
	case r.angle == nil:
		r.words = append(r.words, t)
	case !r.closed:
		r.angle = append(r.angle, t)
	default: // text behind the brackets, which some write
	}
}

func (r *fromReader) quoted() {
	for i := 1; i < len(r.rest); i++ {
		switch r.rest[i] {
		case '\\':
			i++
		case '"':
			r.take(tokenWord, i+1)
			return
		}
	}
	r.err = ErrFromSyntax
}

// space skips white space and comments.
func (r *fromReader) space() {
	depth := 0
	for i := 0; i < len(r.rest); i++ {
		switch c := r.rest[i]; {
		case c == '(':
			if depth++; depth > maxDepth {
				r.err = ErrFromSyntax
				return
			}
		case depth == 0 && c != ' ' && c != '\t' && c != '\r' && c != '\n':
			r.rest = r.rest[i:]
			return
		case c == ')':
			depth--
		case depth > 0 && c == '\\':
			i++
		}
	}
	if depth > 0 {
		r.err = ErrFromSyntax
	}
	r.rest = ""
}

// mailbox returns the domain of the address that was read, or none where there
// was no address.
func (r *fromReader) mailbox() (domain string, ok bool, err error) {
	spec := r.words
	if r.angle != nil {
		if !r.closed {
			return "", false, ErrFromSyntax
		}
		spec = r.angle
	} else if len(spec) == 0 {
		return "", false, nil
	}
	// An address is two parts around one at-sign: a second one, or a word that
	// stands beside another, could be read differently by whoever shows it.
	at := -1
	for i, t := range spec {
		if t.kind == tokenAt {
			if at >= 0 {
				return "", false, ErrFromSyntax
			}
			at = i
		} else if i > 0 && t.kind == tokenWord && spec[i-1].kind == tokenWord {
			return "", false, ErrFromSyntax
		}
	}
	if at <= 0 || at == len(spec)-1 {
		return "", false, ErrFromSyntax
	}
	var b strings.Builder
	for _, t := range spec[at+1:] {
		b.WriteString(t.text)
	}
	return b.String(), true, nil
}
