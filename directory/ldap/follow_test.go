package ldap_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	goldap "github.com/go-ldap/ldap/v3"
	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/directory"
	"github.com/postern-mail/postern/directory/directorytest"
	"github.com/postern-mail/postern/directory/ldap"
	"github.com/postern-mail/postern/directory/replica"
	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
	company "github.com/postern-mail/postern/testdata/ldif"
)

// nobody is the servers behind a replica when all of them are dead.
type nobody struct{}

func (nobody) Search(context.Context, directory.Request) ([]directory.Entry, error) {
	return nil, status.Errorf(status.DirectoryDown, "every server is dead")
}

func (nobody) Bind(context.Context, string, string) error {
	return status.Errorf(status.DirectoryDown, "every server is dead")
}

// configOf is the directory that a tree's preset describes.
func configOf(tree company.Tree) directory.Config {
	return directory.Config{Preset: tree.Preset, BaseDN: directory.DN(tree.BaseDN), Domains: []mail.Domain{"example.com"}}
}

func needsOf(t testing.TB, tree company.Tree) directory.Coverage {
	t.Helper()
	needs, err := configOf(tree).Coverage()
	if err != nil {
		t.Fatal(err)
	}
	return needs
}

// following is a replica with the servers it follows.
type following struct {
	*replica.Replica
	stop func()
}

// follow runs a replica until the test ends.
func follow(t testing.TB, tree company.Tree, cfg ldap.Config, feed ldap.FeedConfig) following {
	t.Helper()
	return followWith(t, replica.Config{Needs: needsOf(t, tree)}, cfg, feed)
}

func followWith(t testing.TB, rc replica.Config, cfg ldap.Config, feed ldap.FeedConfig) following {
	t.Helper()
	rc.Name = "test"
	rc.MinPause, rc.MaxPause = 10*time.Millisecond, 100*time.Millisecond
	feed.Needs = rc.Needs
	r, err := replica.New(t.Context(), rc, open(t, cfg).Feed(feed), nil, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	running, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(running) }()
	stop := func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
		ended <- nil
	}
	t.Cleanup(stop)
	return following{r, stop}
}

// again runs a replica that was stopped.
func (f following) again(t testing.TB) {
	t.Helper()
	running, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- f.Run(running) }()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
}

// until waits for what the replica's status shows.
func (f following) until(t testing.TB, what string, holds func(replica.Status) bool) replica.Status {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	end := time.After(2 * time.Minute)
	for {
		st := f.Status()
		if holds(st) {
			return st
		}
		select {
		case <-end:
			t.Fatalf("waited for %s in vain: %+v", what, st)
		case <-tick.C:
		}
	}
}

func (f following) ready(t testing.TB) {
	t.Helper()
	f.until(t, "a complete replica", func(st replica.Status) bool { return st.Ready })
}

// find returns the DNs of the entries with a mail address.
func (f following) find(t testing.TB, address string) []string {
	t.Helper()
	found, err := f.View(nobody{}).Search(ctx(t), directory.Request{Base: f.base(), Filter: directory.Equal("mail", address), Attributes: []string{"mail"}})
	if err != nil {
		t.Fatalf("search for %s: %v", address, err)
	}
	var names []string
	for _, e := range found {
		names = append(names, string(e.DN))
	}
	slices.Sort(names)
	return names
}

func (f following) base() directory.DN { return "dc=example,dc=com" }

// awaits waits until an address is that of these entries.
func (f following) awaits(t testing.TB, address string, want ...string) {
	t.Helper()
	f.until(t, fmt.Sprintf("%s to be %q", address, want), func(replica.Status) bool {
		return slices.EqualFunc(f.find(t, address), want, strings.EqualFold)
	})
}

