package rules

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/policy"
	"github.com/postern-mail/postern/status"
)

// Name is the restriction's.
const Name = "rules"

// Groups answers who is in a group. Implemented by the directories together. A
// group nobody has is a *status.Error with NoSuchUser; other errors mean that it
// could not find out.
type Groups interface {
	Belongs(ctx context.Context, who mail.Poster, group mail.Address) (bool, error)
}

// Deps is what rules ask. Domains and Networks are needed always, the others by
// the conditions that look there.
type Deps struct {
	Domains  policy.Domains
	Accounts policy.Accounts
	Groups   Groups
	// Networks are the clients that are inside without a login.
	Networks []netip.Prefix
}

// New returns the rules as a restriction: of those that look into messages or
// change them for the content list, else of the others.
func New(all []Rule, deps Deps, inMessage bool) policy.Stage {
	s := &stage{deps: deps}
	for i := range all {
		if all[i].InMessage() == inMessage {
			s.rules = append(s.rules, &all[i])
		}
	}
	if inMessage {
		return inspecting{s}
	}
	return s
}

// stage asks the rules at each recipient.
type stage struct {
	deps  Deps
	rules []*Rule
}

// inspecting is stage in the content list.
type inspecting struct{ *stage }

// InspectsMessage implements policy.Inspector.
func (inspecting) InspectsMessage() {}

// Name implements policy.Stage.
func (s *stage) Name() string { return Name }

// Input implements policy.Informed.
func (s *stage) Input(tx *mail.Transaction) string {
	to := "all recipients"
	if tx.Recipient != nil {
		to = tx.Recipient.Address.Path()
	}
	return tx.Envelope.ReversePath.Path() + " to " + to
}

// Evaluate implements policy.Stage. The rules that hold act in their order; the
// first that refuses ends them.
func (s *stage) Evaluate(ctx context.Context, tx *mail.Transaction) (mail.Verdict, error) {
	q := &question{stage: s, ctx: ctx, tx: tx}
	var v mail.Verdict
	var notes []string
	for _, r := range s.rules {
		held, err := q.heldFor(r)
		if err != nil {
			return mail.Verdict{}, fmt.Errorf("rule %q: %w", r.Name, err)
		}
		if len(held) == 0 {
			continue
		}
		q.act(r, held, &v)
		note := r.Name
		if text := r.Then.Hold + r.Then.Log; text != "" {
			note += ": " + text
		}
		notes = append(notes, note)
		if r.Then.refuses() || r.Then.Stop {
			break
		}
	}
	if v.Action != mail.Reject && v.Action != mail.Discard {
		v.Edits = append(v.Edits, q.edits()...)
	}
	if len(notes) > 0 {
		v.Detail = "rule " + strings.Join(notes, "; rule ")
	}
	return v, nil
}

// question is one evaluation, and what it has found out.
type question struct {
	*stage
	ctx context.Context
	tx  *mail.Transaction

	sender *mail.Account // who logged in, once it was asked for

	// What all rules that held do to the message.
	tags    []string
	headers []mail.Field
	strip   []string
	banner  string
}

// heldFor returns the recipients for which a rule holds.
func (q *question) heldFor(r *Rule) ([]*mail.Recipient, error) {
	var held []*mail.Recipient
	for _, to := range q.recipients() {
		holds, err := q.holds(r, to)
		if err != nil {
			return nil, err
		}
		if holds {
			held = append(held, to)
		}
	}
	return held, nil
}

func (q *question) recipients() []*mail.Recipient {
	if q.tx.Recipient != nil {
		return []*mail.Recipient{q.tx.Recipient}
	}
	all := make([]*mail.Recipient, len(q.tx.Envelope.Recipients))
	for i := range all {
		all[i] = &q.tx.Envelope.Recipients[i]
	}
	return all
}

func (q *question) holds(r *Rule, to *mail.Recipient) (bool, error) {
	holds, err := q.met(&r.When, to)
	for i := 0; holds && err == nil && i < len(r.Unless); i++ {
		var excused bool
		excused, err = q.met(&r.Unless[i], to)
		holds = !excused
	}
	return holds && err == nil, err
}

// act adds what a rule does to the verdict on the transaction.
func (q *question) act(r *Rule, held []*mail.Recipient, v *mail.Verdict) {
	a := &r.Then
	switch {
	case a.Reject != "":
		refuse(v, status.PolicyReject, a.Reject)
	case a.Defer != "":
		refuse(v, status.PolicyDefer, a.Defer)
	case a.Discard:
		v.Action = mail.Discard
	case a.Hold != "":
		v.Action = mail.Hold
	}
	for i := range a.CopyTo {
		v.Edits = append(v.Edits, mail.Edit{Copy: &a.CopyTo[i]})
	}
	if a.RequireTLS {
		v.Edits = append(v.Edits, mail.Edit{RequireTLS: true})
	}
	if a.Redirect != nil || a.Route != nil {
		for _, to := range held {
			v.Edits = append(v.Edits, sentOn(a, to)...)
		}
	}
	if a.Tag != "" && !slices.Contains(q.tags, a.Tag) {
		q.tags = append(q.tags, a.Tag)
	}
	q.headers = append(q.headers, a.Headers...)
	q.strip = append(q.strip, a.Strip...)
	q.banner += a.Banner
}

// sentOn is a recipient whose mail goes elsewhere, or another in his place.
func sentOn(a *Action, to *mail.Recipient) []mail.Edit {
	named := to.Address
	if !to.Accepted.IsNull() {
		named = to.Accepted
	}
	instead := mail.Recipient{Address: named, Original: to.Original, Notify: to.Notify}
	if a.Redirect != nil {
		instead.Address = *a.Redirect
	} else {
		instead.Route = *a.Route
	}
	return []mail.Edit{{Remove: &named}, {Add: &instead}}
}

// refuse makes a verdict of a refusal. What rules before asked to change is of
// no matter any more.
func refuse(v *mail.Verdict, reason status.Reason, text string) {
	reply := reason.Reply()
	reply.Text = text
	*v = mail.Verdict{Action: mail.Reject, Reason: reason, Reply: &reply}
}

// known turns NoSuchUser, which is certain, into false.
func known(yes bool, err error) (bool, error) {
	if status.Of(err) == status.NoSuchUser {
		return false, nil
	}
	return yes, err
}

var errNoAccounts = errors.New("no directory tells of people here")
