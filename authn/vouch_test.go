package authn

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/postern-mail/postern/authn/lockout"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

func vouched(login string) Vouched {
	a := attempt(login, "")
	return Vouched{Login: login, Mechanism: "EXTERNAL", Service: a.Service, Session: a.Session, Remote: a.Remote, By: ByCertificate, Detail: "CN=x"}
}

func TestVouch(t *testing.T) {
	t.Parallel()
	corp := registry{accounts: map[string]mail.Account{
		"alice": {Name: "alice", Source: "corp"}, "alice@example.com": {Name: "alice", Source: "corp"},
		"gone": {Name: "gone", Disabled: true}, "bob": {Name: "bob"},
	}}
	down := registry{err: sayDown}
	second := registry{accounts: map[string]mail.Account{"carol": {Name: "carol", Source: "second"}}}
	of := func(login, wanted string) Vouched {
		v := vouched(login)
		v.Authorization = wanted
		return v
	}
	tests := []struct {
		name   string
		links  []Accounts
		v      Vouched
		want   status.Reason
		as     string
		source string
	}{
		{"account", []Accounts{corp}, of("alice", ""), status.OK, "alice", "corp"},
		{"address, in capitals", []Accounts{corp}, of("Alice@EXAMPLE.com", ""), status.OK, "alice", "corp"},
		{"another name of its own", []Accounts{corp}, of("alice", "alice@example.com"), status.OK, "alice", "corp"},
		{"somebody else", []Accounts{corp}, of("alice", "bob"), status.AuthorizationDenied, "", ""},
		{"disabled", []Accounts{corp}, of("gone", ""), status.AuthFailed, "", ""},
		{"nobody", []Accounts{corp}, of("mallory", ""), status.AuthFailed, "", ""},
		{"no name", []Accounts{corp}, of("", ""), status.AuthFailed, "", ""},
		{"NUL", []Accounts{corp}, of("ali\x00ce", ""), status.AuthFailed, "", ""},
		{"second directory", []Accounts{corp, second}, of("carol", ""), status.OK, "carol", "second"},
		{"the first directory is down", []Accounts{down, second}, of("carol", ""), status.AuthTemporary, "", ""},
		{"the second is down, and not asked", []Accounts{corp, down}, of("alice", ""), status.OK, "alice", "corp"},
		{"no directory at all", []Accounts{nil}, of("Alice", ""), status.OK, "alice", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var links []Link
			for _, accounts := range tt.links {
				links = append(links, Link{Verifier: &scripted{name: "v", err: sayNo}, Accounts: accounts})
			}
			chain, audit := newChain(t, Config{}, links...)
			identity, err := chain.Vouch(t.Context(), tt.v)
			if status.Of(err) != tt.want || identity.Authentication != tt.as || identity.Source != tt.source {
				t.Fatalf("Vouch = %+v, %v; want %v as %q of %q", identity, err, tt.want, tt.as, tt.source)
			}
			e := audit.last(t)
			if err == nil && (identity.Authorization != tt.as || identity.Mechanism != "EXTERNAL" || e.Verifier != ByCertificate || e.Result != "ok") {
				t.Errorf("identity %+v, audit %+v", identity, e)
			}
			if err != nil && (e.Result == "ok" || e.Detail == "" || e.Mechanism != "EXTERNAL") {
				t.Errorf("audit %+v", e)
			}
			if len(audit.events) != 1 {
				t.Errorf("%d audit events", len(audit.events))
			}
		})
	}
}

func TestVouchByItsOwnAccounts(t *testing.T) {
	t.Parallel()
	link := registry{accounts: map[string]mail.Account{"alice": {Name: "alice", Source: "link"}}}
	own := registry{accounts: map[string]mail.Account{"alice": {Name: "alice2", Source: "own"}}}
	chain, _ := newChain(t, Config{}, Link{Verifier: &scripted{name: "v"}, Accounts: link})
	v := vouched("alice")
	v.Accounts = own
	if id, err := chain.Vouch(t.Context(), v); err != nil || id.Authentication != "alice2" || id.Source != "own" {
		t.Errorf("Vouch = %+v, %v", id, err)
	}
}

func TestRefuse(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		cause error
		want  status.Reason
	}{
		{"a clear no", sayNo, status.AuthFailed},
		{"nobody", ErrUnknownLogin, status.AuthFailed},
		{"outage", sayDown, status.AuthTemporary},
		{"unclassed", errOutage, status.AuthTemporary},
		{"client gone", context.Canceled, status.AuthTemporary},
	}
	for _, tt := range tests {
		chain, audit := newChain(t, Config{}, Link{Verifier: &scripted{name: "v"}})
		if err := chain.Refuse(t.Context(), vouched("alice"), tt.cause); status.Of(err) != tt.want {
			t.Errorf("%s: Refuse = %v, want %v", tt.name, err, tt.want)
		}
		if e := audit.last(t); e.Login != "alice" || e.Reason != tt.want.String() {
			t.Errorf("%s: audit %+v", tt.name, e)
		}
	}
}

