package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-imap/v2/imapclient"
	gosmtp "github.com/emersion/go-smtp"

	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/testdata/ldif"
)

const aBackend = `
hostname = "mail.example.com"
data_dir = "{{.Dir}}/data"
audit { file = "{{.Dir}}/audit.log" }
control {
  socket = "{{.Dir}}/control.sock"
  metrics = "127.0.0.1:{{.Port.Metrics}}"
  health_file = "{{.Dir}}/health"
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
backend {
  listener "lmtp" { bind = ["unix:{{.Socket}}"] }
  listener "imap" { bind = ["127.0.0.1:{{.Port.IMAP}}"] }
  listener "pop3" { bind = ["127.0.0.1:{{.Port.POP3}}"] }
  pop3 { in_use_wait = "0s" }
  proxy {
    networks      = ["127.0.0.0/8"]
    password_file = "{{.Dir}}/proxy.secret"
  }
}
`

const aProxy = `
hostname = "imap.example.com"
data_dir = "{{.Dir}}/data"
audit { file = "{{.Dir}}/audit.log" }
control {
  socket = "{{.Dir}}/control.sock"
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
proxy {
  listener "imaps" { bind = ["127.0.0.1:{{.Port.IMAPS}}"] }
  listener "pop3" { bind = ["127.0.0.1:{{.Port.POP3}}"] }
  listener "pop3s" { bind = ["127.0.0.1:{{.Port.POP3S}}"] }
  cell "main" {
    address       = [{{.Extra.nodes}}]
    pop3_address  = [{{.Extra.pop3}}]
    ca_file       = "{{.Extra.ca}}"
    server_name   = "localhost"
    user          = "proxy"
    password_file = "{{.Dir}}/proxy.secret"
    failover_time = "20s"
  }
}
`

// newProxied returns two backends that know a proxy, and the proxy before them,
// none of them running.
func newProxied(t *testing.T) (front *site, nodes [2]*site) {
	t.Helper()
	cas, addresses, pop3 := "", []string{}, []string{}
	for i := range nodes {
		nodes[i] = newSite(t, aBackend, nil)
		must(t, os.WriteFile(filepath.Join(nodes[i].Dir, "proxy.secret"), []byte("open sesame\n"), 0o600))
		cert, err := os.ReadFile(filepath.Join(nodes[i].Dir, "cert.pem"))
		must(t, err)
		cas += string(cert)
		addresses = append(addresses, fmt.Sprintf("%q", nodes[i].address("IMAP")))
		pop3 = append(pop3, fmt.Sprintf("%q", nodes[i].address("POP3")))
	}
	dir := testenv.TempDir(t)
	must(t, os.WriteFile(filepath.Join(dir, "ca.pem"), []byte(cas), 0o600))
	front = newSite(t, aProxy, map[string]string{"nodes": strings.Join(addresses, ", "), "pop3": strings.Join(pop3, ", "), "ca": filepath.Join(dir, "ca.pem")})
	must(t, os.WriteFile(filepath.Join(front.Dir, "proxy.secret"), []byte("open sesame\n"), 0o600))
	return front, nodes
}

// bring delivers a message to a backend by LMTP, as a gateway would.
func (s *site) bring(to, subject string) error {
	conn, err := net.Dial("unix", s.Socket)
	if err != nil {
		return err
	}
	c := gosmtp.NewClientLMTP(conn)
	defer func() { _ = c.Close() }()
	return c.SendMail("a@elsewhere.example", []string{to}, letter("a@elsewhere.example", []string{to}, subject))
}

// events reads a site's audit. A record that is being written is none yet.
func events(t *testing.T, s *site) []mail.Event {
	t.Helper()
	var all []mail.Event
	for line := range strings.Lines(read(t, filepath.Join(s.Dir, "audit.log"))) {
		if !strings.HasSuffix(line, "\n") {
			break
		}
		var e mail.Event
		must(t, json.Unmarshal([]byte(line), &e))
		all = append(all, e)
	}
	return all
}

