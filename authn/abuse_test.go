package authn

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/authn/lockout"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

func TestSpellingsOfAnAddressAreOneLogin(t *testing.T) {
	t.Parallel()
	for _, login := range []string{
		"alice@example.com", "ALICE@EXAMPLE.COM", "alice@example.com.", `"alice"@example.com`, `"al\ice"@example.com`, `"\a\l\i\c\e"@EXAMPLE.com.`,
	} {
		if got, err := CanonicalLogin(login); err != nil || got != "alice@example.com" {
			t.Errorf("CanonicalLogin(%q) = %q, %v", login, got, err)
		}
	}
	for login, want := range map[string]string{
		"alice@bücher.example": "alice@xn--bcher-kva.example",
		`"a@b"@example.com`:    `"a@b"@example.com`, "alice@b@example.com": "alice@b@example.com", "@example.com": "@example.com",
	} {
		if got, err := CanonicalLogin(login); err != nil || got != want {
			t.Errorf("CanonicalLogin(%q) = %q, %v; want %q", login, got, err, want)
		}
	}
}

// TestAttemptsAtOnceStayWithinTheBudget has an attacker on many connections:
// what goes upstream counts against the lockout of the directory.
func TestAttemptsAtOnceStayWithinTheBudget(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		v := &scripted{name: "v", err: sayNo, waiting: make(chan struct{})}
		chain, _ := newChain(t, remembering(t, lockout.Config{DirectoryThreshold: 5, PairFailures: -1}), Link{Verifier: v})
		var all sync.WaitGroup
		for i := range 20 {
			all.Go(func() {
				_, err := chain.Verify(t.Context(), attempt("alice", fmt.Sprint("guess", i)))
				if r := status.Of(err); r != status.AuthFailed && r != status.AuthTooMany {
					t.Errorf("guess %d: %v", i, err)
				}
			})
		}
		synctest.Wait()
		close(v.waiting)
		all.Wait()
		if asked := v.asked.Load(); asked != 3 {
			t.Errorf("%d guesses went upstream at once, budget 3", asked)
		}
	})
}

// TestSamePasswordAtOnceIsNoAttack has one person's programs start together.
func TestSamePasswordAtOnceIsNoAttack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		v := &scripted{name: "v", waiting: make(chan struct{})}
		chain, _ := newChain(t, remembering(t, lockout.Config{DirectoryThreshold: 5}), Link{Verifier: v})
		var all sync.WaitGroup
		for i := range 20 {
			all.Go(func() {
				a := attempt("alice", "right")
				a.Remote = netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), 1)
				if _, err := chain.Verify(t.Context(), a); err != nil {
					t.Errorf("program %d: %v", i, err)
				}
			})
		}
		synctest.Wait()
		close(v.waiting)
		all.Wait()
		v.err, v.waiting = sayNo, nil
		for i := range 3 { // the places were given back
			if err := verifyError(t, chain, fmt.Sprint("alice", i)); status.Of(err) != status.AuthFailed {
				t.Error(err)
			}
		}
	})
}

// TestNamesOfAnAccountShareABudget has an attacker who knows a person's
// aliases.
func TestNamesOfAnAccountShareABudget(t *testing.T) {
	t.Parallel()
	accounts := registry{accounts: map[string]mail.Account{}}
	names := []string{"alice"}
	for i := range 5 {
		names = append(names, fmt.Sprintf("alias%d@example.com", i))
	}
	for _, name := range names {
		accounts.accounts[name] = mail.Account{Name: "alice"}
	}
	v := &scripted{name: "v", err: sayNo}
	chain, _ := newChain(t, remembering(t, lockout.Config{DirectoryThreshold: 6, PairFailures: -1}), Link{Verifier: v, Accounts: accounts})
	for i, name := range names {
		for try := range 3 {
			_, _ = chain.Verify(t.Context(), attempt(name, fmt.Sprint(i, try)))
		}
	}
	if asked := v.asked.Load(); asked != 4 {
		t.Errorf("%d wrong passwords of one account went upstream, budget 4", asked)
	}
	if _, err := chain.Verify(t.Context(), attempt("alias0@example.com", "another")); status.Of(err) != status.AuthTooMany {
		t.Errorf("over the account's budget: %v, want AuthTooMany", err)
	}
}

