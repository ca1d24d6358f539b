package rules

import (
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"github.com/postern-mail/postern/mail"
)

// Rule is one rule. It holds when When does and none of Unless.
type Rule struct {
	Name   string
	When   Condition
	Unless []Condition
	Then   Action
}

// Direction says between whom a message goes.
type Direction string

// The directions. Ours are domains of ours; who logged in or comes from a
// trusted network is inside, whatever his address.
const (
	AnyDirection Direction = ""
	Incoming     Direction = "incoming" // from outside to ours
	Outgoing     Direction = "outgoing" // to others
	Internal     Direction = "internal" // from inside to ours
)

// Condition holds when each of its fields that is set does; a list does when one
// of its values does. The zero Condition always holds.
type Condition struct {
	Direction     Direction
	Authenticated *bool
	TLS           *bool
	Clients       []netip.Prefix
	ClientNames   []Pattern // of the verified name
	Logins        []string

	Senders          []Pattern // of the reverse-path
	SenderGroups     []mail.Address
	SenderAttributes []Attribute // of who logged in
	From             []Pattern   // of addresses in the header field From

	Recipients          []Pattern
	RecipientGroups     []mail.Address
	RecipientAttributes []Attribute

	Headers  []HeaderMatch
	Above    int64 // octets of the message; 0 for any
	Findings []FindingMatch
}

// inMessage reports whether only the message can tell.
func (c *Condition) inMessage() bool {
	return len(c.From)+len(c.Headers) > 0 || c.Above > 0 || slices.ContainsFunc(c.Findings, func(f FindingMatch) bool {
		return !slices.Contains(knownEarly, f.Method)
	})
}

// knownEarly are methods whose results are there at RCPT.
var knownEarly = []string{"spf", "iprev", "auth", "x-dnsbl"}

// Pattern is an address or domain to compare with.
type Pattern struct {
	null    bool
	address mail.Address // with a Local: this one
	domain  string       // this domain
	below   bool         // and those below it only
}

// ParsePattern reads "user@example.com", "example.com" or "@example.com",
// ".example.com" for the domains below it, and "<>" for the null reverse-path.
func ParsePattern(text string) (Pattern, error) {
	if text == "<>" {
		return Pattern{null: true}, nil
	}
	rest := strings.TrimPrefix(text, "@")
	if at := strings.LastIndexByte(rest, '@'); at >= 0 && rest == text {
		a, err := mail.ParseAddress(text)
		return Pattern{address: a.Fold()}, err
	}
	rest, below := strings.CutPrefix(rest, ".")
	domain, err := mail.ParseDomain(rest)
	return Pattern{domain: strings.ToLower(string(domain)), below: below}, err
}

func (p *Pattern) matches(a mail.Address) bool {
	switch {
	case p.null:
		return a.IsNull()
	case p.domain != "":
		return p.matchesName(string(a.Domain))
	default:
		return a.Fold() == p.address
	}
}

func (p *Pattern) matchesName(name string) bool {
	name = strings.ToLower(name)
	if p.below {
		return strings.HasSuffix(name, "."+p.domain)
	}
	return name == p.domain
}

// Attribute is an attribute of an account, and the value it has to have; "" is
// any.
type Attribute struct{ Name, Value string }

// ParseAttribute reads "name" or "name=value".
func ParseAttribute(text string) Attribute {
	name, value, _ := strings.Cut(text, "=")
	return Attribute{strings.ToLower(strings.TrimSpace(name)), strings.TrimSpace(value)}
}

// HeaderMatch is a header field, and what its value has to match; nil is
// anything.
type HeaderMatch struct {
	Name  string
	Value *regexp.Regexp
}

// ParseHeaderMatch reads "Name", or "Name: expression" in RE2's notation, which
// is looked for anywhere in the unfolded value, in any letter case.
func ParseHeaderMatch(text string) (HeaderMatch, error) {
	name, expression, given := strings.Cut(text, ":")
	h := HeaderMatch{Name: strings.TrimSpace(name)}
	if err := checkFieldName(h.Name); err != nil {
		return h, err
	}
	if expression = strings.TrimSpace(expression); !given || expression == "" {
		return h, nil
	}
	var err error
	h.Value, err = regexp.Compile("(?i)" + expression)
	return h, err
}

// FindingMatch is what a check found out: "dmarc=fail".
type FindingMatch struct{ Method, Result string }

// ParseFindingMatch reads "method=result".
func ParseFindingMatch(text string) FindingMatch {
	method, result, _ := strings.Cut(text, "=")
	return FindingMatch{strings.ToLower(strings.TrimSpace(method)), strings.ToLower(strings.TrimSpace(result))}
}

// Action is what a rule does.
type Action struct {
	// Reject and Defer are the text of a refusal, Hold why the message waits for
	// somebody to release it; Discard throws it away. At most one of the four.
	Reject, Defer, Hold string
	Discard             bool

	Redirect   *mail.Address // in the place of the recipients it holds for
	CopyTo     []mail.Address
	Route      *mail.Route // for the recipients it holds for
	RequireTLS bool

	Tag     string       // put before the subject, once
	Headers []mail.Field // put on top
	Strip   []string     // names of header fields to take away
	Banner  string       // put above the text

	// Log is noted in log and audit. Stop leaves out the rules that follow.
	Log  string
	Stop bool
}

// onMessage reports whether the action changes the message.
func (a *Action) onMessage() bool {
	return a.Tag != "" || len(a.Headers)+len(a.Strip) > 0 || a.Banner != ""
}

// InMessage reports whether the rule counts in the content list.
func (r *Rule) InMessage() bool {
	if r.Then.onMessage() || r.When.inMessage() {
		return true
	}
	for i := range r.Unless {
		if r.Unless[i].inMessage() {
			return true
		}
	}
	return false
}

// refuses reports whether the rules after it are of no matter.
func (a *Action) refuses() bool { return a.Reject != "" || a.Defer != "" || a.Discard }
