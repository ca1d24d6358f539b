package recall

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/authn"
	authnldap "github.com/postern-mail/postern/authn/ldap"
	"github.com/postern-mail/postern/authn/lockout"
	dir "github.com/postern-mail/postern/directory"
	dirldap "github.com/postern-mail/postern/directory/ldap"
	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
	"github.com/postern-mail/postern/store"
	"github.com/postern-mail/postern/store/memory"
	"github.com/postern-mail/postern/store/storetest"
	"github.com/postern-mail/postern/testdata/ldif"
)

var testKey = make([]byte, 32)

func open(t *testing.T, cfg Config, kv store.Store) *Cache {
	t.Helper()
	c := New(cfg, testKey, kv, hclog.NewNullLogger())
	if err := c.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	return c
}

func newStore() store.Store {
	kv, _ := memory.NewDisk().Open()
	return kv
}

func known(name, version, password string) authn.Known {
	return authn.Known{Verifier: "ldap", Source: "corp", Account: name, Version: version, Password: password}
}

func TestFresh(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := open(t, Config{}, nil).Online()
		alice := known("alice", "v1", "secret")
		if r.Fresh(alice, time.Now()) {
			t.Error("never asked, and right")
		}
		r.Right(alice, time.Now())
		r.Right(known("carol", "", "secret"), time.Now())
		for name, k := range map[string]authn.Known{
			"another password": known("alice", "v1", "other"), "changed password": known("alice", "v2", "secret"),
			"another person": known("bob", "v1", "secret"), "another directory": {Verifier: "ldap", Source: "branch", Account: "alice", Version: "v1", Password: "secret"},
			"another verifier": {Verifier: "pam", Source: "corp", Account: "alice", Version: "v1", Password: "secret"},
		} {
			if r.Fresh(k, time.Now()) || r.Offline(t.Context(), k, time.Now()) {
				t.Errorf("%s is right", name)
			}
		}
		time.Sleep(5 * time.Minute)
		if !r.Fresh(alice, time.Now()) || r.Fresh(known("carol", "", "secret"), time.Now()) {
			t.Error("after five minutes a password whose changes show is asked about, or one whose do not is not")
		}
		r.Wrong(known("alice", "v1", "other"))
		if !r.Fresh(alice, time.Now()) {
			t.Error("a wrong password made the right one forgotten")
		}
		time.Sleep(55 * time.Minute)
		if r.Fresh(alice, time.Now()) {
			t.Error("right for ever")
		}
		if r.Offline(t.Context(), alice, time.Now()) {
			t.Error("a login without the verifier where that is not allowed")
		}
		r.Right(alice, time.Now())
		r.Wrong(alice)
		if r.Fresh(alice, time.Now()) {
			t.Error("the verifier said no, and it is right")
		}
	})
}

func TestOffline(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		kv := newStore()
		c := open(t, Config{}, kv)
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- c.Run(ctx) }()
		r := c.OfflineToo()
		alice, gone := known("alice", "v1", "secret"), known("gone", "v1", "secret")
		r.Right(alice, time.Now())
		r.Right(gone, time.Now())
		time.Sleep(time.Second)
		r.Wrong(known("alice", "v1", "guess"))
		r.Wrong(gone)
		time.Sleep(time.Second)
		stop()
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
		again := open(t, Config{}, kv) // the server started while the directory is down
		if memory, disk := again.Len(); memory != 0 || disk != 1 {
			t.Errorf("%d and %d are remembered", memory, disk)
		}
		r = again.OfflineToo()
		time.Sleep(20 * time.Hour)
		for name, row := range map[string]struct {
			k    authn.Known
			want bool
		}{
			"right": {alice, true}, "another password": {known("alice", "v1", "other"), false}, "changed meanwhile": {known("alice", "v2", "secret"), false},
			"said to be wrong": {gone, false}, "never seen": {known("bob", "v1", "secret"), false},
		} {
			if r.Fresh(row.k, time.Now()) || r.Offline(t.Context(), row.k, time.Now()) != row.want {
				t.Errorf("%s: want %v", name, row.want)
			}
		}
		if again.Online().Offline(t.Context(), alice, time.Now()) {
			t.Error("let in for a verifier that does not allow it")
		}
		time.Sleep(4 * time.Hour)
		if r.Offline(t.Context(), alice, time.Now()) {
			t.Error("let in a day after the verifier said yes")
		}
		if err := again.sweep(t.Context(), time.Now()); err != nil {
			t.Fatal(err)
		}
		if _, disk := open(t, Config{}, kv).Len(); disk != 0 {
			t.Errorf("%d are left in the store after a day", disk)
		}
		r.Right(alice, time.Now())
		if err := again.do(t.Context(), job{alice, time.Now()}); err != nil {
			t.Fatal(err)
		}
		if err := again.Clear(t.Context()); err != nil || r.Offline(t.Context(), alice, time.Now()) {
			t.Errorf("remembered after all was cleared, %v", err)
		}
	})
}