// TestExemptNetworks has a web mailer through which an attacker guesses.
func TestExemptNetworks(t *testing.T) {
	t.Parallel()
	for _, exempt := range []bool{false, true} {
		cfg := lockout.Config{NetworkFailures: 3}
		if exempt {
			cfg.AllowNetworks = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
		}
		v := &scripted{name: "v", err: sayNo}
		chain, _ := newChain(t, remembering(t, cfg), Link{Verifier: v})
		for i := range 5 {
			_ = verifyError(t, chain, fmt.Sprint("person", i))
		}
		v.err = nil
		if err := verifyError(t, chain, "alice"); (err == nil) != exempt {
			t.Errorf("exempt %v: %v", exempt, err)
		}
	}
}

func TestAdditionalVerifierIsAskedOn(t *testing.T) {
	t.Parallel()
	disabled := status.New(status.AccountDisabled, nil)
	for _, row := range []struct {
		name        string
		first, then error
		want        status.Reason
		asked       int32 // of the second verifier
	}{
		{"right here", nil, sayNo, status.OK, 0},
		{"wrong here, right there", sayNo, nil, status.OK, 1},
		{"wrong in both", sayNo, sayNo, status.AuthFailed, 1},
		{"wrong here, unknown there", sayNo, ErrUnknownLogin, status.AuthFailed, 1},
		{"wrong here, outage there", sayNo, sayDown, status.AuthTemporary, 1},
		{"disabled here", disabled, nil, status.AuthFailed, 0},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			second := &scripted{name: "directory", err: row.then}
			chain, _ := newChain(t, Config{}, Link{Verifier: &scripted{name: "app", err: row.first}, Additional: true}, Link{Verifier: second})
			if _, err := chain.Verify(t.Context(), attempt("alice", "x")); status.Of(err) != row.want || second.asked.Load() != row.asked {
				t.Errorf("%v, second asked %d times; want %s, %d", err, second.asked.Load(), row.want, row.asked)
			}
		})
	}
}

func TestUnknownLoginIsRememberedForAMinute(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		v := &scripted{name: "v", err: ErrUnknownLogin}
		chain, _ := newChain(t, Config{}, Link{Verifier: v})
		for range 2 {
			if _, err := chain.Verify(t.Context(), attempt("new", "right")); status.Of(err) != status.AuthFailed {
				t.Fatal(err)
			}
		}
		if asked := v.asked.Load(); asked != 1 {
			t.Errorf("asked %d times at once", asked)
		}
		v.err = nil // the account was made
		time.Sleep(time.Minute)
		if _, err := chain.Verify(t.Context(), attempt("new", "right")); err != nil {
			t.Errorf("a minute later: %v", err)
		}
	})
}

func TestVerifierThatFindsAccountsGetsWhatWasTyped(t *testing.T) {
	t.Parallel()
	alice := mail.Account{Name: "4711", Source: "corp"}
	accounts := registry{accounts: map[string]mail.Account{"alice": alice, "4711": alice}}
	v := &scripted{name: "v", as: "4711"}
	chain, _ := newChain(t, Config{}, Link{Verifier: v, Accounts: accounts, FindsAccounts: true})
	id, err := chain.Verify(t.Context(), attempt("alice", "x"))
	if err != nil || id.Authentication != "4711" || id.Source != "corp" || v.seen.Load().Login != "alice" {
		t.Errorf("identity %+v, %v; verifier saw %q", id, err, v.seen.Load().Login)
	}
	if v.err = errors.New("down"); status.Of(verifyError(t, chain, "alice")) != status.AuthTemporary {
		t.Error("an outage is not AuthTemporary")
	}
}

