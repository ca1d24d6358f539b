package dnsbl

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/policy"
	"github.com/postern-mail/postern/status"
)

// restrictions are those of single lists, and what they look at.
var restrictions = map[string]struct {
	subject subject
	permits bool
}{
	"reject_rbl_client":           {clientAddresses, false},
	"reject_rhsbl_client":         {clientNames, false},
	"reject_rhsbl_reverse_client": {reverseNames, false},
	"reject_rhsbl_helo":           {heloNames, false},
	"reject_rhsbl_sender":         {senders, false},
	"reject_rhsbl_recipient":      {recipients, false},
	"permit_dnswl_client":         {clientAddresses, true},
	"permit_rhswl_client":         {clientNames, true},
}

// Score is the name of the restriction that adds up several lists.
const Score = "dns_score"

// Names returns the names of the restrictions.
func Names() []string {
	names := []string{Score}
	for name := range restrictions {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Stages returns the restrictions, by name, for policy.Deps.Stages. Domains
// tell for whom mail is accepted from anyone: nobody else's is let through
// because a list trusts its sender.
func (l *Lists) Stages(domains policy.Domains) map[string]func(policy.Spec) (policy.Stage, error) {
	all := map[string]func(policy.Spec) (policy.Stage, error){
		Score: func(spec policy.Spec) (policy.Stage, error) { return l.newScore(spec, domains) },
	}
	for name := range restrictions {
		all[name] = func(spec policy.Spec) (policy.Stage, error) { return l.newStage(name, spec, domains) }
	}
	return all
}

// stage is a restriction of one list.
type stage struct {
	name    string
	subject subject
	permits bool
	lists   *Lists
	list    *dnsList
	filter  *Filter
	domains policy.Domains
	words
}

// words are what a listed client reads.
type words struct {
	reply string
	code  int
}

func (l *Lists) newStage(name string, spec policy.Spec, domains policy.Domains) (*stage, error) {
	r := restrictions[name]
	known := []string{"list", "answers"}
	if !r.permits {
		known = append(known, "reply", "code")
	}
	if err := checkAttributes(spec, known); err != nil {
		return nil, err
	}
	given := spec.Args["list"]
	if len(given) != 1 {
		return nil, fmt.Errorf(`it needs one list, as in list = "zen.example.org" or list = "zen.example.org=127.0.0.[2..11]"`)
	}
	site, err := ParseSite(given[0])
	switch {
	case err != nil:
		return nil, err
	case site.Weighted:
		return nil, fmt.Errorf("%q has a weight, which only %s knows", given[0], Score)
	}
	if answers, ok := spec.Args["answers"]; ok {
		if site.Filter != nil {
			return nil, errors.New("the answers that count are given twice")
		}
		if site.Filter, err = ParseFilter(strings.Join(answers, " ")); err != nil {
			return nil, err
		}
	}
	s := &stage{name: name, subject: r.subject, permits: r.permits, lists: l, filter: site.Filter, domains: domains}
	s.list = l.list(site.Domain, r.subject.names, !r.permits)
	s.words, err = l.wordsOf(spec, s.list)
	return s, err
}

func checkAttributes(spec policy.Spec, known []string) error {
	for name := range spec.Args {
		if name != "on_error" && !slices.Contains(known, name) {
			return fmt.Errorf("it does not know the attribute %q; it takes %s", name, strings.Join(known, ", "))
		}
	}
	return nil
}

// wordsOf reads what a listed client reads: the restriction's words, or the
// list's, or those of all.
func (l *Lists) wordsOf(spec policy.Spec, d *dnsList) (words, error) {
	w := words{reply: l.reply, code: status.Listed.Reply().Code}
	if d != nil && d.cfg.Reply != "" {
		w.reply = d.cfg.Reply
	}
	if d != nil && d.cfg.Code != 0 {
		w.code = d.cfg.Code
	}
	if values, ok := spec.Args["reply"]; ok {
		w.reply = strings.Join(values, " ")
		if err := checkReply(w.reply); err != nil {
			return w, err
		}
	}
	if values, ok := spec.Args["code"]; ok {
		code, err := strconv.Atoi(strings.Join(values, " "))
		if err != nil || code < 400 || code > 599 {
			return w, fmt.Errorf("the code %q does not refuse: use 4NN or 5NN", strings.Join(values, " "))
		}
		w.code = code
	}
	return w, nil
}

// Name returns the restriction's name.
func (s *stage) Name() string { return s.name }

// Needs implements policy.Placed.
func (s *stage) Needs() mail.Phase { return s.subject.needs }

// Input implements policy.Informed.
func (s *stage) Input(tx *mail.Transaction) string {
	what, _ := s.subject.of(tx)
	return "[" + what + "] in " + s.list.cfg.Domain
}

// Start implements policy.Starter.
func (s *stage) Start(tx *mail.Transaction) {
	if s.subject.needs != mail.PhaseConnect {
		return
	}
	if _, label := s.subject.of(tx); label != "" {
		s.lists.begin(s.list, label, false)
	}
}

// Evaluate asks the list. Its silence is no listing: where the list would have
// permitted, what a later restriction refuses is put off.
func (s *stage) Evaluate(ctx context.Context, tx *mail.Transaction) (mail.Verdict, error) {
	what, label := s.subject.of(tx)
	if label == "" || s.permits && !mayPermit(s.domains, tx) {
		return mail.Verdict{}, nil
	}
	answer, err := s.lists.look(ctx, s.list, label).wait(ctx)
	switch {
	case errors.Is(err, errSkipped):
		return mail.Verdict{}, nil // told when it began
	case err != nil && s.permits:
		return s.silent(what, err), nil
	case err != nil:
		return mail.Verdict{Detail: fmt.Sprintf("%s about [%s]: %v", s.list.cfg.Domain, what, err)}, nil
	case !s.filter.any(answer.Codes):
		return mail.Verdict{}, nil
	case s.permits:
		return mail.Verdict{Action: mail.Permit, Detail: fmt.Sprintf("[%s] is in %s with %s", what, s.list.cfg.Domain, codes(answer))}, nil
	}
	l := &listing{code: s.code, domain: s.list.cfg.Domain, class: s.subject.class, what: what, reason: answer.Text, tx: tx}
	return mail.Verdict{Action: mail.Reject, Reason: status.Listed, Reply: l.say(s.reply),
		Detail: fmt.Sprintf("[%s] is in %s with %s", what, s.list.cfg.Domain, codes(answer))}, nil
}

func codes(a Answer) string {
	var all []string
	for _, c := range a.Codes[:min(len(a.Codes), 4)] {
		all = append(all, c.String())
	}
	return strings.Join(all, ", ")
}

// silent is the verdict of a list of the trusted that does not answer.
func (s *stage) silent(what string, err error) mail.Verdict {
	reply := status.ListSilent.Reply()
	reply.Text = "<" + what + ">: " + s.subject.class + " rejected: Service unavailable"
	return mail.Verdict{Action: mail.DeferIfReject, Reason: status.ListSilent, Reply: &reply,
		Detail: fmt.Sprintf("%s about [%s]: %v", s.list.cfg.Domain, what, err)}
}

// mayPermit reports whether a list may let mail through: never at RCPT for a
// domain that is not ours.
func mayPermit(domains policy.Domains, tx *mail.Transaction) bool {
	return tx.Phase != mail.PhaseRecipient || tx.Recipient == nil || policy.Authorized(domains, tx.Recipient.Address)
}
