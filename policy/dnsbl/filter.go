package dnsbl

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/postern-mail/postern/mail"
)

// Filter says which answers of a list count, as Postfix writes it: four
// octets, each a number or a choice such as [2..11;14] in place of one. The nil
// Filter takes every answer.
type Filter struct {
	octets [4]octets
}

// octets is a set of octets.
type octets [4]uint64

func (o *octets) add(n int)       { o[n/64] |= 1 << (n % 64) }
func (o *octets) has(n byte) bool { return o[n/64]&(1<<(n%64)) != 0 }

// ParseFilter reads a filter.
func ParseFilter(text string) (*Filter, error) {
	f, rest := &Filter{}, text
	for i := range f.octets {
		if i > 0 {
			var ok bool
			if rest, ok = strings.CutPrefix(rest, "."); !ok {
				return nil, fmt.Errorf("%q is not four octets with dots between", text)
			}
		}
		var err error
		if rest, err = f.octets[i].parse(rest); err != nil {
			return nil, fmt.Errorf("%q: %w", text, err)
		}
	}
	if rest != "" {
		return nil, fmt.Errorf("%q is more than four octets", text)
	}
	return f, nil
}

// parse reads one octet's choice from the front of text, and returns the rest.
func (o *octets) parse(text string) (rest string, err error) {
	if inner, ok := strings.CutPrefix(text, "["); ok {
		choices, rest, closed := strings.Cut(inner, "]")
		if !closed {
			return "", fmt.Errorf("[ without ]")
		}
		for choice := range strings.SplitSeq(choices, ";") {
			first, last, isRange := strings.Cut(choice, "..")
			if !isRange {
				last = first
			}
			from, errFrom := octet(first)
			to, errTo := octet(last)
			if errFrom != nil || errTo != nil || from > to {
				return "", fmt.Errorf("%q is neither an octet nor a range such as 2..11", choice)
			}
			for n := from; n <= to; n++ {
				o.add(n)
			}
		}
		return rest, nil
	}
	end := strings.IndexByte(text, '.')
	if end < 0 {
		end = len(text)
	}
	n, err := octet(text[:end])
	if err != nil {
		return "", err
	}
	o.add(n)
	return text[end:], nil
}

func octet(text string) (int, error) {
	n, err := strconv.ParseUint(text, 10, 8)
	if err != nil || len(text) > 3 {
		return 0, fmt.Errorf("%q is not an octet", text)
	}
	return int(n), nil
}

// Match reports whether an answer counts.
func (f *Filter) Match(answer netip.Addr) bool {
	if f == nil {
		return true
	}
	answer = answer.Unmap()
	if !answer.Is4() {
		return false
	}
	for i, b := range answer.As4() {
		if !f.octets[i].has(b) {
			return false
		}
	}
	return true
}

// any reports whether one of the answers counts.
func (f *Filter) any(answers []netip.Addr) bool {
	for _, a := range answers {
		if f.Match(a) {
			return true
		}
	}
	return false
}

// Site is a list as it stands in a restriction: domain[=filter][*weight].
type Site struct {
	Domain string // lower case
	Filter *Filter
	// Weight is 1 where none is written; negative for lists of the trusted.
	Weight int
	// Weighted tells that one is.
	Weighted bool
}

// maxWeight bounds weights, so that no sum of them overflows.
const maxWeight = 1 << 20

// ParseSite reads a list with its filter and weight.
func ParseSite(text string) (Site, error) {
	s := Site{Weight: 1}
	rest, weight, weighted := strings.Cut(text, "*")
	if weighted {
		n, err := strconv.Atoi(weight)
		if err != nil || n < -maxWeight || n > maxWeight {
			return s, fmt.Errorf("%q: the weight %q is not a number", text, weight)
		}
		s.Weight, s.Weighted = n, true
	}
	domain, filter, filtered := strings.Cut(rest, "=")
	parsed, err := mail.ParseDomain(strings.TrimSuffix(domain, "."))
	if err != nil || parsed.IsLiteral() {
		return s, fmt.Errorf("%q is not the domain of a list", domain)
	}
	s.Domain = strings.ToLower(string(parsed))
	if filtered {
		s.Filter, err = ParseFilter(filter)
	}
	return s, err
}
