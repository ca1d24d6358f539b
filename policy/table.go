package policy

import (
	"bytes"
	"fmt"
	"net/netip"
	"strings"
	"unicode/utf8"

	"github.com/gaissmai/bart"

	"github.com/postern-mail/postern/mail"
)

// maxTableOctets bounds what a table file may hold.
const maxTableOctets = 256 << 20

// table is the content of one table file. It is immutable.
type table struct {
	text     map[string]*action // text tables, keys in lower case
	networks *bart.Table[*action]
	warnings Mistakes
}

// lookup returns what the table says for a key, or nil.
func (t *table) lookup(key string) *action { return t.text[key] }

// address returns what a CIDR table says for an address, or nil.
func (t *table) address(ip netip.Addr) *action {
	if t.networks == nil {
		return nil
	}
	a, ok := t.networks.Lookup(ip)
	if !ok {
		return nil
	}
	return a
}

// entry is one logical line of a table file.
type entry struct {
	pos   Pos
	key   string
	value string
}

// parseTable reads a table file of the given kind. Every mistake in it is
// reported, each with its line.
func parseTable(kind tableKind, file string, content []byte, compile compiler) (*table, error) {
	entries, mistakes := parseEntries(file, content)
	t := &table{}
	if kind == tableCIDR {
		t.networks = new(bart.Table[*action])
	} else {
		t.text = make(map[string]*action, len(entries))
	}
	for _, e := range entries {
		a, mistake := parseAction(e, compile)
		if mistake == nil {
			if kind == tableCIDR {
				mistake = t.addNetwork(e, a)
			} else {
				mistake = t.addText(e, a)
			}
		}
		if mistake != nil {
			mistakes = append(mistakes, *mistake)
		}
	}
	if len(mistakes) > 0 {
		return nil, mistakes
	}
	return t, nil
}

func (t *table) addText(e entry, a *action) *Mistake {
	key := canonicalKey(e.key)
	if _, ok := t.text[key]; ok {
		return &Mistake{e.pos, fmt.Sprintf("key %q stands in the table twice", e.key), "keep one of the two lines"}
	}
	t.text[key] = a
	return nil
}

// addNetwork adds a rule. The first rule that matches an address decides, as
// in Postfix. A rule inside the network of an earlier one can never match and
// is left out with a warning; so among the rules that are kept the longest
// match is also the first.
func (t *table) addNetwork(e entry, a *action) *Mistake {
	network, err := parseNetwork(e.key)
	if err != nil {
		return &Mistake{e.pos, err.Error(), `write a network as "192.0.2.0/24", "2001:db8::/32" or one address`}
	}
	if _, covered := t.networks.LookupPrefix(network); covered {
		t.warnings = append(t.warnings, Mistake{e.pos, fmt.Sprintf("%s is never reached: an earlier line covers it", e.key),
			"move the line up, or delete it"})
		return nil
	}
	t.networks.Insert(network, a)
	return nil
}

func parseNetwork(s string) (netip.Prefix, error) {
	s = strings.TrimSuffix(strings.TrimPrefix(s, "["), "]")
	if !strings.Contains(s, "/") {
		ip, err := netip.ParseAddr(s)
		if err != nil || ip.Zone() != "" {
			return netip.Prefix{}, fmt.Errorf("%q is not an address or network", s)
		}
		ip = ip.Unmap()
		return netip.PrefixFrom(ip, ip.BitLen()), nil
	}
	network, err := netip.ParsePrefix(s)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("%q is not an address or network", s)
	}
	if network.Masked() != network {
		return netip.Prefix{}, fmt.Errorf("%s has host bits set: the network is %s", network, network.Masked())
	}
	if network.Addr().Is4In6() { // clients are known by their IPv4 address
		if network.Bits() < 96 {
			return netip.Prefix{}, fmt.Errorf("%s is wider than all IPv4 addresses", network)
		}
		network = netip.PrefixFrom(network.Addr().Unmap(), network.Bits()-96)
	}
	return network, nil
}

// canonicalKey folds a key as lookups fold theirs: lower case, and domains
// outside ASCII as A-labels.
func canonicalKey(key string) string {
	for i := 0; i < len(key); i++ {
		if key[i] < utf8.RuneSelf {
			continue
		}
		if a, err := mail.ParseAddress(key); err == nil {
			return a.Fold().String()
		}
		dotted, dot := strings.CutPrefix(key, ".")
		if d, err := mail.ParseDomain(dotted); err == nil {
			if dot {
				return "." + string(d)
			}
			return string(d)
		}
		break
	}
	return strings.ToLower(key)
}

// parseEntries splits a file into logical lines of key and value. A line that
// begins with white space continues the one before; empty lines and lines
// whose first character is "#" are comments, wherever they stand.
func parseEntries(file string, content []byte) ([]entry, Mistakes) {
	if len(content) > maxTableOctets {
		return nil, Mistakes{{Pos{File: file}, "the table is too large", "split it"}}
	}
	if !utf8.Valid(content) {
		return nil, Mistakes{{Pos{File: file}, "the table is not valid UTF-8", "convert it to UTF-8"}}
	}
	var entries []entry
	var mistakes Mistakes
	for number := 1; len(content) > 0; number++ {
		line := content
		if end := bytes.IndexByte(content, '\n'); end >= 0 {
			line, content = content[:end], content[end+1:]
		} else {
			content = nil
		}
		pos := Pos{File: file, Line: number, Column: 1}
		text := bytes.TrimSpace(line)
		switch {
		case len(text) == 0 || text[0] == '#':
		case bytes.IndexFunc(text, func(c rune) bool { return c < ' ' && c != '\t' || c == 0x7f }) >= 0:
			mistakes = append(mistakes, Mistake{pos, "control character in the line", "remove it"})
		case line[0] == ' ' || line[0] == '\t':
			if len(entries) == 0 {
				mistakes = append(mistakes, Mistake{pos, "the first line begins with white space", "begin it with the key"})
				continue
			}
			last := &entries[len(entries)-1]
			last.value = strings.TrimSpace(last.value + " " + string(text))
		default:
			key, value := splitKey(string(text))
			entries = append(entries, entry{pos, key, value})
		}
	}
	return entries, mistakes
}

// splitKey cuts a line after its key, which may be an address with a quoted
// local-part.
func splitKey(line string) (key, value string) {
	quoted := false
	for i := 0; i < len(line); i++ {
		switch c := line[i]; {
		case quoted && c == '\\':
			i++
		case c == '"' && (quoted || i == 0):
			quoted = !quoted
		case !quoted && (c == ' ' || c == '\t'):
			return line[:i], strings.TrimSpace(line[i:])
		}
	}
	return line, ""
}
