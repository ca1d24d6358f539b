package dmarc

import (
	"context"
	"hash/fnv"
	"strings"
	"sync"

	"github.com/postern-mail/postern/internal/dns"
)

// Result is what a check came to, as Authentication-Results spells it (section
// 11.2).
type Result string

// The results.
const (
	None      Result = "none"      // the domain publishes no policy
	Pass      Result = "pass"      // SPF or DKIM passed for the domain
	Fail      Result = "fail"      // neither did
	TempError Result = "temperror" // the DNS did not answer
	PermError Result = "permerror" // there is no domain to ask
)

// Resolver asks the DNS; *dns.Resolver is one.
type Resolver interface {
	TXT(ctx context.Context, name string) (dns.Answer[string], error)
	MX(ctx context.Context, name string) (dns.Answer[dns.MX], error)
}

// Identifier is a domain that SPF or DKIM looked at, in canonical form.
type Identifier struct {
	Domain string
	// Result is in the words of RFC 8601; "pass" and "temperror" count here.
	Result string
	// Selector is a DKIM signature's.
	Selector string
}

// Query is one message.
type Query struct {
	// Authors are the domains of the From fields, in canonical form.
	Authors []string
	// SPF is what SPF found of the reverse-path's domain, or of HELO's name when
	// it is null.
	SPF Identifier
	// DKIM are the signatures.
	DKIM []Identifier
	// Sample is what the message is known by, the same at each attempt to send
	// it: it decides whether it is in the sample of a policy with pct.
	Sample string
}

// Answer is what came of a Query, for the author that decided.
type Answer struct {
	Result Result
	// Author is the domain in the From field, Domain where its policy was found.
	Author, Domain string
	// Record is nil when there is none.
	Record *Record
	// Policy is what the record says about the author, Requested what it asks
	// for this message: pct and t considered, none unless the result is Fail.
	Policy, Requested Policy
	// SampledOut tells that Requested is milder for pct or t alone.
	SampledOut bool
	// AlignedSPF and AlignedDKIM tell which passed for the author.
	AlignedSPF, AlignedDKIM bool
	// Problem says what went wrong, for TempError.
	Problem string
}

// Checker checks. It may be used concurrently.
type Checker struct {
	// Resolver is whom it asks.
	Resolver Resolver
	// Suffixes returns the public suffix list in force; nil is the one built in.
	Suffixes func() *Suffixes
}

func (c *Checker) suffixes() *Suffixes {
	if c.Suffixes == nil {
		return nil
	}
	return c.Suffixes()
}

// Check asks for the policy of each author, and returns the answer of the one
// whose is the strictest. It returns with its context.
func (c *Checker) Check(ctx context.Context, q Query) Answer {
	return c.Discover(ctx, q.Authors).Evaluate(q)
}

// Policies is what the authors of a message publish.
type Policies struct {
	suffixes *Suffixes
	found    []discovery
}

// discovery is the record in force for one author.
type discovery struct {
	author, organization string
	domain               string // where the record is
	record               *Record
	policy               Policy
	err                  error
}

// Discover looks the policies of authors up, all at once: that of one must not be
// missed because the name servers of another take their time. It returns with
// its context.
func (c *Checker) Discover(ctx context.Context, authors []string) *Policies {
	p := &Policies{suffixes: c.suffixes(), found: make([]discovery, len(authors))}
	var asking sync.WaitGroup
	for i, author := range authors {
		d := &p.found[i]
		d.author, d.organization, d.policy = author, p.suffixes.Organization(author), PolicyNone
		asking.Go(func() { d.err = c.discover(ctx, d) })
	}
	asking.Wait()
	return p
}

// Evaluate returns the answer of the author whose is the strictest.
func (p *Policies) Evaluate(q Query) Answer {
	if len(p.found) == 0 {
		return Answer{Result: PermError, Requested: PolicyNone, Policy: PolicyNone}
	}
	worst := p.answer(q, p.found[0])
	for _, d := range p.found[1:] {
		if a := p.answer(q, d); a.severity() > worst.severity() {
			worst = a
		}
	}
	return worst
}

// severity orders answers: what is asked for, and below that the result.
func (a Answer) severity() int {
	order := map[Result]int{Pass: 0, None: 1, PermError: 2, TempError: 3, Fail: 4}
	return a.Requested.strictness()*10 + order[a.Result]
}

