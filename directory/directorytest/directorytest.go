// Package directorytest holds what every directory must answer about Example
// Traders, whichever shape it has and whether it is a file or a server.
package directorytest

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/directory"
	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// Config returns the configuration by which a tree is read in tests: without
// a cache, so that each question reaches the searcher.
func Config(tree testenv.Tree) directory.Config {
	return directory.Config{
		Name:    tree.Preset,
		Preset:  tree.Preset,
		BaseDN:  directory.DN(tree.BaseDN),
		Domains: []mail.Domain{"example.com", "example.net"},
		Cache:   directory.CacheConfig{Disabled: true},
		// Of a busy machine.
		LookupTimeout: time.Minute,
	}
}

// Open returns a directory over searcher, read by cfg.
func Open(t testing.TB, cfg directory.Config, searcher directory.Searcher) *directory.Directory {
	t.Helper()
	d, err := directory.New(cfg, searcher, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// Run holds a searcher that was loaded with tree against the suite.
func Run(t *testing.T, tree testenv.Tree, searcher directory.Searcher) {
	d := Open(t, Config(tree), searcher)
	t.Run("resolve", func(t *testing.T) { testResolve(t, tree, d) })
	t.Run("login", func(t *testing.T) { testLogin(t, tree, d) })
	t.Run("send-as", func(t *testing.T) { testSendAs(t, d) })
	t.Run("hostile", func(t *testing.T) { testHostile(t, d) })
	t.Run("search", func(t *testing.T) { testSearch(t, tree, searcher) })
	t.Run("explain", func(t *testing.T) { testExplain(t, d) })
}

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func testResolve(t *testing.T, tree testenv.Tree, d *directory.Directory) {
	frank := "frank@example.com"
	if tree.Preset == "openldap" {
		frank = "f.fischer@example.com"
	}
	team, teamReason := "", status.NoSuchUser
	if tree.Preset == "postfix-book" { // a group that only its members name
		team, teamReason = "alice@example.com bob@example.com erin@elsewhere.example", status.OK
	}
	everyone := "Carol@example.com alice@example.com bob@example.com consultant@partner.example erin@elsewhere.example"
	for _, c := range []struct {
		address string
		want    string // sorted recipients
		reason  status.Reason
	}{
		{address: "alice@example.com", want: "alice@example.com"},
		{address: "ALICE@EXAMPLE.COM", want: "alice@example.com"},
		{address: "a.anders@example.com", want: "alice@example.com"},
		{address: "postmaster@example.com", want: "alice@example.com"},
		{address: "carol@example.com", want: "Carol@example.com"},
		{address: "nobody@example.com", reason: status.NoSuchUser},
		{address: "alice@elsewhere.example", reason: status.NoSuchUser},
		{address: "grace@example.com", reason: status.NoSuchUser},
		{address: "alice", reason: status.NoSuchUser},

		// Extensions: the exact address first, then without.
		{address: "bob+lists@example.com", want: "bob+lists@example.com"},
		{address: "bob+vip@example.com", want: "Carol@example.com"},
		{address: "bob+vip+x@example.com", want: "bob+vip+x@example.com"},
		{address: "a.anders+Reports@example.com", want: "alice+Reports@example.com"},
		{address: "nobody+alice@example.com", reason: status.NoSuchUser},
		{address: "+alice@example.com", reason: status.NoSuchUser},

		// Catch-all, of its own domain only.
		{address: "whatever@example.net", want: "Carol@example.com"},
		{address: "what+ever@example.net", want: "Carol@example.com"},

		// Disabled, forwarded, forwarded with a copy.
		{address: "dave@example.com", want: "dave@example.com"},
		{address: "erin@example.com", want: "erin@elsewhere.example"},
		{address: "frank@example.com", want: frank + " frank@phone.example"},

		// Groups.
		{address: "staff@example.com", want: "Carol@example.com alice@example.com bob@example.com erin@elsewhere.example"},
		{address: "sales@example.com", want: "Carol@example.com bob@example.com"},
		{address: "field@example.com", want: "Carol@example.com bob@example.com"},
		{address: "everyone@example.com", want: everyone},
		{address: "Everyone+x@example.com", want: everyone},
		{address: "chicken@example.com", reason: status.AddressLoop},
		{address: "ghosts@example.com", reason: status.NoSuchUser},
		{address: "team@example.com", want: team, reason: teamReason},
	} {
		t.Run(c.address, func(t *testing.T) {
			a, err := mail.ParseAddress(c.address)
			if err != nil {
				a = mail.Address{Local: mail.LocalPart(c.address), Domain: "example.com"}
				if c.reason == status.NoSuchUser {
					a.Domain = "nowhere.example"
				}
			}
			got, err := d.Resolve(testContext(t), a)
			if c.reason == status.Unknown {
				c.reason = status.OK
			}
			if status.Of(err) != c.reason {
				t.Fatalf("Resolve(%s) = %v, %v; want reason %v", a, got, err, c.reason)
			}
			var names []string
			for _, r := range got {
				names = append(names, r.Address.String())
				if r.Accepted != a {
					t.Errorf("recipient %s was accepted as %s", r.Address, r.Accepted)
				}
			}
			slices.Sort(names)
			if text := strings.Join(names, " "); text != c.want {
				t.Errorf("Resolve(%s) = %q, want %q", a, text, c.want)
			}
		})
	}
}

func testLogin(t *testing.T, tree testenv.Tree, d *directory.Directory) {
	grace, graceReason := "grace", status.OK
	if tree.Preset == "qmail" || tree.Preset == "postfix-book" {
		grace, graceReason = "", status.NoSuchUser // their classes demand an address
	}
	for _, c := range []struct {
		login  string
		name   string
		reason status.Reason
	}{
		{"alice", "alice", status.OK},
		{"Alice", "alice", status.OK},
		{"alice@example.com", "alice", status.OK},
		{"a.anders@example.com", "alice", status.OK},
		{"carol@EXAMPLE.com", "carol", status.OK},
		{"grace", grace, graceReason},
		{"dave", "dave", status.OK},
		{"", "", status.NoSuchUser},
		{"nobody", "", status.NoSuchUser},
		{"staff", "", status.NoSuchUser},
		{"staff@example.com", "", status.NoSuchUser},
		{"alice+x@example.com", "", status.NoSuchUser},
		{"x@example.net", "", status.NoSuchUser},
		{"Alice Anders", "", status.NoSuchUser},
	} {
		t.Run(c.login, func(t *testing.T) {
			dn, account, err := d.FindLogin(testContext(t), c.login)
			if status.Of(err) != c.reason || account.Name != c.name {
				t.Fatalf("FindLogin(%q) = %q, %+v, %v; want %q and %v", c.login, dn, account, err, c.name, c.reason)
			}
			if err != nil {
				return
			}
			if dn == "" || account.Source != d.Name() {
				t.Errorf("FindLogin(%q) = DN %q, source %q", c.login, dn, account.Source)
			}
			if account.Disabled != (c.name == "dave") {
				t.Errorf("FindLogin(%q): disabled = %v", c.login, account.Disabled)
			}
		})
	}
	alice, err := d.AccountOf(testContext(t), mail.MustAddress("a.anders+x@example.com"))
	host := "mail1.example.com"
	if tree.Preset == "postfix-book" {
		host = "" // its schema has no attribute for one
	}
	if err != nil || alice.Name != "alice" || alice.Primary != mail.MustAddress("alice@example.com") || alice.Host != host {
		t.Errorf("AccountOf = %+v, %v", alice, err)
	}
	if a, err := d.AccountOf(testContext(t), mail.MustAddress("staff@example.com")); status.Of(err) != status.NoSuchUser {
		t.Errorf("AccountOf(group) = %+v, %v", a, err)
	}
	bob, err := d.Account(testContext(t), "bob")
	if err != nil || bob.QuotaOctets != 0 && bob.QuotaOctets != 2<<30 || bob.QuotaOctets == 0 && d.Name() != "openldap" {
		t.Errorf("Account(bob) = %+v, %v", bob, err)
	}
}

func testSendAs(t *testing.T, d *directory.Directory) {
	for _, c := range []struct {
		login   string
		address string
		want    bool
	}{
		{"alice", "alice@example.com", true},
		{"alice", "Alice@example.com", true},
		{"alice", "a.anders@example.com", true},
		{"alice", "alice+x@example.com", true},
		{"alice@example.com", "alice@example.com", true},
		{"alice", "bob@example.com", false},
		{"bob", "bob+vip@example.com", false},
		{"carol", "bob+vip@example.com", true},
		{"alice", "info@example.com", true},
		{"bob", "info@example.com", true},
		{"carol", "info@example.com", false},
		{"alice", "staff@example.com", false},
		{"carol", "anything@example.net", true},
		{"alice", "anything@example.net", false},
		{"erin", "erin@example.com", true},
		{"alice", "nobody@example.com", false},
		{"alice", "alice@elsewhere.example", false},
		{"nobody", "alice@example.com", false},
		{"", "alice@example.com", false},
	} {
		id := mail.Identity{Authentication: c.login, Authorization: c.login}
		got, err := d.MaySendAs(testContext(t), id, mail.MustAddress(c.address))
		if err != nil || got != c.want {
			t.Errorf("MaySendAs(%q, %s) = %v, %v; want %v", c.login, c.address, got, err, c.want)
		}
	}
	if ok, err := d.MaySendAs(testContext(t), mail.Identity{Authentication: "alice"}, mail.Address{}); !ok || err != nil {
		t.Errorf("the null reverse-path is not alice's: %v", err)
	}
	owners, err := d.Owners(testContext(t), mail.MustAddress("info@example.com"))
	if err != nil || !slices.Equal(owners, []string{"alice", "bob"}) {
		t.Errorf("Owners(info) = %v, %v", owners, err)
	}
}

// testHostile looks up what would match something if it were ever read as
// filter text, as a pattern or as a DN.
func testHostile(t *testing.T, d *directory.Directory) {
	for _, input := range []string{
		"*", "a*", "alice*", "*@example.com", "al*ce", "alice)(uid=*", "alice)(|(uid=*))", "*)(uid=alice",
		"alice))(|(objectClass=*", `\2a`, `a\6cice`, "alice\x00", "alice\x00*", "(uid=alice)", "uid=alice",
		"alice,ou=people", "&", "|", "!", "alice%", "%u", "%s", "alice\xff", " alice\n", strings.Repeat("a", 5000),
	} {
		_, account, err := d.FindLogin(testContext(t), input)
		if status.Of(err) != status.NoSuchUser {
			t.Errorf("FindLogin(%q) = %+v, %v; want NoSuchUser", input, account, err)
		}
		a := mail.Address{Local: mail.LocalPart(input), Domain: "example.com"}
		got, err := d.Resolve(testContext(t), a)
		if status.Of(err) != status.NoSuchUser {
			t.Errorf("Resolve(%q@example.com) = %v, %v; want NoSuchUser", input, got, err)
		}
	}
}

// testSearch holds the searcher to Searcher's contract.
func testSearch(t *testing.T, tree testenv.Tree, s directory.Searcher) {
	base := directory.DN(tree.BaseDN)
	all := directory.Present("objectClass")
	ctx := testContext(t)

	entries, err := s.Search(ctx, directory.Request{Base: base, Filter: directory.Equal("mail", "bob@example.com"), Attributes: []string{"mail"}})
	if err != nil || len(entries) != 1 || entries[0].First("MAIL") != "bob@example.com" || entries[0].First("sn") != "" {
		t.Errorf("search for one attribute of bob = %v, %v", entries, err)
	}
	entries, err = s.Search(ctx, directory.Request{Base: base, Scope: directory.ScopeBase, Filter: all})
	if err != nil || len(entries) != 1 || !entries[0].DN.Equal(base) {
		t.Errorf("base search = %v, %v", entries, err)
	}
	one, err := s.Search(ctx, directory.Request{Base: base, Scope: directory.ScopeOne, Filter: all})
	if err != nil || len(one) == 0 {
		t.Errorf("one-level search = %v, %v", one, err)
	}
	for _, e := range one {
		if directory.ParentKey(e.DN.Key()) != base.Key() {
			t.Errorf("%s is not directly below %s", e.DN, base)
		}
	}
	if entries, err = s.Search(ctx, directory.Request{Base: base, Filter: all, SizeLimit: 3}); status.Of(err) != status.DirectoryDown || len(entries) > 0 {
		t.Errorf("search beyond its size limit = %d entries, %v; want an error and none", len(entries), err)
	}
	if entries, err = s.Search(ctx, directory.Request{Base: "ou=nowhere," + base, Filter: all}); status.Of(err) != status.DirectoryDown {
		t.Errorf("search below nothing = %v, %v; want DirectoryDown", entries, err)
	}
	if entries, err = s.Search(ctx, directory.Request{Base: base, Filter: directory.Present("userPassword")}); err != nil || len(entries) > 0 {
		t.Errorf("search by password = %d entries, %v; want none", len(entries), err)
	}
	entries, err = s.Search(ctx, directory.Request{Base: base, Filter: all})
	if err != nil || len(entries) < 15 {
		t.Errorf("search for everything = %d entries, %v", len(entries), err)
	}
	for _, e := range entries {
		if e.First("userPassword") != "" {
			t.Fatalf("%s shows its password", e.DN)
		}
	}
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	if _, err = s.Search(cancelled, directory.Request{Base: base, Filter: all}); status.Of(err) != status.DirectoryDown {
		t.Errorf("cancelled search = %v; want DirectoryDown", err)
	}
}

func testExplain(t *testing.T, d *directory.Directory) {
	x, err := d.Explain(testContext(t), "sales@example.com")
	if err != nil || x.Reason != status.OK || len(x.Recipients) != 2 {
		t.Fatalf("Explain = %+v, %v", x, err)
	}
	text := x.String()
	for _, want := range []string{"filter (", "sales@example.com", "recipient   bob@example.com", "leads back to itself"} {
		if !strings.Contains(text, want) {
			t.Errorf("explanation lacks %q:\n%s", want, text)
		}
	}
	x, err = d.Explain(testContext(t), "alice")
	if err != nil || x.Account == nil || x.Account.Name != "alice" || len(x.Recipients) != 1 {
		t.Errorf("Explain(alice) = %+v, %v", x, err)
	}
	x, err = d.Explain(testContext(t), "nobody@example.com")
	if err != nil || x.Reason != status.NoSuchUser || !strings.Contains(x.String(), "550 5.1.1") {
		t.Errorf("Explain(nobody) = %v, %v", x, err)
	}
}
