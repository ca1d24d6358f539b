package authn

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/authn/lockout"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// scripted answers every attempt with the same error, or yes for nil.
type scripted struct {
	name    string
	err     error
	as      string // identity of a yes; "" for the login
	asked   atomic.Int32
	waiting chan struct{} // when not nil, an answer waits for its close
	seen    atomic.Pointer[Attempt]
}

func (v *scripted) Name() string { return v.name }

func (v *scripted) Verify(ctx context.Context, a Attempt) (mail.Identity, error) {
	v.asked.Add(1)
	v.seen.Store(&a)
	if v.waiting != nil {
		select {
		case <-v.waiting:
		case <-ctx.Done():
			return mail.Identity{}, ctx.Err()
		}
	}
	if v.err != nil {
		return mail.Identity{}, v.err
	}
	name := v.as
	if name == "" {
		name = a.Login
	}
	return mail.Identity{Authentication: name}, nil
}

// ledger keeps audit events.
type ledger struct {
	mu     sync.Mutex
	events []mail.Event
}

func (l *ledger) Record(e mail.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.events = append(l.events, e)
}

func (l *ledger) last(t *testing.T) mail.Event {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.events) == 0 {
		t.Fatal("nothing was audited")
	}
	return l.events[len(l.events)-1]
}

func newChain(t *testing.T, cfg Config, links ...Link) (*Chain, *ledger) {
	t.Helper()
	if cfg.FailureBeat == 0 {
		cfg.FailureBeat = -1
	}
	audit := &ledger{}
	chain, err := New(cfg, links, audit, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	return chain, audit
}

func attempt(login, password string) Attempt {
	return Attempt{Login: login, Password: password, Mechanism: "PLAIN", Service: "submission",
		Session: "s1", Remote: netip.MustParseAddrPort("192.0.2.7:40000")}
}

var (
	errOutage = errors.New("connection refused")
	sayNo     = status.New(status.AuthFailed, errors.New("invalid credentials"))
	sayDown   = status.New(status.DirectoryDown, errOutage)
)

func TestChainTruthTable(t *testing.T) {
	t.Parallel()
	yes, no, notMine, down := error(nil), error(sayNo), ErrUnknownLogin, error(sayDown)
	tests := []struct {
		name    string
		answers []error
		want    status.Reason
		by      string
		asked   int
	}{
		{"yes", []error{yes}, status.OK, "v0", 1},
		{"no", []error{no}, status.AuthFailed, "", 1},
		{"not mine", []error{notMine}, status.AuthFailed, "", 1},
		{"no such user is not mine", []error{status.New(status.NoSuchUser, nil), yes}, status.OK, "v1", 2},
		{"down", []error{down}, status.AuthTemporary, "", 1},
		{"unclassified error", []error{errOutage}, status.AuthTemporary, "", 1},
		{"deadline", []error{context.DeadlineExceeded}, status.AuthTemporary, "", 1},
		{"ambiguous entry", []error{status.New(status.AddressAmbiguous, nil)}, status.AuthTemporary, "", 1},
		{"yes ends the chain", []error{yes, no}, status.OK, "v0", 1},
		{"no ends the chain", []error{no, yes}, status.AuthFailed, "", 1},
		{"disabled ends the chain", []error{status.New(status.AccountDisabled, nil), yes}, status.AuthFailed, "", 1},
		{"not mine, then yes", []error{notMine, yes}, status.OK, "v1", 2},
		{"not mine, then no", []error{notMine, no}, status.AuthFailed, "", 2},
		{"nobody's", []error{notMine, notMine}, status.AuthFailed, "", 2},
		{"down, then yes", []error{down, yes}, status.OK, "v1", 2},
		{"down, then no", []error{down, no}, status.AuthTemporary, "", 2},
		{"down, then not mine", []error{down, notMine}, status.AuthTemporary, "", 2},
		{"not mine, then down", []error{notMine, down}, status.AuthTemporary, "", 2},
		{"all down", []error{down, errOutage}, status.AuthTemporary, "", 2},
		{"not mine, down, yes", []error{notMine, down, yes}, status.OK, "v2", 3},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var links []Link
			var verifiers []*scripted
			for i, err := range tt.answers {
				v := &scripted{name: fmt.Sprintf("v%d", i), err: err}
				verifiers, links = append(verifiers, v), append(links, Link{Verifier: v})
			}
			chain, audit := newChain(t, Config{}, links...)
			id, err := chain.Verify(t.Context(), attempt("Alice", "secret"))
			if got := status.Of(err); got != tt.want {
				t.Fatalf("Verify with %v = %v, want %v", tt.answers, err, tt.want)
			}
			if tt.want == status.OK && (id != mail.Identity{Authentication: "alice", Authorization: "alice", Mechanism: "PLAIN", Verifier: tt.by}) {
				t.Errorf("identity = %+v, want alice by %s", id, tt.by)
			}
			asked := 0
			for _, v := range verifiers {
				asked += int(v.asked.Load())
			}
			if asked != tt.asked {
				t.Errorf("asked %d verifiers, want %d", asked, tt.asked)
			}
			if event := audit.last(t); event.Kind != mail.EventAuth || event.Verifier != tt.by || event.Login != "alice" {
				t.Errorf("audited %+v", event)
			}
		})
	}
}

