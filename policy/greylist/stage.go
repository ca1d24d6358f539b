package greylist

import (
	"context"
	"fmt"
	"math"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/gaissmai/bart"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/policy"
	"github.com/postern-mail/postern/status"
	"github.com/postern-mail/postern/table"
)

// Stage is check_greylist.
type Stage struct {
	cfg        Config
	lists      *Lists
	networks   *bart.Lite
	clients    []table.Opened
	recipients []table.Opened
	answers    *prometheus.CounterVec // nil counts nothing
}

// New returns the restriction. Tables are opened by opener; Run keeps them up to
// date. A nil registry counts nowhere.
func New(cfg Config, lists *Lists, opener *table.Opener, registry prometheus.Registerer) (*Stage, error) {
	if err := cfg.Check(); err != nil {
		return nil, err
	}
	s := &Stage{cfg: cfg.withDefaults(), lists: lists, networks: new(bart.Lite)}
	for _, network := range cfg.Networks {
		s.networks.Insert(network.Masked())
	}
	for i, pool := range s.cfg.Pools {
		s.cfg.Pools[i] = strings.ToLower(pool)
	}
	var err error
	if s.clients, err = open(opener, cfg.Clients); err != nil {
		return nil, err
	}
	if s.recipients, err = open(opener, cfg.Recipients); err != nil {
		return nil, err
	}
	s.answers, err = newCounter(registry)
	return s, err
}

// The answers in metrics.
const (
	answerExempt     = "exempt"       // never waits: a network, a login, a table, SPF
	answerNew        = "new"          // put off, never seen
	answerEarly      = "early"        // put off, came again too soon
	answerPassed     = "passed"       // came again in time
	answerKnown      = "known"        // passed before
	answerTrusted    = "trusted"      // a client that passed often, or was allowed
	answerOutOfOrder = "out_of_order" // passed, as nothing can be remembered
)

func newCounter(registry prometheus.Registerer) (*prometheus.CounterVec, error) {
	if registry == nil {
		return nil, nil
	}
	vec := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "gateway_policy_greylist_answers_total",
		Help: "Recipients that the greylist was asked about, by answer.",
	}, []string{"answer"})
	if err := registry.Register(vec); err != nil {
		known, ok := err.(prometheus.AlreadyRegisteredError)
		if !ok {
			return nil, err
		}
		vec = known.ExistingCollector.(*prometheus.CounterVec)
	}
	return vec, nil
}

func open(opener *table.Opener, names []string) ([]table.Opened, error) {
	var all []table.Opened
	for _, name := range names {
		t, err := opener.Open(name, table.Use{})
		if err != nil {
			return nil, err
		}
		all = append(all, t)
	}
	return all, nil
}

// Tables are those whose Run keeps the restriction up to date.
func (s *Stage) Tables() []table.Opened {
	return append(s.clients[:len(s.clients):len(s.clients)], s.recipients...)
}

// Name implements policy.Stage.
func (s *Stage) Name() string { return Name }

// Input tells what the greylist looks for.
func (s *Stage) Input(tx *mail.Transaction) string {
	if tx.Recipient == nil {
		return ""
	}
	client, triplet := s.triplet(tx)
	return client + " " + strings.ReplaceAll(triplet[len(client)+1:], separator, " ")
}

func (s *Stage) triplet(tx *mail.Transaction) (client, triplet string) {
	client = s.cfg.clientOf(&tx.Client)
	return client, client + separator + s.cfg.senderOf(tx.Envelope.ReversePath) + separator + recipientOf(tx.Recipient.Address)
}

// Evaluate puts off who was never seen.
func (s *Stage) Evaluate(ctx context.Context, tx *mail.Transaction) (mail.Verdict, error) {
	if tx.Recipient == nil {
		return mail.Verdict{}, nil
	}
	exempt, err := s.exempt(ctx, tx)
	if err != nil {
		return mail.Verdict{}, err
	}
	if exempt {
		return s.count(answerExempt), nil
	}
	now := time.Now()
	client, triplet := s.triplet(tx)
	if policy.IsRehearsal(ctx) {
		return s.rehearse(tx, client, triplet, now), nil
	}
	switch {
	case s.lists.trusted(client, s.cfg.AutoAllow, now, s.cfg.Lifetime):
		return s.count(answerTrusted), nil
	case s.lists.known(triplet, now, s.cfg.Lifetime):
		return s.count(answerKnown), nil
	case s.lists.Failure() != nil:
		return s.count(answerOutOfOrder), nil
	}
	first, seen := s.lists.first(triplet, now, s.cfg.Window)
	if !seen {
		s.count(answerNew)
		return s.defers(tx, s.cfg.Delay), nil
	}
	// A peer's clock may be ahead of ours.
	waited := max(0, now.Sub(first))
	if waited < s.cfg.Delay {
		s.count(answerEarly)
		return s.defers(tx, s.cfg.Delay-waited), nil
	}
	s.lists.pass(triplet, client, now, s.cfg.Lifetime)
	v := s.count(answerPassed)
	s.tell(&v, tx, waited)
	return v, nil
}

