package replica_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/directory"
	"github.com/postern-mail/postern/directory/index"
	"github.com/postern-mail/postern/directory/replica"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
	"github.com/postern-mail/postern/store"
	"github.com/postern-mail/postern/store/pebble"
	"github.com/postern-mail/postern/store/storetest"
)

const base = "ou=people,dc=example,dc=com"

func needs(t testing.TB) directory.Coverage {
	t.Helper()
	n, err := directory.Config{BaseDN: "dc=example,dc=com"}.Coverage()
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// scripted is a feed that does what the test says, step by step.
type scripted struct {
	steps chan func(*replica.Session) error
}

func newScripted() *scripted { return &scripted{make(chan func(*replica.Session) error)} }

// Follow implements replica.Feed.
func (f *scripted) Follow(ctx context.Context, s *replica.Session) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case step := <-f.steps:
			if err := step(s); err != nil {
				return err
			}
		}
	}
}

// do has the feed do one step.
func (f *scripted) do(t testing.TB, step func(*replica.Session) error) {
	t.Helper()
	done := make(chan struct{})
	f.steps <- func(s *replica.Session) error {
		defer close(done)
		return step(s)
	}
	<-done
}

func id(n int) (i index.ID) {
	copy(i[:], fmt.Sprintf("%016d", n))
	return i
}

func person(n int, more ...string) directory.Entry {
	uid := fmt.Sprintf("p%d", n)
	return directory.NewEntry(directory.DN("uid="+uid+","+base), map[string][]string{
		"objectClass": {"inetOrgPerson", "organizationalPerson", "person"}, "uid": {uid}, "mail": append([]string{uid + "@example.com"}, more...),
	})
}

// refresh is a full refresh of people with these numbers.
func refresh(p replica.Position, numbers ...int) func(*replica.Session) error {
	return func(s *replica.Session) error {
		s.Begin(true)
		for _, n := range numbers {
			if err := s.Put(id(n), person(n)); err != nil {
				return err
			}
		}
		return s.End(p)
	}
}

func upTo(n int) []int {
	numbers := make([]int, n)
	for i := range numbers {
		numbers[i] = i
	}
	return numbers
}

var errLost = errors.New("the connection is lost")

func lose(*replica.Session) error { return errLost }

// live counts who asks the servers, and answers for them.
type live struct {
	asked   int
	entries []directory.Entry
	err     error
}

func (l *live) Search(_ context.Context, req directory.Request) ([]directory.Entry, error) {
	l.asked++
	var found []directory.Entry
	for _, e := range l.entries {
		if directory.Match(req.Filter, e) {
			found = append(found, e)
		}
	}
	return found, l.err
}

var down = status.Errorf(status.DirectoryDown, "down")

// rig is a replica that runs with a scripted feed.
type rig struct {
	*replica.Replica
	feed *scripted
	stop func()
}

func run(t testing.TB, cfg replica.Config, kv store.Store) *rig {
	t.Helper()
	cfg.Name = "test"
	if cfg.Needs.Filter == nil {
		cfg.Needs = needs(t)
	}
	var keep *replica.Store
	if kv != nil {
		keep = replica.NewStore(kv)
	}
	feed := newScripted()
	r, err := replica.New(context.Background(), cfg, feed, keep, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	stopped := false
	rg := &rig{Replica: r, feed: feed}
	rg.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	}
	t.Cleanup(rg.stop)
	return rg
}

func (r *rig) has(t testing.TB, address string) bool {
	t.Helper()
	found, err := r.View(&live{err: down}).Search(t.Context(), directory.Request{Base: base, Filter: directory.Equal("mail", address), Attributes: []string{"mail"}})
	if err != nil {
		t.Fatalf("search for %s: %v", address, err)
	}
	return len(found) == 1
}

