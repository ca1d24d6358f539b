package apppass

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/authn"
	"github.com/postern-mail/postern/status"
	"github.com/postern-mail/postern/store"
	"github.com/postern-mail/postern/store/memory"
	"github.com/postern-mail/postern/store/storetest"
)

var testKey = make([]byte, 32)

func open(t *testing.T, kv store.Store) *Passwords {
	t.Helper()
	p, err := Open(t.Context(), testKey, kv, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func newStore() store.Store {
	kv, _ := memory.NewDisk().Open()
	return kv
}

func add(t *testing.T, p *Passwords, pw Password) (string, Password) {
	t.Helper()
	secret, made, err := p.Add(t.Context(), pw)
	if err != nil {
		t.Fatal(err)
	}
	return secret, made
}

func attempt(login, password, service, from string) authn.Attempt {
	return authn.Attempt{Login: login, Password: password, Service: service, Remote: netip.AddrPortFrom(netip.MustParseAddr(from), 4000)}
}

func verify(t *testing.T, p *Passwords, a authn.Attempt) error {
	t.Helper()
	_, err := p.Verifier("corp").Verify(t.Context(), a)
	if err != nil && status.Of(err) != status.AuthFailed {
		t.Errorf("%v is no definite no", err)
	}
	return err
}

func TestForm(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for range 200 {
		secret := grouped(newSecret())
		if seen[secret] || len(secret) != 24 || !HasForm(secret) {
			t.Fatalf("%q", secret)
		}
		seen[secret] = true
		for _, spelling := range []string{strings.ToUpper(secret), strings.ReplaceAll(secret, "-", ""), strings.ReplaceAll(secret, "-", " "), " " + secret} {
			if !HasForm(spelling) {
				t.Errorf("%q was not recognised", spelling)
			}
		}
		swapped := []byte(secret)
		swapped[0], swapped[1] = swapped[1], swapped[0]
		if string(swapped) != secret && HasForm(string(swapped)) {
			t.Errorf("a typing mistake shows not: %q", swapped)
		}
	}
	for _, other := range []string{"", "secret", "correct horse battery staple", "abcd-abcd-abcd-abcd-abcd", strings.Repeat("-", 24), strings.Repeat("a", 1000), "ábcd-efgh-ijkl-mnop-qrst"} {
		if HasForm(other) {
			t.Errorf("%q has the form", other)
		}
	}
}

func TestLimits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := open(t, newStore())
		secret, made := add(t, p, Password{
			Source: "corp", Account: "alice", Label: "phone", Protocols: []string{"imap", "smtp"},
			Networks: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8::/32")}, Expires: time.Now().Add(time.Hour),
		})
		other, _ := add(t, p, Password{Source: "corp", Account: "bob"})
		elsewhere, _ := add(t, p, Password{Source: "branch", Account: "alice"})
		check := func(name string, a authn.Attempt, want bool) {
			t.Helper()
			if err := verify(t, p, a); (err == nil) != want {
				t.Errorf("%s: %v, want a yes: %v", name, err, want)
			}
		}
		check("right", attempt("alice", secret, "imap", "192.0.2.7"), true)
		check("without hyphens", attempt("alice", strings.ReplaceAll(secret, "-", ""), "submission", "2001:db8::1"), true)
		check("mapped address", attempt("alice", secret, "imap", "::ffff:192.0.2.7"), true)
		check("another network", attempt("alice", secret, "imap", "198.51.100.7"), false)
		check("another protocol", attempt("alice", secret, "pop3", "192.0.2.7"), false)
		check("another person", attempt("bob", secret, "imap", "192.0.2.7"), false)
		check("another's password", attempt("alice", other, "imap", "192.0.2.7"), false)
		check("a namesake's password", attempt("alice", elsewhere, "imap", "192.0.2.7"), false)
		check("without limits", attempt("bob", other, "managesieve", "198.51.100.7"), true)
		check("made up", attempt("alice", grouped(newSecret()), "imap", "192.0.2.7"), false)
		identity, err := p.Verifier("corp").Verify(t.Context(), attempt("alice", secret, "imap", "192.0.2.7"))
		if err != nil || identity.Authentication != "alice" || identity.App != made.ID+" (phone)" {
			t.Errorf("%+v, %v", identity, err)
		}
		time.Sleep(time.Hour)
		check("expired", attempt("alice", secret, "imap", "192.0.2.7"), false)
		for name, bad := range map[string]Password{
			"no account": {}, "NUL": {Account: "a\x00b"}, "a long label": {Account: "a", Label: strings.Repeat("x", 101)},
			"a label of two lines": {Account: "a", Label: "a\nb"}, "no protocol": {Account: "a", Protocols: []string{"ftp"}},
			"many networks": {Account: "a", Networks: make([]netip.Prefix, maxNetworks+1)},
		} {
			if _, _, err := p.Add(t.Context(), bad); err == nil {
				t.Errorf("%s was taken", name)
			}
		}
		for range maxPerAccount {
			_, _, err = p.Add(t.Context(), Password{Account: "many"})
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := p.Add(t.Context(), Password{Account: "many"}); !errors.Is(err, errTooMany) {
			t.Errorf("one too many: %v", err)
		}
	})
}