func TestChainRefusesBeforeAsking(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, login, password string }{
		{"empty password", "alice", ""},
		{"empty login", "", "secret"},
		{"NUL in password", "alice", "secret\x00junk"},
		{"NUL in login", "alice\x00zzz", "secret"},
		{"line end in login", "alice\r\nbob", "secret"},
		{"space in login", "alice smith", "secret"},
		{"invalid UTF-8 in login", "al\xffice", "secret"},
		{"long password", "alice", strings.Repeat("x", MaxPasswordOctets+1)},
		{"long login", strings.Repeat("x", MaxLoginOctets+1), "secret"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			v := &scripted{name: "v"}
			chain, audit := newChain(t, Config{}, Link{Verifier: v})
			if _, err := chain.Verify(t.Context(), attempt(tt.login, tt.password)); status.Of(err) != status.AuthFailed {
				t.Errorf("Verify(%q, %q) = %v, want AuthFailed", tt.login, tt.password, err)
			}
			if v.asked.Load() != 0 {
				t.Errorf("the verifier was asked about %q, %q", tt.login, tt.password)
			}
			if event := audit.last(t); event.Result != "refused" || len(event.Login) > 600 {
				t.Errorf("audited %+v", event)
			}
		})
	}
}

func TestCanonicalLogin(t *testing.T) {
	t.Parallel()
	for login, want := range map[string]string{
		"alice": "alice", "Alice@Example.COM": "alice@example.com", `CORP\Alice`: `corp\alice`,
		"JÖRG": "jörg", "jo\u0308rg": "jörg", "alice+x": "alice+x",
	} {
		if got, err := CanonicalLogin(login); got != want || err != nil {
			t.Errorf("CanonicalLogin(%q) = %q, %v; want %q", login, got, err, want)
		}
	}
}

func TestChainAuditsEveryAttemptWithoutThePassword(t *testing.T) {
	t.Parallel()
	for _, answer := range []struct {
		err            error
		result, reason string
	}{{nil, "ok", "AuthOK"}, {sayNo, "refused", "AuthFailed"}, {sayDown, "unknown", "AuthTemporary"}} {
		chain, audit := newChain(t, Config{}, Link{Verifier: &scripted{name: "corp", err: answer.err}})
		a := attempt("alice", "hunter2")
		_, _ = chain.Verify(t.Context(), a)
		event := audit.last(t)
		if len(audit.events) != 1 || event.Result != answer.result || event.Reason != answer.reason ||
			event.Service != a.Service || event.Session != a.Session || event.Remote != a.Remote || event.Mechanism != "PLAIN" {
			t.Errorf("%v audited as %+v", answer.err, audit.events)
		}
		if strings.Contains(fmt.Sprintf("%+v", event), "hunter2") {
			t.Errorf("the password is in the audit: %+v", event)
		}
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
		if text := fmt.Sprintf(verb, attempt("alice", "hunter2")); strings.Contains(text, "hunter2") {
			t.Errorf("%s prints the password: %s", verb, text)
		}
	}
}

