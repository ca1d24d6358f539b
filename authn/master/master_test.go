package master

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/authn"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// passwords are logins with theirs.
type passwords map[string]string

func (passwords) Name() string { return "passwords" }

func (p passwords) Verify(_ context.Context, a authn.Attempt) (mail.Identity, error) {
	right, found := p[a.Login]
	switch {
	case !found:
		return mail.Identity{}, authn.ErrUnknownLogin
	case right != a.Password:
		return mail.Identity{}, status.New(status.AuthFailed, errors.New("wrong"))
	}
	return mail.Identity{Authentication: a.Login}, nil
}

// people are accounts by login; "down" cannot be asked about.
type people map[string]mail.Account

func (p people) Account(_ context.Context, login string) (mail.Account, error) {
	if login == "down" {
		return mail.Account{}, status.New(status.DirectoryDown, nil)
	}
	account, found := p[login]
	if !found {
		return mail.Account{}, status.New(status.NoSuchUser, nil)
	}
	return account, nil
}

type ledger struct {
	mu     sync.Mutex
	events []mail.Event
}

func (l *ledger) Record(e mail.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.events = append(l.events, e)
}

func TestMaster(t *testing.T) {
	t.Parallel()
	alice := mail.Account{Name: "alice", Source: "corp"}
	known := people{"alice": alice, "alice@example.com": alice, "gone": {Name: "gone", Disabled: true}}
	v, err := New(Config{Separator: "*", Networks: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}}, passwords{"admin": "m"}, known)
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		name, login, password, authorization, from string
		want                                       status.Reason
		master                                     string
	}{
		{"alice*admin", "alice*admin", "m", "", "192.0.2.1", status.OK, "admin"},
		{"by address", "Alice@Example.com*Admin", "m", "", "192.0.2.1", status.OK, "admin"},
		{"by authorization", "admin", "m", "alice", "192.0.2.1", status.OK, "admin"},
		{"both, alike", "alice*admin", "m", "alice", "192.0.2.1", status.OK, "admin"},
		{"both, of others", "alice*admin", "m", "bob", "192.0.2.1", status.AuthorizationDenied, ""},
		{"wrong password", "alice*admin", "x", "", "192.0.2.1", status.AuthFailed, ""},
		{"alice's password", "alice*admin", "a", "", "192.0.2.1", status.AuthFailed, ""},
		{"no master", "alice*mallory", "m", "", "192.0.2.1", status.AuthFailed, ""},
		{"another network", "alice*admin", "m", "", "198.51.100.1", status.AuthFailed, ""},
		{"another network, by authorization", "admin", "m", "alice", "198.51.100.1", status.AuthFailed, ""},
		{"disabled account", "gone*admin", "m", "", "192.0.2.1", status.AuthorizationDenied, ""},
		{"no account", "nobody*admin", "m", "", "192.0.2.1", status.AuthorizationDenied, ""},
		{"directory down", "down*admin", "m", "", "192.0.2.1", status.AuthTemporary, ""},
		{"not as itself", "admin", "m", "", "192.0.2.1", status.AuthFailed, ""},
		{"alice herself", "alice", "a", "", "198.51.100.1", status.OK, ""},
		{"alice under another name", "alice", "a", "alice@example.com", "192.0.2.1", status.OK, ""},
		{"alice as somebody else", "alice", "a", "gone", "192.0.2.1", status.AuthorizationDenied, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			audit := &ledger{}
			chain, err := authn.New(authn.Config{FailureBeat: -1, MasterSeparator: "*"}, []authn.Link{
				{Verifier: v, Impersonates: true}, {Verifier: passwords{"alice": "a"}, Accounts: known},
			}, audit, hclog.NewNullLogger())
			if err != nil {
				t.Fatal(err)
			}
			identity, err := chain.Verify(t.Context(), authn.Attempt{Login: row.login, Password: row.password, Authorization: row.authorization,
				Service: "imap", Remote: netip.AddrPortFrom(netip.MustParseAddr(row.from), 4000)})
			if status.Of(err) != row.want || identity.Master != row.master {
				t.Fatalf("%+v, %v; want %v, master %q", identity, err, row.want, row.master)
			}
			if err == nil && (identity.Authentication != "alice" || identity.Authorization != "alice" || identity.Source != "corp") {
				t.Errorf("acts as %+v", identity)
			}
			if e := audit.events[0]; row.master != "" && (e.Detail != "identity alice, by master user admin" && e.Detail != "by master user admin") {
				t.Errorf("audited %+v", e)
			}
		})
	}
	if _, err := New(Config{}, passwords{}, nil); err == nil {
		t.Error("masters of nobody")
	}
}

// TestMasterIsGuessedAtAsOne has an attacker name another account each time.
func TestMasterIsGuessedAtAsOne(t *testing.T) {
	t.Parallel()
	asked := 0
	count := counted{&asked}
	v, err := New(Config{Separator: "*"}, count, people{})
	if err != nil {
		t.Fatal(err)
	}
	chain, err := authn.New(authn.Config{FailureBeat: -1, MasterSeparator: "*"}, []authn.Link{{Verifier: v, Impersonates: true}}, &ledger{}, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	for i := range 50 {
		_, _ = chain.Verify(t.Context(), authn.Attempt{Login: string(rune('a'+i%26)) + string(rune('a'+i/26)) + "*admin", Password: string(rune('A' + i))})
	}
	if asked != 3 {
		t.Errorf("%d passwords of one master were tried under many accounts, want 3", asked)
	}
}

type counted struct{ asked *int }

func (counted) Name() string { return "counted" }

func (c counted) Verify(context.Context, authn.Attempt) (mail.Identity, error) {
	*c.asked++
	return mail.Identity{}, status.New(status.AuthFailed, errors.New("wrong"))
}

func TestRecovery(t *testing.T) {
	t.Parallel()
	r := NewRecovery([]netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, passwords{"rescue": "r"})
	down := people{}
	chain, err := authn.New(authn.Config{FailureBeat: -1}, []authn.Link{{Verifier: r}, {Verifier: passwords{}, Accounts: down}}, &ledger{}, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	for from, want := range map[string]status.Reason{"127.0.0.1": status.OK, "::ffff:127.0.0.1": status.OK, "192.0.2.1": status.AuthFailed} {
		identity, err := chain.Verify(t.Context(), authn.Attempt{Login: "rescue", Password: "r", Remote: netip.AddrPortFrom(netip.MustParseAddr(from), 1)})
		if status.Of(err) != want || err == nil && identity.Verifier != "recovery" {
			t.Errorf("from %s: %+v, %v; want %v", from, identity, err, want)
		}
	}
}
