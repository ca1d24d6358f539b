package directory

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// Explanation is how the directory came to an answer: every search and every
// decision in order, then the answer. It holds no attribute values but
// addresses and names.
type Explanation struct {
	Directory  string
	Input      string
	Steps      []Step
	Account    *mail.Account    // of the login or address; nil when there is none
	Recipients []mail.Recipient // who gets mail for the address
	Owners     []string         // who may send as the address
	// Reason is what a peer would be told: OK, or why not.
	Reason status.Reason
	Cause  string // for the operator; "" when Reason is OK
}

// Step is a search or a decision; exactly one field is set.
type Step struct {
	Query    *Query
	Decision string
}

// Query is one search as it was sent, and what came back.
type Query struct {
	Base    DN
	Scope   Scope
	Filter  string // RFC 4515
	Entries []DN
	Error   string
	Took    time.Duration
	From    string // what answered, where that is known
}

// trace records steps. A nil trace records nothing, so that lookups on the
// way of mail pay nothing for being explainable.
type trace struct{ steps []Step }

// maxTraceSteps bounds an explanation of an enormous group.
const maxTraceSteps = 2000

func (t *trace) add(s Step) {
	if len(t.steps) < maxTraceSteps {
		t.steps = append(t.steps, s)
	}
}

func (t *trace) query(req Request, entries []Entry, err error, took time.Duration, from string) {
	q := &Query{Base: req.Base, Scope: req.Scope, Filter: req.Filter.String(), Took: took, From: from}
	for _, e := range entries {
		q.Entries = append(q.Entries, e.DN)
	}
	if err != nil {
		q.Error = err.Error()
	}
	t.add(Step{Query: q})
}

func (t *trace) decide(format string, args ...any) {
	if t != nil {
		t.add(Step{Decision: fmt.Sprintf(format, args...)})
	}
}

// recall records what the cache holds; "" for nothing.
func (t *trace) recall(remembered string) {
	if remembered != "" {
		t.decide("in memory: %s; here it is asked anew", remembered)
	}
}

var errNothingToExplain = errors.New("an address or a login is needed")

// Explain answers about an address or a login as Resolve, Owners and Account
// do, but asks the directory now instead of the cache, and tells how, and what
// the cache would have said. The error is nil when the answer is certain, yes or no; the Explanation is
// filled in either way.
func (d *Directory) Explain(ctx context.Context, input string) (Explanation, error) {
	return d.ExplainFor(ctx, input, nil)
}

// ExplainFor is Explain with who sends to the address; nil for anybody.
func (d *Directory) ExplainFor(ctx context.Context, input string, from *mail.Poster) (Explanation, error) {
	x := Explanation{Directory: d.cfg.Name, Input: input}
	if input == "" {
		return x, errNothingToExplain
	}
	ctx, cancel := context.WithTimeout(ctx, d.cfg.LookupTimeout)
	defer cancel()
	t := &trace{}
	a, parseErr := mail.ParseAddress(input)
	var err error
	if parseErr == nil {
		err = d.explainAddress(ctx, a, from, &x, t)
	} else {
		err = d.explainLogin(ctx, input, &x, t)
	}
	x.Steps = t.steps
	x.Reason = status.Of(err)
	if err != nil {
		x.Cause = err.Error()
	}
	if x.Reason.Permanent() {
		err = nil
	}
	return x, err
}