func TestARefreshCountsAsAWholeOrNotAtAll(t *testing.T) {
	t.Parallel()
	r := run(t, replica.Config{MinPause: time.Millisecond, MaxPause: time.Millisecond}, nil)
	r.feed.do(t, refresh(replica.Position{}, 1, 2, 3))
	r.feed.do(t, func(s *replica.Session) error {
		s.Begin(true)
		if err := s.Put(id(4), person(4)); err != nil {
			return err
		}
		if r.has(t, "p4@example.com") || !r.has(t, "p1@example.com") {
			t.Error("half of a refresh is visible")
		}
		return errLost
	})
	if r.has(t, "p4@example.com") || !r.has(t, "p1@example.com") {
		t.Error("a refresh that broke off is visible")
	}
	// What is told outside of a refresh counts at once.
	r.feed.do(t, refresh(replica.Position{}, 1, 2, 3))
	before := r.Generation()
	changed := r.Changed()
	r.feed.do(t, func(s *replica.Session) error { return s.Put(id(4), person(4)) })
	<-changed
	if !r.has(t, "p4@example.com") || r.Generation() != before+1 {
		t.Error("a change is not visible")
	}
}

func TestSweepAndPresent(t *testing.T) {
	t.Parallel()
	r := run(t, replica.Config{}, nil)
	r.feed.do(t, refresh(replica.Position{Cookie: []byte("1")}, 1, 2, 3, 4))
	r.feed.do(t, func(s *replica.Session) error {
		s.Begin(false)
		if err := errors.Join(s.Present(id(1)), s.Put(id(2), person(2, "new@example.com")), s.Put(id(9), person(9))); err != nil {
			return err
		}
		s.Delete(id(3))
		if err := s.Present(id(77)); !errors.Is(err, replica.ErrUnknownEntry) {
			t.Errorf("an entry that nobody knows is present: %v", err)
		}
		s.Sweep()
		return s.End(replica.Position{Cookie: []byte("2")})
	})
	for address, want := range map[string]bool{"p1@example.com": true, "new@example.com": true, "p9@example.com": true, "p3@example.com": false, "p4@example.com": false} {
		if r.has(t, address) != want {
			t.Errorf("%s is held: %v, want %v", address, !want, want)
		}
	}
}

func TestShrinkGuard(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name          string
		before, after int
		held          bool
	}{
		{"a few of many", 300, 251, false},
		{"49 of a few", 60, 11, false},
		{"20 percent exactly", 500, 400, false},
		{"more than 20 percent and 50", 300, 230, true},
		{"all of a few", 3, 0, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := run(t, replica.Config{}, nil)
			r.feed.do(t, refresh(replica.Position{}, upTo(c.before)...))
			r.feed.do(t, refresh(replica.Position{}, upTo(c.after)...))
			st := r.Status()
			if held := st.Quarantine != nil; held != c.held {
				t.Fatalf("quarantined: %v, want %v", held, c.held)
			}
			if !c.held {
				if st.Entries != c.after {
					t.Errorf("%d entries, want %d", st.Entries, c.after)
				}
				return
			}
			if st.Entries != c.before || st.Quarantine.Gone != c.before-c.after {
				t.Errorf("%d entries are served, want the old %d; %+v", st.Entries, c.before, st.Quarantine)
			}
			// A change meanwhile is kept for later.
			r.feed.do(t, func(s *replica.Session) error { return s.Put(id(9000), person(9000)) })
			if r.has(t, "p9000@example.com") {
				t.Error("a change of what is in quarantine is served")
			}
			if n, err := r.Accept(); err != nil || n != c.after+1 {
				t.Errorf("Accept = %d, %v", n, err)
			}
			if !r.has(t, "p9000@example.com") || r.Status().Quarantine != nil {
				t.Error("what was accepted is not served")
			}
			if _, err := r.Accept(); err == nil {
				t.Error("nothing was there to accept, and was accepted")
			}
		})
	}
}

func TestQuarantineEndsByItself(t *testing.T) {
	t.Parallel()
	r := run(t, replica.Config{}, nil)
	r.feed.do(t, refresh(replica.Position{Cookie: []byte("a")}, upTo(300)...))
	r.feed.do(t, refresh(replica.Position{Cookie: []byte("b")}, 1))
	r.feed.do(t, func(s *replica.Session) error {
		if p := s.Position(); string(p.Cookie) != "b" {
			t.Errorf("the feed would go on from %q, want from what is in quarantine", p.Cookie)
		}
		return nil
	})
	r.feed.do(t, refresh(replica.Position{Cookie: []byte("c")}, upTo(299)...))
	if st := r.Status(); st.Quarantine != nil || st.Entries != 299 {
		t.Errorf("status %+v", st)
	}
}