// Only what can be guessed counts against a login: a stranger with a wrong
// token must not keep its owner out.
func TestFailedProofsCount(t *testing.T) {
	t.Parallel()
	for _, by := range []string{BySCRAM, ByCRAM, ByToken, ByCertificate, ByKerberos} {
		guessable := by == BySCRAM || by == ByCRAM
		chain, _ := newChain(t, remembering(t, lockout.Config{AccountFailures: 2, PairFailures: -1}), Link{Verifier: &scripted{name: "v"}})
		v := vouched("alice")
		v.By = by
		for range 3 {
			if err := chain.Refuse(t.Context(), v, sayNo); status.Of(err) != status.AuthFailed {
				t.Fatalf("%s: %v", by, err)
			}
		}
		_, err := chain.Vouch(t.Context(), v)
		if guessable && status.Of(err) != status.AuthTooMany {
			t.Errorf("%s: right after three wrong ones = %v, want AuthTooMany", by, err)
		}
		if !guessable && err != nil {
			t.Errorf("%s: right after three wrong ones = %v", by, err)
		}
		again := chain.Refuse(t.Context(), v, sayNo)
		if want := map[bool]status.Reason{true: status.AuthTooMany, false: status.AuthFailed}[guessable]; status.Of(again) != want {
			t.Errorf("%s: the fourth wrong one = %v, want %v: whether it was right must not show", by, again, want)
		}
		// Passwords share the budget.
		if _, err := chain.Verify(t.Context(), attempt("alice", "x")); guessable == (err == nil) {
			t.Errorf("%s: a password afterwards = %v", by, err)
		}
	}
}

func TestOutageDoesNotCount(t *testing.T) {
	t.Parallel()
	chain, _ := newChain(t, remembering(t, lockout.Config{AccountFailures: 1, PairFailures: 1, NetworkFailures: 1}), Link{Verifier: &scripted{name: "v"}})
	v := vouched("alice")
	v.By = BySCRAM
	for range 5 {
		chain.Refuse(t.Context(), v, errors.New("store is down"))
	}
	if _, err := chain.Vouch(t.Context(), v); err != nil {
		t.Errorf("after outages: %v", err)
	}
}

func TestNetworkBudgetCountsFailedProofs(t *testing.T) {
	t.Parallel()
	chain, _ := newChain(t, remembering(t, lockout.Config{NetworkFailures: 3}), Link{Verifier: &scripted{name: "v"}})
	for i := range 4 {
		v := vouched(string(rune('a' + i)))
		v.By = ByToken
		chain.Refuse(t.Context(), v, sayNo)
	}
	if _, err := chain.Verify(t.Context(), attempt("alice", "x")); status.Of(err) != status.AuthTooMany {
		t.Errorf("a password from there = %v, want AuthTooMany", err)
	}
}

// holder is a verifier with secrets.
type holder struct {
	scripted
	secrets map[string]string
	covers  Coverage
	down    error
}

func (h *holder) Covers(string) Coverage { return h.covers }

func (h *holder) Example(string) string { return "" }

func (h *holder) Stored(_ context.Context, login, form string) (mail.Identity, string, error) {
	stored, found := h.secrets[login]
	switch {
	case h.down != nil:
		return mail.Identity{}, "", h.down
	case !found:
		return mail.Identity{}, "", ErrUnknownLogin
	case stored == "":
		return mail.Identity{}, "", ErrNoForm
	}
	return mail.Identity{Authentication: login}, "{" + form + "}" + stored, nil
}