func TestWrongPasswordGoesUpstreamOncePerWindow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		v := &scripted{name: "v", err: sayNo}
		chain, _ := newChain(t, remembering(t, lockout.Config{RetryWrong: 10 * time.Minute, PairFailures: -1}), Link{Verifier: v})
		verify := func(login, password string, want int32) {
			t.Helper()
			_, err := chain.Verify(t.Context(), attempt(login, password))
			if status.Of(err) != status.AuthFailed || v.asked.Load() != want {
				t.Fatalf("Verify(%q, %q) = %v, asked %d times; want AuthFailed, %d", login, password, err, v.asked.Load(), want)
			}
		}
		verify("alice", "old", 1)
		verify("alice", "old", 1)
		verify("ALICE", "old", 1)
		verify("alice", "older", 2)
		verify("bob", "old", 3)
		time.Sleep(10*time.Minute - time.Second)
		verify("alice", "old", 3)
		time.Sleep(time.Second)
		verify("alice", "old", 4) // the directory tells nothing of passwords: it may be right by now
		time.Sleep(10 * time.Minute)
		verify("alice", "old", 4) // but ever less likely
		time.Sleep(10 * time.Minute)
		verify("alice", "old", 5)
	})
}

func TestOutageAndRefusedAccountAreNotRemembered(t *testing.T) {
	t.Parallel()
	locked := status.New(status.AuthFailed, fmt.Errorf("locked: %w", ErrRefused))
	for _, before := range []error{sayDown, locked, status.New(status.AccountDisabled, nil)} {
		v := &scripted{name: "v", err: before}
		chain, _ := newChain(t, Config{}, Link{Verifier: v})
		_, _ = chain.Verify(t.Context(), attempt("alice", "right"))
		v.err = nil
		if _, err := chain.Verify(t.Context(), attempt("alice", "right")); err != nil {
			t.Errorf("after %v was over: %v, want yes", before, err)
		}
	}
}

func TestBudgetsPutOffAndNeverRefuse(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		v := &scripted{name: "v", err: sayNo}
		chain, _ := newChain(t, remembering(t, lockout.Config{DirectoryThreshold: 5, NetworkFailures: 4, PairFailures: -1, DirectoryWindow: time.Minute}), Link{Verifier: v})
		fail := func(login, password string) status.Reason {
			_, err := chain.Verify(t.Context(), attempt(login, password))
			return status.Of(err)
		}
		for i := range 3 {
			if got := fail("alice", fmt.Sprint("wrong", i)); got != status.AuthFailed {
				t.Fatalf("wrong password %d: %v", i, got)
			}
		}
		if got := fail("alice", "wrong9"); got != status.AuthTooMany {
			t.Errorf("over the login's budget: %v, want AuthTooMany", got)
		}
		fail("bob", "a")
		fail("bob", "b")
		if got := fail("carol", "c"); got != status.AuthTooMany {
			t.Errorf("over the network's budget: %v, want AuthTooMany", got)
		}
		if asked := v.asked.Load(); asked != 5 {
			t.Errorf("asked upstream %d times, want 5", asked)
		}
		time.Sleep(time.Minute)
		v.err = nil
		if got := fail("alice", "right"); got != status.OK {
			t.Errorf("after the window: %v, want yes", got)
		}
	})
}

func TestRefusalsComeOnTheBeat(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for name, err := range map[string]error{"wrong password": sayNo, "unknown login": ErrUnknownLogin} {
			slow := &scripted{name: "v", err: err, waiting: make(chan struct{})}
			chain, _ := newChain(t, Config{FailureBeat: time.Second}, Link{Verifier: slow})
			began := time.Now()
			time.AfterFunc(300*time.Millisecond, func() { close(slow.waiting) })
			for range 2 { // the second is answered from memory
				if _, err := chain.Verify(t.Context(), attempt("alice", "x")); status.Of(err) != status.AuthFailed {
					t.Fatal(err)
				}
				if took := time.Since(began); took != time.Second {
					t.Errorf("%s: refused after %v, want on the beat", name, took)
				}
				began = time.Now()
			}
		}
		chain, _ := newChain(t, Config{FailureBeat: time.Second}, Link{Verifier: &scripted{name: "v"}})
		began := time.Now()
		if _, err := chain.Verify(t.Context(), attempt("alice", "x")); err != nil || time.Since(began) != 0 {
			t.Errorf("yes after %v, %v; want at once", time.Since(began), err)
		}
	})
}