// remembering is a chain's configuration with a memory of its own.
func remembering(t *testing.T, cfg lockout.Config) Config {
	t.Helper()
	memory, err := lockout.New(cfg, make([]byte, lockout.KeyOctets), nil, nil, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	return Config{Memory: memory}
}

func verifyError(t *testing.T, chain *Chain, login string) error {
	t.Helper()
	_, err := chain.Verify(t.Context(), attempt(login, "x"))
	return err
}

// TestPasswordsThatNobodyTakesAreNotRemembered has a person whose own password
// is no good for IMAP: it stays good for the rest.
func TestPasswordsThatNobodyTakesAreNotRemembered(t *testing.T) {
	t.Parallel()
	v := &scripted{name: "directory"}
	chain, _ := newChain(t, Config{}, Link{Verifier: v, Takes: func(a Attempt) bool { return a.Service != "imap" }})
	for range 30 {
		a := attempt("alice", "right")
		a.Service = "imap"
		if _, err := chain.Verify(t.Context(), a); status.Of(err) != status.AuthFailed || v.asked.Load() != 0 {
			t.Fatalf("where own passwords are no good: %v, asked %d", err, v.asked.Load())
		}
	}
	if _, err := chain.Verify(t.Context(), attempt("alice", "right")); err != nil {
		t.Errorf("where they are: %v", err)
	}
}

// TestUnguessableIsAskedFirst has an attacker guess at an account while its
// programs log in, and a program with a password that was revoked.
func TestUnguessableIsAskedFirst(t *testing.T) {
	t.Parallel()
	app, directory := &scripted{name: "app"}, &scripted{name: "directory", err: sayNo}
	takes := func(a Attempt) bool { return a.Password == "app-form" }
	chain, _ := newChain(t, Config{}, Link{Verifier: directory}, Link{Verifier: app, Takes: takes, Unguessable: true, Additional: true})
	for i := range 50 {
		_, _ = chain.Verify(t.Context(), attempt("alice", fmt.Sprint("guess", i)))
	}
	if _, err := chain.Verify(t.Context(), attempt("alice", "y")); status.Of(err) != status.AuthTooMany {
		t.Fatalf("the attacker goes on: %v", err)
	}
	if _, err := chain.Verify(t.Context(), attempt("alice", "app-form")); err != nil {
		t.Errorf("a program has to wait: %v", err)
	}
	asked := directory.asked.Load()
	app.err = sayNo
	for range 10 {
		if _, err := chain.Verify(t.Context(), attempt("alice", "app-form")); status.Of(err) != status.AuthFailed {
			t.Errorf("revoked: %v", err)
		}
	}
	app.err = sayDown
	if _, err := chain.Verify(t.Context(), attempt("alice", "app-form")); status.Of(err) != status.AuthTemporary {
		t.Errorf("not known: %v", err)
	}
	if directory.asked.Load() != asked {
		t.Error("a password for applications went on to the directory")
	}
}

// TestChangedVersionIsAskedAtOnce has a password set that was tried before.
func TestChangedVersionIsAskedAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		accounts := registry{accounts: map[string]mail.Account{"alice": {Name: "alice", CredentialVersion: "v1"}}}
		v := &scripted{name: "v", err: sayNo}
		chain, _ := newChain(t, Config{}, Link{Verifier: v, Accounts: accounts})
		for range 6 { // longer than where nobody tells of changes
			if err := verifyError(t, chain, "alice"); status.Of(err) != status.AuthFailed || v.asked.Load() != 1 {
				t.Fatalf("%v, asked %d times", err, v.asked.Load())
			}
			time.Sleep(time.Hour)
		}
		accounts.accounts["alice"] = mail.Account{Name: "alice", CredentialVersion: "v2"}
		v.err = nil
		if err := verifyError(t, chain, "alice"); err != nil {
			t.Errorf("the password is right now: %v", err)
		}
	})
}