func TestHeld(t *testing.T) {
	t.Parallel()
	corp := registry{accounts: map[string]mail.Account{
		"alice": {Name: "alice", Source: "corp"}, "alice@example.com": {Name: "alice", Source: "corp"}, "old": {Name: "old"}, "gone": {Name: "gone", Disabled: true},
	}}
	first := &holder{scripted: scripted{name: "first"}, secrets: map[string]string{"alice": "1", "old": "", "gone": "1"}}
	second := &holder{scripted: scripted{name: "second"}, secrets: map[string]string{"alice": "2", "old": "2", "bob": "2"}}
	plain := &scripted{name: "plain"}
	down := &holder{scripted: scripted{name: "down"}, down: errOutage}
	tests := []struct {
		name   string
		links  []Link
		login  string
		want   status.Reason
		stored string
		vouch  status.Reason
		by     string
	}{
		{"first wins", []Link{{Verifier: first}, {Verifier: second}}, "Alice", status.OK, "{X}1", status.OK, "first"},
		{"by account", []Link{{Verifier: first, Accounts: corp}}, "alice@example.com", status.OK, "{X}1", status.OK, "first"},
		{"further down", []Link{{Verifier: first}, {Verifier: second}}, "bob", status.OK, "{X}2", status.OK, "second"},
		{"another form decides", []Link{{Verifier: first}, {Verifier: second}}, "old", status.OK, "", 0, ""},
		{"unless additional", []Link{{Verifier: first, Additional: true}, {Verifier: second}}, "old", status.OK, "{X}2", status.OK, "second"},
		{"a verifier without secrets has the account", []Link{{Verifier: plain, Accounts: corp}, {Verifier: second}}, "alice", status.OK, "", 0, ""},
		{"a verifier without secrets has it not", []Link{{Verifier: plain, Accounts: corp}, {Verifier: second}}, "bob", status.OK, "{X}2", status.OK, "second"},
		{"nobody", []Link{{Verifier: first}}, "mallory", status.OK, "", 0, ""},
		{"outage", []Link{{Verifier: down}, {Verifier: second}}, "bob", status.AuthTemporary, "", 0, ""},
		{"directory down", []Link{{Verifier: first, Accounts: registry{err: sayDown}}}, "alice", status.AuthTemporary, "", 0, ""},
		{"no login", []Link{{Verifier: first}}, "a b", status.AuthFailed, "", 0, ""},
		{"disabled is told at the end", []Link{{Verifier: first, Accounts: corp}}, "gone", status.OK, "{X}1", status.AuthFailed, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			chain, _ := newChain(t, Config{}, tt.links...)
			held, err := chain.Held(t.Context(), tt.login, "X")
			if status.Of(err) != tt.want {
				t.Fatalf("Held = %v, want %v", err, tt.want)
			}
			if err != nil {
				return
			}
			if held.Stored != tt.stored || held.Known() != (tt.stored != "") {
				t.Fatalf("held %q, want %q", held.Stored, tt.stored)
			}
			if !held.Known() {
				return
			}
			v := vouched(tt.login)
			v.By, v.Held = BySCRAM, held
			id, err := chain.Vouch(t.Context(), v)
			if status.Of(err) != tt.vouch || id.Verifier != tt.by {
				t.Errorf("Vouch = %+v, %v; want %v by %q", id, err, tt.vouch, tt.by)
			}
		})
	}
}

// The budget of an account holds over all names it has.
func TestGuessesUnderOtherNamesShareTheBudget(t *testing.T) {
	t.Parallel()
	corp := registry{accounts: map[string]mail.Account{"alice": {Name: "alice"}, "alice@example.com": {Name: "alice"}}}
	chain, _ := newChain(t, remembering(t, lockout.Config{AccountFailures: 1, PairFailures: -1}), Link{Verifier: &holder{secrets: map[string]string{"alice": "1"}}, Accounts: corp})
	guess := func(login string) Vouched {
		held, err := chain.Held(t.Context(), login, "X")
		if err != nil {
			t.Fatal(err)
		}
		v := vouched(login)
		v.By, v.Held = BySCRAM, held
		return v
	}
	for range 2 {
		chain.Refuse(t.Context(), guess("alice@example.com"), sayNo)
	}
	if _, err := chain.Vouch(t.Context(), guess("alice")); status.Of(err) != status.AuthTooMany {
		t.Errorf("under the other name: %v, want AuthTooMany", err)
	}
}

func TestCovers(t *testing.T) {
	t.Parallel()
	of := func(c Coverage) Verifier { return &holder{covers: c} }
	tests := []struct {
		verifiers []Verifier
		want      Coverage
	}{
		{[]Verifier{of(CoversAll)}, CoversAll},
		{[]Verifier{of(CoversAll), of(CoversAll)}, CoversAll},
		{[]Verifier{of(CoversAll), of(CoversSome)}, CoversSome},
		{[]Verifier{of(CoversAll), &scripted{}}, CoversSome},
		{[]Verifier{of(CoversNone), of(CoversAll)}, CoversSome},
		{[]Verifier{of(CoversNone)}, CoversNone},
		{[]Verifier{&scripted{}}, CoversNone},
		{[]Verifier{of(CoversAll), accountsOnly{}}, CoversAll},
		{[]Verifier{accountsOnly{}}, CoversNone},
	}
	for i, tt := range tests {
		var links []Link
		for _, v := range tt.verifiers {
			links = append(links, Link{Verifier: v})
		}
		chain, _ := newChain(t, Config{}, links...)
		if got := chain.Covers("X"); got != tt.want {
			t.Errorf("row %d: Covers = %v, want %v", i, got, tt.want)
		}
		if _, only := tt.verifiers[0].(accountsOnly); chain.TakesPasswords() == only {
			t.Errorf("row %d: takes passwords %v", i, !only)
		}
	}
}

// accountsOnly stands in a chain for its accounts.
type accountsOnly struct{ Verifier }

func (accountsOnly) Passwordless() {}

func TestVouchEndsWithItsTime(t *testing.T) {
	t.Parallel()
	chain, _ := newChain(t, Config{Timeout: time.Millisecond}, Link{Verifier: &scripted{name: "v"}, Accounts: hanging{}})
	if _, err := chain.Vouch(t.Context(), vouched("alice")); status.Of(err) != status.AuthTemporary {
		t.Errorf("with a directory that hangs: %v, want AuthTemporary", err)
	}
}

// hanging is a directory that does not answer.
type hanging struct{}

func (hanging) Account(ctx context.Context, _ string) (mail.Account, error) {
	<-ctx.Done()
	return mail.Account{}, ctx.Err()
}
