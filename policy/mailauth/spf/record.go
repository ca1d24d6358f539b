package spf

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// version begins each record.
const version = "v=spf1"

// record is a record as it was read (section 4.6.1).
type record struct {
	directives []directive
	redirect   macros // nil without
	exp        macros // nil without
}

// mechanism is the kind of a directive.
type mechanism uint8

const (
	mechAll mechanism = iota
	mechInclude
	mechA
	mechMX
	mechPTR
	mechIP4
	mechIP6
	mechExists
)

var mechanismNames = map[string]mechanism{
	"all": mechAll, "include": mechInclude, "a": mechA, "mx": mechMX,
	"ptr": mechPTR, "ip4": mechIP4, "ip6": mechIP6, "exists": mechExists,
}

// directive is a mechanism with what it means when it matches.
type directive struct {
	result    Result
	mechanism mechanism
	domain    macros // nil for the current one
	bits4     int    // prefix lengths of a and mx
	bits6     int
	network   netip.Prefix // of ip4 and ip6
	text      string       // as it stands in the record
}

// asks reports whether the directive counts as a lookup (section 4.6.4).
func (d directive) asks() bool {
	return d.mechanism != mechAll && d.mechanism != mechIP4 && d.mechanism != mechIP6
}

var (
	errTerm     = errors.New("unknown term")
	errTwice    = errors.New("modifier stands twice")
	errArgument = errors.New("malformed argument")
)

// isRecord reports whether a TXT record is an SPF record of our version
// (section 4.5).
func isRecord(txt string) bool {
	return len(txt) >= len(version) && strings.EqualFold(txt[:len(version)], version) &&
		(len(txt) == len(version) || txt[len(version)] == ' ')
}

// parseRecord reads all of a record: a mistake anywhere makes it void.
func parseRecord(txt string) (*record, error) {
	r := &record{}
	for term := range strings.SplitSeq(txt[len(version):], " ") {
		if term == "" {
			continue
		}
		var err error
		if name, value, ok := cutModifier(term); ok {
			err = r.modifier(name, value)
		} else {
			err = r.directive(term)
		}
		if err != nil {
			return nil, fmt.Errorf("%q: %w", term, err)
		}
	}
	return r, nil
}

// cutModifier cuts "name=value" when the term is one: the equals sign comes
// before any octet that a name cannot have.
func cutModifier(term string) (name, value string, ok bool) {
	name, value, ok = strings.Cut(term, "=")
	if !ok || name == "" || !isAlpha(name[0]) {
		return "", "", false
	}
	for i := range len(name) {
		if c := name[i]; !isAlpha(c) && !isDigit(c) && c != '-' && c != '_' && c != '.' {
			return "", "", false
		}
	}
	return strings.ToLower(name), value, true
}

func (r *record) modifier(name, value string) error {
	var target *macros
	switch name {
	case "redirect":
		target = &r.redirect
	case "exp":
		target = &r.exp
	default:
		_, err := parseMacros(value, false)
		return err
	}
	if *target != nil {
		return errTwice
	}
	var err error
	*target, err = parseDomainSpec(value)
	return err
}

var qualifiers = map[byte]Result{'+': Pass, '-': Fail, '~': SoftFail, '?': Neutral}

func (r *record) directive(term string) error {
	d := directive{result: Pass, text: term, bits4: 32, bits6: 128}
	rest := term
	if result, ok := qualifiers[term[0]]; ok {
		d.result, rest = result, term[1:]
	}
	end := strings.IndexAny(rest, ":/")
	if end < 0 {
		end = len(rest)
	}
	known := false
	d.mechanism, known = mechanismNames[strings.ToLower(rest[:end])]
	if !known {
		return errTerm
	}
	if err := d.argument(rest[end:]); err != nil {
		return err
	}
	r.directives = append(r.directives, d)
	return nil
}

// argument reads what follows a mechanism's name: "", or from a colon or slash
// on.
func (d *directive) argument(arg string) error {
	var err error
	switch d.mechanism {
	case mechAll:
		if arg != "" {
			return errArgument
		}
		return nil
	case mechIP4, mechIP6:
		d.network, err = parseNetwork(arg, d.mechanism == mechIP6)
		return err
	case mechA, mechMX:
		if arg, err = d.prefixes(arg); err != nil {
			return err
		}
	}
	spec, given := strings.CutPrefix(arg, ":")
	if !given {
		optional := d.mechanism == mechA || d.mechanism == mechMX || d.mechanism == mechPTR
		if arg != "" || !optional {
			return errArgument
		}
		return nil
	}
	d.domain, err = parseDomainSpec(spec)
	return err
}

// prefixes cuts a dual-cidr-length off the end of an argument.
func (d *directive) prefixes(arg string) (rest string, err error) {
	before, six, dual := cutPrefixLength(arg, "//")
	if dual {
		if d.bits6, err = prefixLength(six, 128); err != nil {
			return "", err
		}
		arg = before
	}
	if before, four, ok := cutPrefixLength(arg, "/"); ok {
		d.bits4, err = prefixLength(four, 32)
		return before, err
	}
	return arg, nil
}

// cutPrefixLength cuts digits after a mark off the end of an argument.
func cutPrefixLength(arg, mark string) (before, digits string, ok bool) {
	end := len(arg)
	for end > 0 && isDigit(arg[end-1]) {
		end--
	}
	before, ok = strings.CutSuffix(arg[:end], mark)
	if !ok {
		return arg, "", false
	}
	return before, arg[end:], true
}

func prefixLength(digits string, limit int) (int, error) {
	n, err := strconv.Atoi(digits)
	if err != nil || n > limit || len(digits) > 1 && digits[0] == '0' {
		return 0, fmt.Errorf("%w: prefix length %q", errArgument, digits)
	}
	return n, nil
}

// parseNetwork reads ":address" with or without "/length".
func parseNetwork(arg string, v6 bool) (netip.Prefix, error) {
	text, given := strings.CutPrefix(arg, ":")
	text, length, bounded := strings.Cut(text, "/")
	addr, err := netip.ParseAddr(text)
	if !given || err != nil || addr.Zone() != "" || addr.Is6() != v6 {
		return netip.Prefix{}, errArgument
	}
	bits := addr.BitLen()
	if bounded {
		if bits, err = prefixLength(length, bits); err != nil {
			return netip.Prefix{}, err
		}
	}
	return netip.PrefixFrom(addr, bits).Masked(), nil
}