func TestHungVerifierIsUnknown(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		hung := &scripted{name: "hung", waiting: make(chan struct{})}
		chain, _ := newChain(t, Config{Timeout: 5 * time.Second, Concurrency: 1}, Link{Verifier: hung})
		var clients sync.WaitGroup
		for _, login := range []string{"alice", "bob"} { // bob waits for the one slot
			clients.Go(func() {
				if _, err := chain.Verify(t.Context(), attempt(login, "x")); status.Of(err) != status.AuthTemporary {
					t.Errorf("%s: %v, want AuthTemporary", login, err)
				}
			})
		}
		clients.Wait()
	})
}

func TestEqualAttemptsShareOneQuestion(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		v := &scripted{name: "v", err: sayNo, waiting: make(chan struct{})}
		chain, audit := newChain(t, Config{}, Link{Verifier: v})
		ctx, hangUp := context.WithCancel(t.Context())
		var clients sync.WaitGroup
		for i := range 5 {
			clients.Go(func() {
				c := t.Context()
				if i == 0 {
					c = ctx
				}
				if _, err := chain.Verify(c, attempt("alice", "old")); status.Of(err) != status.AuthFailed {
					t.Errorf("client %d: %v", i, err)
				}
			})
		}
		synctest.Wait()
		hangUp() // whoever asks, the answer must not depend on one client
		close(v.waiting)
		clients.Wait()
		if v.asked.Load() != 1 || len(audit.events) != 5 {
			t.Errorf("asked %d times and audited %d, want 1 and 5", v.asked.Load(), len(audit.events))
		}
	})
}

// registry is a directory of accounts by login.
type registry struct {
	accounts map[string]mail.Account
	err      error
}

func (r registry) Account(_ context.Context, login string) (mail.Account, error) {
	if r.err != nil {
		return mail.Account{}, r.err
	}
	account, found := r.accounts[login]
	if !found {
		return mail.Account{}, status.New(status.NoSuchUser, nil)
	}
	return account, nil
}

func TestChainMapsLoginToAccount(t *testing.T) {
	t.Parallel()
	alice, gone := mail.Account{Name: "alice"}, mail.Account{Name: "gone", Disabled: true}
	known := registry{accounts: map[string]mail.Account{
		"alice": alice, "alice@example.com": alice, "al": alice, "gone": gone,
	}}
	tests := []struct {
		name, login string
		accounts    registry
		verifier    scripted
		want        status.Reason
		asked       int32
	}{
		{"by uid", "alice", known, scripted{}, status.OK, 1},
		{"by address", "Alice@Example.com", known, scripted{}, status.OK, 1},
		{"verifier names another spelling", "alice", known, scripted{as: "al"}, status.OK, 1},
		{"verifier names nobody's name", "alice", known, scripted{as: "mallory"}, status.AuthFailed, 1},
		{"verifier names a disabled account", "alice", known, scripted{as: "gone"}, status.AuthFailed, 1},
		{"no account", "nobody", known, scripted{}, status.AuthFailed, 0},
		{"disabled, right password", "gone", known, scripted{}, status.AuthFailed, 1},
		{"disabled, wrong password", "gone", known, scripted{err: sayNo}, status.AuthFailed, 1},
		{"directory down", "alice", registry{err: sayDown}, scripted{}, status.AuthTemporary, 0},
	}
	for i := range tests {
		tt := &tests[i]
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			tt.verifier.name = "v"
			chain, _ := newChain(t, Config{}, Link{Verifier: &tt.verifier, Accounts: tt.accounts})
			id, err := chain.Verify(t.Context(), attempt(tt.login, "x"))
			if status.Of(err) != tt.want || tt.verifier.asked.Load() != tt.asked {
				t.Fatalf("Verify(%q) = %v, asked %d; want %v, %d", tt.login, err, tt.verifier.asked.Load(), tt.want, tt.asked)
			}
			if tt.want == status.OK && (id.Authentication != "alice" || tt.verifier.seen.Load().Login != "alice") {
				t.Errorf("identity %+v, verifier saw %q; want alice", id, tt.verifier.seen.Load().Login)
			}
		})
	}
}

