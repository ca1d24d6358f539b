package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-imap/v2/imapclient"
	"github.com/emersion/go-sasl"
	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/audit"
	"github.com/postern-mail/postern/config"
	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/testdata/ldif"
)

// openServer opens a site in this process without running it.
func openServer(t *testing.T) *server {
	t.Helper()
	site := newSite(t, standard, nil)
	f, err := config.Load(site.Config)
	must(t, err)
	s, err := newServer(t.Context(), site.Config, f, hclog.NewNullLogger(), &reopenable{out: os.Stderr})
	must(t, err)
	t.Cleanup(func() {
		if err := s.close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// TestReloadIsAllOrNothing: when one listener cannot take the new
// configuration over, all of them go back to the one before.
func TestReloadIsAllOrNothing(t *testing.T) {
	t.Parallel()
	s := openServer(t)
	before := s.current.Load()
	var seen []*generation
	broken := errors.New("broken")
	s.listeners = append(s.listeners,
		&listening{Listener: s.listeners[0].Listener, reconfigure: func(g *generation) error {
			seen = append(seen, g)
			return nil
		}},
		&listening{Listener: s.listeners[0].Listener, reconfigure: func(g *generation) error {
			if g != before {
				return broken
			}
			return nil
		}},
	)
	if _, err := s.reload(); !errors.Is(err, broken) {
		t.Fatalf("reload: %v", err)
	}
	if s.current.Load() != before || len(seen) != 2 || seen[1] != before {
		t.Errorf("in force after the failure: %p, seen %v; before %p", s.current.Load(), seen, before)
	}
}

// TestReloadWhileStopping: requests that come when the server is almost gone
// end with an error instead of waiting for ever.
func TestReloadWhileStopping(t *testing.T) {
	t.Parallel()
	s := openServer(t)
	ctx, stop := context.WithCancel(t.Context())
	stop()
	must(t, s.runGenerations(ctx))
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for range 3 {
			_, _ = s.reload() // an error or not: it returns
		}
	}()
	select {
	case <-ended:
	case <-time.After(time.Minute):
		t.Fatal("the reload hangs")
	}
}

// TestReloadStorm: of many generations in a row only the last few still have
// their helpers running.
func TestReloadStorm(t *testing.T) {
	t.Parallel()
	s := &server{log: hclog.NewNullLogger(), generations: make(chan *generation), ended: make(chan struct{})}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.runGenerations(ctx) }()
	var lives []context.Context
	for range 4 * maxRetired {
		began := make(chan context.Context, 1)
		s.generations <- &generation{tasks: []task{{"helper", func(ctx context.Context) error {
			began <- ctx
			<-ctx.Done()
			return nil
		}}}}
		lives = append(lives, <-began)
	}
	// The helpers of the last one begin before those of the oldest are ended.
	testenv.Eventually(t, time.Minute, func() error {
		alive := slices.DeleteFunc(slices.Clone(lives), func(ctx context.Context) bool { return ctx.Err() != nil })
		if len(alive) != 1+maxRetired {
			return fmt.Errorf("%d generations have helpers running, want %d", len(alive), 1+maxRetired)
		}
		return nil
	})
	stop()
	must(t, <-done)
}

// TestSecondServerLeavesNoTrace: a server that cannot start on data in use
// writes nothing into the audit of the one that runs.
func TestSecondServerLeavesNoTrace(t *testing.T) {
	t.Parallel()
	first := openServer(t)
	f, err := config.Load(first.path)
	must(t, err)
	must(t, first.audit.Sync())
	file := f.Audit.File
	before, err := os.ReadFile(file)
	must(t, err)
	if _, err := newServer(t.Context(), first.path, f, hclog.NewNullLogger(), &reopenable{out: os.Stderr}); err == nil {
		t.Fatal("a second server started on the same data")
	}
	after, err := os.ReadFile(file)
	must(t, err)
	if string(after) != string(before) {
		t.Errorf("the audit got %q", after[len(before):])
	}
	opened, err := os.Open(file)
	must(t, err)
	defer func() { _ = opened.Close() }()
	if v, err := audit.Verify(opened); err != nil || len(v.Breaks) > 0 {
		t.Errorf("%+v, %v", v, err)
	}
}

// TestNeverStarted: a server that finds at the last moment that it cannot run
// does not say that it stopped.
func TestNeverStarted(t *testing.T) {
	t.Parallel()
	site := newSite(t, standard, nil)
	f, err := config.Load(site.Config)
	must(t, err)
	must(t, os.WriteFile(f.Control.Socket, nil, 0o600)) // is no socket
	if _, err := newServer(t.Context(), site.Config, f, hclog.NewNullLogger(), &reopenable{out: os.Stderr}); err == nil {
		t.Fatal("started")
	}
	if text, err := os.ReadFile(f.Audit.File); err != nil || len(text) > 0 {
		t.Errorf("audited %q, %v", text, err)
	}
}

// TestOperatorsAreAudited: whoever changes something or looks into mail by the
// control socket stands in the audit, with the outcome.
func TestOperatorsAreAudited(t *testing.T) {
	t.Parallel()
	s := newSite(t, standard, nil).start()
	s.run("status")
	s.run("reload")
	if err := exec.Command(program, "queue", "delete", "NOSUCH", "-c", s.Config).Run(); err == nil {
		t.Error("deleted what is not there")
	}
	var found []mail.Event
	testenv.Eventually(t, time.Minute, func() error {
		text, err := os.ReadFile(filepath.Join(s.Dir, "audit.log"))
		if err != nil {
			return err
		}
		found = nil
		for line := range strings.Lines(string(text)) {
			var e mail.Event
			if err := json.Unmarshal([]byte(line), &e); err != nil {
				return err
			}
			if e.Kind == mail.EventOperator {
				found = append(found, e)
			}
		}
		if len(found) != 2 {
			return fmt.Errorf("operators: %+v", found)
		}
		return nil
	})
	who := fmt.Sprintf("uid %d", os.Getuid())
	for i, want := range []mail.Event{{Result: "ok", Detail: "reload"}, {Result: "refused", Detail: "queue/delete id=NOSUCH"}} {
		if e := found[i]; e.Result != want.Result || e.Detail != want.Detail || !strings.HasPrefix(e.Login, who) {
			t.Errorf("got %+v, want %+v by %s", e, want, who)
		}
	}
}

// TestReloadOfPlaintextLogins: what a reload says about logins without TLS goes
// for every way to log in.
func TestReloadOfPlaintextLogins(t *testing.T) {
	t.Parallel()
	with := func(setting string) string {
		return strings.Replace(standard, `listener "imaps"`,
			"listener \"imap\" {\n bind = [\"127.0.0.1:{{.Port.IMAP}}\"]\n"+setting+"\n}\n  listener \"imaps\"", 1)
	}
	s := newSite(t, with(""), nil).start()
	authenticate := func() error {
		c, err := imapclient.DialInsecure(s.address("IMAP"), nil)
		must(t, err)
		defer func() { _ = c.Close() }()
		return c.Authenticate(sasl.NewPlainClient("", "bob", ldif.Password("bob")))
	}
	if err := authenticate(); err == nil {
		t.Error("a password crossed the wire in the clear")
	}
	s.configure(with("allow_plaintext_auth = true"))
	s.run("reload")
	if err := authenticate(); err != nil {
		t.Errorf("after it was allowed: %v", err)
	}
}
