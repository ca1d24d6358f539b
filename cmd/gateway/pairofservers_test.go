package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/internal/testenv"
)

// pairOfServers is two servers of this program with the same mailboxes. Mail
// for both comes in at either's MX port.
type pairOfServers [2]*site

// standardPair is the configuration of both. A server that is killed is gone at
// once; one whose machine is busy for some seconds is not.
const standardPair = `
hostname = "node{{.Extra.Node}}.example.com"
data_dir = "{{.Dir}}/data"
audit { file = "{{.Dir}}/audit.log" }
control {
  socket  = "{{.Dir}}/control.sock"
  metrics = "127.0.0.1:{{.Port.Metrics}}"
}
tls {
  cert_file = "{{.Dir}}/cert.pem"
  key_file  = "{{.Dir}}/key.pem"
}
directory "ldif" "company" {
  file = "{{.Dir}}/company.ldif"
  base = "dc=example,dc=com"
}
authn "ldif" { directory = directory.company }
gateway {
  listener "mx" { bind = ["127.0.0.1:{{.Port.MX}}"] }
  domains "local" {
    names      = ["example.com", "example.net"]
    recipients = directory.company
    deliver    = target.backend
  }
  target "lmtp" "backend" { address = ["unix:{{.Socket}}"] }
}
backend {
  node = {{.Extra.Node}}
  listener "lmtp" { bind = ["unix:{{.Socket}}"] }
  listener "imaps" { bind = ["127.0.0.1:{{.Port.IMAPS}}"] }
  replica {
    partner = "127.0.0.1:{{.Extra.Partner}}"
    listen  = ["127.0.0.1:{{.Extra.Listen}}"]
    dead_after = "30s"
    {{.Extra.Replica}}
  }
}
`

// exitCode is how a command of the program ends.
func exitCode(args ...string) int {
	c := exec.Command(program, args...)
	if err := c.Run(); c.ProcessState == nil {
		panic(err)
	}
	return c.ProcessState.ExitCode()
}

// newPairOfServers lays both out, with one secret.
func newPairOfServers(t *testing.T) *pairOfServers {
	t.Helper()
	ports := [2]string{fmt.Sprint(testenv.FreePort(t)), fmt.Sprint(testenv.FreePort(t))}
	secret := filepath.Join(testenv.TempDir(t), "pair.secret")
	testenv.Run(t, program, "replica", "keygen", secret)
	var p pairOfServers
	for i := range p {
		p[i] = newSite(t, standardPair, map[string]string{
			"Node": fmt.Sprint(i), "Listen": ports[i], "Partner": ports[1-i], "Replica": fmt.Sprintf("secret_file = %q", secret),
		})
	}
	return &p
}

// start starts both and waits until they are connected and complete.
func (p *pairOfServers) start() *pairOfServers {
	for _, s := range p {
		s.start()
	}
	p.ready()
	return p
}

func (p *pairOfServers) ready() {
	for _, s := range p {
		s.waitForPair(pairReady)
	}
}

// pairStatus is replica status in JSON.
func (s *site) pairStatus() (r pairReport, err error) {
	out, err := command(s.t.Context(), "replica", "status", "--json", "-c", s.Config)
	if err != nil {
		return r, fmt.Errorf("%w: %s", err, out)
	}
	return r, json.Unmarshal([]byte(out), &r)
}

// waitForPair waits until a node says it is in a state.
func (s *site) waitForPair(state string) {
	s.t.Helper()
	testenv.Eventually(s.t, time.Minute, func() error {
		r, err := s.pairStatus()
		if err == nil && r.State != state {
			err = fmt.Errorf("state %s (%s), want %s", r.State, r.Reason, state)
		}
		return err
	})
}