// root connects with all rights.
func root(t testing.TB, s *testenv.SlapdServer) *goldap.Conn {
	t.Helper()
	l, err := goldap.DialURL(s.LDAPI)
	if err == nil {
		err = l.Bind(s.RootDN, s.RootPassword)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func add(t testing.TB, l *goldap.Conn, uid string) string {
	t.Helper()
	dn := "uid=" + uid + ",ou=people,dc=example,dc=com"
	r := goldap.NewAddRequest(dn, nil)
	r.Attribute("objectClass", []string{"inetOrgPerson"})
	r.Attribute("uid", []string{uid})
	r.Attribute("cn", []string{uid})
	r.Attribute("sn", []string{uid})
	r.Attribute("mail", []string{uid + "@example.com"})
	r.Attribute("userPassword", []string{"secret"})
	must(t, l.Add(r))
	return dn
}

func setMail(t testing.TB, l *goldap.Conn, dn string, addresses ...string) {
	t.Helper()
	r := goldap.NewModifyRequest(dn, nil)
	r.Replace("mail", addresses)
	must(t, l.Modify(r))
}

// syncing starts a slapd that can be followed.
func syncing(t testing.TB, o testenv.SlapdOptions) *testenv.SlapdServer {
	t.Helper()
	o.Sync = true
	if o.Tree.LDIF == nil {
		o.Tree = company.OpenLDAP()
	}
	if !strings.Contains(o.Config, "limits") {
		o.Config += fmt.Sprintf("\nlimits dn.exact=%q size=unlimited time=unlimited", o.Tree.ServiceDN)
	}
	return testenv.Slapd(t, o)
}

var fast = ldap.FeedConfig{Heartbeat: 50 * time.Millisecond}

// TestReplicaAnswersAsTheServersDo runs the conformance suite on a replica whose
// servers are dead.
func TestReplicaAnswersAsTheServersDo(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{ldap.FollowSync, ldap.FollowPoll} {
		for _, tree := range company.Trees() {
			t.Run(mode+" "+tree.Preset, func(t *testing.T) {
				t.Parallel()
				s := syncing(t, testenv.SlapdOptions{Tree: tree})
				needs := needsOf(t, tree)
				f := followWith(t, replica.Config{Needs: needs, MaxAge: time.Hour}, config(s, s.LDAPI), ldap.FeedConfig{Mode: mode})
				f.ready(t)
				directorytest.Run(t, tree, f.View(mostlyDead{open(t, config(s, s.LDAPI))}))
			})
		}
	}
}

// mostlyDead are servers that check passwords and answer the questions that the
// suite asks by itself, and none of a directory.Directory's: these ask for more
// than one attribute.
type mostlyDead struct{ *ldap.Client }

func (m mostlyDead) Search(ctx context.Context, req directory.Request) ([]directory.Entry, error) {
	if len(req.Attributes) > 1 {
		return nil, status.Errorf(status.DirectoryDown, "every server is dead; asked for %s below %q", req.Filter, req.Base)
	}
	return m.Client.Search(ctx, req)
}

func TestChangesAreVisible(t *testing.T) {
	t.Parallel()
	s := syncing(t, testenv.SlapdOptions{})
	f := follow(t, s.Tree, config(s, s.LDAPI), fast)
	f.ready(t)
	l := root(t, s)

	dn := add(t, l, "newcomer")
	f.awaits(t, "newcomer@example.com", dn)
	setMail(t, l, dn, "other@example.com")
	f.awaits(t, "other@example.com", dn)
	f.awaits(t, "newcomer@example.com")

	must(t, l.ModifyDN(goldap.NewModifyDNRequest(dn, "uid=renamed", true, "")))
	renamed := "uid=renamed,ou=people,dc=example,dc=com"
	f.awaits(t, "other@example.com", renamed)

	// The name is free for somebody else, who is not the renamed one.
	again := add(t, l, "newcomer")
	f.awaits(t, "newcomer@example.com", again)
	f.awaits(t, "other@example.com", renamed)

	must(t, l.Del(goldap.NewDelRequest(renamed, nil)))
	f.awaits(t, "other@example.com")
	st := f.Status()
	if st.Mode != ldap.FollowSync || !st.Connected || st.Error != "" || st.Refreshes != 1 {
		t.Errorf("status %+v, want one refresh and a stream", st)
	}
	for _, e := range f.Entries().All() {
		if len(e.Values("userPassword")) > 0 {
			t.Errorf("%s is held with its password", e.DN)
		}
	}
}

// TestKilledServer is trap 7's easy half, and 3: what happens while nobody
// listens is known after the reconnect, deletions as well, by whatever phase the
// server tells of them.
func TestKilledServer(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, overlay string }{{"present phase", ""}, {"delete phase", "syncprov-sessionlog 100"}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := syncing(t, testenv.SlapdOptions{SyncConfig: c.overlay})
			f := follow(t, s.Tree, config(s, s.LDAPI), fast)
			f.ready(t)
			l := root(t, s)
			fired, moved := add(t, l, "fired"), add(t, l, "moved")
			f.awaits(t, "fired@example.com", fired)
			f.awaits(t, "moved@example.com", moved)
			before := f.Status()

			s.Stop()
			f.until(t, "the loss to be noticed", func(st replica.Status) bool { return !st.Connected })
			f.awaits(t, "fired@example.com", fired) // the replica answers on

			// Changes while the replica cannot listen: the server runs at
			// another address.
			stop := f.stop
			stop()
			s.Restart()
			l = root(t, s)
			must(t, l.Del(goldap.NewDelRequest(fired, nil)))
			setMail(t, l, moved, "elsewhere@example.com")
			hired := add(t, l, "hired")
			f.again(t)

			f.until(t, "a refresh", func(st replica.Status) bool { return st.Refreshes > before.Refreshes })
			for address, want := range map[string][]string{"fired@example.com": nil, "moved@example.com": nil, "elsewhere@example.com": {moved}, "hired@example.com": {hired}} {
				if got := f.find(t, address); !slices.Equal(got, want) {
					t.Errorf("%s is %q after the reconnect, want %q", address, got, want)
				}
			}
		})
	}
}