// rehearse tells what Evaluate would, and remembers nothing.
func (s *Stage) rehearse(tx *mail.Transaction, client, triplet string, now time.Time) mail.Verdict {
	if s.lists == nil {
		return mail.Verdict{Detail: "who is known is known to the running server only"}
	}
	if s.lists.isKnown(client, triplet, s.cfg.AutoAllow) || s.lists.Failure() != nil {
		return mail.Verdict{}
	}
	waited := max(0, now.Sub(s.lists.since(triplet, now)))
	if waited < s.cfg.Delay {
		return s.defers(tx, s.cfg.Delay-waited)
	}
	return mail.Verdict{Detail: "waited long enough"}
}

func (s *Stage) count(answer string) mail.Verdict {
	if s.answers != nil {
		s.answers.WithLabelValues(answer).Inc()
	}
	return mail.Verdict{}
}

// finding is the method of what is found out about how long mail waited.
const finding = "x-greylist"

// tell adds the header once a message, whatever the number of its recipients.
func (s *Stage) tell(v *mail.Verdict, tx *mail.Transaction, waited time.Duration) {
	for _, f := range tx.Findings {
		if f.Method == finding {
			return
		}
	}
	text := fmt.Sprintf("delayed %d seconds", int64(waited/time.Second))
	v.Findings = []mail.Finding{{Method: finding, Result: "pass", Reason: text}}
	if s.cfg.Header {
		v.Edits = []mail.Edit{{PrependHeader: "X-Greylist: " + text}}
	}
}

// exempt reports whether the client or recipient never waits.
func (s *Stage) exempt(ctx context.Context, tx *mail.Transaction) (bool, error) {
	id := tx.Client.Identity
	if id != nil && id.Authentication != "" && id.Mechanism != "ANONYMOUS" {
		return true, nil
	}
	ip := tx.Client.Remote.Addr().Unmap()
	if s.networks.Contains(ip) || mustHear(tx.Recipient.Address) {
		return true, nil
	}
	if s.cfg.PassSPF {
		for _, f := range tx.Findings {
			if f.Method == "spf" && f.Result == "pass" {
				return true, nil
			}
		}
	}
	if found, err := s.listedClient(ctx, &tx.Client, ip); found || err != nil {
		return found, err
	}
	if len(s.recipients) == 0 {
		return false, nil
	}
	order := table.Order{Delimiters: s.cfg.Delimiter}
	values, _, _, err := table.Find(ctx, s.recipients, tx.Recipient.Address.String(), order.Access(tx.Recipient.Address, false))
	return counts(values), err
}

// mustHear are the addresses that whoever has trouble with us writes to.
func mustHear(a mail.Address) bool {
	return a.IsPostmaster() || strings.EqualFold(string(a.Local), "postmaster") || strings.EqualFold(string(a.Local), "abuse")
}

func (s *Stage) listedClient(ctx context.Context, client *mail.Client, ip netip.Addr) (bool, error) {
	if len(s.clients) == 0 {
		return false, nil
	}
	if host := strings.ToLower(client.Hostname); host != "" {
		values, _, _, err := table.Find(ctx, s.clients, host, table.Host(host, false))
		if len(values) > 0 || err != nil {
			return counts(values), err
		}
	}
	values, _, _, err := table.Find(ctx, s.clients, ip.String(), table.Network(ip.WithZone("")))
	return counts(values), err
}

// counts reports whether a table's answer exempts: any does but those by which a
// line takes something out of a larger one.
func counts(values []string) bool {
	if len(values) == 0 {
		return false
	}
	switch strings.ToLower(table.Join(values)) {
	case "no", "dunno", "false", "greylist":
		return false
	}
	return true
}

// defers returns the refusal. Something else may still refuse for good.
func (s *Stage) defers(tx *mail.Transaction, left time.Duration) mail.Verdict {
	seconds := strconv.FormatInt(int64(math.Ceil(left.Seconds())), 10)
	text := strings.NewReplacer("%s", seconds, "%r", string(tx.Recipient.Address.Domain), "%%", "%").Replace(s.cfg.Text)
	reply := status.Greylisted.Reply()
	reply.Text = tx.Recipient.Address.Path() + ": Recipient address rejected: " + text
	return mail.Verdict{Action: mail.DeferIfPermit, Reason: status.Greylisted, Reply: &reply}
}
