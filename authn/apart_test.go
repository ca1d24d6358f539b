package authn

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"github.com/postern-mail/postern/authn/lockout"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// byPassword says yes to one password.
type byPassword struct {
	scripted
	right string
}

func (v *byPassword) Verify(ctx context.Context, a Attempt) (mail.Identity, error) {
	id, err := v.scripted.Verify(ctx, a)
	if err == nil && a.Password != v.right {
		return mail.Identity{}, sayNo
	}
	return id, err
}

// A person and a master user, or a recovery account, may have one name and two
// passwords: what is wrong for the one says nothing of the other.
func TestWrongForANamesakeIsNotWrong(t *testing.T) {
	t.Parallel()
	acting := func(a Attempt) bool { return a.Authorization != "" }
	links := func() []Link {
		return []Link{
			{Verifier: &byPassword{scripted{name: "master"}, "masters"}, Takes: acting, Impersonates: true, Apart: true},
			{Verifier: &byPassword{scripted{name: "ldap"}, "persons"}},
		}
	}
	master := func(password string) Attempt {
		a := attempt("admin", password)
		a.Authorization = "alice"
		return a
	}
	for name, order := range map[string][]Attempt{
		"the person's tried as master": {master("persons"), attempt("admin", "persons")},
		"the master's tried as person": {attempt("admin", "masters"), master("masters")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			chain, _ := newChain(t, remembering(t, lockout.Config{}), links()...)
			if _, err := chain.Verify(t.Context(), order[0]); status.Of(err) != status.AuthFailed {
				t.Fatalf("the first: %v", err)
			}
			if _, err := chain.Verify(t.Context(), order[1]); err != nil {
				t.Errorf("the second, which is right: %v", err)
			}
		})
	}
}

// Guesses at a master go on costing waiting, though none is remembered.
func TestGuessesAtAMasterAreHeldOff(t *testing.T) {
	t.Parallel()
	v := &byPassword{scripted{name: "master"}, "masters"}
	chain, _ := newChain(t, remembering(t, lockout.Config{PairFailures: 3}), Link{Verifier: v, Impersonates: true, Apart: true})
	for range 10 {
		_, _ = chain.Verify(t.Context(), attempt("admin", "wrong"))
	}
	if asked := v.asked.Load(); asked > 4 {
		t.Errorf("%d guesses were asked about", asked)
	}
	if _, err := chain.Verify(t.Context(), attempt("admin", "masters")); status.Of(err) != status.AuthTooMany {
		t.Errorf("while held off: %v", err)
	}
}

// notebook is a Recall that keeps what was right.
type notebook map[Known]bool

func (n notebook) Fresh(k Known, _ time.Time) bool                { return n[k] }
func (n notebook) Offline(context.Context, Known, time.Time) bool { return false }
func (n notebook) Right(k Known, _ time.Time)                     { n[k] = true }
func (n notebook) Wrong(k Known)                                  { delete(n, k) }

// PAM is told the protocol and the client's address, and rules there, such as
// pam_access, decide by both.
func TestPAMsYesHoldsForItsProtocolAndAddress(t *testing.T) {
	t.Parallel()
	v := &scripted{name: "pam"}
	chain, _ := newChain(t, Config{}, Link{Verifier: v, Recall: notebook{}, PerService: true})
	a := attempt("alice", "right")
	for range 2 {
		if _, err := chain.Verify(t.Context(), a); err != nil {
			t.Fatal(err)
		}
	}
	if asked := v.asked.Load(); asked != 1 {
		t.Fatalf("asked %d times about one client, want 1", asked)
	}
	v.err = sayNo
	elsewhere, other := a, a
	elsewhere.Remote = netip.MustParseAddrPort("203.0.113.9:40000")
	other.Service = "imap"
	for _, a := range []Attempt{elsewhere, other} {
		if _, err := chain.Verify(t.Context(), a); status.Of(err) != status.AuthFailed {
			t.Errorf("%v: %v, want a no", a, err)
		}
	}
}

// A reload in the middle of an exchange brings another chain, whose links are
// others.
func TestSecretOfAnotherChainProvesNothing(t *testing.T) {
	t.Parallel()
	secret := func() *holder {
		return &holder{scripted: scripted{name: "file"}, secrets: map[string]string{"alice": "1"}}
	}
	before, _ := newChain(t, Config{}, Link{Verifier: &scripted{name: "v", err: ErrUnknownLogin}}, Link{Verifier: secret()})
	after, _ := newChain(t, Config{}, Link{Verifier: secret()})
	held, err := before.Held(t.Context(), "alice", "X")
	if err != nil || !held.Known() {
		t.Fatal(held, err)
	}
	v := vouched("alice")
	v.By, v.Held = BySCRAM, held
	if _, err := after.Vouch(t.Context(), v); status.Of(err) != status.AuthTemporary {
		t.Errorf("Vouch = %v, want not known", err)
	}
	if _, err := before.Vouch(t.Context(), v); err != nil {
		t.Errorf("by its own chain: %v", err)
	}
}

// Each directory has app passwords of its own people: a login that the first
// does not know, or whose namesake it knows, may be one of the second.
func TestEachDirectoryHasItsAppPasswords(t *testing.T) {
	t.Parallel()
	people := func(source string, names ...string) registry {
		all := map[string]mail.Account{}
		for _, name := range names {
			all[name] = mail.Account{Name: name, Source: source}
		}
		return registry{accounts: all}
	}
	first := &byPassword{scripted{name: "first"}, "1"}
	second := &byPassword{scripted{name: "second"}, "2"}
	link := func(v Verifier, accounts Accounts) Link {
		return Link{Verifier: v, Accounts: accounts, Unguessable: true, Additional: true, Takes: func(Attempt) bool { return true }}
	}
	ldap := &scripted{name: "ldap"}
	chain, _ := newChain(t, Config{}, link(first, people("corp", "alice")), link(second, people("partner", "alice", "bob")), Link{Verifier: ldap})
	for _, a := range []Attempt{attempt("bob", "2"), attempt("alice", "2"), attempt("alice", "1")} {
		want := map[string]string{"1": "corp", "2": "partner"}[a.Password]
		if id, err := chain.Verify(t.Context(), a); err != nil || id.Source != want {
			t.Errorf("%s with %s: %+v, %v, want one of %s", a.Login, a.Password, id, err, want)
		}
	}
	if _, err := chain.Verify(t.Context(), attempt("alice", "3")); status.Of(err) != status.AuthFailed || ldap.asked.Load() != 0 {
		t.Errorf("a password of nobody: %v, directory asked %d times", err, ldap.asked.Load())
	}
	down, _ := newChain(t, Config{}, link(first, registry{err: sayDown}), link(second, people("partner", "bob")))
	if _, err := down.Verify(t.Context(), attempt("alice", "1")); status.Of(err) != status.AuthTemporary {
		t.Errorf("while its directory is down: %v, want not known", err)
	}
}
