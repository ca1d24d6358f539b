package policy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// The fakes: example.com is ours with alice, bob and the group staff;
// relayed.example is relayed; carol's lookup finds the directory down.

type fakeDirectory struct {
	mu    sync.Mutex
	asked int
}

func (*fakeDirectory) Class(d mail.Domain) DomainClass {
	switch d {
	case "example.com", "[192.0.2.25]":
		return Local
	case "relayed.example":
		return Relay
	}
	return Other
}

var errDown = status.Errorf(status.DirectoryDown, "ldap1.corp.internal: connection refused")

func (f *fakeDirectory) Resolve(_ context.Context, a mail.Address, _ *mail.Poster) ([]mail.Recipient, error) {
	f.mu.Lock()
	f.asked++
	f.mu.Unlock()
	switch a.Fold().Local {
	case "alice", "bob":
		return []mail.Recipient{{Address: a.Fold()}}, nil
	case "staff":
		return []mail.Recipient{{Address: mail.MustAddress("alice@example.com")}, {Address: mail.MustAddress("bob@example.com")}}, nil
	case "carol":
		return nil, errDown
	case "gone":
		return nil, status.New(status.AccountDisabled, nil)
	case "empty":
		return nil, nil
	case "weird":
		return nil, errors.New("unclassified")
	}
	return nil, status.New(status.NoSuchUser, nil)
}

// AccountOf knows alice, who works here, bob, who may write to us only, and
// carol, of whom nobody can be asked.
func (*fakeDirectory) AccountOf(_ context.Context, id mail.Identity) (mail.Account, error) {
	switch id.Authentication {
	case "alice":
		return mail.Account{Name: "alice", Attributes: map[string][]string{"employeetype": {"Staff", "manager"}}}, nil
	case "bob":
		return mail.Account{Name: "bob", NoRelay: true}, nil
	case "carol":
		return mail.Account{}, errDown
	}
	return mail.Account{}, status.New(status.NoSuchUser, nil)
}

func (f *fakeDirectory) Holder(ctx context.Context, a mail.Address) (mail.Account, error) {
	return f.AccountOf(ctx, mail.Identity{Authentication: string(a.Local)})
}

func (f *fakeDirectory) MaySendAs(ctx context.Context, id mail.Identity, a mail.Address) (bool, error) {
	owners, err := f.Owners(ctx, a)
	for _, o := range owners {
		if o == id.Authentication {
			return true, nil
		}
	}
	return false, err
}

func (*fakeDirectory) Owners(_ context.Context, a mail.Address) ([]string, error) {
	switch a.String() {
	case "alice@example.com":
		return []string{"alice"}, nil
	case "info@example.com":
		return []string{"alice", "bob"}, nil
	case "carol@example.com":
		return nil, errDown
	}
	return nil, nil
}

type fakeResolver struct{}

func (fakeResolver) LookupMX(_ context.Context, name string) ([]*net.MX, error) {
	switch name {
	case "mx.example.":
		return []*net.MX{{Host: "mail.mx.example."}}, nil
	case "nullmx.example.":
		return []*net.MX{{Host: "."}}, nil
	case "servfail.example.":
		return nil, &net.DNSError{Err: "server misbehaving", IsTemporary: true}
	}
	return nil, &net.DNSError{Err: "no such host", IsNotFound: true}
}

func (fakeResolver) LookupNS(context.Context, string) ([]*net.NS, error) {
	return nil, &net.DNSError{Err: "no such host", IsNotFound: true}
}

func (fakeResolver) LookupNetIP(_ context.Context, _, name string) ([]netip.Addr, error) {
	switch name {
	case "a.example.":
		return []netip.Addr{netip.MustParseAddr("192.0.2.1")}, nil
	case "timeout.example.":
		return nil, &net.DNSError{Err: "timeout", IsTimeout: true}
	}
	return nil, &net.DNSError{Err: "no such host", IsNotFound: true}
}

type recorder struct {
	mu     sync.Mutex
	events []mail.Event
}

func (r *recorder) Record(e mail.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, e)
}

func (r *recorder) results() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []string
	for _, e := range r.events {
		all = append(all, e.Result+":"+e.Stage)
	}
	return strings.Join(all, " ")
}

// says is a stage with a fixed answer.
type says struct {
	name    string
	verdict mail.Verdict
	err     error
	asked   *int
}

func (s says) Name() string { return s.name }

func (s says) Evaluate(context.Context, *mail.Transaction) (mail.Verdict, error) {
	if s.asked != nil {
		*s.asked++
	}
	return s.verdict, s.err
}

func reply(code, subject, detail int, text string) *status.Reply {
	return &status.Reply{Code: code, Enhanced: [3]int{code / 100, subject, detail}, Text: text}
}

