package nss

import (
	"context"
	"errors"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/directory"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// machine is a machine's users.
type machine struct {
	users  map[string]User
	groups map[string]Group
	down   bool
}

var errDown = errors.New("sssd does not answer")

func (m *machine) User(_ context.Context, name string) (User, bool, error) {
	if m.down {
		return User{}, false, errDown
	}
	u, ok := m.users[name]
	return u, ok, nil
}

func (m *machine) Group(_ context.Context, name string) (Group, bool, error) {
	if m.down {
		return Group{}, false, errDown
	}
	g, ok := m.groups[name]
	return g, ok, nil
}

func newMachine() *machine {
	return &machine{
		users: map[string]User{
			"root":    {Name: "root", Home: "/root"},
			"daemon":  {Name: "daemon", UID: 1, GID: 1, Home: "/usr/sbin"},
			"alice":   {Name: "alice", UID: 1000, GID: 1000, Comment: "Alice Anders,Room 1,,", Home: "/home/alice"},
			"bob":     {Name: "bob", UID: 1001, GID: 100, Home: "/home/bob"},
			"late":    {Name: "late", UID: 70000, GID: 1000, Home: "/home/late"},
			"nobody":  {Name: "nobody", UID: 65534, GID: 65534, Home: "/"},
			"wheeled": {Name: "wheeled", UID: 1002, GID: 0, Home: "/home/wheeled"},
		},
		groups: map[string]Group{
			"alice": {Name: "alice", GID: 1000},
			"staff": {Name: "staff", GID: 50, Members: []string{"alice", "bob"}},
			"root":  {Name: "root", GID: 0, Members: []string{"alice"}},
		},
	}
}

func open(t *testing.T, cfg Config, m *machine) *directory.Directory {
	t.Helper()
	cfg.Domains = []mail.Domain{"example.com", "example.net"}
	source, err := New(cfg, m)
	if err != nil {
		t.Fatal(err)
	}
	d, err := directory.New(directory.Config{Preset: "nss", BaseDN: Suffix, Domains: cfg.Domains, Cache: directory.CacheConfig{Disabled: true}}, source, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestRecipients(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		cfg     Config
		address string
		want    []string // nil: nobody
	}{
		{Config{}, "alice@example.com", []string{"alice@example.com"}},
		{Config{}, "ALICE@Example.NET", []string{"alice@example.com"}},
		{Config{}, "alice+lists@example.com", []string{"alice@example.com"}},
		{Config{}, "late@example.com", []string{"late@example.com"}},
		{Config{LastUID: 60000}, "late@example.com", nil},
		{Config{}, "root@example.com", nil},
		{Config{}, "daemon@example.com", nil},
		{Config{}, "nobody@example.com", nil},
		{Config{}, "wheeled@example.com", nil},
		{Config{FirstUID: 1001}, "alice@example.com", nil},
		{Config{FirstGID: 500}, "bob@example.com", nil},
		{Config{}, "mallory@example.com", nil},
		{Config{}, "staff@example.com", nil},
		{Config{Groups: true}, "staff@example.com", []string{"alice@example.com", "bob@example.com"}},
		{Config{Groups: true}, "root@example.com", nil},
		{Config{Groups: true}, "alice@example.com", []string{"alice@example.com"}}, // not her group of one
		{Config{}, `"alice)(uid=*"@example.com`, nil},
		{Config{}, `*@example.com`, nil},
	} {
		a, err := mail.ParseAddress(tt.address)
		if err != nil {
			t.Fatal(err)
		}
		found, err := open(t, tt.cfg, newMachine()).Resolve(t.Context(), a)
		if tt.want == nil {
			if status.Of(err) != status.NoSuchUser {
				t.Errorf("%s (%+v): %v, %v; want nobody", tt.address, tt.cfg, found, err)
			}
			continue
		}
		got := map[string]bool{}
		for _, r := range found {
			got[r.Address.Fold().String()] = true
		}
		for _, want := range tt.want {
			if !got[want] && !got["alice+lists@example.com"] && !got["alice@example.net"] || len(got) != len(tt.want) {
				t.Errorf("%s: %v, %v; want %v", tt.address, got, err, tt.want)
			}
		}
	}
}

func TestLogins(t *testing.T) {
	t.Parallel()
	d := open(t, Config{}, newMachine())
	for _, login := range []string{"alice", "alice@example.com", "alice@example.net"} {
		account, err := d.Account(t.Context(), login)
		if err != nil || account.Name != "alice" || account.Primary.String() != "alice@example.com" || len(account.Addresses) != 2 {
			t.Errorf("%s: %+v, %v", login, account, err)
		}
	}
	for _, login := range []string{"root", "nobody", "mallory", "alice@elsewhere.example"} {
		if _, err := d.Account(t.Context(), login); status.Of(err) != status.NoSuchUser {
			t.Errorf("%s: %v, want nobody", login, err)
		}
	}
}

// TestOutage: a source that does not answer is never "no such user".
func TestOutage(t *testing.T) {
	t.Parallel()
	m := newMachine()
	m.down = true
	d := open(t, Config{Groups: true}, m)
	if _, err := d.Resolve(t.Context(), mail.Address{Local: "alice", Domain: "example.com"}); status.Of(err) != status.DirectoryDown {
		t.Errorf("Resolve = %v", err)
	}
	if _, err := d.Account(t.Context(), "alice"); status.Of(err) != status.DirectoryDown {
		t.Errorf("Account = %v", err)
	}
}

func TestSearch(t *testing.T) {
	t.Parallel()
	source, err := New(Config{Domains: []mail.Domain{"example.com"}, Home: "/var/mail/%d/%n:%h:%%", Groups: true}, newMachine())
	if err != nil {
		t.Fatal(err)
	}
	search := func(base directory.DN, scope directory.Scope, filter string) ([]directory.Entry, error) {
		f, err := directory.ParseFilter(filter)
		if err != nil {
			t.Fatal(err)
		}
		return source.Search(t.Context(), directory.Request{Base: base, Scope: scope, Filter: f})
	}
	found, err := search(Suffix, directory.ScopeSub, "(uid=alice)")
	if err != nil || len(found) != 1 || found[0].First("homeDirectory") != "/var/mail/example.com/alice:/home/alice:%" || found[0].First("cn") != "Alice Anders" {
		t.Errorf("alice: %v, %v", found, err)
	}
	if found, err := search("uid=bob,"+people, directory.ScopeBase, "(objectClass=*)"); err != nil || len(found) != 1 {
		t.Errorf("bob by name: %v, %v", found, err)
	}
	if found, err := search("cn=staff,"+groups, directory.ScopeBase, "(objectClass=*)"); err != nil || len(found) != 1 {
		t.Errorf("staff by name: %v, %v", found, err)
	}
	for _, filter := range []string{"(objectClass=*)", "(objectClass=posixAccount)", "(uid=*)", "(uid=a*)", "(!(uid=alice))"} {
		if found, err := search(Suffix, directory.ScopeSub, filter); status.Of(err) != status.DirectoryDown {
			t.Errorf("%s lists %v, %v", filter, found, err)
		}
	}
	if _, err := search("dc=example,dc=com", directory.ScopeSub, "(uid=alice)"); !errors.Is(err, directory.ErrNoSuchBase) {
		t.Errorf("elsewhere: %v", err)
	}
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	for name, cfg := range map[string]Config{
		"range of users": {FirstUID: 1000, LastUID: 999}, "range of groups": {FirstGID: 10, LastGID: 9}, "letter": {Home: "/x/%x"}, "end": {Home: "/x/%"},
	} {
		if _, err := New(cfg, newMachine()); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}
