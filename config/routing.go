package config

import (
	"slices"
	"strings"

	"github.com/postern-mail/postern/delivery"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/smtp"
	"github.com/postern-mail/postern/table"
)

// TransportRule says where mail for an address or a domain goes.
type TransportRule struct {
	block
	Key string `conf:"key,label"`

	Deliver string `conf:"deliver" doc:"Target the mail goes to, as target.NAME. Empty with next_hop: the target the domain has otherwise, or, for domains that are not ours, smtp."`
	NextHop string `conf:"next_hop" doc:"Where the target connects to in place of its own addresses: example.org for its MX, [mail.example.org], [192.0.2.1]:2525, or several that are tried in order, separated by commas. Empty: the target's own."`
	Error   string `conf:"error" doc:"Refuse the mail with this text for the sender, which may begin with an enhanced status code: 5.1.6 User has moved."`
	Retry   string `conf:"retry" doc:"Let the mail wait, with this text for the log and the report."`
	Discard string `conf:"discard" doc:"Take the mail and throw it away, with this text for the log."`
}

// SenderRule says where mail of an address or a domain goes.
type SenderRule struct {
	block
	Key string `conf:"key,label"`

	Deliver string `conf:"deliver" doc:"Target the mail goes to, as target.NAME. Empty: smtp."`
	NextHop string `conf:"next_hop" doc:"As in transport."`
}

// route returns the rule as delivery knows it.
func (t *TransportRule) route() mail.Route {
	switch {
	case t.wrote("error"):
		return mail.Route{Transport: delivery.TransportError, NextHop: t.Error}
	case t.wrote("retry"):
		return mail.Route{Transport: delivery.TransportRetry, NextHop: t.Retry}
	case t.wrote("discard"):
		return mail.Route{Transport: delivery.TransportDiscard, NextHop: t.Discard}
	default:
		return mail.Route{Transport: t.Deliver, NextHop: t.NextHop}
	}
}

func (s *SenderRule) route() mail.Route { return mail.Route{Transport: s.Deliver, NextHop: s.NextHop} }

// recipientRules returns the rules for recipients.
func (g *Gateway) recipientRules() delivery.Rules {
	rules := delivery.Rules{Fixed: make(map[string]mail.Route), Files: g.TransportFiles}
	for _, t := range g.Transports {
		rules.Fixed[t.Key] = t.route()
	}
	return rules
}

// senderRules returns the rules for senders.
func (g *Gateway) senderRules() delivery.Rules {
	rules := delivery.Rules{Fixed: make(map[string]mail.Route), Files: g.SenderFiles, RelayFiles: g.SenderRelayFiles}
	for _, s := range g.Senders {
		rules.Fixed[s.Key] = s.route()
	}
	return rules
}

// Ourselves knows where mail comes to this machine from others.
func (g *Gateway) Ourselves() *delivery.Ourselves {
	var listeners []string
	for _, l := range g.Listeners {
		if l.Mode == ModeMX {
			listeners = append(listeners, l.Bind...)
		}
	}
	return delivery.NewOurselves(listeners, g.ProxyInterfaces)
}

// routing checks the rules of where mail goes.
func (c checker) routing(g *Gateway) {
	seen := make(map[string]bool)
	for _, t := range g.Transports {
		c.ruleKey(&t.block, t.Key, false)
		c.once(&t.block, seen, "transport "+t.Key)
		c.ruleTarget(&t.block, t.Deliver, t.NextHop)
		n := 0
		for _, name := range []string{"error", "retry", "discard"} {
			if t.wrote(name) {
				n++
			}
		}
		switch sends := t.Deliver != "" || t.NextHop != ""; {
		case n > 1 || n == 1 && sends:
			c.errorf(t.at, "Contradiction", "Mail for %s can be sent (deliver, next_hop) or end here by one of error, retry and discard.", t.Key)
		case n == 0 && !sends && !t.wrote("deliver"):
			c.errorf(t.at, "Missing setting", "Say where mail for %s goes: deliver, next_hop, error, retry or discard.", t.Key)
		}
	}
	for _, s := range g.Senders {
		c.ruleKey(&s.block, s.Key, true)
		c.once(&s.block, seen, "sender "+s.Key)
		c.ruleTarget(&s.block, s.Deliver, s.NextHop)
		if s.Deliver == "" && s.NextHop == "" && !s.wrote("deliver") {
			c.errorf(s.at, "Missing setting", "Say where mail of %s goes: deliver or next_hop.", s.Key)
		}
	}
	c.ruleFiles(g, "transport_files", g.TransportFiles, false, false)
	c.ruleFiles(g, "sender_transport_files", g.SenderFiles, true, false)
	c.ruleFiles(g, "sender_relay_files", g.SenderRelayFiles, true, true)
}

func (c checker) ruleKey(b *block, key string, sender bool) {
	if err := delivery.CheckRuleKey(key, sender); err != nil {
		c.errorf(b.at, "Wrong label", "%v.", err)
	}
}

// once refuses a second block for the same key.
func (c checker) once(b *block, seen map[string]bool, name string) {
	name = strings.ToLower(name)
	if seen[name] {
		c.errorf(b.at, "Repeated block", "The block %s stands here twice.", name)
	}
	seen[name] = true
}

func (c checker) ruleTarget(b *block, target, next string) {
	if target != delivery.Outbound {
		c.targetExists(b, "deliver", target)
	}
	if next == "" {
		return
	}
	if _, err := delivery.ParseNextHops(next); err != nil {
		c.errorf(b.rangeOf("next_hop"), "Wrong value", "%v.", err)
	}
}

// ruleFiles reads files of rules, so that what is wrong with them shows at once.
func (c checker) ruleFiles(g *Gateway, name string, files []string, sender, relayOnly bool) {
	known := func(transport string) bool {
		for _, t := range g.Targets {
			if t.Name == transport {
				return true
			}
		}
		return transport == delivery.Outbound
	}
	opener := table.Opener{Dir: c.file.TableDir()}
	for _, path := range files {
		if _, err := opener.Open(path, delivery.RuleUse(sender, relayOnly, known)); err != nil {
			c.errorf(g.rangeOf(name), "Wrong rules", "%v.", err)
		}
	}
}

// logins checks how a target authenticates.
func (c checker) logins(t *Target) {
	for _, m := range t.Mechanisms {
		if !slices.Contains(smtp.ClientMechanisms, m) {
			c.errorf(t.rangeOf("mechanisms"), "Wrong value", "%q is none of %s.", m, strings.Join(smtp.ClientMechanisms, ", "))
		}
	}
	if t.User != "" && len(t.Address) == 0 {
		c.errorf(t.rangeOf("user"), "Contradiction", `A login needs "address", the hosts that get it; for hosts found by MX there is logins_file.`)
	}
	if t.LoginsFile == "" {
		return
	}
	if _, err := (&table.Opener{}).Open(t.LoginsFile, delivery.LoginUse); err != nil {
		c.errorf(t.rangeOf("logins_file"), "Wrong logins", "%v.", err)
	}
}
