package imapd

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/backend/sessions"
	"github.com/postern-mail/postern/backend/sessions/sessionstest"
	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// grouped is a directory in which bob's groups change.
type grouped struct {
	auth
	mu     sync.Mutex // guards the fields below
	groups []string
	down   bool
	asked  int
}

func (g *grouped) set(down bool, groups ...string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.down, g.groups = down, groups
}

func (g *grouped) Account(ctx context.Context, login string) (mail.Account, error) {
	account, err := g.auth.Account(ctx, login)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.asked++
	if g.down {
		return account, status.New(status.DirectoryDown, nil)
	}
	if login == "bob" {
		account.Attributes = map[string][]string{"memberof": g.groups}
	}
	return account, err
}

const plans = `"Other Users/alice/Plans"`

// groupedServer has a mailbox with a message that alice shares with a group.
func groupedServer(t *testing.T) (s *server, people *grouped, alice *client) {
	t.Helper()
	cfg := sharingConfig()
	cfg.Sharing.GroupAttribute = "memberOf"
	people = &grouped{}
	s = &server{t: t, store: openStore(t), audit: &sessionstest.Recorder{}, ended: make(chan error, 1)}
	var err error
	s.Server, err = New(cfg, Deps{Store: s.store, Auth: newAuth(), Accounts: people, Audit: s.audit, Sessions: sessions.NewRegistry()}, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	s.start()
	alice = s.login("alice")
	alice.ok("CREATE Plans")
	alice.append("Plans", "", message("one", "text"))
	alice.ok("SETACL Plans $staff lr")
	return s, people, alice
}

// waitAsked waits until the directory was asked so often.
func (g *grouped) waitAsked(t *testing.T, more int) {
	t.Helper()
	testenv.Eventually(t, soon, func() error {
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.asked < more {
			return fmt.Errorf("the directory was asked %d times, not %d", g.asked, more)
		}
		return nil
	})
}

// A client in IDLE that is in the group no longer is told nothing more of the
// mailbox, though it says nothing itself.
func TestGroupsChangeInIdle(t *testing.T) {
	t.Parallel()
	s, people, alice := groupedServer(t)
	people.set(false, "staff")
	bob := s.login("bob")
	bob.ok("SELECT " + plans)
	bob.send("i IDLE\r\n")
	bob.line()
	alice.append("Plans", "", message("two", "text"))
	if line := bob.line(); line != "* 2 EXISTS" {
		t.Fatalf("a member reads %q", line)
	}
	people.set(false)
	people.mu.Lock()
	asked := people.asked
	people.mu.Unlock()
	s.AccountsChanged()
	people.waitAsked(t, asked+1)
	alice.append("Plans", "", message("three", "text"))
	bob.send("DONE\r\n")
	if line := bob.line(); !strings.HasPrefix(line, "i OK") {
		t.Errorf("who is no member reads %q", line)
	}
	bob.fails("FETCH 1 FLAGS", "NO [NOPERM]")
}

// NOTIFY, too, tells nothing of what is shared with a group once the client left
// that: it has to ask anew.
func TestGroupsChangeUnderNotify(t *testing.T) {
	t.Parallel()
	s, people, alice := groupedServer(t)
	people.set(false, "staff")
	bob := s.login("bob")
	bob.ok("NOTIFY SET (subtree \"Other Users\" (MessageNew MessageExpunge))")
	alice.append("Plans", "", message("two", "text"))
	if line := bob.line(); !strings.HasPrefix(line, "* STATUS "+plans) {
		t.Fatalf("a member reads %q", line)
	}
	people.set(false)
	s.AccountsChanged()
	if line := bob.line(); !strings.HasPrefix(line, "* OK [NOTIFICATIONOVERFLOW]") {
		t.Fatalf("who is no member reads %q", line)
	}
	alice.append("Plans", "", message("three", "text"))
	if lines := bob.ok("NOOP"); len(lines) != 0 {
		t.Errorf("who is no member is told %q", lines)
	}
	people.set(false, "staff")
	s.AccountsChanged()
	bob.ok("NOTIFY SET (subtree \"Other Users\" (MessageNew MessageExpunge))")
	alice.append("Plans", "", message("four", "text"))
	if line := bob.line(); !strings.HasPrefix(line, "* STATUS "+plans) {
		t.Errorf("a member again reads %q", line)
	}
}

// asks returns how often the directory was asked.
func (g *grouped) asks() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.asked
}

