package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/testenv"
)

// shadowed is a pair in durability shadow and a gateway in front of both nodes.
type shadowed struct {
	*pairOfServers
	gateway *site
}

func newShadowed(t *testing.T, cutThrough string) *shadowed {
	t.Helper()
	p := newPairOfServers(t)
	for _, s := range p {
		text, err := os.ReadFile(s.Config)
		must(t, err)
		s.configure(strings.Replace(string(text), "secret_file =", "durability = \"shadow\"\n    secret_file =", 1))
	}
	p.start()
	gateway := newSite(t, variant(t, standard, backendRole, "",
		`{ address = ["unix:{{.Socket}}"] }`, `{
    address     = ["unix:{{.Extra.a}}", "unix:{{.Extra.b}}"]
    cut_through = "`+cutThrough+`"
  }`),
		map[string]string{"a": p[0].Socket, "b": p[1].Socket}).start()
	return &shadowed{p, gateway}
}

// send brings a message to the gateway, which answers 250.
func (s *shadowed) send(t *testing.T, subject string) {
	t.Helper()
	must(t, s.gateway.inject("far@elsewhere.example", []string{"alice@example.com"}, subject))
}

// waitForQueue waits until the listing of the gateway's queue holds a text.
func (s *shadowed) waitForQueue(t *testing.T, want string) {
	t.Helper()
	testenv.Eventually(t, time.Minute, func() error {
		out, err := command(t.Context(), "queue", "list", "-c", s.gateway.Config)
		if err == nil && !strings.Contains(out, want) {
			err = fmt.Errorf("no %q in %s", want, out)
		}
		return err
	})
}

// TestShadowDiskGone: a node answered for a message while its partner was away,
// and its disk is gone before the partner came back; the gateway, too, was
// killed meanwhile. The partner has the message, once.
func TestShadowDiskGone(t *testing.T) {
	t.Parallel()
	for _, cutThrough := range []string{"auto", "never"} {
		t.Run("cut_through="+cutThrough, func(t *testing.T) {
			t.Parallel()
			s := newShadowed(t, cutThrough)
			s.send(t, "with both")
			for _, node := range s.pairOfServers {
				node.waitFor("alice", "with both", 1)
			}
			s.waitForQueue(t, "The queue is empty")

			s.pairOfServers[1].proc.Kill()
			s.pairOfServers[0].waitForPair(pairIsolated)
			s.send(t, "on one disk")
			s.pairOfServers[0].waitFor("alice", "on one disk", 1)
			s.waitForQueue(t, "  kept  ")
			s.gateway.proc.Kill()
			s.pairOfServers[0].proc.Kill()
			must(t, os.RemoveAll(filepath.Join(s.pairOfServers[0].Dir, "data")))

			s.gateway.start()
			s.pairOfServers[1].start()
			s.pairOfServers[1].waitFor("alice", "on one disk", 1)
			s.pairOfServers[1].waitFor("alice", "with both", 1)
			// Its partner is away, so the gateway keeps the message for that now.
			s.waitForQueue(t, "  kept  ")
		})
	}
}

// TestShadowPartnerComesBack: the copy that the gateway keeps goes once the
// partner has the message, and no second one comes of it, though the gateway was
// killed and asked the partner meanwhile.
func TestShadowPartnerComesBack(t *testing.T) {
	t.Parallel()
	s := newShadowed(t, "auto")
	a, b := s.pairOfServers[0], s.pairOfServers[1]
	b.proc.Kill()
	a.waitForPair(pairIsolated)
	s.send(t, "first")
	s.waitForQueue(t, "  kept  ")
	if out := s.gateway.run("queue", "summary"); !strings.Contains(out, "kept") {
		t.Errorf("summary: %s", out)
	}
	s.gateway.proc.Kill()
	a.proc.Kill()
	s.gateway.start()
	b.start()
	b.waitFor("alice", "first", 1) // a copy of its own
	a.start()
	s.ready()
	s.waitForQueue(t, "The queue is empty")
	for _, node := range s.pairOfServers {
		testenv.Eventually(t, time.Minute, func() error {
			got, err := node.subjects("alice")
			if err == nil && len(got) != 1 {
				err = fmt.Errorf("%q", got)
			}
			return err
		})
	}
}