func (d *Directory) explainAddress(ctx context.Context, a mail.Address, from *mail.Poster, x *Explanation, t *trace) error {
	t.decide("%s is read as an address: who gets its mail?", a)
	t.recall(d.recipients.remembered(a))
	var who func(context.Context) (sender, error)
	if from != nil {
		who = func(ctx context.Context) (sender, error) { return d.sender(ctx, *from, t) }
	}
	found, err := judged(ctx, d, func(ctx context.Context) (expansion, error) { return d.resolve(ctx, a, who, t) })
	x.Recipients = found.recipients
	if found.guarded && from == nil {
		t.decide("not everybody may send there: that depends on the sender")
	}
	if err != nil {
		t.decide("answer: %v", err)
	}
	t.decide("who may send as %s?", a)
	owners, ownersErr := judged(ctx, d, func(ctx context.Context) ([]string, error) { return d.ownersOf(ctx, a, t) })
	if ownersErr != nil {
		t.decide("answer: %v", ownersErr)
	}
	x.Owners = owners
	t.decide("whose login is %s?", a)
	holder, loginErr := judged(ctx, d, func(ctx context.Context) (login, error) { return d.findLogin(ctx, a.String(), t) })
	if loginErr != nil {
		t.decide("answer: %v", loginErr)
	} else {
		x.Account = &holder.account
	}
	// An answer of which a part is unknown is not certain.
	for _, other := range []error{ownersErr, loginErr} {
		if isCertain(err) && other != nil && !isCertain(other) {
			err = other
		}
	}
	return err
}

func (d *Directory) explainLogin(ctx context.Context, input string, x *Explanation, t *trace) error {
	t.decide("%q is read as a login: whose is it?", input)
	t.recall(d.accounts.remembered(input))
	found, err := judged(ctx, d, func(ctx context.Context) (login, error) { return d.findLogin(ctx, input, t) })
	if err != nil {
		t.decide("answer: %v", err)
		return err
	}
	x.Account = &found.account
	if found.account.Primary.IsNull() {
		t.decide("the account has no address and gets no mail")
		return nil
	}
	t.decide("who gets mail for %s?", found.account.Primary)
	expanded, err := judged(ctx, d, func(ctx context.Context) (expansion, error) { return d.resolve(ctx, found.account.Primary, nil, t) })
	x.Recipients = expanded.recipients
	return err
}

// String returns the explanation as text for a person.
func (x Explanation) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "directory %s: %s\n", x.Directory, x.Input)
	for _, s := range x.Steps {
		if s.Query == nil {
			fmt.Fprintf(&b, "  - %s\n", s.Decision)
			continue
		}
		q := s.Query
		fmt.Fprintf(&b, "  ? base %q scope %s\n    filter %s\n", q.Base, q.Scope, q.Filter)
		if q.From != "" {
			fmt.Fprintf(&b, "    from %s\n", q.From)
		}
		if q.Error != "" {
			fmt.Fprintf(&b, "    error after %v: %s\n", q.Took.Round(time.Microsecond), q.Error)
			continue
		}
		entries := "entries"
		if len(q.Entries) == 1 {
			entries = "entry"
		}
		fmt.Fprintf(&b, "    %d %s in %v\n", len(q.Entries), entries, q.Took.Round(time.Microsecond))
		for _, dn := range q.Entries {
			fmt.Fprintf(&b, "    = %s\n", dn)
		}
	}
	x.appendAnswer(&b)
	return b.String()
}

func (x Explanation) appendAnswer(b *strings.Builder) {
	if a := x.Account; a != nil {
		fmt.Fprintf(b, "account     %s", a.Name)
		if a.Disabled {
			b.WriteString(" (disabled)")
		}
		if a.QuotaOctets > 0 {
			fmt.Fprintf(b, " quota %d octets", a.QuotaOctets)
		}
		if a.QuotaMessages > 0 {
			fmt.Fprintf(b, " quota %d messages", a.QuotaMessages)
		}
		if a.Host != "" {
			fmt.Fprintf(b, " host %s", a.Host)
		}
		b.WriteByte('\n')
		for _, address := range a.Addresses {
			fmt.Fprintf(b, "address     %s\n", address)
		}
	}
	for _, r := range x.Recipients {
		fmt.Fprintf(b, "recipient   %s\n", r.Address)
	}
	for _, name := range x.Owners {
		fmt.Fprintf(b, "may send    %s\n", name)
	}
	fmt.Fprintf(b, "answer      %s", x.Reason)
	if x.Cause != "" {
		fmt.Fprintf(b, " (%s): %s", x.Reason.Reply(), x.Cause)
	}
	b.WriteByte('\n')
}
