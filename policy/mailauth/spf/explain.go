package spf

import (
	"context"
	"encoding/hex"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/dns"
)

// maxExplanation bounds an explanation: what one reply line has room for beside
// the codes.
const maxExplanation = 400

// explain returns the text that a domain publishes about its fails, or "" when
// there is anything wrong with it (section 6.2).
func (e *evaluation) explain(ctx context.Context, exp macros, domain string) string {
	target := e.target(ctx, exp, domain)
	if !isMultiLabel(target) {
		return ""
	}
	answer, err := e.Resolver.TXT(ctx, target+".")
	if err != nil || answer.Outcome != dns.Found || len(answer.Records) != 1 {
		return ""
	}
	text, err := parseMacros(answer.Records[0], true)
	if err != nil {
		return ""
	}
	// What the macros stand for may be anything that a client said.
	return printable(text.expand(e.values(ctx, domain)))
}

// printable keeps of a text what may stand in a reply.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s)
	return strings.TrimSpace(s[:min(len(s), maxExplanation)])
}

// values returns what the macro letters stand for in the record of a domain
// (section 7.2).
func (e *evaluation) values(ctx context.Context, domain string) func(letter byte) string {
	q := e.query
	return func(letter byte) string {
		switch letter {
		case 's':
			return q.Local + "@" + q.Domain
		case 'l':
			return q.Local
		case 'o':
			return q.Domain
		case 'd':
			return domain
		case 'i':
			return dotted(q.Client)
		case 'p':
			return e.validatedName(ctx, domain)
		case 'v':
			if q.Client.Is4() {
				return "in-addr"
			}
			return "ip6"
		case 'h':
			return q.Helo
		case 'c':
			return q.Client.String()
		case 'r':
			if e.Receiver == "" {
				return "unknown"
			}
			return e.Receiver
		default: // 't': the parser lets no other through
			return strconv.FormatInt(time.Now().Unix(), 10)
		}
	}
}

// validatedName is the value of the macro p: the domain's own name where the
// client has it, else one below it, else any.
func (e *evaluation) validatedName(ctx context.Context, domain string) string {
	best := "unknown"
	for i, name := range e.names(ctx) {
		switch {
		case strings.EqualFold(name, domain):
			return name
		case isWithin(name, domain) && !isWithin(best, domain):
			best = name
		case i == 0:
			best = name
		}
	}
	return best
}

// dotted writes an address with a dot between its parts: octets, or for IPv6
// hexadecimal digits.
func dotted(addr netip.Addr) string {
	if addr.Is4() {
		return addr.String()
	}
	octets := addr.As16()
	digits := strings.ToUpper(hex.EncodeToString(octets[:]))
	return strings.Join(strings.Split(digits, ""), ".")
}
