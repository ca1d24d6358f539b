package config

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/policy"
	"github.com/postern-mail/postern/policy/rules"
)

// Rule says what becomes of mail.
type Rule struct {
	block
	Name string `conf:"name,label"`

	When   *RuleCondition   `conf:"when,block" doc:"When it holds. Without it: always."`
	Unless []*RuleCondition `conf:"unless,block" example:"unless { sender_groups = [\"managers@example.com\"] }" doc:"When it does not hold all the same; any of these blocks."`
	Then   *RuleAction      `conf:"then,block" doc:"What is done."`
}

// RuleCondition holds when all that is written in it does.
type RuleCondition struct {
	block
	Direction     string         `conf:"direction" default:"" oneof:"incoming outgoing internal" doc:"incoming: from outside to domains of ours. outgoing: to other domains. internal: to domains of ours, from who logged in or a client in mynetworks."`
	Authenticated string         `conf:"authenticated" default:"" oneof:"yes no" doc:"Whether the client logged in."`
	TLS           string         `conf:"tls" default:"" oneof:"yes no" doc:"Whether the session is protected."`
	Clients       []netip.Prefix `conf:"clients" doc:"Networks of clients."`
	ClientNames   []string       `conf:"client_names" doc:"Verified names of clients: mail.example.com, or .example.com for all below."`
	Logins        []string       `conf:"logins" doc:"Accounts that logged in."`

	Senders          []string `conf:"senders" doc:"Reverse-paths: user@example.com, example.com, .example.com for domains below it, <> for reports."`
	SenderGroups     []string `conf:"sender_groups" doc:"Addresses of groups; who sends is in one of them. In our own domains only who logged in or is in mynetworks is believed to be who he says."`
	SenderAttributes []string `conf:"sender_attributes" doc:"Attributes of the account that logged in, as \"employeeType=contractor\", or \"employeeType\" for any value; policy_attributes of its directory has to name them."`
	From             []string `conf:"from" doc:"Addresses in the header field From, as in senders. Nobody has proved them: look at found, too."`

	Recipients          []string `conf:"recipients" doc:"Recipients as RCPT names them, as in senders."`
	RecipientGroups     []string `conf:"recipient_groups" doc:"Addresses of groups; the recipient is in one of them."`
	RecipientAttributes []string `conf:"recipient_attributes" doc:"Attributes of the account that the recipient is an address of, as in sender_attributes."`

	Headers []string `conf:"headers" doc:"Header fields: \"Name\" that is there, or \"Name: expression\" (RE2, in any letter case) that is found in its unfolded value."`
	Above   Octets   `conf:"larger_than" default:"0" doc:"The message has more octets than this."`
	Found   []string `conf:"found" doc:"What checks before found out, as \"dmarc=fail\": the methods and results of Authentication-Results, and those of other restrictions, whose names begin with x-."`
}

// RuleAction is what a rule does.
type RuleAction struct {
	block
	Reject  string `conf:"reject" doc:"Refuse with 554 5.7.1 and this text."`
	Defer   string `conf:"defer" doc:"Refuse for now with 450 4.7.1 and this text."`
	Hold    string `conf:"hold" doc:"Accept, and keep in the queue until somebody releases it; the text says why, in log and audit."`
	Discard bool   `conf:"discard" default:"false" doc:"Accept, audit and throw away the whole message."`

	Redirect   string   `conf:"redirect" doc:"Address that gets the message in the place of the recipients that the rule holds for."`
	CopyTo     []string `conf:"copy_to" doc:"Addresses that get it too, of which the sender never hears."`
	Deliver    string   `conf:"deliver" doc:"Target, as target.NAME, that the mail of the recipients goes to that the rule holds for."`
	NextHop    string   `conf:"next_hop" doc:"Next hop of deliver, as in transport."`
	RequireTLS bool     `conf:"require_tls" default:"false" doc:"Send it on only where TLS is certain on the whole way (REQUIRETLS, RFC 8689). To encrypt to a partner that does not offer that, deliver to a target with a tls level."`

	Tag     string   `conf:"tag" doc:"Text put before the Subject, once, such as \"[EXTERNAL]\"."`
	Headers []string `conf:"headers" doc:"Header fields put on top, as \"Name: value\"."`
	Strip   []string `conf:"strip" doc:"Names of header fields that are taken away, such as those that only we may set."`
	Banner  string   `conf:"banner" doc:"Text put above the message's text, plain and HTML. Signed and encrypted messages stay as they are; of others it breaks the signatures of the domains they come from, so seal_arc should follow."`

	Log  string `conf:"log" doc:"Text for log and audit."`
	Stop bool   `conf:"stop" default:"false" doc:"Ask none of the rules that follow in this list."`
}