// TestPairOfServers: what one server takes in the other has, mail and changes,
// both ways; killed and started again it catches up; and all that operators ask
// answers.
func TestPairOfServers(t *testing.T) {
	t.Parallel()
	p := newPairOfServers(t).start()
	must(t, p[0].inject("far@elsewhere.example", []string{"alice@example.com"}, "by node 0"))
	must(t, p[1].inject("far@elsewhere.example", []string{"alice@example.com"}, "by node 1"))
	for _, s := range p {
		s.waitFor("alice", "by node 0", 1)
		s.waitFor("alice", "by node 1", 1)
	}
	flagAll(t, p[1], imap.FlagSeen)
	testenv.Eventually(t, time.Minute, func() error { return seen(p[0], 2) })

	for _, want := range []string{`Queued 'sync' requests +0\n`, `Waiting 'failed' requests +0\n`, `Total number of known users +1\n`, `state +ready\n`, `partner +127\.0\.0\.1:\d+, node 1`, `node +0, semi-sync`} {
		waitForOutput(t, p[0], want, "replica", "status")
	}
	if out := p[1].run("replica", "status", "al*"); !regexp.MustCompile(`(?m)^username +priority +fast sync +full sync +success sync +failed +lag-ops`).MatchString(out) || !strings.Contains(out, "alice") {
		t.Errorf("columns:\n%s", out)
	}
	if out := p[0].run("replica", "verify"); !strings.Contains(out, "1 account(s) are the same on both servers, 0 differ") {
		t.Errorf("verify: %s", out)
	}
	if out := p[0].run("replica", "status", "--check"); !strings.HasPrefix(out, "OK: ready") {
		t.Errorf("check: %s", out)
	}
	if out := p[0].run("replica", "explain", "alice", "INBOX", "1"); !strings.Contains(out, "node 0") {
		t.Errorf("explain: %s", out)
	}
	p[0].run("replica", "sessions")
	p[0].run("replica", "replicate", "*")
	if out := p[0].run("replica", "scrub"); !strings.Contains(out, "0 damaged") {
		t.Errorf("scrub: %s", out)
	}
	p.expectPage(t, 0, 200, pairReady)

	// Killed, the other one serves alone; back, it has what it missed.
	p[1].proc.Kill()
	p[0].waitForPair(pairIsolated)
	p.expectPage(t, 0, 200, pairIsolated)
	must(t, p[0].inject("far@elsewhere.example", []string{"alice@example.com"}, "while alone"))
	p[0].waitFor("alice", "while alone", 1)
	if code := p[0].checkPair(); code != 1 {
		t.Errorf("a node alone is checked as %d", code)
	}
	p[1].start()
	p.ready()
	p[1].waitFor("alice", "while alone", 1)
	testenv.Eventually(t, time.Minute, func() error {
		out, err := command(t.Context(), "replica", "verify", "-c", p[1].Config)
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})

	// An orderly stop is told, and noticed at once.
	p[0].proc.Stop()
	p[1].waitForPair(pairIsolated)
	if out := p[0].run("fsck"); !strings.Contains(out, "0 finding(s)") {
		t.Errorf("fsck: %s", out)
	}
	if r, err := p[1].pairStatus(); err != nil || !strings.Contains(r.Reason, "goodbye") && !strings.Contains(r.Reason, "connect") {
		t.Errorf("reason %q, %v", r.Reason, err)
	}
}

// checkPair is the exit status of the check for monitoring.
func (s *site) checkPair() int {
	return exitCode("replica", "status", "--check", "-c", s.Config)
}

func (p *pairOfServers) expectPage(t *testing.T, i, code int, word string) {
	t.Helper()
	response, err := http.Get("http://" + p[i].address("Metrics") + "/pair")
	must(t, err)
	defer func() { _ = response.Body.Close() }()
	var b strings.Builder
	must(t, response.Write(&b))
	if response.StatusCode != code || !strings.Contains(b.String(), word) {
		t.Errorf("/pair of node %d: %d, %s", i, response.StatusCode, b.String())
	}
}

func flagAll(t *testing.T, s *site, flag imap.Flag) {
	t.Helper()
	c, err := s.imap("alice", "alice-secret")
	must(t, err)
	defer func() { _ = c.Close() }()
	_, err = c.Select("INBOX", nil).Wait()
	must(t, err)
	var all imap.SeqSet
	all.AddRange(1, 0)
	must(t, c.Store(all, &imap.StoreFlags{Op: imap.StoreFlagsAdd, Flags: []imap.Flag{flag}, Silent: true}, nil).Close())
}

