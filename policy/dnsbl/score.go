package dnsbl

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/policy"
	"github.com/postern-mail/postern/status"
)

// maxSites bounds the lists of one score.
const maxSites = 100

// score adds up what several lists say of the client's address.
type score struct {
	lists   *Lists
	sites   []scored
	domains policy.Domains
	words
	rejects, defers, permits *int // thresholds; nil for none
}

// scored is a list that counts.
type scored struct {
	Site
	list *dnsList
}

func (l *Lists) newScore(spec policy.Spec, domains policy.Domains) (*score, error) {
	if err := checkAttributes(spec, []string{"lists", "reject", "defer", "permit", "reply", "code"}); err != nil {
		return nil, err
	}
	given := spec.Args["lists"]
	if len(given) == 0 || len(given) > maxSites {
		return nil, fmt.Errorf(`it needs from 1 to %d lists, as in lists = ["zen.example.org=127.0.0.[2..11]*3", "allow.example.org*-4"]`, maxSites)
	}
	s := &score{lists: l, domains: domains}
	for _, text := range given {
		site, err := ParseSite(text)
		if err != nil {
			return nil, err
		}
		s.sites = append(s.sites, scored{site, l.list(site.Domain, false, site.Weight > 0)})
	}
	var err error
	for attribute, threshold := range map[string]**int{"reject": &s.rejects, "defer": &s.defers, "permit": &s.permits} {
		if *threshold, err = thresholdOf(spec, attribute); err != nil {
			return nil, err
		}
	}
	if s.permits != nil && *s.permits >= 0 {
		return nil, errors.New("permit is a sum below zero: a client no list knows has zero")
	}
	if s.rejects != nil && *s.rejects <= 0 || s.defers != nil && *s.defers <= 0 {
		return nil, errors.New("reject and defer are sums above zero: a client no list knows has zero")
	}
	s.words, err = l.wordsOf(spec, nil)
	return s, err
}

func thresholdOf(spec policy.Spec, attribute string) (*int, error) {
	values, ok := spec.Args[attribute]
	if !ok {
		return nil, nil
	}
	n, err := strconv.Atoi(strings.Join(values, " "))
	if err != nil {
		return nil, fmt.Errorf("%s is %q, not a number", attribute, strings.Join(values, " "))
	}
	return &n, nil
}

// Name returns the restriction's name.
func (s *score) Name() string { return Score }

// Needs implements policy.Placed.
func (s *score) Needs() mail.Phase { return mail.PhaseConnect }

// Start implements policy.Starter.
func (s *score) Start(tx *mail.Transaction) {
	if _, label := clientAddresses.of(tx); label != "" {
		for _, site := range s.sites {
			s.lists.begin(site.list, label, false)
		}
	}
}

// Evaluate asks all lists at once and adds up the weights of those that have
// an entry. A list that does not answer counts nothing.
func (s *score) Evaluate(ctx context.Context, tx *mail.Transaction) (mail.Verdict, error) {
	what, label := clientAddresses.of(tx)
	if label == "" {
		return mail.Verdict{}, nil
	}
	t := s.ask(ctx, label)
	v := s.decide(tx, what, t)
	v.Detail = t.String()
	v.Findings = []mail.Finding{{Method: "x-dns-score", Result: resultOf(v.Action), Props: []mail.Property{{Type: "policy", Name: "score", Value: strconv.Itoa(t.sum)}}}}
	if v.Action == mail.Dunno && len(t.silent) == 0 {
		v.Detail = "" // nothing to warn of
	}
	return v, nil
}

func resultOf(a mail.Action) string {
	switch a {
	case mail.Reject:
		return "fail"
	case mail.Permit:
		return "pass"
	default:
		return "neutral"
	}
}

// tally is what the lists said.
type tally struct {
	sum    int
	by     []string // "zen.example 3"
	blamed []string // the domains that count against the client
	reason string   // of the first of them
	silent []string
}

// String tells it to the operator.
func (t tally) String() string {
	text := "score " + strconv.Itoa(t.sum)
	if len(t.by) > 0 {
		text += ": " + strings.Join(t.by, ", ")
	}
	if len(t.silent) > 0 {
		text += "; without " + strings.Join(t.silent, ", ")
	}
	return text
}

func (s *score) ask(ctx context.Context, label string) tally {
	flights := make([]*flight, len(s.sites))
	for i, site := range s.sites {
		flights[i] = s.lists.look(ctx, site.list, label)
	}
	var t tally
	for i, site := range s.sites {
		answer, err := flights[i].wait(ctx)
		if err != nil {
			if !errors.Is(err, errSkipped) {
				t.silent = append(t.silent, site.Domain)
			}
			continue
		}
		if !site.Filter.any(answer.Codes) {
			continue
		}
		t.sum += site.Weight
		t.by = append(t.by, site.Domain+" "+strconv.Itoa(site.Weight))
		if site.Weight > 0 {
			t.blamed = append(t.blamed, site.Domain)
			if t.reason == "" {
				t.reason = answer.Text
			}
		}
	}
	return t
}

func (s *score) decide(tx *mail.Transaction, what string, t tally) mail.Verdict {
	l := &listing{code: s.code, domain: strings.Join(t.blamed, ", "), class: clientAddresses.class, what: what, reason: t.reason, tx: tx}
	switch {
	case s.rejects != nil && t.sum >= *s.rejects:
		return mail.Verdict{Action: mail.Reject, Reason: status.Listed, Reply: l.say(s.reply)}
	case s.defers != nil && t.sum >= *s.defers:
		l.code = status.ListSilent.Reply().Code
		return mail.Verdict{Action: mail.Reject, Reason: status.ListSilent, Reply: l.say(s.reply)}
	case s.permits != nil && t.sum <= *s.permits && mayPermit(s.domains, tx):
		return mail.Verdict{Action: mail.Permit}
	default:
		return mail.Verdict{}
	}
}
