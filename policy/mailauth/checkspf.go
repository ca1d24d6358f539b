package mailauth

import (
	"context"
	"net/netip"
	"strings"

	"github.com/gaissmai/bart"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/policy"
	"github.com/postern-mail/postern/policy/mailauth/spf"
	"github.com/postern-mail/postern/status"
)

// CheckSPF is the name of the restriction that asks SPF.
const CheckSPF = "check_spf"

// SPFDeps is what check_spf works with.
type SPFDeps struct {
	Checker  *spf.Checker
	Networks []netip.Prefix        // whose clients are not judged
	Metrics  prometheus.Registerer // nil counts nowhere
}

// checkSPF is the restriction. Its attributes say what each result leads to.
type checkSPF struct {
	checker  *spf.Checker
	exempt   *bart.Lite
	actions  map[spf.Result]string
	helo     bool // the name of HELO is checked too
	mailFrom bool
	explain  bool
	receiver string // of Received-SPF; "" writes none
	counters *counters
}

// The actions of results.
const (
	actReject = "reject"
	actDefer  = "defer"
	actHold   = "hold"
	actWarn   = "warn"
	actNone   = "none"
)

// NewCheckSPF makes check_spf of its attributes. An error is a mistake in them.
func NewCheckSPF(spec policy.Spec, deps SPFDeps) (policy.Stage, error) {
	a := &attributes{args: spec.Args}
	c := &checkSPF{checker: deps.Checker, actions: make(map[spf.Result]string)}
	all := []string{actReject, actDefer, actHold, actWarn, actNone}
	for result, standard := range map[spf.Result]string{spf.Fail: actReject, spf.SoftFail: actNone, spf.PermError: actNone, spf.Neutral: actNone, spf.None: actNone} {
		c.actions[result] = a.word(string(result), standard, all...)
	}
	// What the DNS does not tell is no reason to refuse for good.
	c.actions[spf.TempError] = a.word(string(spf.TempError), actNone, all[1:]...)
	for _, identity := range a.words("identity", []string{"mailfrom"}, "mailfrom", "helo") {
		c.helo = c.helo || identity == "helo"
		c.mailFrom = c.mailFrom || identity == "mailfrom"
	}
	c.explain = a.yes("explain", true)
	if a.yes("received_spf", false) && c.checker != nil {
		c.receiver = c.checker.Receiver
	}
	c.exempt = networks(deps.Networks, a.networks("trusted"))
	if err := a.done(); err != nil {
		return nil, err
	}
	var err error
	c.counters, err = newCounters(deps.Metrics)
	return c, err
}

// networks makes one table of networks.
func networks(lists ...[]netip.Prefix) *bart.Lite {
	t := new(bart.Lite)
	for _, list := range lists {
		for _, network := range list {
			t.Insert(network.Masked())
		}
	}
	return t
}

// judged reports whether a client is one whose mail is judged: a stranger.
func judged(client *mail.Client, exempt *bart.Lite) bool {
	return client.Identity == nil && client.Remote.IsValid() && !exempt.Contains(client.Remote.Addr().Unmap())
}

// Name implements policy.Stage.
func (c *checkSPF) Name() string { return CheckSPF }

// Evaluate implements policy.Stage.
func (c *checkSPF) Evaluate(ctx context.Context, tx *mail.Transaction) (mail.Verdict, error) {
	var all mail.Verdict
	if !judged(&tx.Client, c.exempt) {
		return all, nil
	}
	for _, i := range c.identities(tx) {
		if known, ok := i.known(tx.Findings); ok && c.harmless(spf.Result(known.Result)) {
			all.Findings = append(all.Findings, known)
			continue
		}
		answer := c.checker.Check(ctx, i.query(tx))
		finding := i.finding(answer)
		if !policy.IsRehearsal(ctx) {
			c.counters.found(finding)
		}
		all.Findings = append(all.Findings, finding)
		v := c.verdict(tx, i, answer)
		all.Action, all.Reason, all.Reply, all.Detail = v.Action, v.Reason, v.Reply, v.Detail
		if c.receiver != "" && tx.Phase >= mail.PhaseMail {
			all.Edits = append(all.Edits, mail.Edit{PrependHeader: i.received(tx, answer, c.receiver)})
		}
		if v.Action != mail.Dunno || v.Detail != "" {
			break
		}
	}
	return all, nil
}

// harmless reports whether a result leads to nothing.
func (c *checkSPF) harmless(result spf.Result) bool {
	return c.actions[result] == actNone && c.receiver == ""
}

// identity is one name that SPF is asked about.
type identity struct {
	helo   bool
	domain string
	local  string
}

// identities returns what is to be checked, HELO's name first (RFC 7208 section
// 2.3). With the null reverse-path, or before there is one, that is all.
func (c *checkSPF) identities(tx *mail.Transaction) []identity {
	from := tx.Envelope.ReversePath
	if tx.Phase < mail.PhaseMail || from.IsNull() {
		return []identity{heloIdentity(tx)}
	}
	var all []identity
	if c.helo {
		all = append(all, heloIdentity(tx))
	}
	if c.mailFrom {
		all = append(all, fromIdentity(tx))
	}
	return all
}

func heloIdentity(tx *mail.Transaction) identity { return identity{helo: true, domain: tx.Client.Helo} }

func fromIdentity(tx *mail.Transaction) identity {
	from := tx.Envelope.ReversePath
	return identity{domain: string(from.Domain), local: string(from.Local)}
}

