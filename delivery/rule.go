package delivery

import (
	"fmt"
	"strings"

	"github.com/postern-mail/postern/mail"
)

// Rules says where mail goes in place of what would be decided without them.
// The notation of keys and the order in which they are looked up are those of
// Postfix's transport(5) for recipients: user+detail@example.com,
// user@example.com, example.com, .example.com for all domains below it, and *
// for everything; and those of its sender_dependent_relayhost_maps for senders:
// the address with and without detail, @example.com, and <> for the null
// reverse-path. Each key is looked up in every table before the next one is.
type Rules struct {
	// Fixed are rules by key; see Rule.
	Fixed map[string]mail.Route
	// Files are tables of a key and transport:nexthop, see RuleUse. They are
	// asked after Fixed, in order, and read again when they change.
	Files []string
	// RelayFiles are tables of a key and nexthop, for senders only. They are
	// asked when nothing else has a rule for the sender.
	RelayFiles []string
}

// The transports that need no target. In a Route, NextHop is then the text for
// the sender, with or without an enhanced status code in front.
const (
	// TransportError bounces.
	TransportError = "error"
	// TransportRetry defers.
	TransportRetry = "retry"
	// TransportDiscard takes the mail and throws it away.
	TransportDiscard = "discard"
)

func isBuiltIn(transport string) bool {
	return transport == TransportError || transport == TransportRetry || transport == TransportDiscard
}

// ParseRule reads the value of a rule: "transport:nexthop", where either may be
// empty. Without a transport the one decided otherwise keeps the mail, and
// without a next hop the transport's own is meant; the rule ":" changes
// nothing. relayOnly reads "nexthop" instead, with "DUNNO" for ":".
//
// known tells the names of transports. A next hop is a list of places that are
// tried in order, separated by commas.
func ParseRule(value string, relayOnly bool, known func(transport string) bool) (mail.Route, error) {
	if relayOnly {
		if strings.EqualFold(value, "DUNNO") {
			return mail.Route{}, nil
		}
		value = ":" + value
	}
	transport, next, found := strings.Cut(value, ":")
	next = strings.TrimSpace(next)
	switch {
	case !found:
		return mail.Route{}, fmt.Errorf("%q is not transport:nexthop", value)
	case isBuiltIn(transport) && !known(transport):
		return mail.Route{Transport: transport, NextHop: next}, nil
	case transport == "relay" && !known(transport):
		transport = Outbound // what Postfix calls it for domains it relays for
	}
	if transport != "" && !known(transport) {
		return mail.Route{}, fmt.Errorf("there is no target %q", transport)
	}
	if next != "" {
		if _, err := ParseNextHops(next); err != nil {
			return mail.Route{}, err
		}
	}
	return mail.Route{Transport: transport, NextHop: next}, nil
}

// ParseNextHops reads a list of next hops, separated by commas.
func ParseNextHops(list string) ([]NextHop, error) {
	var hops []NextHop
	for word := range strings.SplitSeq(list, ",") {
		hop, err := ParseNextHop(strings.TrimSpace(word))
		if err != nil {
			return nil, err
		}
		hops = append(hops, hop)
	}
	return hops, nil
}

// CheckRuleKey refuses what no lookup would ever find.
func CheckRuleKey(key string, sender bool) error {
	domain := strings.TrimPrefix(key, ".")
	switch {
	case sender && key == "<>", !sender && key == "*":
		return nil
	case sender && strings.HasPrefix(key, "@"):
		domain = key[1:]
	case strings.Contains(key, "@"):
		_, err := mail.ParseAddress(key)
		return err
	case sender:
		return fmt.Errorf("%q is no key of a sender: write an address, @%s or <>", key, key)
	}
	if _, err := mail.ParseDomain(domain); err != nil {
		return err
	}
	return nil
}
