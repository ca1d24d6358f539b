package main

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/testdata/ldif"
)

// TestQuota: what an account may send ends, the operator is warned, and it is
// the same after a restart, until the account is let begin anew; beyond it mail
// can be held instead.
func TestQuota(t *testing.T) {
	t.Parallel()
	const quota = "gateway {\n  quota \"everybody\" {\n recipients_per_day = 3\n }\n"
	s := newSite(t, strings.Replace(standard, "gateway {\n", quota, 1), nil).start()
	send := func(to ...string) error {
		return s.submit("alice", ldif.Password("alice"), "alice@example.com", to, "quota")
	}
	must(t, send("bob@example.com", "carol@example.com"))
	if err := send("nobody-has-this@example.com"); err == nil || !strings.Contains(err.Error(), "550") {
		t.Errorf("a recipient nobody has: %v", err)
	}
	must(t, send("bob@example.com"))
	const refusal = "Error: sending quota exceeded: 3 recipients in 1 day; try again in "
	for range 2 {
		if err := send("bob@example.com"); err == nil || !strings.Contains(err.Error(), refusal) {
			t.Errorf("the fourth: %v", err)
		}
	}
	must(t, s.submit("bob", ldif.Password("bob"), "bob@example.com", []string{"alice@example.com"}, "another account"))
	s.waitForLog(`message accepted.*login=bob`) // what was before stands above
	if n := strings.Count(s.proc.Log(), "an account reached its sending quota"); n != 1 || !strings.Contains(s.proc.Log(), "login=\"alice of company\"") {
		t.Errorf("%d warnings", n)
	}
	if out := s.run("limits", "list"); !strings.Contains(out, "alice of company") || !strings.Contains(out, "bob of company") {
		t.Errorf("limits list:\n%s", out)
	}
	s.proc.Stop()
	s.start()
	if err := send("bob@example.com"); err == nil || !strings.Contains(err.Error(), refusal) {
		t.Errorf("after a restart: %v", err)
	}
	if out := s.run("limits", "show", "alice"); !strings.Contains(out, "alice of company") || strings.Contains(out, "bob") {
		t.Errorf("limits show:\n%s", out)
	}
	s.run("limits", "reset", "alice of company")
	must(t, send("bob@example.com"))

	s.configure(strings.Replace(standard, "gateway {\n", strings.Replace(quota, "= 3", "= 1\n over_quota = \"hold\"", 1), 1))
	s.run("reload")
	must(t, send("bob@example.com"))
	testenv.Eventually(t, time.Minute, func() error {
		if out := s.run("queue", "list", "--state", "hold"); !strings.Contains(out, "alice@example.com") {
			return fmt.Errorf("nothing is held:\n%s", out)
		}
		return nil
	})
}