// NOTIFY of the selected mailbox alone tells nothing of it either, though nobody
// but who changes it wakes the session.
func TestGroupsChangeUnderNotifySelected(t *testing.T) {
	t.Parallel()
	s, people, alice := groupedServer(t)
	people.set(false, "staff")
	bob := s.login("bob")
	bob.ok("SELECT " + plans)
	bob.ok("NOTIFY SET (selected (MessageNew (UID) MessageExpunge FlagChange))")
	alice.append("Plans", "", message("two", "text"))
	expect(t, "a member", bob.told(2), "* 2 EXISTS", "* 2 FETCH (UID 2)")
	people.set(false)
	asked := people.asks()
	s.AccountsChanged()
	alice.append("Plans", "", message("three", "text"))
	people.waitAsked(t, asked+1)
	if lines := bob.ok("CAPABILITY"); len(lines) != 1 {
		t.Errorf("who is no member is told %q", lines)
	}
}

// A directory that does not answer at the moment of the change is asked again
// before more is told: what it said before does not hold until the client says
// something.
func TestGroupsChangeDuringOutageUnderNotify(t *testing.T) {
	t.Parallel()
	s, people, alice := groupedServer(t)
	people.set(false, "staff")
	bob := s.login("bob")
	bob.ok("NOTIFY SET (subtree \"Other Users\" (MessageNew MessageExpunge))")
	people.set(true)
	asked := people.asks()
	s.AccountsChanged()
	people.waitAsked(t, asked+1)
	people.set(false)
	asked = people.asks()
	testenv.Eventually(t, 30*time.Second, func() error {
		alice.append("Plans", "", message("more", "text"))
		if people.asks() == asked {
			return errors.New("the directory is not asked again")
		}
		return nil
	})
	for line := ""; !strings.HasPrefix(line, "* OK [NOTIFICATIONOVERFLOW]"); {
		line = bob.line() // what was told while the directory was not asked again yet
	}
	alice.append("Plans", "", message("last", "text"))
	if lines := bob.ok("NOOP"); len(lines) != 0 {
		t.Errorf("who is no member is told %q", lines)
	}
}

// A directory that is slow to fail is not asked before every command.
func TestGroupsOutageIsLeftAlone(t *testing.T) {
	t.Parallel()
	account, err := openStore(t).Account(t.Context(), mail.Account{Name: "bob"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(account.Close)
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		s := &session{
			server: &Server{deps: Deps{Accounts: slowly(func() { asked++ })}}, log: hclog.NewNullLogger(),
			cfg: &Config{Sharing: Sharing{GroupAttribute: "memberOf"}}, account: account, groupsAge: 1,
		}
		for range 5 {
			began := time.Now()
			s.refreshGroups(t.Context())
			if took := time.Since(began); took > groupsPatience {
				t.Fatalf("a command waited for %v", took)
			}
		}
		if asked != 1 {
			t.Errorf("the directory was asked %d times", asked)
		}
		time.Sleep(groupsRest * groupsPatience)
		s.refreshGroups(t.Context())
		if asked != 2 {
			t.Errorf("the directory was asked %d times after a rest", asked)
		}
	})
}

// slowly is a directory that does not answer.
type slowly func()

func (f slowly) Account(ctx context.Context, _ string) (mail.Account, error) {
	f()
	<-ctx.Done()
	return mail.Account{}, ctx.Err()
}

// A change of groups acts on sessions that are open, at their next command.
func TestGroupsChangeInOpenSessions(t *testing.T) {
	t.Parallel()
	s, people, _ := groupedServer(t)
	bob := s.login("bob")
	bob.fails("SELECT "+plans, "NO [NONEXISTENT]")

	people.set(false, "staff")
	s.AccountsChanged()
	if lines := bob.ok(`LIST "" *`); !strings.Contains(strings.Join(lines, "\n"), "Plans") {
		t.Errorf("list of a new member: %q", lines)
	}
	bob.ok("SELECT " + plans)
	bob.ok("FETCH 1 FLAGS")

	// What the directory said holds while it does not answer.
	people.set(true)
	s.AccountsChanged()
	bob.ok("FETCH 1 FLAGS")
	// It is asked again after a rest, which is as many times as long as it took
	// not to answer.
	people.set(false)
	testenv.Eventually(t, soon, func() error {
		if _, tagged := bob.cmd("FETCH 1 FLAGS"); !strings.HasPrefix(tagged, "NO [NOPERM]") {
			return fmt.Errorf("who is no member is answered %s", tagged)
		}
		return nil
	})
	bob.ok("UNSELECT")
	bob.fails("SELECT "+plans, "NO [NONEXISTENT]")

	// Without a change nobody asks.
	people.mu.Lock()
	before := people.asked
	people.mu.Unlock()
	for range 5 {
		bob.ok("NOOP")
	}
	people.mu.Lock()
	defer people.mu.Unlock()
	if people.asked != before {
		t.Errorf("the directory was asked %d times", people.asked-before)
	}
}
