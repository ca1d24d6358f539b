package table

import (
	"fmt"
	"io"
	"net/netip"
	"strings"

	"github.com/gaissmai/bart"
)

// networks is a table of networks in the notation of cidr_table(5): the first
// line that matches an address decides.
type networks []step

// step is a run of plain lines, a line that must not match, or a block that
// counts only for some addresses.
type step struct {
	// plain holds lines that follow each other: among those that are kept the
	// longest match is also the first.
	plain *bart.Table[[]string]

	network netip.Prefix
	negated bool
	values  []string
	inside  networks // of an if
}

// find implements content. A key that is no address is in no network.
func (n networks) find(key string) ([]string, error) {
	bare := strings.TrimSuffix(strings.TrimPrefix(key, "["), "]")
	if !maybeAddress(bare) {
		return nil, nil
	}
	ip, err := netip.ParseAddr(bare)
	if err != nil {
		return nil, nil
	}
	return n.of(ip.Unmap().WithZone("")), nil
}

// maybeAddress spares names the error of what reads addresses.
func maybeAddress(key string) bool {
	last := len(key) - 1
	return last >= 0 && (key[last] >= '0' && key[last] <= '9' || strings.IndexByte(key, ':') >= 0)
}

func (n networks) of(ip netip.Addr) []string {
	for _, s := range n {
		switch {
		case s.plain != nil:
			if values, found := s.plain.Lookup(ip); found {
				return values
			}
		case s.network.Addr().Is4() != ip.Is4(), s.network.Contains(ip) == s.negated: // not even negated, as in Postfix
		case s.values != nil:
			return s.values
		default:
			if values := s.inside.of(ip); values != nil {
				return values
			}
		}
	}
	return nil
}

// readNetworks reads lines "network value", "!network value", "if network",
// "if !network" and "endif".
func readNetworks(n *notes, r io.Reader, use Use) content {
	b := blocks[networks, step]{notes: n, stack: make([]block[networks, step], 1)}
	n.eachLine(r, func(e entry) {
		word, rest, _ := splitEntry(e.text)
		switch strings.ToLower(word) {
		case "if":
			network, negated, err := parseCondition(rest)
			if err != nil {
				n.mistake(e.line, err)
			}
			b.open(e.line, func(inside networks) step { return step{network: network, negated: negated, inside: inside} })
			return
		case "endif":
			b.close(e.line, rest, func(into *networks, s step) { *into = append(*into, s) })
			return
		}
		if word == "!" { // white space may stand behind it
			word, rest, _ = splitEntry(rest)
			word = "!" + word
		}
		network, negated, err := parseCondition(word)
		if err != nil {
			n.mistake(e.line, err)
			return
		}
		values, err := use.values(rest)
		if err != nil {
			n.mistake(e.line, fmt.Errorf("%s: %w", word, err))
			return
		}
		at := b.here()
		if negated {
			*at = append(*at, step{network: network, negated: true, values: values})
			return
		}
		at.addPlain(n, e.line, network, values)
	})
	return b.end()
}

// addPlain adds a line. One inside the network of an earlier one can never
// match and is left out with a warning.
func (n *networks) addPlain(notes *notes, line int, network netip.Prefix, values []string) {
	if len(*n) == 0 || (*n)[len(*n)-1].plain == nil {
		*n = append(*n, step{plain: new(bart.Table[[]string])})
	}
	plain := (*n)[len(*n)-1].plain
	if _, covered := plain.LookupPrefix(network); covered {
		notes.warn(line, fmt.Errorf("%s is never reached: an earlier line covers it; move the line up, or delete it", network))
		return
	}
	plain.Insert(network, values)
}

func parseCondition(text string) (network netip.Prefix, negated bool, err error) {
	text, negated = strings.CutPrefix(strings.TrimSpace(text), "!")
	network, err = ParseNetwork(strings.TrimSpace(text))
	return network, negated, err
}

// ParseNetwork reads "192.0.2.0/24", "2001:db8::/32", "[2001:db8::]/32" or one
// address. IPv4 addresses inside of IPv6 are IPv4 addresses, as clients are
// known by them.
func ParseNetwork(text string) (netip.Prefix, error) {
	s := text
	if strings.HasPrefix(s, "[") {
		s = strings.Replace(s[1:], "]", "", 1)
	}
	wrong := fmt.Errorf(`%q is not an address or network; write "192.0.2.0/24", "2001:db8::/32" or one address`, text)
	if !strings.Contains(s, "/") {
		ip, err := netip.ParseAddr(s)
		if err != nil || ip.Zone() != "" {
			return netip.Prefix{}, wrong
		}
		ip = ip.Unmap()
		return netip.PrefixFrom(ip, ip.BitLen()), nil
	}
	network, err := netip.ParsePrefix(s)
	if err != nil {
		return netip.Prefix{}, wrong
	}
	if network.Masked() != network {
		return netip.Prefix{}, fmt.Errorf("%s has host bits set: the network is %s", network, network.Masked())
	}
	if network.Addr().Is4In6() { // of 96 bits or more, or it had host bits
		network = netip.PrefixFrom(network.Addr().Unmap(), network.Bits()-96)
	}
	return network, nil
}
