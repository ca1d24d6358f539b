package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/testdata/ldif"
)

// TestDrainUnderLoad: clients that work through the proxy all the time are sent
// from a drained node to the other one, and notice nothing but that they have to
// connect again: every login and every command but the one that was cut off by
// BYE succeeds. When the drain is over they come back.
func TestDrainUnderLoad(t *testing.T) {
	t.Parallel()
	front, nodes := newProxied(t)
	for i := range nodes {
		nodes[i].start()
	}
	front.start()
	home := mail.Account{Name: "bob"}.HomeClass()
	var logins, byes, refused atomic.Int64
	stop := make(chan struct{})
	var clients sync.WaitGroup
	for range 4 {
		clients.Go(func() {
			for {
				c, err := front.imap("bob", ldif.Password("bob"))
				if err != nil {
					refused.Add(1)
					t.Errorf("a login failed: %v", err)
					return
				}
				logins.Add(1)
				tick := time.NewTicker(5 * time.Millisecond)
				for err == nil {
					select {
					case <-stop:
						_ = c.Close()
						return
					case <-tick.C:
						err = c.Noop().Wait()
					}
				}
				tick.Stop()
				byes.Add(1)
				_ = c.Close()
			}
		})
	}
	testenv.Eventually(t, time.Minute, func() error {
		if logins.Load() < 4 {
			return fmt.Errorf("%d clients are there", logins.Load())
		}
		return nil
	})
	if out, err := runFailing(t, "drain", "-c", nodes[home].Config); err != nil || !strings.Contains(out, "no partner") {
		t.Errorf("a server without a partner is drained: %v\n%s", err, out)
	}
	if out := nodes[home].run("drain", "--force", "--spread", "500ms"); !strings.Contains(out, "drained") {
		t.Errorf("drain said:\n%s", out)
	}
	if got := health(t, nodes[home]); got != "503 draining" {
		t.Errorf("health of the drained node: %s", got)
	}
	testenv.Eventually(t, time.Minute, func() error {
		word, err := os.ReadFile(filepath.Join(nodes[home].Dir, "health"))
		if err == nil && string(word) != "draining\n" {
			err = fmt.Errorf("the health file says %q", word)
		}
		return err
	})
	if err := nodes[home].bring("bob@example.com", "x"); code(err) != 421 {
		t.Errorf("mail at the drained node: %v, want 421", err)
	}
	if out := nodes[home].run("status"); !strings.Contains(out, "DRAINING: drained") {
		t.Errorf("status:\n%s", out)
	}
	testenv.Eventually(t, time.Minute, func() error { // they hear of it after the operator
		if n := byes.Load(); n < 4 {
			return fmt.Errorf("%d clients of 4 were sent away", n)
		}
		return nil
	})
	nodes[home].run("drain", "--undo")
	if got := health(t, nodes[home]); got != "200 ready" {
		t.Errorf("health after the drain: %s", got)
	}
	must(t, nodes[home].bring("bob@example.com", "after the drain"))
	testenv.Eventually(t, time.Minute, func() error {
		got, err := front.subjects("bob")
		if err == nil && len(got) != 1 {
			err = fmt.Errorf("bob sees %q", got)
		}
		return err
	})
	close(stop)
	clients.Wait()
	t.Logf("%d logins, %d sessions ended, %d refused", logins.Load(), byes.Load(), refused.Load())
}

// health asks as a load balancer does.
func health(t *testing.T, s *site) string {
	t.Helper()
	response, err := http.Get("http://" + s.address("Metrics") + "/pair")
	must(t, err)
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	must(t, err)
	return fmt.Sprintf("%d %s", response.StatusCode, strings.TrimSpace(string(body)))
}
