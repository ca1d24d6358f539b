package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-imap/v2/imapclient"

	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/testdata/ldif"
)

// TestSessionsAndKick: an operator sees who is connected, and ends sessions of
// one person, whom others' sessions survive.
func TestSessionsAndKick(t *testing.T) {
	t.Parallel()
	s := newSite(t, strings.Replace(standard, `control { socket = "{{.Dir}}/control.sock" }`, `control {
  socket  = "{{.Dir}}/control.sock"
  metrics = "127.0.0.1:{{.Port.Metrics}}"
}`, 1), nil).start()
	if out := s.run("sessions"); !strings.Contains(out, "No session") {
		t.Errorf("nobody is connected:\n%s", out)
	}
	alice, err := s.imap("alice", ldif.Password("alice"))
	must(t, err)
	defer func() { _ = alice.Close() }()
	_, err = alice.Select("INBOX", nil).Wait()
	must(t, err)
	waiting, err := alice.Idle()
	must(t, err)
	bob, err := s.imap("bob", ldif.Password("bob"))
	must(t, err)
	defer func() { _ = bob.Close() }()

	line := s.run("sessions", "alice@example.com", "--json") // by any name of hers
	var text struct{ State, Mailbox, Login, Session string }
	must(t, json.NewDecoder(bytes.NewBufferString(line)).Decode(&text))
	if text.State != "idle" || text.Mailbox != "INBOX" || text.Login != "alice" || text.Session == "" || strings.Count(line, "\n") != 1 {
		t.Errorf("alice's sessions: %s", line)
	}
	if out := s.run("sessions"); !strings.Contains(out, "2 session(s)") || !strings.Contains(out, "bob") || !strings.Contains(out, "IDLE") {
		t.Errorf("all sessions:\n%s", out)
	}
	if page, err := s.metrics(); err != nil || !strings.Contains(page, `gateway_backend_sessions{protocol="imap",state="idle"} 1`) {
		t.Errorf("metrics: %v", err)
	}
	if out := s.failing("kick"); !strings.Contains(out, "whom to disconnect") {
		t.Errorf("kick without anybody: %s", out)
	}
	if out := s.failing("kick", "carol"); !strings.Contains(out, "no session") {
		t.Errorf("kick of somebody who is not there: %s", out)
	}
	if out := s.failing("kick", "--from", "somewhere"); !strings.Contains(out, "network") {
		t.Errorf("kick from nowhere: %s", out)
	}
	if out := s.run("kick", "alice"); !strings.Contains(out, "1 session(s) ended") {
		t.Errorf("kick: %s", out)
	}
	_ = waiting.Wait()
	isOut(t, "alice", alice)
	if err := bob.Noop().Wait(); err != nil {
		t.Errorf("bob is out, too: %v", err)
	}
	if out := s.run("kick", "--from", "127.0.0.0/8"); !strings.Contains(out, "1 session(s) ended") {
		t.Errorf("kick: %s", out)
	}
	isOut(t, "bob", bob)
	testenv.Eventually(t, time.Minute, func() error {
		kicked, asked := 0, 0
		for _, e := range events(t, s) {
			if e.Kind == mail.EventAuth && e.Result == "disconnected" {
				kicked++
			}
			if e.Kind == mail.EventOperator && strings.HasPrefix(e.Detail, "kick") {
				asked++
			}
		}
		if kicked != 2 || asked != 5 {
			return fmt.Errorf("the audit has %d sessions ended, %d commands", kicked, asked)
		}
		return nil
	})
}

// isOut waits until a session has ended: a command that was under way when it
// was told to end is answered first.
func isOut(t *testing.T, who string, c *imapclient.Client) {
	t.Helper()
	testenv.Eventually(t, time.Minute, func() error {
		if err := c.Noop().Wait(); err == nil {
			return fmt.Errorf("%s goes on", who)
		}
		return nil
	})
}