func TestFrozenServerIsNoticed(t *testing.T) {
	t.Parallel()
	s := syncing(t, testenv.SlapdOptions{})
	cfg := config(s, s.LDAP)
	cfg.AllowPlaintext = true
	cfg.Timeout = 500 * time.Millisecond
	f := follow(t, s.Tree, cfg, fast)
	f.ready(t)
	s.Pause()
	st := f.until(t, "the silence to be noticed", func(st replica.Status) bool { return !st.Connected })
	if !st.Ready || st.Entries == 0 {
		t.Errorf("the replica ended with its server: %+v", st)
	}
	s.Resume()
	f.until(t, "the server to be followed again", func(st replica.Status) bool { return st.Connected })
}

// TestSizeLimitIsAFailure is trap 4: a result that a limit cuts short must not
// be taken for all there is.
func TestSizeLimitIsAFailure(t *testing.T) {
	t.Parallel()
	tree := company.OpenLDAP()
	for _, mode := range []string{ldap.FollowSync, ldap.FollowPoll} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			s := syncing(t, testenv.SlapdOptions{Config: fmt.Sprintf("limits dn.exact=%q size=3", tree.ServiceDN)})
			f := follow(t, tree, config(s, s.LDAPI), ldap.FeedConfig{Mode: mode, Heartbeat: fast.Heartbeat})
			st := f.until(t, "an error about the size limit", func(st replica.Status) bool { return strings.Contains(st.Error, "size") })
			if st.Ready {
				t.Errorf("status %+v, want no replica", st)
			}
		})
	}
}

func TestWrongBaseIsAFailure(t *testing.T) {
	t.Parallel()
	s := syncing(t, testenv.SlapdOptions{})
	needs := needsOf(t, s.Tree)
	needs.Bases = []directory.DN{"ou=nowhere,dc=example,dc=com"}
	f := followWith(t, replica.Config{Needs: needs}, config(s, s.LDAPI), fast)
	st := f.until(t, "the refresh to fail", func(st replica.Status) bool { return st.Error != "" })
	if st.Ready {
		t.Errorf("a base that does not exist gave a replica: %+v", st)
	}
}