// TestProxyBringsClientsHome: a client of the proxy is on the node that its
// account is at home on; when that one is killed it is told to come again, and
// is on the other; its password goes no further than the proxy, and both logs
// and audits tell of one client.
func TestProxyBringsClientsHome(t *testing.T) {
	t.Parallel()
	front, nodes := newProxied(t)
	for i := range nodes {
		nodes[i].start()
		for _, login := range []string{"alice", "bob", "carol"} {
			must(t, nodes[i].bring(login+"@example.com", fmt.Sprint("node ", i)))
		}
	}
	front.start()
	for _, login := range []string{"alice", "bob", "carol"} {
		home := mail.Account{Name: login}.HomeClass()
		got, err := front.subjects(login)
		if want := []string{fmt.Sprint("node ", home)}; err != nil || !slices.Equal(got, want) {
			t.Errorf("%s, who is at home on class %d, sees %q, %v", login, home, got, err)
		}
	}
	if _, err := front.imap("alice", "wrong"); err == nil || !strings.Contains(err.Error(), "AUTHENTICATIONFAILED") {
		t.Errorf("a wrong password: %v", err)
	}
	home := mail.Account{Name: "bob"}.HomeClass()
	c, err := front.imap("bob", ldif.Password("bob"))
	must(t, err)
	defer func() { _ = c.Close() }()
	nodes[home].proc.Kill()
	select {
	case <-c.Closed():
	case <-time.After(time.Minute):
		t.Fatal("the client was not let go")
	}
	front.waitFor("bob", fmt.Sprint("node ", 1-home), 1)
	nodes[home].start()
	testenv.Eventually(t, time.Minute, func() error {
		got, err := front.subjects("bob")
		if want := []string{fmt.Sprint("node ", home)}; err == nil && !slices.Equal(got, want) {
			err = fmt.Errorf("bob sees %q, want %q", got, want)
		}
		return err
	})
	front.proc.Stop()
	atFront, atNode := events(t, front), events(t, nodes[home])
	sessions := make(map[mail.SessionID]bool)
	for _, e := range atFront {
		if e.Kind == mail.EventDisconnect && e.Login == "bob" {
			sessions[e.Session] = true
		}
	}
	shared := false
	for _, e := range atNode {
		if e.Kind == mail.EventAuth && e.Login == "bob" {
			shared = shared || sessions[e.Session]
			if e.Verifier != "proxy" || e.Result != "ok" {
				t.Errorf("at the node bob logged in as %+v", e)
			}
		}
	}
	if !shared {
		t.Errorf("no session of the proxy has its name at the node: %v", sessions)
	}
}

// TestProxyBringsPOP3Clients: a POP3 client is on the node that its account is
// at home on, by either port, and on the other when that one is away; the node
// knows its session by the proxy's name.
func TestProxyBringsPOP3Clients(t *testing.T) {
	t.Parallel()
	front, nodes := newProxied(t)
	home := mail.Account{Name: "bob"}.HomeClass()
	for i := range nodes {
		nodes[i].start()
	}
	for i := range 3 {
		must(t, nodes[home].bring("bob@example.com", fmt.Sprint("letter ", i+1)))
	}
	front.start()
	fetch := func(messages string) {
		t.Helper()
		runClient(t, testenv.Program(t, "python3"), "testdata/clients/fetch.py", front.port("POP3"), front.port("POP3S"), filepath.Join(front.Dir, "cert.pem"), messages, "a@elsewhere.example")
	}
	fetch("3")
	nodes[home].proc.Stop()
	for i := range 2 {
		must(t, nodes[1-home].bring("bob@example.com", fmt.Sprint("letter ", i+1)))
	}
	fetch("2")
	front.proc.Stop()
	sessions := make(map[mail.SessionID]bool)
	for _, e := range events(t, front) {
		if e.Kind == mail.EventDisconnect && e.Service == "pop3" && e.Login == "bob" {
			sessions[e.Session] = true
			if !strings.HasPrefix(e.Detail, "client left; node ") {
				t.Errorf("a session ended: %q", e.Detail)
			}
		}
	}
	if len(sessions) == 0 {
		t.Error("no session in the proxy's audit")
	}
	for _, e := range events(t, nodes[home]) {
		if e.Kind == mail.EventAuth && e.Service == "pop3" {
			if !sessions[e.Session] || e.Verifier != "proxy" || e.Result != "ok" {
				t.Errorf("at the node bob logged in as %+v", e)
			}
		}
	}
}

// TestBackendTrustsOnlyItsProxies: the proxies' login is good from their
// networks and with their password only, and is nobody's mailbox.
func TestBackendTrustsOnlyItsProxies(t *testing.T) {
	t.Parallel()
	_, nodes := newProxied(t)
	s := nodes[0].start()
	try := func(authorization, login, password string) error {
		c, err := imapclient.DialStartTLS(s.address("IMAP"), &imapclient.Options{TLSConfig: s.trust})
		must(t, err)
		defer func() { _ = c.Close() }()
		return c.Authenticate(plainAs{authorization, login, password})
	}
	if err := try("alice", "proxy", "open sesame"); err != nil {
		t.Errorf("the proxy: %v", err)
	}
	for name, err := range map[string]error{
		"a wrong password":     try("alice", "proxy", "guess"),
		"as itself":            try("", "proxy", "open sesame"),
		"somebody for another": try("alice", "bob", ldif.Password("bob")),
		"a disabled account":   try("dave", "proxy", "open sesame"),
		"nobody":               try("nobody", "proxy", "open sesame"),
	} {
		if err == nil {
			t.Errorf("%s was let in", name)
		}
	}
	s.proc.Stop()
	s.configure(strings.Replace(aBackend, `["127.0.0.0/8"]`, `["192.0.2.0/24"]`, 1))
	s.start()
	if err := try("alice", "proxy", "open sesame"); err == nil {
		t.Error("a stranger with the password was let in")
	}
}

// plainAs is PLAIN with an authorization identity of its own.
type plainAs struct{ authorization, login, password string }

func (p plainAs) Start() (string, []byte, error) {
	return "PLAIN", []byte(p.authorization + "\x00" + p.login + "\x00" + p.password), nil
}

func (plainAs) Next([]byte) ([]byte, error) { return nil, errors.New("nothing was asked") }
