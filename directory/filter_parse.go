package directory

import (
	"errors"
	"fmt"
	"strings"
)

// Bounds of filter text. No filter a person writes comes near them.
const (
	maxFilterOctets = 64 << 10
	maxFilterDepth  = 64
)

var errFilterSyntax = errors.New("malformed filter")

// ParseFilter reads RFC 4515 text: a filter written by an administrator or
// found in a directory, in which a percent sign is a percent sign. Spaces
// between parentheses are accepted.
func ParseFilter(text string) (Filter, error) { return parseFilter(text, false) }

// MustFilter is ParseFilter for constants; it panics on error.
func MustFilter(text string) Filter {
	f, err := ParseFilter(text)
	if err != nil {
		panic(err)
	}
	return f
}

func parseFilter(text string, template bool) (Filter, error) {
	if len(text) > maxFilterOctets {
		return nil, fmt.Errorf("%w: longer than %d octets", errFilterSyntax, maxFilterOctets)
	}
	p := filterParser{text: text, template: template}
	p.spaces()
	f, err := p.filter(0)
	if err != nil {
		return nil, fmt.Errorf("%w at octet %d: %w", errFilterSyntax, p.at, err)
	}
	if p.spaces(); p.at != len(text) {
		return nil, fmt.Errorf("%w at octet %d: text after the closing parenthesis", errFilterSyntax, p.at)
	}
	return f, nil
}

type filterParser struct {
	text     string
	at       int
	template bool
}

func (p *filterParser) spaces() {
	for p.at < len(p.text) && strings.IndexByte(" \t\r\n", p.text[p.at]) >= 0 {
		p.at++
	}
}

func (p *filterParser) peek() byte {
	if p.at < len(p.text) {
		return p.text[p.at]
	}
	return 0
}

func (p *filterParser) expect(c byte) error {
	if p.at >= len(p.text) {
		return fmt.Errorf("%q expected, not the end", c)
	}
	if p.text[p.at] != c {
		return fmt.Errorf("%q expected, not %q", c, p.text[p.at])
	}
	p.at++
	return nil
}

func (p *filterParser) filter(depth int) (Filter, error) {
	if depth > maxFilterDepth {
		return nil, fmt.Errorf("nested deeper than %d", maxFilterDepth)
	}
	if err := p.expect('('); err != nil {
		return nil, err
	}
	p.spaces()
	f, err := p.component(depth)
	if err != nil {
		return nil, err
	}
	p.spaces()
	return f, p.expect(')')
}

func (p *filterParser) component(depth int) (Filter, error) {
	switch p.peek() {
	case '&':
		list, err := p.list(depth)
		return conjunction(list), err
	case '|':
		list, err := p.list(depth)
		return disjunction(list), err
	case '!':
		p.at++
		p.spaces()
		f, err := p.filter(depth + 1)
		return negation{f}, err
	default:
		return p.item()
	}
}

func (p *filterParser) list(depth int) ([]Filter, error) {
	p.at++
	var list []Filter
	for p.spaces(); p.peek() == '('; p.spaces() {
		f, err := p.filter(depth + 1)
		if err != nil {
			return nil, err
		}
		list = append(list, f)
	}
	return list, nil
}

// item reads a condition up to, but not including, its closing parenthesis.
func (p *filterParser) item() (Filter, error) {
	end := strings.IndexAny(p.text[p.at:], "=()")
	if end < 0 || p.text[p.at+end] != '=' {
		return nil, errors.New(`"attribute=value" expected`)
	}
	left := p.text[p.at : p.at+end]
	c, err := parseLeft(left)
	if err != nil {
		return nil, err
	}
	p.at += end + 1
	raw := p.text[p.at:]
	if end = strings.IndexAny(raw, "()"); end < 0 {
		return nil, errors.New("parenthesis is not closed")
	}
	raw = raw[:end]
	if c.operator == equalTo && strings.Contains(raw, "*") {
		f, err := p.wildcards(c.attribute, raw)
		if err == nil {
			p.at += end
		}
		return f, err
	}
	if c.value, err = parseValue(raw, p.template); err != nil {
		return nil, err
	}
	p.at += end
	return c, nil
}

// parseLeft reads what stands before the equals sign: an attribute and, in its
// last octet or after colons, the operator.
func parseLeft(left string) (comparison, error) {
	left = strings.TrimSpace(left)
	c := comparison{attribute: left, operator: equalTo}
	switch {
	case strings.HasSuffix(left, ":"):
		return parseExtensible(strings.TrimSuffix(left, ":"))
	case strings.HasSuffix(left, "~"), strings.HasSuffix(left, ">"), strings.HasSuffix(left, "<"):
		c.operator = operator(left[len(left)-1:] + "=")
		c.attribute = strings.TrimSpace(left[:len(left)-1])
	}
	if !IsAttributeDescription(c.attribute) {
		return c, fmt.Errorf("%q is not an attribute", c.attribute)
	}
	return c, nil
}

func parseExtensible(left string) (comparison, error) {
	parts := strings.Split(left, ":")
	c := comparison{attribute: parts[0], operator: extensible}
	parts = parts[1:]
	if len(parts) > 0 && strings.EqualFold(parts[0], "dn") {
		c.dnToo, parts = true, parts[1:]
	}
	if len(parts) == 1 {
		c.rule, parts = parts[0], nil
		if !IsAttributeDescription(c.rule) {
			return c, fmt.Errorf("%q is not a matching rule", c.rule)
		}
	}
	if len(parts) > 0 || c.attribute == "" && c.rule == "" {
		return c, fmt.Errorf("%q is not an extensible match", left+":")
	}
	if c.attribute != "" && !IsAttributeDescription(c.attribute) {
		return c, fmt.Errorf("%q is not an attribute", c.attribute)
	}
	return c, nil
}

func (p *filterParser) wildcards(attribute, raw string) (Filter, error) {
	if raw == "*" {
		return presence{attribute}, nil
	}
	pieces := strings.Split(raw, "*")
	values := make([]value, len(pieces))
	for i, piece := range pieces {
		v, err := parseValue(piece, p.template)
		if err != nil {
			return nil, err
		}
		inner := i > 0 && i < len(pieces)-1
		if inner && piece == "" {
			return nil, errors.New("two asterisks in a row")
		}
		values[i] = v
	}
	last := len(values) - 1
	return substrings{attribute: attribute, initial: values[0], any: values[1:last], final: values[last]}, nil
}