func TestKeptOverRestarts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		kv := newStore()
		p := open(t, kv)
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- p.Run(ctx) }()
		secret, made := add(t, p, Password{Source: "corp", Account: "alice"})
		gone, revoked := add(t, p, Password{Source: "corp", Account: "alice"})
		for _, s := range []string{secret, gone} {
			if err := verify(t, p, attempt("alice", s, "imap", "192.0.2.7")); err != nil {
				t.Fatal(err)
			}
		}
		if n, err := p.Revoke(t.Context(), "corp", "alice", revoked.ID); n != 1 || err != nil {
			t.Fatal(n, err)
		}
		time.Sleep(2 * writeEvery)
		if err := verify(t, p, attempt("alice", secret, "imap", "192.0.2.8")); err != nil {
			t.Fatal(err)
		}
		stop()
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
		again := open(t, kv)
		all := again.List("corp", "alice")
		if len(all) != 1 || all[0].ID != made.ID || all[0].LastFrom.String() != "192.0.2.8" || all[0].LastUsed.IsZero() || again.Count() != 1 {
			t.Errorf("after the restart: %+v", all)
		}
		if verify(t, again, attempt("alice", secret, "imap", "192.0.2.7")) != nil || verify(t, again, attempt("alice", gone, "imap", "192.0.2.7")) == nil {
			t.Error("the restart took a password, or brought a revoked one back")
		}
		if _, err := again.Revoke(t.Context(), "corp", "alice", "nothere"); !errors.Is(err, ErrNotFound) {
			t.Errorf("revoke what is not there: %v", err)
		}
		if n, err := again.Revoke(t.Context(), "corp", "alice", ""); n != 1 || err != nil {
			t.Errorf("revoke all: %d, %v", n, err)
		}
		other, err := Open(t.Context(), []byte("another key"), kv, hclog.NewNullLogger())
		if err != nil || verify(t, other, attempt("alice", secret, "imap", "192.0.2.7")) == nil {
			t.Errorf("with another key: %v", err)
		}
	})
}

// TestPowerCuts: what was printed works after a cut, what was revoked does not.
func TestPowerCuts(t *testing.T) {
	t.Parallel()
	for seed := range uint64(6) {
		machine := storetest.NewMachine()
		p := open(t, machine.OpenStore(t))
		kept, _ := add(t, p, Password{Source: "corp", Account: "alice"})
		gone, revoked := add(t, p, Password{Source: "corp", Account: "alice"})
		if _, err := p.Revoke(t.Context(), "corp", "alice", revoked.ID); err != nil {
			t.Fatal(err)
		}
		again := open(t, machine.Cut(seed).OpenStore(t))
		if err := verify(t, again, attempt("alice", kept, "imap", "192.0.2.7")); err != nil {
			t.Errorf("seed %d: a password that was printed is lost: %v", seed, err)
		}
		if verify(t, again, attempt("alice", gone, "imap", "192.0.2.7")) == nil {
			t.Errorf("seed %d: a revoked password is back", seed)
		}
	}
}

func TestRace(t *testing.T) {
	t.Parallel()
	p := open(t, newStore())
	var all sync.WaitGroup
	for w := range 4 {
		all.Go(func() {
			for range 50 {
				name := fmt.Sprint("p", w%2)
				secret, made, err := p.Add(context.Background(), Password{Source: "corp", Account: name})
				if err != nil {
					t.Error(err)
					return
				}
				_ = verify(t, p, attempt(name, secret, "imap", "192.0.2.7"))
				_ = p.writeUsed(context.Background())
				p.List("corp", name)
				if _, err := p.Revoke(context.Background(), "corp", name, made.ID); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	if p.Count() != 0 || len(p.used) != 0 || len(p.byOwner) != 0 {
		t.Errorf("%d are left", p.Count())
	}
}

func FuzzDecode(f *testing.F) {
	value, err := encode(Password{ID: "1", Account: "alice"}, digest{1})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(value, "abcd-efgh")
	f.Add([]byte(`{"v":2}`), grouped(newSecret()))
	f.Fuzz(func(t *testing.T, value []byte, password string) {
		if k, err := decode(value); err == nil {
			if again, err := encode(k.Password, k.digest); err != nil {
				t.Fatalf("%s: %v", again, err)
			}
		}
		if secret, ok := plain(password); ok && !HasForm(grouped(secret)) {
			t.Fatalf("%q is recognised, and its groups are not", password)
		}
	})
}