func (i identity) query(tx *mail.Transaction) spf.Query {
	return spf.Query{Client: tx.Client.Remote.Addr(), Domain: i.domain, Local: i.local, Helo: tx.Client.Helo}
}

// property is how the identity is called in Authentication-Results. Without its
// local-part: records that look at that are rare (RFC 8601 section 2.7.2).
func (i identity) property() mail.Property {
	name := "mailfrom"
	if i.helo {
		name = "helo"
	}
	return mail.Property{Type: "smtp", Name: name, Value: i.domain}
}

func (i identity) finding(a spf.Answer) mail.Finding {
	return mail.Finding{Method: "spf", Result: string(a.Result), Domain: i.domain, Props: []mail.Property{i.property()}}
}

// known finds what was found out about the identity before.
func (i identity) known(findings []mail.Finding) (mail.Finding, bool) {
	for _, f := range findings {
		if f.Method == "spf" && len(f.Props) == 1 && f.Props[0] == i.property() {
			return f, true
		}
	}
	return mail.Finding{}, false
}

// verdict does what is configured for a result.
func (c *checkSPF) verdict(tx *mail.Transaction, i identity, a spf.Answer) mail.Verdict {
	detail := "SPF " + string(a.Result) + " of " + i.domain
	if a.Mechanism != "" {
		detail += " by " + a.Mechanism
	}
	if a.Problem != "" {
		detail += ": " + a.Problem
	}
	failed := a.Result != spf.TempError && a.Result != spf.PermError
	switch c.actions[a.Result] {
	case actReject:
		if failed {
			return i.refuse(tx, status.SPFFailed, c.text(tx, i, a), detail)
		}
		return i.refuse(tx, status.SPFBroken, c.text(tx, i, a), detail)
	case actDefer:
		if failed {
			return i.refuse(tx, status.SPFFailedNow, c.text(tx, i, a), detail)
		}
		return i.refuse(tx, status.SPFUnknown, c.text(tx, i, a), detail)
	case actHold:
		return mail.Verdict{Action: mail.Hold, Detail: detail}
	case actWarn:
		return mail.Verdict{Detail: detail}
	default:
		return mail.Verdict{}
	}
}

// text is what the client reads. A domain's own words are marked as such (RFC
// 7208 section 6.2).
func (c *checkSPF) text(tx *mail.Transaction, i identity, a spf.Answer) string {
	client := tx.Client.Remote.Addr().Unmap().String()
	switch a.Result {
	case spf.TempError:
		return "the SPF record of " + i.domain + " cannot be looked up now"
	case spf.PermError:
		return "the SPF record of " + i.domain + " makes no sense"
	}
	text := client + " is not allowed to send mail of " + i.domain + " (SPF " + string(a.Result) + ")"
	if c.explain && a.Explanation != "" {
		text += "; " + i.domain + " explains: " + a.Explanation
	}
	return text
}

// refuse words a refusal as those of other restrictions.
func (i identity) refuse(tx *mail.Transaction, reason status.Reason, text, detail string) mail.Verdict {
	reply := reason.Reply()
	if i.helo {
		reply.Text = "<" + tx.Client.Helo + ">: Helo command rejected: " + text
	} else {
		reply.Text = tx.Envelope.ReversePath.Path() + ": Sender address rejected: " + text
	}
	return mail.Verdict{Action: mail.Reject, Reason: reason, Reply: &reply, Detail: detail}
}

// received writes a Received-SPF field (RFC 7208 section 9.1).
func (i identity) received(tx *mail.Transaction, a spf.Answer, receiver string) string {
	client := tx.Client.Remote.Addr().Unmap().String()
	said := map[spf.Result]string{
		spf.Pass: "designates " + client + " as permitted sender", spf.Fail: "does not designate " + client + " as permitted sender",
		spf.SoftFail: "rather does not designate " + client + " as permitted sender", spf.Neutral: "does not say whether " + client + " is a permitted sender",
		spf.None: "does not designate permitted senders", spf.TempError: "could not be asked", spf.PermError: "has a record that makes no sense",
	}[a.Result]
	var b strings.Builder
	b.WriteString("Received-SPF: " + string(a.Result) + " (" + receiver + ": domain of " + inComment(i.domain) + " " + said + ")\r\n\t")
	b.WriteString("client-ip=" + client + "; receiver=" + receiver + ";")
	identity := "mailfrom"
	if i.helo {
		identity = "helo"
	}
	b.WriteString(" identity=" + identity + ";\r\n\tenvelope-from=" + quoted(tx.Envelope.ReversePath.String()) + ";\r\n\thelo=" + quoted(tx.Client.Helo))
	if a.Mechanism != "" {
		b.WriteString(";\r\n\tmechanism=" + quoted(a.Mechanism))
	}
	return b.String()
}

// maxShown bounds what strangers say in a field of ours.
const maxShown = 300

// inComment makes a stranger's text safe for a comment.
func inComment(s string) string {
	s = strings.Map(func(r rune) rune {
		if r <= ' ' || r > '~' || strings.ContainsRune(`()\`, r) {
			return '?'
		}
		return r
	}, s)
	return s[:min(len(s), maxShown)]
}

// quoted makes a stranger's text a quoted-string.
func quoted(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s)
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s[:min(len(s), maxShown)]) + `"`
}
