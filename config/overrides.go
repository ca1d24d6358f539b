package config

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/postern-mail/postern/delivery"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/policy"
	"github.com/postern-mail/postern/smtp"
)

// What a listener leaves out, in Postfix's words (receive_override_options).
const (
	noUnknownRecipientChecks = "no_unknown_recipient_checks"
	noAddressMappings        = "no_address_mappings"
	noHeaderBodyChecks       = "no_header_body_checks"
	noMilters                = "no_milters"
)

// maxFooter bounds a footer; each of its lines has to fit behind a reply's code.
const maxFooter = 2000

// PolicyOf returns what holds for the chain of a listener as a whole.
func (f *File) PolicyOf(l *SMTPListener) policy.Config {
	c := f.Policy()
	if l.wrote("delay_reject") {
		c.EarlyReject = !l.DelayReject
	}
	if l.wrote("reject_unlisted_recipient") {
		c.AcceptUnlisted = !l.UnlistedRcpt
	}
	if l.wrote("reject_unlisted_sender") {
		c.RejectUnlistedSender = l.UnlistedSender
	}
	c.AcceptUnlisted = c.AcceptUnlisted || l.leavesOut(noUnknownRecipientChecks)
	c.Networks = l.networks(f.Gateway)
	return c
}

// KeepsAddresses reports whether the listener rewrites and copies nothing.
func (l *SMTPListener) KeepsAddresses() bool { return l.leavesOut(noAddressMappings) }

func (l *SMTPListener) leavesOut(what string) bool { return slices.Contains(l.Overrides, what) }

// networks are the listener's own, or those of the gateway.
func (l *SMTPListener) networks(g *Gateway) []netip.Prefix {
	if l.wrote("mynetworks") {
		return l.MyNetworks
	}
	return g.MyNetworks
}

func (l *SMTPListener) softBounce(g *Gateway) bool {
	if l.wrote("soft_bounce") {
		return l.SoftBounce
	}
	return g.SoftBounce
}

func (l *SMTPListener) strictPaths(g *Gateway) bool {
	if l.wrote("strict_rfc821_envelopes") {
		return l.StrictPaths
	}
	return g.StrictPaths
}

func (l *SMTPListener) footer(g *Gateway) string {
	if l.wrote("reject_footer") {
		return l.RejectFooter
	}
	return g.RejectFooter
}

// leaveOut takes out of the lists what receive_override_options leave out.
func (l *SMTPListener) leaveOut(lists map[policy.List][]policy.Spec) {
	var names []string
	if l.leavesOut(noHeaderBodyChecks) {
		names = append(names, "header_checks", "mime_header_checks", "nested_header_checks", "body_checks")
	}
	if l.leavesOut(noMilters) {
		names = append(names, "milter")
	}
	if content, ok := lists[policy.ListContent]; ok && len(names) > 0 {
		lists[policy.ListContent] = slices.DeleteFunc(slices.Clone(content), func(s policy.Spec) bool {
			return slices.Contains(names, strings.ToLower(s.Name))
		})
	}
}

// classes returns the restriction classes.
func (g *Gateway) classes() []policy.Class {
	var classes []policy.Class
	for _, c := range g.Classes {
		pos := policy.Pos{File: c.at.Filename, Line: c.at.Start.Line, Column: c.at.Start.Column}
		classes = append(classes, policy.Class{Name: c.Name, Specs: c.Steps.specs(), Pos: pos})
	}
	return classes
}

// classSteps are the classes as lists, to find the place of a mistake.
func (g *Gateway) classSteps() []*Policy {
	var lists []*Policy
	for _, c := range g.Classes {
		lists = append(lists, &Policy{block: c.block, List: c.Name, Steps: c.Steps})
	}
	return lists
}

// specs returns the steps for policy.
func (o ordered) specs() []policy.Spec {
	specs := []policy.Spec{}
	for _, step := range o {
		specs = append(specs, policy.Spec{
			Name: step.name, Args: step.args,
			Pos: policy.Pos{File: step.at.Filename, Line: step.at.Start.Line, Column: step.at.Start.Column},
		})
	}
	return specs
}

// FilterRoute reads where FILTER sends mail: "target:next_hop".
func (f *File) FilterRoute(text string) (mail.Route, error) {
	return delivery.ParseRule(text, false, func(name string) bool {
		return name == delivery.Outbound || slices.ContainsFunc(f.Gateway.Targets, func(t *Target) bool { return t.Name == name })
	})
}

// overrides checks what a listener has of its own.
func (c checker) overrides(l *SMTPListener) {
	known := []string{noUnknownRecipientChecks, noAddressMappings, noHeaderBodyChecks, noMilters}
	for _, o := range l.Overrides {
		if !slices.Contains(known, o) {
			c.errorf(l.rangeOf("receive_override_options"), "Wrong value", "%q is none of %s.%s", o, quoteList(known), didYouMean(o, known))
		}
	}
	c.footer(&l.block, l.RejectFooter)
}

func (c checker) footer(b *block, text string) {
	if unknown := smtp.CheckFooter(text); unknown != "" {
		c.errorf(b.rangeOf("reject_footer"), "Wrong value", "$%s stands for nothing here; known are $client_address, $client_port, $localtime and $server_name.", unknown)
	}
	if len(text) > maxFooter {
		c.errorf(b.rangeOf("reject_footer"), "Wrong value", "The footer has %d octets; %d is the most.", len(text), maxFooter)
	}
}