// seen counts what alice has read.
func seen(s *site, want int) error {
	c, err := s.imap("alice", "alice-secret")
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	if _, err := c.Select("INBOX", nil).Wait(); err != nil {
		return err
	}
	found, err := c.Search(&imap.SearchCriteria{Flag: []imap.Flag{imap.FlagSeen}}, nil).Wait()
	if err != nil {
		return err
	}
	if n := len(found.AllSeqNums()); n != want {
		return fmt.Errorf("%d messages are seen, want %d", n, want)
	}
	return nil
}

// TestPairRefused: a wrong secret, a wrong pin and the same number twice are
// told on both sides, with what to do; mail is taken all the same.
func TestPairRefused(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		change func(t *testing.T, p *pairOfServers)
		says   string
	}{
		"secret": {func(t *testing.T, p *pairOfServers) {
			other := filepath.Join(p[1].Dir, "other.secret")
			testenv.Run(t, program, "replica", "keygen", other)
			p[1].Extra["Replica"] = fmt.Sprintf("secret_file = %q", other)
		}, "the secrets differ"},
		"pin": {func(t *testing.T, p *pairOfServers) {
			for i, s := range p {
				s.Extra["Replica"] = ""
				s.configure(standardPair)
				own := strings.TrimSpace(s.run("replica", "pin"))
				p[i].Extra["Replica"] = fmt.Sprintf("partner_pin = %q", own) // that of the wrong side
			}
		}, "replica pin"},
		"number": {func(_ *testing.T, p *pairOfServers) { p[1].Extra["Node"] = "0" }, "both servers have node = 0"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPairOfServers(t)
			row.change(t, p)
			for _, s := range p {
				s.configure(standardPair)
				s.start()
			}
			testenv.Eventually(t, time.Minute, func() error {
				for i, s := range p {
					if r, err := s.pairStatus(); err != nil || !r.Refused || !strings.Contains(r.Reason+s.proc.Log(), row.says) {
						return fmt.Errorf("node %d: %+v, %w", i, r, err)
					}
				}
				return nil
			})
			if code := p[0].checkPair(); code != 2 {
				t.Errorf("checked as %d", code)
			}
			must(t, p[0].inject("far@elsewhere.example", []string{"alice@example.com"}, "all the same"))
			p[0].waitFor("alice", "all the same", 1)
		})
	}
}

// TestPairExample: the example for one machine does what it says.
func TestPairExample(t *testing.T) {
	t.Parallel()
	dir := testenv.TempDir(t)
	copyFile := func(name string, change func(string) string) {
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(change(read(t, "../../deploy/examples/pair/"+name))), 0o600))
	}
	ports := make(map[string]string)
	port := regexp.MustCompile(`127\.0\.0\.1:(\d+)`)
	free := func(text string) string {
		return port.ReplaceAllStringFunc(text, func(address string) string {
			if ports[address] == "" {
				ports[address] = fmt.Sprintf("127.0.0.1:%d", testenv.FreePort(t))
			}
			return ports[address]
		})
	}
	copyFile("people.ldif", func(s string) string { return s })
	testenv.Run(t, program, "replica", "keygen", filepath.Join(dir, "pair.secret"))
	var p pairOfServers
	for i := range p {
		name := fmt.Sprintf("node%d.hcl", i)
		copyFile(name, free)
		p[i] = &site{t: t, Dir: dir, Config: filepath.Join(dir, name)}
		p[i].proc = testenv.Start(t, testenv.Command{
			Path: program, Args: []string{"serve", "-c", name}, Dir: dir, StartTimeout: time.Minute,
			Ready: testenv.DialReady("tcp", ports[fmt.Sprintf("127.0.0.1:143%d", i)]),
		})
	}
	testenv.Eventually(t, time.Minute, func() error {
		for i := range p {
			if log := p[i].proc.Log(); !strings.Contains(log, "connected to the partner") {
				return fmt.Errorf("node %d: %s", i, log)
			}
		}
		return nil
	})
}
