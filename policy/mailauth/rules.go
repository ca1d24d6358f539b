package mailauth

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/policy"
	"github.com/postern-mail/postern/policy/mailauth/authres"
	"github.com/postern-mail/postern/policy/mailauth/dmarc"
	"github.com/postern-mail/postern/status"
)

// Rules is what is done about what DMARC finds. The zero Rules refuse and mark
// nothing but by Authentication-Results.
type Rules struct {
	// Honour is up to which policy domains get what they ask for: PolicyNone,
	// or "", applies none, PolicyQuarantine puts into quarantine what they want
	// rejected.
	Honour dmarc.Policy
	// Quarantine is what quarantine means.
	Quarantine Quarantine
	// Malformed is what happens to messages that do not name their author as
	// RFC 5322 asks: no From field, several, or none that can be read.
	Malformed Malformed
	// JunkField marks what QuarantineJunk means; "" is DefaultJunkField.
	JunkField string
	// Sealers are domains whose ARC seals are believed.
	Sealers []string
	// Forwarders are domains whose mail passes DMARC when SPF or DKIM pass for
	// them, whoever it claims to be from: mailing lists.
	Forwarders []string
}

// DefaultJunkField is what mail filters in the field look for.
const DefaultJunkField = "X-Spam-Flag: YES"

// Quarantine is what happens to a message that its domain wants to be looked at.
type Quarantine string

// The kinds of quarantine. QuarantineJunk adds a field for the filters of
// recipients, QuarantineHold keeps the message in the queue until somebody
// releases it, QuarantineMark leaves it at Authentication-Results.
const (
	QuarantineJunk Quarantine = "junk"
	QuarantineHold Quarantine = "hold"
	QuarantineMark Quarantine = "mark"
)

// Malformed is what happens to a message without a proper author.
type Malformed string

// The choices for malformed authors.
const (
	MalformedAccept Malformed = "accept"
	MalformedJunk   Malformed = "junk"
	MalformedHold   Malformed = "hold"
	MalformedReject Malformed = "reject"
)

// dmarc evaluates the message, and adds to v what is done about it.
func (s *authenticate) dmarc(ctx context.Context, tx *mail.Transaction, c *checks, v *mail.Verdict) {
	q := dmarc.Query{Authors: c.authors.Domains, Sample: sample(tx)}
	if len(c.spf) > 0 {
		q.SPF = identifier(c.spf[0])
	}
	for _, f := range c.dkim {
		if f.Result != "none" {
			q.DKIM = append(q.DKIM, identifier(f))
		}
	}
	answer := c.policies.Evaluate(q)
	if c.noAuthor != nil && answer.Result != dmarc.Fail && answer.Result != dmarc.TempError {
		// Who may be the author can make the message fail, and never pass.
		answer = dmarc.Answer{Result: dmarc.PermError, Policy: dmarc.PolicyNone, Requested: dmarc.PolicyNone}
	}
	applied, override := s.apply(answer, q, c.arc)
	v.Findings = append(v.Findings, found(answer, applied, c.noAuthor))
	rehearsal := policy.IsRehearsal(ctx)
	if answer.Result == dmarc.Fail && !rehearsal {
		s.counters.applied(string(answer.Policy), string(applied))
	}
	s.act(tx, answer, applied, v)
	if v.Action == mail.Dunno && (c.noAuthor != nil || c.authors.Fields > 1) {
		s.malformed(c, v)
	}
	if v.Action == mail.Dunno && errors.Is(c.noAuthor, dmarc.ErrManyAuthors) {
		s.crowd(c.noAuthor, v)
	}
	if s.deps.Counter != nil && !rehearsal && answer.Record != nil && answer.Result != dmarc.TempError {
		e := Evaluation{
			Time: time.Now(), Client: tx.Client.Remote.Addr().Unmap(), Answer: answer, Applied: applied, Override: override,
			From: string(tx.Envelope.ReversePath.Domain), SPF: q.SPF, SPFScope: "mfrom", DKIM: q.DKIM,
		}
		if tx.Envelope.ReversePath.IsNull() {
			e.SPFScope = "helo"
		}
		s.deps.Counter.Note(e)
	}
}

// identifier puts a finding in DMARC's form.
func identifier(f mail.Finding) dmarc.Identifier {
	id := dmarc.Identifier{Result: f.Result}
	if domain, err := mail.ParseDomain(f.Domain); err == nil && !domain.IsLiteral() {
		id.Domain = string(domain)
	}
	for _, p := range f.Props {
		if p.Type == "header" && p.Name == "s" {
			id.Selector = p.Value
		}
	}
	return id
}

// sample is what the message is known by at each attempt to send it.
func sample(tx *mail.Transaction) string {
	var b strings.Builder
	for _, f := range tx.Message.Fields()[tx.Message.Ours():] {
		if f.Is("Message-ID") || f.Is("Date") || f.Is("From") {
			b.WriteString(f.Unfolded())
			b.WriteByte('\n')
		}
	}
	return b.String()
}

