package ldap_test

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/authn"
	"github.com/postern-mail/postern/authn/ldap"
	"github.com/postern-mail/postern/directory/directorytest"
	dirldap "github.com/postern-mail/postern/directory/ldap"
	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
	"github.com/postern-mail/postern/testdata/ldif"
)

type ledger struct {
	mu     sync.Mutex
	events []mail.Event
}

func (l *ledger) Record(e mail.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.events = append(l.events, e)
}

// connect returns a client of s that gives up after a while.
func connect(t *testing.T, s *testenv.SlapdServer, timeout time.Duration) *dirldap.Client {
	t.Helper()
	client, err := dirldap.New(dirldap.Config{
		URIs: []string{s.LDAPS}, CAFile: s.CAFile, BindDN: s.Tree.ServiceDN, BindPasswordFile: s.ServicePasswordFile,
		Timeout: timeout, MaxPause: 100 * time.Millisecond,
	}, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- client.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
		client.Close()
	})
	return client
}

// chain verifies as the gateway does: by search then bind, or by a template.
func chain(t *testing.T, cfg ldap.Config, s *testenv.SlapdServer, timeout time.Duration) *authn.Chain {
	t.Helper()
	client := connect(t, s, timeout)
	directory := directorytest.Open(t, directorytest.Config(s.Tree), client)
	verifier, err := ldap.New(cfg, directory, client)
	if err != nil {
		t.Fatal(err)
	}
	c, err := authn.New(authn.Config{FailureBeat: -1, Timeout: 2 * time.Minute}, []authn.Link{{Verifier: verifier, Accounts: directory}}, &ledger{}, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func verify(t *testing.T, c *authn.Chain, login, password string) (string, status.Reason, error) {
	t.Helper()
	id, err := c.Verify(t.Context(), authn.Attempt{
		Login: login, Password: password, Mechanism: "PLAIN", Remote: netip.MustParseAddrPort("192.0.2.1:4000"),
	})
	return id.Authentication, status.Of(err), err
}

func TestSlapd(t *testing.T) {
	t.Parallel()
	server := testenv.Slapd(t, testenv.SlapdOptions{})
	for name, cfg := range map[string]ldap.Config{
		"search then bind": {},
		"DN template":      {DNTemplate: "uid={local},ou=people,dc=example,dc=com", Domains: []mail.Domain{ldif.Domain}},
	} {
		t.Run(name, func(t *testing.T) {
			c := chain(t, cfg, server, time.Minute)
			for _, tt := range []struct {
				login, password string
				want            status.Reason
				name            string
			}{
				{"alice", ldif.Password("alice"), status.OK, "alice"},
				{"ALICE", ldif.Password("alice"), status.OK, "alice"},
				{"alice@example.com", ldif.Password("alice"), status.OK, "alice"},
				{"a.anders@example.com", ldif.Password("alice"), status.OK, "alice"},
				{"carol", ldif.Password("carol"), status.OK, "carol"},
				{"alice", "wrong", status.AuthFailed, ""},
				{"alice", "", status.AuthFailed, ""},
				{"alice", ldif.Password("alice") + "\x00", status.AuthFailed, ""},
				{"nobody", "wrong", status.AuthFailed, ""},
				{"*", ldif.Password("alice"), status.AuthFailed, ""},
				{"alice)(uid=*", ldif.Password("alice"), status.AuthFailed, ""},
				{"dave", ldif.Password("dave"), status.AuthFailed, ""},
			} {
				got, reason, err := verify(t, c, tt.login, tt.password)
				if reason != tt.want || got != tt.name {
					t.Errorf("Verify(%q, %q) = %q, %v; want %q, %v", tt.login, tt.password, got, err, tt.name, tt.want)
				}
			}
		})
	}
}

// TestSlapdOutage: whatever happens to the directory, nobody's password is
// called wrong, and a password tried meanwhile is good again afterwards.
func TestSlapdOutage(t *testing.T) {
	t.Parallel()
	server := testenv.Slapd(t, testenv.SlapdOptions{})
	// So short that a frozen server costs little, and a busy machine may fail it.
	c := chain(t, ldap.Config{}, server, time.Second)
	right := ldif.Password("alice")
	down := func(what string) {
		t.Helper()
		for _, password := range []string{right, "wrong"} {
			if _, reason, err := verify(t, c, "alice", password); reason != status.AuthTemporary {
				t.Errorf("%s, password %q: %v, want AuthTemporary", what, password, err)
			}
		}
	}
	becomes := func(what, password string, want status.Reason) {
		t.Helper()
		testenv.Eventually(t, time.Minute, func() error {
			_, reason, err := verify(t, c, "alice", password)
			if reason != want && reason != status.AuthTemporary {
				t.Fatalf("%s, password %q: %v", what, password, err)
			}
			if reason != want {
				return fmt.Errorf("%s: %w", what, err)
			}
			return nil
		})
	}
	recovers := func(what string) {
		t.Helper()
		becomes(what, right, status.OK)
	}
	recovers("before")
	server.Pause()
	down("frozen")
	server.Resume()
	recovers("after the freeze")
	server.Kill()
	down("killed")
	server.Restart()
	recovers("after the restart")
	becomes("afterwards", "wrong", status.AuthFailed)
}
