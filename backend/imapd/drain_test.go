package imapd

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/postern-mail/postern/backend/sessions"
	"github.com/postern-mail/postern/mail"
)

// TestDrain: sessions are dismissed as many as asked for, those in IDLE too,
// each with a word; nobody new gets in until the drain is over.
func TestDrain(t *testing.T) {
	t.Parallel()
	s := startServer(t, testConfig())
	idle, other := s.login("alice"), s.login("bob")
	idle.ok("SELECT INBOX")
	idle.send("i IDLE\r\n")
	if line := idle.line(); !strings.HasPrefix(line, "+") {
		t.Fatal(line)
	}
	s.Drain(true)
	late := s.dial()
	if line := late.line(); !strings.HasPrefix(line, "* BYE [UNAVAILABLE]") {
		t.Errorf("a new client reads %q", line)
	}
	other.ok("NOOP") // nobody was asked to go yet
	if left := s.Dismiss(1); left == 0 {
		t.Error("one was to be dismissed, and nobody is left")
	}
	for s.Dismiss(1) > 0 {
	}
	for name, c := range map[string]*client{"in IDLE": idle, "between commands": other} {
		if line := c.line(); !strings.HasPrefix(line, "* BYE [UNAVAILABLE]") {
			t.Errorf("the client %s reads %q", name, line)
		}
	}
	s.Drain(false)
	s.login("alice").ok("NOOP")
}

// TestProxiedClients: a proxy's word on its client counts in audit and limits;
// anybody else's is talk, and so is a second one.
func TestProxiedClients(t *testing.T) {
	t.Parallel()
	cfg := testConfig()
	cfg.MaxSessionsPerClient = 1
	const words = `ID ("x-originating-ip" "192.0.2.7" "x-originating-port" "4711" "x-session-id" "abc-1" "name" "x")`
	said := func(s *server) (origin bool) {
		for _, e := range s.audit.Find(mail.EventConnect) {
			origin = origin || e.Remote.String() == "192.0.2.7:4711" && e.Session == "abc-1"
		}
		return origin
	}
	strangers := startServer(t, cfg)
	c := strangers.dial()
	c.line()
	c.ok(words)
	if said(strangers) {
		t.Error("a stranger said where it comes from, and was believed")
	}
	cfg.Proxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	s := startServer(t, cfg)
	first, second, other := s.dial(), s.dial(), s.dial()
	for _, c := range []*client{first, second, other} {
		c.line()
	}
	first.fails(`ID ("x-originating-ip" "nonsense")`, "BAD")
	first.ok(words)
	if !said(s) {
		t.Errorf("the proxy was not believed: %+v", s.audit.Find(mail.EventConnect))
	}
	first.ok(`ID ("x-originating-ip" "192.0.2.99")`)
	first.ok("LOGIN alice secret")
	first.ok(`ID ("x-originating-ip" "192.0.2.100")`)
	// The login was the proxy's: who speaks now must not begin another.
	if lines := first.ok("CAPABILITY"); strings.Contains(lines[0], "UNAUTHENTICATE") {
		t.Errorf("a proxy's client is offered UNAUTHENTICATE: %q", lines)
	}
	first.fails("UNAUTHENTICATE", "NO [CANNOT]")
	first.ok("SELECT INBOX")
	first.ok("UNSELECT")
	for _, e := range s.audit.Find(mail.EventConnect) {
		if addr := e.Remote.Addr().String(); addr == "192.0.2.99" || addr == "192.0.2.100" {
			t.Errorf("the second word counted: %+v", e)
		}
	}
	second.send("t " + words + "\r\n")
	if line := second.line(); !strings.HasPrefix(line, "* BYE") {
		t.Errorf("one client too many reads %q", line)
	}
	other.ok(`ID ("x-originating-ip" "2001:db8::1")`)
}

func isAlice(i sessions.Info) bool { return i.Login == "alice" }