// A directory that was loaded anew has other identities and the same people.
func TestOtherIdentitiesAreNoLoss(t *testing.T) {
	t.Parallel()
	r := run(t, replica.Config{}, nil)
	r.feed.do(t, refresh(replica.Position{}, upTo(200)...))
	r.feed.do(t, func(s *replica.Session) error {
		s.Begin(true)
		for n := range 200 {
			if err := s.Put(id(5000+n), person(n)); err != nil {
				return err
			}
		}
		return s.End(replica.Position{})
	})
	if st := r.Status(); st.Quarantine != nil || st.Entries != 200 {
		t.Errorf("status %+v", st)
	}
}

func TestNothingIsNoReplica(t *testing.T) {
	t.Parallel()
	r := run(t, replica.Config{MinPause: time.Millisecond}, nil)
	r.feed.do(t, refresh(replica.Position{}))
	r.feed.do(t, func(*replica.Session) error { return nil })
	if st := r.Status(); st.Ready || !strings.Contains(st.Error, "not one entry") {
		t.Errorf("status %+v, want no replica", st)
	}
}

func TestWhatIsNotHeldIsTheServers(t *testing.T) {
	t.Parallel()
	servers := &live{}
	r := run(t, replica.Config{}, nil)
	v := r.View(servers)
	mails := directory.Equal("mail", "p1@example.com")
	ask := func(what string, want int, req directory.Request) {
		t.Helper()
		servers.asked = 0
		if _, err := v.Search(t.Context(), req); err != nil && !errors.Is(err, directory.ErrNoSuchBase) {
			t.Errorf("%s: %v", what, err)
		}
		if servers.asked != want {
			t.Errorf("%s: the servers were asked %d times, want %d", what, servers.asked, want)
		}
	}
	held := directory.Request{Base: base, Filter: mails, Attributes: []string{"mail", "UID"}}
	ask("before there is a replica", 1, held)
	r.feed.do(t, refresh(replica.Position{}, 1, 2))
	with := func(change func(*directory.Request)) directory.Request {
		req := held
		change(&req)
		return req
	}
	chain, _ := directory.ParseFilter("(&(mail=x)(memberOf:1.2.840.113556.1.4.1941:=cn=g))")
	open, _ := directory.ParseFilter("(&(mail=p1@example.com)(carLicense=x))")
	other := directory.Equal("objectClass", "device")
	ask("held", 0, held)
	ask("all attributes", 1, with(func(r *directory.Request) { r.Attributes = nil }))
	ask("an attribute that is not held", 1, with(func(r *directory.Request) { r.Attributes = []string{"mail", "carLicense"} }))
	ask("a filter on one that is not held", 1, with(func(r *directory.Request) { r.Filter = open }))
	ask("a matching rule of the servers", 1, with(func(r *directory.Request) { r.Filter = chain }))
	ask("entries that are not held", 1, with(func(r *directory.Request) { r.Filter = other }))
	ask("another tree", 1, with(func(r *directory.Request) { r.Base = "dc=elsewhere" }))
	ask("a name", 0, with(func(r *directory.Request) {
		r.Base, r.Scope, r.Filter = "uid=p1,"+base, directory.ScopeBase, directory.Present("objectClass")
	}))
	ask("a part of the tree without entries that count", 0, with(func(r *directory.Request) { r.Base = "ou=new,dc=example,dc=com" }))
}

func TestSecretsAreNotHeld(t *testing.T) {
	t.Parallel()
	cfg := directory.Config{BaseDN: "dc=example,dc=com", Mapping: directory.Mapping{LoginAttributes: []string{"uid", "userPassword", "sambaNTPassword"}}}
	n, err := cfg.Coverage()
	if err != nil {
		t.Fatal(err)
	}
	if slices.ContainsFunc(n.Attributes, directory.IsSecret) {
		t.Errorf("%q would be copied", n.Attributes)
	}
}