func (p *Policies) answer(q Query, d discovery) Answer {
	a := Answer{Result: None, Author: d.author, Domain: d.domain, Record: d.record, Policy: d.policy, Requested: PolicyNone}
	if d.err != nil {
		a.Result, a.Problem = TempError, d.err.Error()
		return a
	}
	if a.Record == nil {
		return a
	}
	undecided := false
	aligned := func(id Identifier, strict bool) bool {
		same := id.Domain == d.author
		if !strict && id.Domain != "" {
			same = same || p.suffixes.Organization(id.Domain) == d.organization
		}
		undecided = undecided || same && id.Result == "temperror"
		return same && id.Result == "pass"
	}
	a.AlignedSPF = aligned(q.SPF, a.Record.StrictSPF)
	for _, id := range q.DKIM {
		a.AlignedDKIM = aligned(id, a.Record.StrictDKIM) || a.AlignedDKIM
	}
	switch {
	case a.AlignedSPF || a.AlignedDKIM:
		a.Result = Pass
	case undecided:
		a.Result, a.Problem = TempError, "what could have passed is not known"
	default:
		a.Result = Fail
		a.request(q.Sample)
	}
	return a
}

// request works out what is asked for a message that failed.
func (a *Answer) request(sample string) {
	a.Requested = a.Policy
	if a.Policy != PolicyNone && (a.Record.Testing || !inSample(a.Record.Percent, sample, a.Domain)) {
		a.Requested, a.SampledOut = a.Policy.milder(), true
	}
}

// inSample tells whether a message is in the sample, always alike for the same
// message and domain.
func inSample(percent int, sample, domain string) bool {
	h := fnv.New64a()
	_, _ = h.Write([]byte(domain + "\x00" + sample)) // never fails
	sum := h.Sum64()
	return int((sum^sum>>32)%100) < percent
}

// discover finds the record of the author, or of its organization (section
// 6.6.3), and the policy it gives the author.
func (c *Checker) discover(ctx context.Context, d *discovery) error {
	record, err := c.lookup(ctx, d.author)
	if err != nil {
		return err
	}
	if record != nil {
		d.record, d.domain, d.policy = record, d.author, record.Policy
		return nil
	}
	if d.organization == d.author {
		return nil
	}
	if record, err = c.lookup(ctx, d.organization); err != nil || record == nil {
		return err
	}
	d.record, d.domain, d.policy = record, d.organization, record.Policy
	if record.Subdomains != "" {
		d.policy = record.Subdomains
	}
	if record.Nonexistent != "" && record.Nonexistent != d.policy {
		answer, err := c.Resolver.MX(ctx, d.author+".")
		if err != nil {
			return err
		}
		if answer.Outcome == dns.NXDomain { // of all types
			d.policy = record.Nonexistent
		}
	}
	return nil
}

// lookup returns the record at a domain, or nil when there is none, or several.
func (c *Checker) lookup(ctx context.Context, domain string) (*Record, error) {
	answer, err := c.Resolver.TXT(ctx, "_dmarc."+domain+".")
	if err != nil {
		return nil, err
	}
	var found []string
	for _, txt := range answer.Records {
		if isRecord(txt) {
			found = append(found, txt)
		}
	}
	if len(found) != 1 {
		return nil, nil
	}
	record, ok := parseRecord(strings.TrimSpace(found[0]))
	if !ok {
		return nil, nil
	}
	return record, nil
}

// Authorized asks whether the domain of a report address wants reports about
// another organization's mail (section 7.1). An error means that nobody knows.
func (c *Checker) Authorized(ctx context.Context, policyDomain string, to ReportURI) (bool, error) {
	receiver := string(to.Address.Domain)
	if c.suffixes().Organization(receiver) == c.suffixes().Organization(policyDomain) {
		return true, nil
	}
	answer, err := c.Resolver.TXT(ctx, policyDomain+"._report._dmarc."+receiver+".")
	if err != nil {
		return false, err
	}
	for _, txt := range answer.Records {
		if isRecord(txt) {
			return true, nil
		}
	}
	return false, nil
}

// Lookup returns the record in force for a policy domain, nil when there is
// none.
func (c *Checker) Lookup(ctx context.Context, policyDomain string) (*Record, error) {
	return c.lookup(ctx, policyDomain)
}