// TestLostRightsAreQuarantined is trap 5: the server shows nothing any more, and
// nobody is fired for that.
func TestLostRightsAreQuarantined(t *testing.T) {
	t.Parallel()
	s := syncing(t, testenv.SlapdOptions{})
	cfg := config(s, s.LDAPI)
	f := follow(t, s.Tree, cfg, fast)
	f.ready(t)
	before := f.find(t, "bob@example.com")
	if len(before) != 1 {
		t.Fatalf("bob is %q", before)
	}
	l := root(t, s)
	var people []string
	result, err := l.Search(goldap.NewSearchRequest("dc=example,dc=com", goldap.ScopeWholeSubtree, goldap.NeverDerefAliases, 0, 0, false,
		"(|(mail=*)(member=*)(nisMailAlias=*)(objectClass=inetOrgPerson)(objectClass=groupOfNames)(objectClass=nisMailAlias))", []string{"1.1"}, nil))
	must(t, err)
	for _, e := range result.Entries {
		people = append(people, e.DN)
	}
	f.stop()
	for _, dn := range people {
		if err := l.Del(goldap.NewDelRequest(dn, nil)); err != nil {
			t.Fatalf("%s: %v", dn, err)
		}
	}
	f.again(t)
	st := f.until(t, "the quarantine", func(st replica.Status) bool { return st.Quarantine != nil })
	if got := f.find(t, "bob@example.com"); !slices.Equal(got, before) {
		t.Errorf("bob is %q in quarantine, want %q", got, before)
	}
	if st.Quarantine.After != 0 || st.Quarantine.Gone != st.Entries {
		t.Errorf("quarantine %+v of %d entries", *st.Quarantine, st.Entries)
	}
	// What comes while an operator thinks counts from then on.
	dn := add(t, l, "survivor")
	f.until(t, "an operator", func(replica.Status) bool {
		n, err := f.Accept()
		must(t, err)
		return n >= 0
	})
	f.awaits(t, "survivor@example.com", dn)
	f.awaits(t, "bob@example.com")
}

// TestServerFromABackup knows less than it told before.
func TestServerFromABackup(t *testing.T) {
	t.Parallel()
	s := syncing(t, testenv.SlapdOptions{})
	f := follow(t, s.Tree, config(s, s.LDAPI), fast)
	f.ready(t)
	kept := add(t, root(t, s), "before-backup")
	f.awaits(t, "before-backup@example.com", kept)
	restore := s.Backup()
	dn := add(t, root(t, s), "after-backup")
	f.awaits(t, "after-backup@example.com", dn)
	f.stop()
	restore()
	before := f.Status().Refreshes
	f.again(t)
	f.until(t, "a refresh", func(st replica.Status) bool { return st.Refreshes > before })
	f.awaits(t, "before-backup@example.com", kept)
	f.awaits(t, "after-backup@example.com")
}

// TestReplicaIsWhatASearchFinds changes the directory at random, kills the
// server now and then, and compares.
func TestReplicaIsWhatASearchFinds(t *testing.T) {
	t.Parallel()
	seed := testenv.Seed(t)
	r := rand.New(rand.NewPCG(seed, 2))
	s := syncing(t, testenv.SlapdOptions{SyncConfig: "syncprov-sessionlog 5"})
	f := follow(t, s.Tree, config(s, s.LDAPI), fast)
	f.ready(t)
	l := root(t, s)
	var people []string
	for round := range 6 {
		for range 25 {
			switch n := r.IntN(10); {
			case n < 4 || len(people) == 0:
				people = append(people, add(t, l, fmt.Sprintf("p%d-%d", round, r.Uint32())))
			case n < 6:
				setMail(t, l, people[r.IntN(len(people))], fmt.Sprintf("m%d@example.com", r.IntN(50)))
			case n < 8:
				i, uid := r.IntN(len(people)), fmt.Sprintf("n%d", r.Uint32())
				must(t, l.ModifyDN(goldap.NewModifyDNRequest(people[i], "uid="+uid, true, "")))
				people[i] = "uid=" + uid + ",ou=people,dc=example,dc=com"
			default:
				i := r.IntN(len(people))
				must(t, l.Del(goldap.NewDelRequest(people[i], nil)))
				people = slices.Delete(people, i, i+1)
			}
		}
		if round%2 == 0 {
			s.Stop() // in order: what was acknowledged is on its disk, or the test would find slapd out
			s.Restart()
			l = root(t, s)
		}
		marker := add(t, l, fmt.Sprintf("marker%d", round))
		people = append(people, marker)
		f.awaits(t, fmt.Sprintf("marker%d@example.com", round), marker)
		compare(t, f, open(t, config(s, s.LDAPI)), s.Tree)
	}
}