// TestStaleness walks through the ages of a replica.
func TestStaleness(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := run(t, replica.Config{MaxAge: time.Minute, MaxStale: 15 * time.Minute}, nil)
		r.feed.do(t, refresh(replica.Position{}, upTo(10)...))
		servers := &live{err: down}
		d, err := directory.New(directory.Config{BaseDN: "dc=example,dc=com", Domains: []mail.Domain{"example.com"}, Cache: directory.CacheConfig{Disabled: true}},
			r.View(servers), hclog.NewNullLogger())
		if err != nil {
			t.Fatal(err)
		}
		hired := person(77)
		check := func(what string, address string, want status.Reason) {
			t.Helper()
			a, _ := mail.ParseAddress(address)
			if _, err := d.Resolve(t.Context(), a); status.Of(err) != want {
				t.Errorf("%s: %s gives %v, want %v", what, address, err, want)
			}
		}
		check("fresh", "p1@example.com", status.OK)
		check("fresh", "p77@example.com", status.NoSuchUser)
		if servers.asked > 0 {
			t.Error("a fresh replica asked the servers")
		}
		time.Sleep(5 * time.Minute)
		check("aged, servers dead", "p1@example.com", status.OK)
		check("aged, servers dead", "p77@example.com", status.NoSuchUser)
		servers.err, servers.entries = nil, []directory.Entry{hired}
		check("aged, servers answer", "p77@example.com", status.OK)
		check("aged, servers answer", "p78@example.com", status.NoSuchUser)
		time.Sleep(20 * time.Minute)
		check("stale, servers answer", "p77@example.com", status.OK)
		check("stale, servers answer", "p78@example.com", status.NoSuchUser)
		servers.err = down
		check("stale, servers dead", "p1@example.com", status.OK)
		check("stale, servers dead", "p78@example.com", status.DirectoryDown)
		if _, err := d.Account(t.Context(), "p78"); status.Of(err) != status.DirectoryDown {
			t.Errorf("a login that nobody knows of a stale replica: %v", err)
		}
		r.feed.do(t, func(s *replica.Session) error { s.Alive(); return nil })
		check("in touch again", "p78@example.com", status.NoSuchUser)
		r.stop()
	})
}

// silent are servers that take questions and never answer.
type silent struct{ asked int }

func (s *silent) Search(ctx context.Context, _ directory.Request) ([]directory.Entry, error) {
	s.asked++
	<-ctx.Done()
	return nil, status.New(status.DirectoryDown, ctx.Err())
}

// TestSilentServersAreNotWaitedFor: what is too old is served all the same where
// those who know better hang, in the time a lookup has and with few of them
// waiting at all.
func TestSilentServersAreNotWaitedFor(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := run(t, replica.Config{}, nil)
		r.feed.do(t, refresh(replica.Position{}, upTo(10)...))
		servers := &silent{}
		d, err := directory.New(directory.Config{
			BaseDN: "dc=example,dc=com", Domains: []mail.Domain{"example.com"}, Cache: directory.CacheConfig{Disabled: true}, LookupTimeout: 2 * time.Second,
		}, r.View(servers), hclog.NewNullLogger())
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		began := time.Now()
		for i := range 10 {
			if _, err := d.Resolve(t.Context(), mail.Address{Local: mail.LocalPart(fmt.Sprintf("p%d", i)), Domain: "example.com"}); err != nil {
				t.Errorf("p%d: %v", i, err)
			}
		}
		if took := time.Since(began); took > 2*time.Second || servers.asked != 1 {
			t.Errorf("ten lookups took %v and asked %d times", took, servers.asked)
		}
		r.stop()
	})
}

func TestPausesGrow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := run(t, replica.Config{MinPause: time.Second, MaxPause: time.Minute}, nil)
		began := time.Now()
		for range 12 {
			r.feed.do(t, lose)
		}
		if took := time.Since(began); took < 2*time.Minute || took > 8*time.Minute {
			t.Errorf("12 attempts within %v", took)
		}
		if st := r.Status(); st.Reconnects != 11 && st.Reconnects != 12 {
			t.Errorf("%d ended sessions", st.Reconnects)
		}
		r.stop()
	})
}

// disk is a store in memory that keeps what it is given.
func disk(t testing.TB, m *storetest.Machine) store.Store {
	t.Helper()
	return m.OpenStore(t.(*testing.T))
}