// RuleSet returns the rules in their order. They have no mistakes once Load
// returned.
func (g *Gateway) RuleSet() ([]rules.Rule, error) {
	all := make([]rules.Rule, len(g.Rules))
	for i, r := range g.Rules {
		var err error
		if all[i], err = r.room(); err != nil {
			return nil, fmt.Errorf("rule %q: %w", r.Name, err)
		}
	}
	return all, nil
}

func (r *Rule) room() (rules.Rule, error) {
	made := rules.Rule{Name: r.Name}
	var err error
	if made.When, err = r.When.room(); err != nil {
		return made, err
	}
	for _, u := range r.Unless {
		c, err := u.room()
		if err != nil {
			return made, err
		}
		made.Unless = append(made.Unless, c)
	}
	if made.Then, err = r.Then.room(); err != nil {
		return made, err
	}
	return made, made.Check()
}

// each turns written values into what they mean.
func each[T any](name string, values []string, read func(string) (T, error)) ([]T, error) {
	var all []T
	for _, text := range values {
		v, err := read(text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		all = append(all, v)
	}
	return all, nil
}

func sure[T any](read func(string) T) func(string) (T, error) {
	return func(text string) (T, error) { return read(text), nil }
}

func (c *RuleCondition) room() (r rules.Condition, err error) {
	r = rules.Condition{
		Direction: rules.Direction(c.Direction), Authenticated: yesOrNo(c.Authenticated), TLS: yesOrNo(c.TLS),
		Clients: c.Clients, Logins: c.Logins, Above: int64(c.Above),
	}
	for _, p := range []struct {
		name string
		from []string
		to   *[]rules.Pattern
	}{
		{"client_names", c.ClientNames, &r.ClientNames}, {"senders", c.Senders, &r.Senders}, {"from", c.From, &r.From}, {"recipients", c.Recipients, &r.Recipients},
	} {
		if *p.to, err = each(p.name, p.from, rules.ParsePattern); err != nil {
			return r, err
		}
	}
	if r.SenderGroups, err = each("sender_groups", c.SenderGroups, mail.ParseAddress); err != nil {
		return r, err
	}
	if r.RecipientGroups, err = each("recipient_groups", c.RecipientGroups, mail.ParseAddress); err != nil {
		return r, err
	}
	if r.Headers, err = each("headers", c.Headers, rules.ParseHeaderMatch); err != nil {
		return r, err
	}
	r.SenderAttributes, _ = each("", c.SenderAttributes, sure(rules.ParseAttribute))
	r.RecipientAttributes, _ = each("", c.RecipientAttributes, sure(rules.ParseAttribute))
	r.Findings, _ = each("", c.Found, sure(rules.ParseFindingMatch))
	return r, nil
}

func yesOrNo(text string) *bool {
	if text == "" {
		return nil
	}
	yes := text == "yes"
	return &yes
}

func (a *RuleAction) room() (r rules.Action, err error) {
	r = rules.Action{
		Reject: a.Reject, Defer: a.Defer, Hold: a.Hold, Discard: a.Discard, RequireTLS: a.RequireTLS,
		Tag: a.Tag, Strip: a.Strip, Banner: a.Banner, Log: a.Log, Stop: a.Stop,
	}
	for _, f := range a.Headers {
		r.Headers = append(r.Headers, mail.Field(f))
	}
	if a.Redirect != "" {
		to, err := mail.ParseAddress(a.Redirect)
		if err != nil {
			return r, fmt.Errorf("redirect: %w", err)
		}
		r.Redirect = &to
	}
	if a.Deliver != "" || a.NextHop != "" {
		r.Route = &mail.Route{Transport: a.Deliver, NextHop: a.NextHop}
	}
	r.CopyTo, err = each("copy_to", a.CopyTo, mail.ParseAddress)
	return r, err
}

// rules checks the rules, and that some list asks them.
func (c checker) rules(g *Gateway) {
	seen := make(map[string]bool)
	for _, r := range g.Rules {
		c.once(&r.block, seen, "rule "+r.Name)
		made, err := r.room()
		if err != nil {
			c.errorf(r.at, "Wrong rule", "%s.", sentenceOf(err))
			continue
		}
		c.ruleTarget(&r.Then.block, r.Then.Deliver, r.Then.NextHop)
		for _, condition := range append([]*RuleCondition{r.When}, r.Unless...) {
			c.ruleCondition(g, condition)
		}
		list := policy.ListRecipient
		if made.InMessage() {
			list = policy.ListContent
		}
		if !g.asksRules(list == policy.ListContent) {
			c.errorf(r.at, "Rule that is never asked", "Rule %q looks at %s: put rules {} into the list %s of the gateway or of a listener.",
				r.Name, map[bool]string{true: "messages or changes them", false: "senders and recipients"}[made.InMessage()], list)
		}
	}
}

// sentenceOf is an error as the text of a mistake.
func sentenceOf(err error) string { return strings.TrimSuffix(capital(err.Error()), ".") }

// asksRules reports whether some list holds the restriction that asks rules: the
// content list, or another.
func (g *Gateway) asksRules(inContent bool) bool {
	policies := slices.Clone(g.Policies)
	for _, l := range g.Listeners {
		policies = append(policies, l.Policies...)
	}
	for _, p := range policies {
		for _, step := range p.Steps {
			if step.name == rules.Name && (p.List == string(policy.ListContent)) == inContent {
				return true
			}
		}
	}
	return false
}

// ruleCondition holds what a condition names against what there is.
func (c checker) ruleCondition(g *Gateway, r *RuleCondition) {
	for name, groups := range map[string][]string{"sender_groups": r.SenderGroups, "recipient_groups": r.RecipientGroups} {
		for _, group := range groups {
			_, domain, _ := strings.Cut(group, "@")
			known := slices.ContainsFunc(g.Domains, func(d *Domains) bool {
				return d.Recipients != "" && slices.ContainsFunc(d.Names, func(n mail.Domain) bool { return strings.EqualFold(string(n), domain) })
			})
			if !known {
				c.errorf(r.rangeOf(name), "No directory", "No directory knows the groups of %q: it is in no domain of ours that has one.", domain)
			}
		}
	}
	for name, attributes := range map[string][]string{"sender_attributes": r.SenderAttributes, "recipient_attributes": r.RecipientAttributes} {
		for _, text := range attributes {
			attribute := rules.ParseAttribute(text).Name
			known := slices.ContainsFunc(c.file.Directories, func(d *Directory) bool {
				return slices.ContainsFunc(d.PolicyAttrs, func(a string) bool { return strings.EqualFold(a, attribute) })
			})
			if !known {
				c.errorf(r.rangeOf(name), "Unknown attribute", "No directory tells of %q: name it in policy_attributes of the directory.", attribute)
			}
		}
	}
}

// RulesStage makes the restriction that asks the rules.
func (g *Gateway) RulesStage(deps rules.Deps) func(policy.Spec) (policy.Stage, error) {
	return func(spec policy.Spec) (policy.Stage, error) {
		if err := spec.Only("on_error"); err != nil {
			return nil, err
		}
		all, err := g.RuleSet()
		if err != nil {
			return inert(rules.Name), nil // told where the rule stands
		}
		deps.Networks = g.MyNetworks
		return rules.New(all, deps, spec.List == policy.ListContent), nil
	}
}