func TestBounded(t *testing.T) {
	t.Parallel()
	kv := newStore()
	c := open(t, Config{Entries: 3}, kv)
	r := c.OfflineToo()
	for i := range 10 {
		k := known(fmt.Sprint("p", i), "v1", "secret")
		r.Right(k, time.Now())
		if err := c.do(t.Context(), job{k, time.Now()}); err != nil {
			t.Fatal(err)
		}
	}
	if memory, disk := c.Len(); memory != 3 || disk != 3 {
		t.Errorf("%d and %d are remembered, bound 3", memory, disk)
	}
	if !r.Fresh(known("p9", "v1", "secret"), time.Now()) || r.Fresh(known("p0", "v1", "secret"), time.Now()) {
		t.Error("the youngest is forgotten, or the oldest is not")
	}
	for range 2 * jobsWaiting { // nobody writes: logins go on
		r.Right(known("alice", "", "secret"), time.Now())
	}
}

func TestPowerCut(t *testing.T) {
	t.Parallel()
	for seed := range uint64(4) {
		machine := storetest.NewMachine()
		c := open(t, Config{}, machine.OpenStore(t))
		alice := known("alice", "v1", "secret")
		if err := c.do(t.Context(), job{alice, time.Now()}); err != nil {
			t.Fatal(err)
		}
		again := open(t, Config{}, machine.Cut(seed).OpenStore(t))
		if !again.OfflineToo().Offline(t.Context(), alice, time.Now()) {
			t.Errorf("seed %d: what was written is lost", seed)
		}
	}
}

// scripted is a verifier that may be down.
type scripted struct {
	mu    sync.Mutex
	right string
	down  bool
	asked int
}

func (*scripted) Name() string { return "ldap" }

func (v *scripted) Verify(_ context.Context, a authn.Attempt) (mail.Identity, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.asked++
	switch {
	case v.down:
		return mail.Identity{}, status.New(status.DirectoryDown, errors.New("connection refused"))
	case a.Password != v.right:
		return mail.Identity{}, status.New(status.AuthFailed, errors.New("wrong"))
	}
	return mail.Identity{Authentication: a.Login}, nil
}

func (v *scripted) set(right string, down bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.right, v.down = right, down
}

type discard struct{}

func (discard) Record(mail.Event) {}

// TestInAChain has a directory that fails, changes passwords and disables.
func TestInAChain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		v, who := &scripted{right: "secret"}, &directory{account: mail.Account{Name: "alice", Source: "corp", CredentialVersion: "v1"}}
		chain, err := authn.New(authn.Config{FailureBeat: -1}, []authn.Link{{Verifier: v, Accounts: who, Recall: open(t, Config{}, nil).OfflineToo()}}, discard{}, hclog.NewNullLogger())
		if err != nil {
			t.Fatal(err)
		}
		verify := func(what, login, password string, want status.Reason, remembered bool, asked int) {
			t.Helper()
			identity, err := chain.Verify(t.Context(), authn.Attempt{Login: login, Password: password, Service: "imap"})
			if status.Of(err) != want || identity.Remembered != remembered || v.asked != asked {
				t.Fatalf("%s: %v, %+v, asked %d times; want %v, remembered %v, %d", what, err, identity, v.asked, want, remembered, asked)
			}
		}
		verify("first", "alice", "secret", status.OK, false, 1)
		verify("again", "alice", "secret", status.OK, true, 1)
		v.set("secret", true)
		verify("directory down", "alice", "secret", status.OK, true, 1)
		time.Sleep(2 * time.Hour)
		verify("down for hours", "alice", "secret", status.OK, true, 2)
		verify("another password while down", "alice", "other", status.AuthTemporary, false, 3)
		v.set("changed", false)
		who.set(func(a *mail.Account) { a.CredentialVersion = "v2" })
		verify("the old password", "alice", "secret", status.AuthFailed, false, 4)
		verify("the new password", "alice", "changed", status.OK, false, 5)
		verify("the new password again", "alice", "changed", status.OK, true, 5)
		who.set(func(a *mail.Account) { a.Disabled = true })
		verify("disabled", "alice", "changed", status.AuthFailed, false, 6)
		who.set(func(a *mail.Account) { a.Disabled = false; a.Name = "other" })
		verify("deleted", "alice", "changed", status.AuthFailed, false, 6)
	})
}