func TestARestartServesWhatWasHeld(t *testing.T) {
	t.Parallel()
	kv := disk(t, storetest.NewMachine())
	r := run(t, replica.Config{}, kv)
	big := person(2)
	for i := range 5000 { // many times what one value of the store may hold
		big = big.With("member", append(big.Values("member"), fmt.Sprintf("uid=member%d,%s", i, base)))
	}
	r.feed.do(t, func(s *replica.Session) error {
		s.Begin(true)
		if err := errors.Join(s.Put(id(1), person(1)), s.Put(id(2), big), s.Put(id(3), person(3))); err != nil {
			return err
		}
		return s.End(replica.Position{Server: "ldap://one", Cookie: []byte("cookie")})
	})
	r.feed.do(t, func(s *replica.Session) error {
		s.Delete(id(1))
		err := errors.Join(s.Put(id(3), person(30)), s.Put(id(4), person(4)))
		s.Commit(replica.Position{Server: "ldap://one", Cookie: []byte("later")})
		return err
	})
	r.stop()

	again := run(t, replica.Config{}, kv)
	for address, want := range map[string]bool{"p1@example.com": false, "p2@example.com": true, "p3@example.com": false, "p30@example.com": true, "p4@example.com": true} {
		if again.has(t, address) != want {
			t.Errorf("after the restart %s is held: %v, want %v", address, !want, want)
		}
	}
	if e, _ := again.Entries().Get(id(2)); !slices.Equal(e.Values("member"), big.Values("member")) {
		t.Errorf("of %d members %d came back", len(big.Values("member")), len(e.Values("member")))
	}
	again.feed.do(t, func(s *replica.Session) error {
		if p := s.Position(); p.Server != "ldap://one" || string(p.Cookie) != "later" {
			t.Errorf("the position came back as %+v", p)
		}
		return nil
	})
	again.stop()

	for what, cfg := range map[string]replica.Config{
		"other servers":    {Source: "other"},
		"other attributes": {Needs: needs(t).With(directory.Coverage{Bases: []directory.DN{base}, Filter: directory.Present("x"), Attributes: []string{"x"}})},
	} {
		cfg.Name = "test"
		if cfg.Needs.Filter == nil {
			cfg.Needs = needs(t)
		}
		changed, err := replica.New(t.Context(), cfg, newScripted(), replica.NewStore(kv), hclog.NewNullLogger())
		if err != nil || changed.Status().Ready {
			t.Errorf("%s: a store of another configuration is served: %v", what, err)
		}
	}
}

// TestPowerCuts ends the power again and again while refreshes and changes are
// stored: what is found afterwards is one of the contents that were served.
func TestPowerCuts(t *testing.T) {
	t.Parallel()
	m := storetest.NewMachine()
	cuts := 0
	for round := range uint64(12) {
		kv := disk(t, m)
		var next *storetest.Machine
		var ops atomic.Int64
		m.OnOp(func(int) {
			if ops.Add(1) == int64(1+round) {
				next = m.Cut(round)
			}
		})
		r := run(t, replica.Config{ShrinkEntries: 1 << 30}, kv)
		if n := r.Status().Entries; round > 0 && n != 0 && n%100 != 0 {
			t.Fatalf("round %d: %d entries came back, and contents have whole hundreds", round, n)
		}
		for step := range 4 {
			n := 100 * (1 + (int(round)+step)%9)
			r.feed.do(t, refresh(replica.Position{Cookie: fmt.Append(nil, n)}, upTo(n)...))
		}
		r.stop()
		m.OnOp(nil)
		_ = kv.Close()
		if next != nil {
			m = next
			cuts++
		}
	}
	if cuts < 6 {
		t.Errorf("the power went %d times in 12 rounds: the test tests little", cuts)
	}
}

func TestFilesAreTheOwnersAlone(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "directory")
	kv, err := pebble.Open(t.Context(), pebble.Config{Dir: dir, Private: true, ReserveOctets: -1}, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	r := run(t, replica.Config{}, kv)
	r.feed.do(t, refresh(replica.Position{}, upTo(100)...))
	r.stop()
	files := 0
	err = filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		info, err := entry.Info()
		files++
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		return err
	})
	if err := errors.Join(err, kv.Close()); err != nil || files < 3 {
		t.Errorf("%d files, %v", files, err)
	}
}

// failing is a store whose commits fail.
type failing struct{ store.Store }

func (failing) Commit(context.Context, *store.Batch) (store.Result, error) {
	return store.Result{}, store.ErrFull
}

func TestAFullDiskStopsNothing(t *testing.T) {
	t.Parallel()
	r := run(t, replica.Config{}, failing{disk(t, storetest.NewMachine())})
	r.feed.do(t, refresh(replica.Position{}, 1, 2))
	r.stop()
	if !r.has(t, "p1@example.com") || !strings.Contains(r.Status().StoreError, "full") {
		t.Errorf("status %+v", r.Status())
	}
}
