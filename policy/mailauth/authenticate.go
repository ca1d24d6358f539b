package mailauth

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gaissmai/bart"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/policy"
	"github.com/postern-mail/postern/policy/mailauth/authres"
	"github.com/postern-mail/postern/policy/mailauth/dmarc"
	"github.com/postern-mail/postern/policy/mailauth/spf"
)

// Authenticate is the name of the restriction that asks all methods.
const Authenticate = "authenticate"

// Signatures verifies DKIM signatures: a Finding for each, none for a message
// without. The error is that of reading the message.
type Signatures interface {
	Verify(ctx context.Context, m mail.Message) ([]mail.Finding, error)
}

// Chains verifies ARC chains. The error is that of reading the message.
type Chains interface {
	Verify(ctx context.Context, m mail.Message) (ARC, error)
}

// ARC is what became of a message's chain.
type ARC struct {
	// Finding is of the method arc; the zero Finding for a message without.
	Finding mail.Finding
	// Seals are those of a chain that passed, the newest first.
	Seals []Seal
}

// Seal is what one sealer of a chain vouches for.
type Seal struct {
	Domain string
	// Results is the value of its ARC-Authentication-Results field, without the
	// instance.
	Results string
}

// Counter takes in what DMARC found, for reports to domains. It does not block.
type Counter interface{ Note(Evaluation) }

// Evaluation is one message, for a domain that may want reports.
type Evaluation struct {
	Time   time.Time
	Client netip.Addr
	Answer dmarc.Answer
	// Applied is what was done, Override why it is not what was requested; ""
	// when it is.
	Applied  dmarc.Policy
	Override Override
	// From is the domain of the reverse-path.
	From string
	SPF  dmarc.Identifier
	// SPFScope is "mfrom" or "helo".
	SPFScope string
	DKIM     []dmarc.Identifier
}

// Override is why a policy was not applied (RFC 7489 appendix C,
// PolicyOverrideType).
type Override struct{ Type, Comment string }

// Deps is what authenticate works with. Signatures, Chains and Counter may be
// nil: then there is no such check, or nobody reports.
type Deps struct {
	// Hostname is the authserv-id unless the restriction names another.
	Hostname   string
	SPF        *spf.Checker
	DMARC      *dmarc.Checker
	Signatures Signatures
	Chains     Chains
	Counter    Counter
	Rules      Rules
	Networks   []netip.Prefix        // whose clients are not judged
	Metrics    prometheus.Registerer // nil counts nowhere
}

const (
	defaultTime = 30 * time.Second
	leastTime   = time.Second
	mostTime    = 5 * time.Minute
)

// authenticate is the restriction.
type authenticate struct {
	id        string
	deps      Deps
	methods   []string
	time      time.Duration
	exempt    *bart.Lite
	own       *bart.Lite // networks of ours, whose fields are genuine
	showLogin bool
	counters  *counters
}

// NewAuthenticate makes authenticate of its attributes. An error is a mistake
// in them.
func NewAuthenticate(spec policy.Spec, deps Deps) (policy.Stage, error) {
	a := &attributes{args: spec.Args}
	s := &authenticate{
		deps:      deps,
		id:        a.domain("authserv_id", deps.Hostname),
		methods:   a.words("methods", knownMethods, knownMethods...),
		time:      a.duration("timeout", defaultTime, leastTime, mostTime),
		showLogin: a.yes("show_login", false),
		own:       networks(deps.Networks),
	}
	s.exempt = networks(deps.Networks, a.networks("trusted"))
	if err := a.done(); err != nil {
		return nil, err
	}
	var err error
	s.counters, err = newCounters(deps.Metrics)
	return s, err
}

// Name implements policy.Stage.
func (s *authenticate) Name() string { return Authenticate }

// InspectsMessage implements policy.Inspector.
func (s *authenticate) InspectsMessage() {}

// Evaluate implements policy.Stage.
func (s *authenticate) Evaluate(ctx context.Context, tx *mail.Transaction) (mail.Verdict, error) {
	v := mail.Verdict{}
	remote := tx.Client.Remote
	if tx.Client.Identity != nil || remote.IsValid() && !s.own.Contains(remote.Addr().Unmap()) {
		v.Edits = s.forged(tx.Message)
	}
	switch {
	case tx.Client.Identity != nil:
		v.Findings = s.login(tx)
	case judged(&tx.Client, s.exempt):
		if err := s.stranger(ctx, tx, &v); err != nil {
			return mail.Verdict{}, err
		}
	default:
		return v, nil
	}
	rehearsal := policy.IsRehearsal(ctx)
	for i := range v.Findings {
		f := &v.Findings[i]
		if !rehearsal {
			s.counters.found(*f)
		}
		if f.Result == "temperror" {
			f.Reason = "" // it may name our own name servers
		}
	}
	if len(v.Findings) > 0 || tx.Client.Identity == nil {
		v.Edits = append(v.Edits, mail.Edit{PrependHeader: s.field(v.Findings, tx.Envelope.SMTPUTF8)})
	}
	return v, nil
}

// forged takes out the fields that claim to be ours (RFC 8601 section 5), from
// the last to the first so that places stay true. All of them, or none may be
// believed: a message with more than it may have edits is not taken.
func (s *authenticate) forged(m mail.Message) []mail.Edit {
	var edits []mail.Edit
	fields := m.Fields()
	for at := len(fields) - 1; at >= m.Ours(); at-- {
		if f := fields[at]; f.Is(authres.Name) && authres.Claims(f.Value(), s.id) {
			edits = append(edits, mail.Edit{Change: &mail.ChangeField{At: at}})
		}
	}
	return edits
}