// directory is a directory of one person.
type directory struct {
	mu      sync.Mutex
	account mail.Account
}

func (d *directory) set(change func(*mail.Account)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	change(&d.account)
}

func (d *directory) Account(_ context.Context, login string) (mail.Account, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if login != d.account.Name {
		return mail.Account{}, status.New(status.NoSuchUser, nil)
	}
	return d.account, nil
}

func TestRace(t *testing.T) {
	t.Parallel()
	c := open(t, Config{Entries: 5}, newStore())
	ctx, stop := context.WithCancel(t.Context())
	var run, all sync.WaitGroup
	run.Go(func() { _ = c.Run(ctx) })
	for w := range 4 {
		all.Go(func() {
			r := c.OfflineToo()
			for i := range 200 {
				k := known(fmt.Sprint("p", (i+w)%9), "v1", "secret")
				r.Right(k, time.Now())
				r.Fresh(k, time.Now())
				if i%50 == 0 {
					r.Offline(ctx, k, time.Now())
					r.Wrong(k)
				}
				c.Counts()
				c.Len()
			}
		})
	}
	all.Wait()
	stop()
	run.Wait()
}

// BenchmarkLogins logs people in over a private slapd: cold by a bind each, and
// from the cache. The account is in the directory's own cache, as it is with a
// replica.
func BenchmarkLogins(b *testing.B) {
	slapd := testenv.Slapd(b, testenv.SlapdOptions{})
	log := hclog.NewNullLogger()
	client, err := dirldap.New(dirldap.Config{
		URIs: []string{slapd.LDAPI}, BindDN: slapd.Tree.ServiceDN, BindPasswordFile: slapd.ServicePasswordFile,
		Timeout: 5 * time.Second, MaxConnections: 8, MaxBindConnections: 8,
	}, log)
	if err != nil {
		b.Fatal(err)
	}
	company, err := dir.New(dir.Config{Preset: slapd.Tree.Preset, BaseDN: dir.DN(slapd.Tree.BaseDN)}, client, log)
	if err != nil {
		b.Fatal(err)
	}
	verifier, err := authnldap.New(authnldap.Config{}, company, client)
	if err != nil {
		b.Fatal(err)
	}
	key := make([]byte, lockout.KeyOctets)
	memory, err := lockout.New(lockout.Config{}, key, nil, nil, log)
	if err != nil {
		b.Fatal(err)
	}
	for name, recall := range map[string]authn.Recall{"cold": nil, "cached": New(Config{UnversionedFor: time.Hour}, key, nil, log).Online()} {
		b.Run(name, func(b *testing.B) {
			chain, err := authn.New(authn.Config{Memory: memory}, []authn.Link{{Verifier: verifier, Accounts: company, FindsAccounts: true, Recall: recall}}, discard{}, log)
			if err != nil {
				b.Fatal(err)
			}
			people := []string{"alice", "bob", "carol"}
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for i := 0; pb.Next(); i++ {
					who := people[i%len(people)]
					if _, err := chain.Verify(b.Context(), authn.Attempt{Login: who, Password: ldif.Password(who), Service: "imap"}); err != nil {
						b.Error(err)
						return
					}
				}
			})
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "logins/s")
		})
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(diskEntry{right: time.UnixMilli(1_700_000_000_000), version: 7}.encode())
	f.Add([]byte{2})
	f.Fuzz(func(t *testing.T, b []byte) {
		if e, err := decode(b); err == nil && string(e.encode()) != string(b) {
			t.Fatalf("%x is read as %x", b, e.encode())
		}
	})
}