// compare holds the replica against a fresh search.
func compare(t *testing.T, f following, c *ldap.Client, tree company.Tree) {
	t.Helper()
	needs := needsOf(t, tree)
	want := map[string]string{}
	found, err := c.Search(ctx(t), directory.Request{Base: needs.Base(), Filter: needs.Filter, Attributes: needs.Attributes})
	must(t, err)
	for _, e := range found {
		want[e.DN.Key()] = textOf(directory.StandardClasses.Complete(e))
	}
	got := map[string]string{}
	for _, e := range f.Entries().All() {
		got[e.DN.Key()] = textOf(e)
	}
	for dn, text := range want {
		if got[dn] != text {
			t.Errorf("%s\n held %s\n is   %s", dn, got[dn], text)
		}
		delete(got, dn)
	}
	for dn := range got {
		t.Errorf("%s is held and does not exist", dn)
	}
}

// textOf writes an entry in a fixed order.
func textOf(e directory.Entry) string {
	var lines []string
	e.Each(func(name string, values []string) {
		values = slices.Sorted(slices.Values(values))
		lines = append(lines, fmt.Sprintf("%s=%q", name, values))
	})
	slices.Sort(lines)
	return strings.Join(lines, " ")
}

func TestAutomaticChoice(t *testing.T) {
	t.Parallel()
	plain := testenv.Slapd(t, testenv.SlapdOptions{})
	f := follow(t, plain.Tree, config(plain, plain.LDAPI), ldap.FeedConfig{})
	st := f.until(t, "the servers' offer", func(st replica.Status) bool { return st.Error != "" })
	if st.Mode != "query" || st.Ready {
		t.Errorf("a server that offers nothing: %+v", st)
	}
	polled := follow(t, plain.Tree, config(plain, plain.LDAPI), ldap.FeedConfig{PollOtherwise: true})
	polled.ready(t)
	if st := polled.Status(); st.Mode != ldap.FollowPoll {
		t.Errorf("mode %q where a replica is asked for, want poll", st.Mode)
	}
	forced := follow(t, plain.Tree, config(plain, plain.LDAPI), ldap.FeedConfig{Mode: ldap.FollowDirSync})
	forced.until(t, "a refusal", func(st replica.Status) bool { return strings.Contains(st.Error, "dirsync") })
}

func TestFollowedServerIsReplacedByTheNext(t *testing.T) {
	t.Parallel()
	first, second := syncing(t, testenv.SlapdOptions{}), syncing(t, testenv.SlapdOptions{})
	dn := add(t, root(t, second), "only-second")
	cfg := config(first, first.LDAPI, second.LDAPI)
	f := follow(t, first.Tree, cfg, fast)
	f.ready(t)
	f.awaits(t, "only-second@example.com")
	before := f.Status().Refreshes
	first.Kill()
	f.awaits(t, "only-second@example.com", dn)
	if st := f.Status(); st.Server != second.LDAPI || st.Refreshes != before+1 {
		t.Errorf("status %+v, want one refresh from the second server", st)
	}
}