// login is what is said of somebody who logged in.
func (s *authenticate) login(tx *mail.Transaction) []mail.Finding {
	if !s.wants("auth") {
		return nil
	}
	f := mail.Finding{Method: "auth", Result: "pass"}
	if s.showLogin {
		f.Props = append(f.Props, mail.Property{Type: "smtp", Name: "auth", Value: tx.Client.Identity.Authentication})
	}
	if from := tx.Envelope.ReversePath; !from.IsNull() {
		f.Props = append(f.Props, mail.Property{Type: "smtp", Name: "mailfrom", Value: from.String()})
	}
	return []mail.Finding{f}
}

func (s *authenticate) wants(method string) bool { return slices.Contains(s.methods, method) }

// checks are the results of all methods on one message.
type checks struct {
	iprev    *mail.Finding
	spf      []mail.Finding // that of DMARC first
	dkim     []mail.Finding
	arc      ARC
	authors  dmarc.Authors
	noAuthor error
	policies *dmarc.Policies
}

// stranger asks all methods, and adds what they found and what DMARC wants.
func (s *authenticate) stranger(ctx context.Context, tx *mail.Transaction, v *mail.Verdict) error {
	ctx, cancel := context.WithTimeout(ctx, s.time)
	defer cancel()
	c, err := s.ask(ctx, tx)
	if err != nil {
		return err
	}
	if c.iprev != nil {
		v.Findings = append(v.Findings, *c.iprev)
	}
	v.Findings = append(append(v.Findings, c.spf...), c.dkim...)
	if c.arc.Finding.Method != "" {
		v.Findings = append(v.Findings, c.arc.Finding)
	}
	if s.wants("dmarc") {
		s.dmarc(ctx, tx, c, v)
	}
	return nil
}

// ask has all methods run at once. Only a message that cannot be read is an
// error.
func (s *authenticate) ask(ctx context.Context, tx *mail.Transaction) (*checks, error) {
	c := &checks{}
	var all sync.WaitGroup
	run := func(method string, f func()) {
		if s.wants(method) {
			all.Go(f)
		}
	}
	var unread [2]error
	run("iprev", func() { c.iprev = s.reverse(ctx, &tx.Client) })
	run("spf", func() { c.spf = s.sender(ctx, tx) })
	run("dmarc", func() {
		c.authors, c.noAuthor = dmarc.FindAuthors(fromFields(tx.Message))
		c.policies = s.deps.DMARC.Discover(ctx, c.authors.Domains)
	})
	if s.deps.Signatures != nil {
		run("dkim", func() { c.dkim, unread[0] = s.deps.Signatures.Verify(ctx, tx.Message) })
	}
	if s.deps.Chains != nil {
		run("arc", func() { c.arc, unread[1] = s.deps.Chains.Verify(ctx, tx.Message) })
	}
	all.Wait()
	if s.wants("dkim") && len(c.dkim) == 0 {
		c.dkim = []mail.Finding{{Method: "dkim", Result: "none"}}
	}
	for _, err := range unread {
		if err != nil {
			return nil, err
		}
	}
	return c, nil
}

// fromFields returns the values of the From fields that came with the message.
func fromFields(m mail.Message) []string {
	var values []string
	for _, f := range m.Fields()[m.Ours():] {
		if f.Is("From") {
			values = append(values, f.Value())
		}
	}
	return values
}

// sender asks SPF, unless check_spf did.
func (s *authenticate) sender(ctx context.Context, tx *mail.Transaction) []mail.Finding {
	i := heloIdentity(tx)
	if !tx.Envelope.ReversePath.IsNull() {
		i = fromIdentity(tx)
	}
	found, known := i.known(tx.Findings)
	if !known {
		found = i.finding(s.deps.SPF.Check(ctx, i.query(tx)))
	}
	all := []mail.Finding{found}
	// What check_spf knows of HELO beside it is told too.
	if name := heloIdentity(tx); i != name {
		if helo, known := name.known(tx.Findings); known {
			all = append(all, helo)
		}
	}
	return all
}

// reverse tells whether the client's address has a name that leads back to it
// (RFC 8601 section 3).
func (s *authenticate) reverse(ctx context.Context, client *mail.Client) *mail.Finding {
	addr := client.Remote.Addr().Unmap()
	f := &mail.Finding{Method: "iprev", Props: []mail.Property{{Type: "policy", Name: "iprev", Value: addr.WithZone("").String()}}}
	f.Result, f.Domain = s.reverseOf(ctx, addr, client.Hostname)
	return f
}

// maxReverse bounds the names of one address that are looked at.
const maxReverse = 10

func (s *authenticate) reverseOf(ctx context.Context, addr netip.Addr, known string) (result, name string) {
	if known != "" {
		return "pass", known // verified when the client connected
	}
	resolver := s.deps.SPF.Resolver
	names, err := resolver.PTR(ctx, addr)
	switch {
	case err != nil:
		return "temperror", ""
	case len(names.Records) == 0:
		return "permerror", ""
	}
	ask := resolver.A
	if addr.Is6() {
		ask = resolver.AAAA
	}
	result = "fail"
	for _, name := range names.Records[:min(len(names.Records), maxReverse)] {
		addresses, err := ask(ctx, strings.TrimSuffix(name, ".")+".")
		if err != nil {
			result = "temperror"
		} else if slices.Contains(addresses.Records, addr) {
			return "pass", name
		}
	}
	return result, ""
}

// field writes the findings down.
func (s *authenticate) field(findings []mail.Finding, utf8 bool) string {
	f := authres.Field{ID: s.id}
	for _, one := range findings {
		r := authres.Result{Method: one.Method, Value: one.Result, Reason: one.Reason}
		for _, p := range one.Props {
			r.Props = append(r.Props, authres.Property(p))
		}
		f.Results = append(f.Results, r)
	}
	if utf8 {
		return f.UTF8()
	}
	return f.String()
}
