package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/postern-mail/postern/audit"
	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/testdata/ldif"
)

func TestSubmissionToInbox(t *testing.T) {
	t.Parallel()
	s := newSite(t, standard, nil).start()
	must(t, s.submit("alice", ldif.Password("alice"), "alice@example.com", []string{"staff@example.com"}, "to the staff"))
	for _, login := range []string{"alice", "bob", "carol"} {
		s.waitFor(login, "to the staff", 1)
	}
	must(t, s.inject("stranger@elsewhere.example", []string{"Bob+vip@example.com", "anybody@example.net"}, "from outside"))
	s.waitFor("carol", "from outside", 1)
	if out := s.run("queue", "list"); !strings.Contains(out, "erin@elsewhere.example") {
		t.Errorf("Erin's forward is not queued:\n%s", out)
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	s := newSite(t, standard, nil).start()
	secret := ldif.Password("alice")
	for name, row := range map[string]struct {
		err  error
		want int
	}{
		"relaying":               {s.inject("a@elsewhere.example", []string{"b@elsewhere.example"}, "x"), 554},
		"percent hack":           {s.inject("a@elsewhere.example", []string{"b%elsewhere.example@example.com"}, "x"), 554},
		"no such person":         {s.inject("a@elsewhere.example", []string{"nobody@example.com"}, "x"), 550},
		"somebody else's sender": {s.submit("alice", secret, "bob@example.com", []string{"bob@example.com"}, "x"), 553},
		"wrong password":         {s.submit("alice", "wrong", "alice@example.com", []string{"bob@example.com"}, "x"), 535},
		"disabled account":       {s.submit("dave", ldif.Password("dave"), "dave@example.com", []string{"bob@example.com"}, "x"), 535},
		"one's own address":      {s.submit("alice", secret, "a.anders@example.com", []string{"bob@example.com"}, "x"), 0},
		"a shared address":       {s.submit("bob", ldif.Password("bob"), "info@example.com", []string{"alice@example.com"}, "x"), 0},
		"login by address":       {s.submit("alice@example.com", secret, "alice@example.com", []string{"bob@example.com"}, "x"), 0},
	} {
		if got := code(row.err); got != row.want {
			t.Errorf("%s: %v, want %d", name, row.err, row.want)
		}
	}
}

// TestKillLosesNothing kills the program while mail comes in, several times:
// every message answered 250 is in the mailbox, once.
func TestKillLosesNothing(t *testing.T) {
	t.Parallel()
	s := newSite(t, standard, nil).start()
	var mu sync.Mutex
	var accepted []string
	for round := range 3 {
		var senders sync.WaitGroup
		enough := make(chan struct{})
		var once sync.Once
		for sender := range 4 {
			senders.Go(func() {
				for n := 0; ; n++ {
					subject := fmt.Sprintf("round %d sender %d number %d", round, sender, n)
					if s.inject("a@elsewhere.example", []string{"bob@example.com"}, subject) != nil {
						return
					}
					mu.Lock()
					accepted = append(accepted, subject)
					if len(accepted) >= 25*(round+1) {
						once.Do(func() { close(enough) })
					}
					mu.Unlock()
				}
			})
		}
		<-enough
		s.proc.Kill()
		senders.Wait()
		s.start()
	}
	testenv.Eventually(t, time.Minute, func() error {
		got, err := s.subjects("bob")
		if err != nil {
			return err
		}
		counts := make(map[string]int)
		for _, subject := range got {
			counts[subject]++
		}
		for _, subject := range accepted {
			if counts[subject] != 1 {
				return fmt.Errorf("%q was accepted and is %d times in the mailbox", subject, counts[subject])
			}
		}
		return nil
	})
	for subject, n := range count(t, s, "bob") {
		if n != 1 {
			t.Errorf("%q is %d times in the mailbox", subject, n)
		}
	}
}

func count(t *testing.T, s *site, login string) map[string]int {
	t.Helper()
	got, err := s.subjects(login)
	must(t, err)
	counts := make(map[string]int)
	for _, subject := range got {
		counts[subject]++
	}
	return counts
}

// TestAuditTellsTheWholeLife follows one message through the audit.
func TestAuditTellsTheWholeLife(t *testing.T) {
	t.Parallel()
	s := newSite(t, standard, nil).start()
	must(t, s.submit("alice", ldif.Password("alice"), "alice@example.com", []string{"bob@example.com"}, "audited"))
	s.waitFor("bob", "audited", 1)
	if code(s.submit("alice", "a wrong secret", "alice@example.com", []string{"bob@example.com"}, "x")) != 535 {
		t.Error("a wrong password was not refused")
	}
	s.proc.Stop()
	file, err := os.Open(filepath.Join(s.Dir, "audit.log"))
	must(t, err)
	defer func() { _ = file.Close() }()
	var events []mail.Event
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		for _, secret := range []string{ldif.Password("alice"), ldif.Password("bob"), "a wrong secret", "Dear reader"} {
			if strings.Contains(lines.Text(), secret) {
				t.Errorf("a secret in the audit: %s", lines.Text())
			}
		}
		var e mail.Event
		must(t, json.Unmarshal(lines.Bytes(), &e))
		events = append(events, e)
	}
	accepted := slices.IndexFunc(events, func(e mail.Event) bool { return e.Kind == mail.EventAccept })
	if accepted < 0 {
		t.Fatalf("no acceptance among %d events", len(events))
	}
	a := events[accepted]
	for what, match := range map[string]func(mail.Event) bool{
		"connection of its session": func(e mail.Event) bool { return e.Kind == mail.EventConnect && e.Session == a.Session },
		"login of its session": func(e mail.Event) bool {
			return e.Kind == mail.EventAuth && e.Session == a.Session && e.Login == "alice" && e.Result == "ok"
		},
		"delivery": func(e mail.Event) bool {
			return e.Kind == mail.EventDelivery && e.Queue == a.Queue && e.Result == "delivered"
		},
		"end":           func(e mail.Event) bool { return e.Kind == mail.EventFinal && e.Queue == a.Queue },
		"refused login": func(e mail.Event) bool { return e.Kind == mail.EventAuth && e.Result != "ok" },
		"IMAP login":    func(e mail.Event) bool { return e.Kind == mail.EventAuth && e.Service == "imap" && e.Login == "bob" },
		"start":         func(e mail.Event) bool { return e.Kind == mail.EventLifecycle },
	} {
		if !slices.ContainsFunc(events, match) {
			t.Errorf("no record of the %s", what)
		}
	}
	if _, err := file.Seek(0, 0); err != nil {
		t.Fatal(err)
	}
	v, err := audit.Verify(file)
	must(t, err)
	if len(v.Breaks) > 0 {
		t.Errorf("chain: %+v", v.Breaks)
	}
	if t.Failed() {
		for _, e := range events {
			t.Logf("%+v", e)
		}
	}
}

// TestReloadDropsNoSession changes the configuration under an open session.
func TestReloadDropsNoSession(t *testing.T) {
	t.Parallel()
	s := newSite(t, standard, nil).start()
	c, err := s.imap("bob", ldif.Password("bob"))
	must(t, err)
	defer func() { _ = c.Close() }()

	s.configure(strings.Replace(standard, `"example.net"`, `"example.net", "new.example"`, 1))
	if code := code(s.inject("a@elsewhere.example", []string{"bob@new.example"}, "x")); code != 554 {
		t.Errorf("before the reload: %d, want 554", code)
	}
	if out := s.run("reload"); !strings.Contains(out, "taken over") {
		t.Errorf("reload said %q", out)
	}
	if code := code(s.inject("a@elsewhere.example", []string{"nobody@new.example"}, "x")); code != 550 {
		t.Errorf("after the reload: %d, want 550", code)
	}
	if _, err := c.Select("INBOX", nil).Wait(); err != nil {
		t.Errorf("the session that was open: %v", err)
	}
}