func TestChainAuthorization(t *testing.T) {
	t.Parallel()
	alice := mail.Account{Name: "alice"}
	known := registry{accounts: map[string]mail.Account{
		"alice": alice, "al@example.com": alice, "alias@example.com": alice, "bob": {Name: "bob"},
	}}
	tests := []struct {
		name, wanted string
		accounts     Accounts
		want         status.Reason
	}{
		{"none", "", known, status.OK},
		{"what was typed", "AL@example.com", nil, status.OK},
		{"the account", "alice", known, status.OK},
		{"another address of the account", "Alias@Example.com", known, status.OK},
		{"another address, no directory", "alias@example.com", nil, status.AuthorizationDenied},
		{"another account", "bob", known, status.AuthorizationDenied},
		{"nobody", "nobody", known, status.AuthorizationDenied},
		{"malformed", "alice\x00", known, status.AuthorizationDenied},
		{"directory down", "alias@example.com", downFor{known, "alias@example.com"}, status.AuthTemporary},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			chain, audit := newChain(t, Config{}, Link{Verifier: &scripted{name: "v"}, Accounts: tt.accounts})
			a := attempt("al@example.com", "right")
			a.Authorization = tt.wanted
			id, err := chain.Verify(t.Context(), a)
			if status.Of(err) != tt.want {
				t.Fatalf("acting as %q: %v, want %v", tt.wanted, err, tt.want)
			}
			if err == nil && id.Authorization != id.Authentication {
				t.Errorf("identity %+v", id)
			}
			if event := audit.last(t); (event.Result == "ok") != (tt.want == status.OK) {
				t.Errorf("audited %+v", event)
			}
			a.Authorization = ""
			if _, err := chain.Verify(t.Context(), a); err != nil {
				t.Errorf("afterwards, as itself: %v", err)
			}
		})
	}
}

// downFor is a directory that fails for one login.
type downFor struct {
	registry
	login string
}

func (d downFor) Account(ctx context.Context, login string) (mail.Account, error) {
	if login == d.login {
		return mail.Account{}, sayDown
	}
	return d.registry.Account(ctx, login)
}

func TestDisabledAccountIsNotRememberedAsWrong(t *testing.T) {
	t.Parallel()
	accounts := registry{accounts: map[string]mail.Account{"alice": {Name: "alice", Disabled: true}}}
	// The directory may tell of it, or the verifier itself.
	disabled := status.Errorf(status.AuthFailed, "%w", ErrRightButRefused)
	knows := &scripted{name: "v", err: disabled}
	for name, row := range map[string]struct {
		link   Link
		enable func()
	}{
		"by the directory": {Link{Verifier: &scripted{name: "v"}, Accounts: accounts}, func() { accounts.accounts["alice"] = mail.Account{Name: "alice"} }},
		"by the verifier":  {Link{Verifier: knows}, func() { knows.err = nil }},
	} {
		chain, _ := newChain(t, Config{}, row.link)
		for range 30 { // as a telephone goes on
			if _, err := chain.Verify(t.Context(), attempt("alice", "right")); status.Of(err) != status.AuthFailed {
				t.Fatalf("%s: while it is disabled: %v", name, err)
			}
		}
		row.enable()
		if _, err := chain.Verify(t.Context(), attempt("alice", "right")); err != nil {
			t.Errorf("%s: after the account was enabled again: %v", name, err)
		}
	}
}

func TestVerifierWithoutIdentityIsUnknown(t *testing.T) {
	t.Parallel()
	chain, _ := newChain(t, Config{}, Link{Verifier: anonymous{}})
	if id, err := chain.Verify(t.Context(), attempt("alice", "x")); status.Of(err) != status.AuthTemporary {
		t.Errorf("Verify = %+v, %v; want AuthTemporary", id, err)
	}
}

type anonymous struct{}

func (anonymous) Name() string { return "anonymous" }
func (anonymous) Verify(context.Context, Attempt) (mail.Identity, error) {
	return mail.Identity{}, nil
}

func TestNewRefusesBadConfig(t *testing.T) {
	t.Parallel()
	for name, try := range map[string]struct {
		cfg   Config
		links []Link
	}{
		"no verifiers":         {},
		"negative timeout":     {Config{Timeout: -1}, []Link{{Verifier: anonymous{}}}},
		"negative concurrency": {Config{Concurrency: -1}, []Link{{Verifier: anonymous{}}}},
	} {
		if _, err := New(try.cfg, try.links, &ledger{}, hclog.NewNullLogger()); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}
