package spf

import (
	"context"
	"net/netip"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/dns"
)

// Result is what a check came to (section 2.6), as header fields spell it.
type Result string

// The results.
const (
	None      Result = "none"      // the domain publishes nothing, or is no domain
	Neutral   Result = "neutral"   // it does not say
	Pass      Result = "pass"      // it allows the client
	Fail      Result = "fail"      // it does not
	SoftFail  Result = "softfail"  // it rather does not
	TempError Result = "temperror" // the DNS did not answer
	PermError Result = "permerror" // what it publishes makes no sense
)

// Resolver asks the DNS; *dns.Resolver is one.
type Resolver interface {
	TXT(ctx context.Context, name string) (dns.Answer[string], error)
	MX(ctx context.Context, name string) (dns.Answer[dns.MX], error)
	PTR(ctx context.Context, addr netip.Addr) (dns.Answer[string], error)
	A(ctx context.Context, name string) (dns.Answer[netip.Addr], error)
	AAAA(ctx context.Context, name string) (dns.Answer[netip.Addr], error)
}

// Query is one question: may the client use the domain?
type Query struct {
	Client netip.Addr
	// Domain is the identity that is checked: the name of HELO, or the domain
	// of the reverse-path.
	Domain string
	// Local is the local-part of the reverse-path; "" is "postmaster" (section
	// 4.3), as for HELO and the null reverse-path.
	Local string
	// Helo is what the client said in HELO or EHLO.
	Helo string
}

// Answer is what came of a Query.
type Answer struct {
	Result Result
	// Explanation is the domain's own text about a Fail, in printable ASCII and
	// bounded; "" when it has none. It is a stranger's text.
	Explanation string
	// Mechanism is the directive that decided, as it stands in the record; ""
	// when none did.
	Mechanism string
	// Problem says what went wrong, for TempError and PermError.
	Problem string
}

// The limits of section 4.6.4.
const (
	maxLookups   = 10              // terms that ask the DNS
	maxVoid      = 2               // of them that find nothing
	maxNames     = 10              // names of one mx or ptr
	maxNamesTime = 5 * time.Second // for the client's names
	// DefaultTimeout bounds a check as a whole; the section asks for 20 seconds
	// at least.
	DefaultTimeout = 20 * time.Second
)

// maxName is the longest name that is asked for (section 7.3).
const maxName = 253

// Checker checks. It may be used concurrently.
type Checker struct {
	// Resolver is whom it asks.
	Resolver Resolver
	// Receiver is our name, for explanations (the macro r); "" is "unknown".
	Receiver string
	// Timeout bounds a check; 0 is DefaultTimeout.
	Timeout time.Duration
}