// answers are stages by name, for lists in tests.
func answers(asked *int) map[string]func(Spec) (Stage, error) {
	all := []says{
		{name: "dunno"},
		{name: "yes", verdict: mail.Verdict{Action: mail.Permit}},
		{name: "no", verdict: mail.Verdict{Action: mail.Reject, Reason: status.PolicyReject, Reply: reply(554, 7, 1, "no")}},
		{name: "no550", verdict: mail.Verdict{Action: mail.Reject, Reason: status.PolicyReject, Reply: reply(550, 7, 1, "no550")}},
		{name: "later", verdict: mail.Verdict{Action: mail.Reject, Reason: status.PolicyDefer, Reply: reply(450, 7, 1, "later")}},
		{name: "dip", verdict: mail.Verdict{Action: mail.DeferIfPermit, Reason: status.PolicyDefer, Reply: reply(450, 7, 0, "dip")}},
		{name: "dip2", verdict: mail.Verdict{Action: mail.DeferIfPermit, Reason: status.PolicyDefer, Reply: reply(451, 7, 0, "dip2")}},
		{name: "dir", verdict: mail.Verdict{Action: mail.DeferIfReject, Reason: status.PolicyDefer, Reply: reply(450, 7, 0, "dir")}},
		{name: "hold", verdict: mail.Verdict{Action: mail.Hold}},
		{name: "discard", verdict: mail.Verdict{Action: mail.Discard}},
		{name: "prepend", verdict: mail.Verdict{Edits: []mail.Edit{{PrependHeader: "X-One: 1"}}}},
		{name: "down", err: errDown},
		{name: "halfedited", verdict: mail.Verdict{Edits: []mail.Edit{{PrependHeader: "X-Half: 1"}}}, err: errors.New("broken")},
		{name: "lies5xx", err: status.New(status.NoSuchUser, errors.New("directory is confused"))},
		{name: "counted", asked: asked},
	}
	m := make(map[string]func(Spec) (Stage, error), len(all))
	for _, s := range all {
		m[s.name] = func(Spec) (Stage, error) { return s, nil }
	}
	return m
}

// fixture is a chain and what it was given.
type fixture struct {
	chain     *Chain
	directory *fakeDirectory
	audit     *recorder
	asked     int
}

func deps(f *fixture) Deps {
	f.directory, f.audit = &fakeDirectory{}, &recorder{}
	return Deps{
		Domains: f.directory, Accounts: f.directory, Recipients: f.directory, Owners: f.directory, Resolver: fakeResolver{},
		Audit: f.audit, Logger: hclog.NewNullLogger(), Stages: answers(&f.asked), Routes: fakeRoutes,
	}
}

// fakeRoutes knows the target scan.
func fakeRoutes(text string) (mail.Route, error) {
	target, next, _ := strings.Cut(text, ":")
	if target != "" && target != "scan" {
		return mail.Route{}, fmt.Errorf("there is no target %q", target)
	}
	return mail.Route{Transport: target, NextHop: next}, nil
}

// words makes specs of names; "name(attribute=value&other=value;value)" gives
// attributes.
func words(list string) []Spec {
	var specs []Spec
	for i, word := range strings.Fields(list) {
		name, attributes, _ := strings.Cut(strings.TrimSuffix(word, ")"), "(")
		spec := Spec{Name: name, Pos: Pos{"test.hcl", i + 1, 3}}
		for _, attribute := range strings.Split(attributes, "&") {
			key, value, given := strings.Cut(attribute, "=")
			if !given {
				continue
			}
			if spec.Args == nil {
				spec.Args = map[string][]string{}
			}
			spec.Args[key] = strings.Split(value, ";")
		}
		specs = append(specs, spec)
	}
	return specs
}

func build(t *testing.T, cfg Config, lists map[List]string) *fixture {
	t.Helper()
	f := &fixture{}
	made := map[List][]Spec{}
	for name, list := range lists {
		made[name] = words(list)
	}
	chain, err := Build(cfg, made, deps(f))
	if err != nil {
		t.Fatalf("Build: %v", err)
	}
	f.chain = chain
	return f
}

func transaction(from, to string) *mail.Transaction {
	tx := &mail.Transaction{
		Client: mail.Client{
			Session: "s1", Listener: "mx", Remote: netip.MustParseAddrPort("198.51.100.7:4711"),
			Hostname: "client.example", Helo: "client.example",
		},
		Phase: mail.PhaseRecipient,
	}
	if from != "" {
		tx.Envelope.ReversePath = mail.MustAddress(from)
	}
	if to != "" {
		address := mail.Address{Local: mail.LocalPart(to)}
		if strings.Contains(to, "@") {
			address = mail.MustAddress(to)
		}
		tx.Recipient = &mail.Recipient{Address: address}
	}
	return tx
}

// outcome is a decision in one line.
func outcome(d mail.Decision) string {
	if d.Refused {
		return d.Verdict.WireReply().String()
	}
	return "ok"
}