// found writes what DMARC found as a finding. policy.dmarc is what is done (RFC
// 7489 section 11.1).
func found(a dmarc.Answer, applied dmarc.Policy, noAuthor error) mail.Finding {
	f := mail.Finding{Method: "dmarc", Result: string(a.Result), Domain: a.Author}
	if a.Author != "" {
		f.Props = append(f.Props, mail.Property{Type: "header", Name: "from", Value: a.Author})
	} else if noAuthor != nil {
		// The error may hold anything that the message does; the field has its
		// quotes and bounds.
		f.Reason = noAuthor.Error()
	}
	if a.Record != nil {
		f.Props = append(f.Props, mail.Property{Type: "policy", Name: "dmarc", Value: string(applied)})
	}
	return f
}

// apply works out what is done of what is asked for.
func (s *authenticate) apply(a dmarc.Answer, q dmarc.Query, arc ARC) (dmarc.Policy, Override) {
	override := Override{}
	if a.SampledOut {
		override = Override{Type: "sampled_out"}
	}
	if a.Requested == dmarc.PolicyNone {
		return dmarc.PolicyNone, override
	}
	if forwarder := s.forwarder(q); forwarder != "" {
		return dmarc.PolicyNone, Override{"trusted_forwarder", forwarder}
	}
	if sealer := s.sealed(arc, a.Author); sealer != "" {
		return dmarc.PolicyNone, Override{"local_policy", "arc=pass, dmarc=pass at " + sealer}
	}
	switch honour := s.deps.Rules.Honour; {
	case honour == dmarc.PolicyReject || honour == dmarc.PolicyQuarantine && a.Requested == dmarc.PolicyQuarantine:
		return a.Requested, override
	case honour == dmarc.PolicyQuarantine:
		return dmarc.PolicyQuarantine, Override{"local_policy", "mail is not rejected by DMARC here"}
	default:
		return dmarc.PolicyNone, Override{"local_policy", "policies are not applied here"}
	}
}

// forwarder returns the forwarder that SPF or DKIM vouch for, or "".
func (s *authenticate) forwarder(q dmarc.Query) string {
	for _, id := range append([]dmarc.Identifier{q.SPF}, q.DKIM...) {
		if id.Result == "pass" && slices.Contains(s.deps.Rules.Forwarders, id.Domain) {
			return id.Domain
		}
	}
	return ""
}

// sealed returns the sealer that saw DMARC pass for the author, or "". From the
// newest seal on each must be one that is believed.
func (s *authenticate) sealed(arc ARC, author string) string {
	for _, seal := range arc.Seals {
		if !slices.Contains(s.deps.Rules.Sealers, strings.ToLower(seal.Domain)) {
			return ""
		}
		field, err := authres.Parse(seal.Results)
		if err != nil {
			continue
		}
		for _, r := range field.Results {
			if r.Method == "dmarc" && r.Value == "pass" && strings.EqualFold(r.Prop("header", "from"), author) {
				return seal.Domain
			}
		}
	}
	return ""
}

// act does what a policy means here.
func (s *authenticate) act(tx *mail.Transaction, a dmarc.Answer, applied dmarc.Policy, v *mail.Verdict) {
	detail := "DMARC fails for " + a.Author + ": " + string(a.Policy) + " asked for at " + a.Domain
	switch {
	case applied == dmarc.PolicyReject:
		reply := status.DMARCRefused.Reply()
		reply.Text = "message from " + a.Author + " refused by the DMARC policy of " + a.Domain
		v.Action, v.Reason, v.Reply, v.Detail = mail.Reject, status.DMARCRefused, &reply, detail
	case applied == dmarc.PolicyQuarantine:
		s.quarantine(s.deps.Rules.Quarantine, detail, v)
	}
}

func (s *authenticate) quarantine(how Quarantine, detail string, v *mail.Verdict) {
	v.Detail = detail
	switch how {
	case QuarantineHold:
		v.Action = mail.Hold
	case QuarantineMark:
	default:
		field := s.deps.Rules.JunkField
		if field == "" {
			field = DefaultJunkField
		}
		v.Edits = append(v.Edits, mail.Edit{PrependHeader: field})
	}
}

// malformed does what is configured for messages without a proper author.
func (s *authenticate) malformed(c *checks, v *mail.Verdict) {
	detail := "several From fields"
	if c.noAuthor != nil {
		detail = c.noAuthor.Error()
	}
	switch s.deps.Rules.Malformed {
	case MalformedReject:
		v.Action, v.Reason, v.Detail = mail.Reject, status.AuthorMalformed, detail
	case MalformedHold:
		s.quarantine(QuarantineHold, detail, v)
	case MalformedJunk:
		s.quarantine(QuarantineJunk, detail, v)
	}
}

// crowd does what a failure leads to for a message whose From names more domains
// than are asked: the one among them that has a policy may be the last.
func (s *authenticate) crowd(why error, v *mail.Verdict) {
	switch s.deps.Rules.Honour {
	case dmarc.PolicyReject:
		v.Action, v.Reason, v.Detail = mail.Reject, status.AuthorMalformed, why.Error()
	case dmarc.PolicyQuarantine:
		s.quarantine(s.deps.Rules.Quarantine, why.Error(), v)
	}
}