// Check evaluates check_host() of section 4. It returns within the timeout
// when the resolver honours its context.
func (c *Checker) Check(ctx context.Context, q Query) Answer {
	timeout := c.Timeout
	if timeout <= 0 {
		timeout = DefaultTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	q.Client = q.Client.Unmap().WithZone("")
	q.Domain = strings.TrimSuffix(q.Domain, ".")
	if q.Local == "" {
		q.Local = "postmaster"
	}
	e := &evaluation{Checker: c, query: q}
	if !q.Client.IsValid() {
		return Answer{Result: None}
	}
	found := e.host(ctx, q.Domain)
	a := Answer{Result: found.result, Mechanism: found.mechanism, Problem: found.problem}
	if a.Result == Fail && found.exp != nil {
		a.Explanation = e.explain(ctx, found.exp, found.domain)
	}
	return a
}

// evaluation is a check under way.
type evaluation struct {
	*Checker
	query     Query
	lookups   int
	void      int
	validated []string // names of the client that lead back to it
	named     bool     // validated was looked for
}

// finding is what the record of one domain came to.
type finding struct {
	result    Result
	mechanism string
	problem   string
	exp       macros
	domain    string // whose record decided, for exp
}

func permError(problem string) finding { return finding{result: PermError, problem: problem} }
func tempError(err error) finding      { return finding{result: TempError, problem: err.Error()} }

// host evaluates the record of a domain.
func (e *evaluation) host(ctx context.Context, domain string) finding {
	if !isMultiLabel(domain) {
		return finding{result: None}
	}
	answer, err := e.Resolver.TXT(ctx, domain+".")
	if err != nil {
		return tempError(err)
	}
	var texts []string
	for _, txt := range answer.Records {
		if isRecord(txt) {
			texts = append(texts, txt)
		}
	}
	switch len(texts) {
	case 0:
		return finding{result: None}
	case 1:
	default:
		return permError(domain + " has several SPF records")
	}
	r, err := parseRecord(texts[0])
	if err != nil {
		return permError("record of " + domain + ": " + err.Error())
	}
	return e.record(ctx, r, domain)
}

// record goes through the directives until one matches.
func (e *evaluation) record(ctx context.Context, r *record, domain string) finding {
	redirect := r.redirect
	for _, d := range r.directives {
		if d.mechanism == mechAll {
			redirect = nil // section 6.1
		}
	}
	for _, d := range r.directives {
		if d.asks() && !e.count() {
			return permError("more than 10 terms of the record ask the DNS")
		}
		matches, trouble := e.matches(ctx, d, domain)
		if trouble != nil {
			return *trouble
		}
		if matches {
			return finding{result: d.result, mechanism: d.text, exp: r.exp, domain: domain}
		}
	}
	if redirect == nil {
		return finding{result: Neutral}
	}
	if !e.count() {
		return permError("more than 10 terms of the record ask the DNS")
	}
	target := e.target(ctx, redirect, domain)
	found := e.host(ctx, target)
	if found.result == None {
		return permError("redirect to " + target + ", which has no SPF record")
	}
	return found
}

func (e *evaluation) count() bool {
	e.lookups++
	return e.lookups <= maxLookups
}

// matches tells whether a directive matches. What ends the evaluation is
// trouble.
func (e *evaluation) matches(ctx context.Context, d directive, domain string) (bool, *finding) {
	target := domain
	if d.domain != nil {
		target = e.target(ctx, d.domain, domain)
	}
	switch d.mechanism {
	case mechAll:
		return true, nil
	case mechIP4, mechIP6:
		return d.network.Contains(e.query.Client), nil
	case mechInclude:
		return e.include(ctx, target)
	case mechA:
		return e.hostMatches(ctx, target, d, true)
	case mechMX:
		return e.exchangers(ctx, target, d)
	case mechExists:
		answer, err := e.Resolver.A(ctx, target+".")
		return answered(e, answer, err)
	default:
		for _, name := range e.names(ctx) {
			if isWithin(name, target) {
				return true, nil
			}
		}
		return false, nil
	}
}

// include is section 5.2's table.
func (e *evaluation) include(ctx context.Context, target string) (bool, *finding) {
	switch found := e.host(ctx, target); found.result {
	case Pass:
		return true, nil
	case None:
		trouble := permError("include of " + target + ", which has no SPF record")
		return false, &trouble
	case TempError, PermError:
		return false, &found
	default:
		return false, nil
	}
}

// answered tells whether a lookup found something, and counts what did not.
func answered[T any](e *evaluation, answer dns.Answer[T], err error) (bool, *finding) {
	if err != nil {
		trouble := tempError(err)
		return false, &trouble
	}
	if len(answer.Records) > 0 {
		return true, nil
	}
	if e.void++; e.void > maxVoid {
		trouble := permError("more than 2 terms of the record find nothing in the DNS")
		return false, &trouble
	}
	return false, nil
}

// hostMatches tells whether the client is one of a host's addresses, or in a
// network of theirs.
func (e *evaluation) hostMatches(ctx context.Context, host string, d directive, counts bool) (bool, *finding) {
	ask, bits := e.Resolver.A, d.bits4
	if e.query.Client.Is6() {
		ask, bits = e.Resolver.AAAA, d.bits6
	}
	answer, err := ask(ctx, host+".")
	if err == nil && (answer.Outcome == dns.NoData || !counts) && len(answer.Records) == 0 {
		return false, nil
	}
	if found, trouble := answered(e, answer, err); !found {
		return false, trouble
	}
	for _, addr := range answer.Records {
		network, err := addr.Prefix(bits)
		if err == nil && network.Contains(e.query.Client) {
			return true, nil
		}
	}
	return false, nil
}

func (e *evaluation) exchangers(ctx context.Context, domain string, d directive) (bool, *finding) {
	answer, err := e.Resolver.MX(ctx, domain+".")
	if found, trouble := answered(e, answer, err); !found {
		return false, trouble
	}
	if len(answer.Records) > maxNames {
		trouble := permError(domain + " has more than 10 MX records")
		return false, &trouble
	}
	for _, mx := range answer.Records {
		if mx.Host == "" {
			continue // a null MX (RFC 7505)
		}
		if matches, trouble := e.hostMatches(ctx, mx.Host, d, false); matches || trouble != nil {
			return matches, trouble
		}
	}
	return false, nil
}

// names returns the names of the client that lead back to it (section 5.5). An
// error is no name.
func (e *evaluation) names(ctx context.Context) []string {
	if e.named {
		return e.validated
	}
	e.named = true
	// The client's name servers are not the domain's: what they keep waiting must
	// not cost the terms that follow their time.
	ctx, cancel := context.WithTimeout(ctx, maxNamesTime)
	defer cancel()
	answer, err := e.Resolver.PTR(ctx, e.query.Client)
	if err != nil {
		return nil
	}
	ask := e.Resolver.A
	if e.query.Client.Is6() {
		ask = e.Resolver.AAAA
	}
	for _, name := range answer.Records[:min(len(answer.Records), maxNames)] {
		name = strings.TrimSuffix(name, ".")
		addresses, err := ask(ctx, name+".")
		if err != nil {
			continue
		}
		for _, addr := range addresses.Records {
			if addr.Unmap() == e.query.Client {
				e.validated = append(e.validated, name)
				break
			}
		}
	}
	return e.validated
}

// target expands a domain-spec to a name; what is too long loses labels on the
// left (section 7.3).
func (e *evaluation) target(ctx context.Context, spec macros, domain string) string {
	name := strings.TrimSuffix(spec.expand(e.values(ctx, domain)), ".")
	for len(name) > maxName {
		dot := strings.IndexByte(name, '.')
		if dot < 0 {
			return ""
		}
		name = name[dot+1:]
	}
	return name
}

// isMultiLabel reports whether a name is one that can have a record (section
// 4.3).
func isMultiLabel(name string) bool {
	if len(name) > maxName || !strings.Contains(name, ".") || strings.HasPrefix(name, "[") {
		return false
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 {
			return false
		}
	}
	return true
}

// isWithin reports whether name is domain or below it.
func isWithin(name, domain string) bool {
	if len(name) < len(domain) || domain == "" {
		return false
	}
	at := len(name) - len(domain)
	return strings.EqualFold(name[at:], domain) && (at == 0 || name[at-1] == '.')
}
