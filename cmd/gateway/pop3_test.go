package main

import (
	"crypto/tls"
	"fmt"
	"net/textproto"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/testdata/ldif"
)

// pop3Listeners is what stands in the configuration in the place of
// imapsListener.
const (
	imapsListener = `  listener "imaps"`
	pop3Listeners = `  listener "pop3" { bind = ["127.0.0.1:{{.Port.POP3}}"] }
  listener "pop3s" { bind = ["127.0.0.1:{{.Port.POP3S}}"] }
  pop3 {BLOCK}
  listener "imaps"`
)

// newPOP3Site is a site whose mailboxes can be read by POP3, too.
func newPOP3Site(t *testing.T, block string) *site {
	t.Helper()
	return newSite(t, variant(t, standard, imapsListener, strings.Replace(pop3Listeners, "BLOCK", block, 1)), nil).start()
}

// mailBob sends bob so many messages.
func (s *site) mailBob(n int) {
	s.t.Helper()
	for i := range n {
		subject := fmt.Sprintf("letter %d", i+1)
		must(s.t, s.inject("alice@example.com", []string{"bob@example.com"}, subject))
		s.waitFor("bob", subject, 1)
	}
}

// TestPoplib has the standard library of another language fetch mail.
func TestPoplib(t *testing.T) {
	t.Parallel()
	python := testenv.Program(t, "python3")
	s := newPOP3Site(t, ` in_use_wait = "0s" `)
	s.mailBob(3)
	runClient(t, python, "testdata/clients/fetch.py", s.port("POP3"), s.port("POP3S"), filepath.Join(s.Dir, "cert.pem"), "3", "alice@example.com")
}

// TestCurlPOP3 lists, fetches and deletes by curl, over both ports.
func TestCurlPOP3(t *testing.T) {
	t.Parallel()
	curl := testenv.Program(t, "curl")
	s := newPOP3Site(t, "")
	s.mailBob(2)
	common := []string{"-sS", "--max-time", "120", "--cacert", filepath.Join(s.Dir, "cert.pem"), "--ssl-reqd", "--user", "bob:" + ldif.Password("bob")}
	for _, base := range []string{"pop3s://localhost:" + s.port("POP3S"), "pop3://localhost:" + s.port("POP3")} {
		run := func(args ...string) string { return runClient(t, curl, append(common, args...)...) }
		if out := run(base + "/"); !strings.HasPrefix(out, "1 ") || strings.Count(out, "\n") != 2 {
			t.Errorf("list at %s:\n%s", base, out)
		}
		if out := run(base + "/2"); !strings.Contains(out, "Subject: letter 2\r\n") || !strings.HasSuffix(out, "\r\n") {
			t.Errorf("fetch at %s:\n%s", base, out)
		}
		if out := run("--login-options", "AUTH=PLAIN", base+"/", "-X", "UIDL"); strings.Count(out, "\n") != 2 {
			t.Errorf("UIDL at %s:\n%s", base, out)
		}
	}
	runClient(t, curl, append(common, "pop3s://localhost:"+s.port("POP3S")+"/1", "-X", "DELE", "--head")...)
	if subjects, err := s.subjects("bob"); err != nil || len(subjects) != 1 || subjects[0] != "letter 2" {
		t.Errorf("after DELE: %q, %v", subjects, err)
	}
	waitForOutput(t, s, "No session", "sessions") // the server hears last that a client has gone
}

// TestFetchmail takes everything away, and leaves what it knows by its UIDL.
func TestFetchmail(t *testing.T) {
	t.Parallel()
	fetchmail := testenv.Program(t, "fetchmail")
	s := newPOP3Site(t, ` mark_seen = true `)
	s.mailBob(2)
	settings := filepath.Join(s.Dir, "fetchmailrc")
	must(t, os.WriteFile(settings, []byte(fmt.Sprintf(`set no bouncemail
poll localhost service %s protocol pop3 uidl
  user "bob" password %q
  ssl sslcertck sslcertfile %q
  mda "cat >> %s"
`, s.port("POP3S"), ldif.Password("bob"), filepath.Join(s.Dir, "cert.pem"), filepath.Join(s.Dir, "fetched"))), 0o600))
	fetch := func(args ...string) (string, error) {
		out, err := exec.CommandContext(t.Context(), fetchmail, append([]string{"-f", settings, "-i", filepath.Join(s.Dir, "ids"), "--pidfile", filepath.Join(s.Dir, "pid")}, args...)...).CombinedOutput()
		return string(out), err
	}
	if out, err := fetch("--keep"); err != nil || strings.Count(out, "reading message") != 2 {
		t.Fatalf("fetchmail --keep: %v\n%s", err, out)
	}
	if out, _ := fetch("--keep"); strings.Contains(out, "reading message") { // its status says that nothing is new
		t.Errorf("fetched again what it has:\n%s", out)
	}
	must(t, s.inject("alice@example.com", []string{"bob@example.com"}, "letter 3"))
	s.waitFor("bob", "letter 3", 1)
	if out, err := fetch("--all", "--nokeep"); err != nil || strings.Count(out, "flushed") != 3 {
		t.Errorf("fetchmail --nokeep: %v\n%s", err, out)
	}
	if subjects, err := s.subjects("bob"); err != nil || len(subjects) != 0 {
		t.Errorf("left behind: %q, %v", subjects, err)
	}
	text, err := os.ReadFile(filepath.Join(s.Dir, "fetched"))
	if err != nil || strings.Count(string(text), "Subject: letter 3") != 1 {
		t.Errorf("fetched: %v\n%s", err, text)
	}
}

// TestPOP3WithoutDirectory: no password is wrong while nobody can say so, a
// session under way goes on, and an operator ends it without harm.
func TestPOP3WithoutDirectory(t *testing.T) {
	t.Parallel()
	slapd := testenv.Slapd(t, testenv.SlapdOptions{})
	s := newSite(t, variant(t, standard, ldifDirectory, ldapDirectory, ldifAuthn, ldapAuthn, imapsListener, strings.Replace(pop3Listeners, "BLOCK", "", 1)), map[string]string{
		"preset": slapd.Tree.Preset, "uri": slapd.LDAPS, "ca": slapd.CAFile, "base": slapd.Tree.BaseDN,
		"bind": slapd.Tree.ServiceDN, "password": slapd.ServicePasswordFile,
	}).start()
	s.mailBob(1)
	open := func() *dialog {
		conn, err := tls.Dial("tcp", s.address("POP3S"), s.trust)
		must(t, err)
		t.Cleanup(func() { _ = conn.Close() })
		d := &dialog{t: t, conn: conn, text: textproto.NewConn(conn)}
		d.expect("+OK ")
		return d
	}
	bob := open()
	bob.say("USER bob", "+OK", "PASS "+ldif.Password("bob"), "+OK", "STAT", "+OK 1 ", "DELE 1", "+OK")
	slapd.Kill()
	for _, password := range []string{ldif.Password("alice"), "wrong"} {
		open().say("USER alice", "+OK", "PASS "+password, "-ERR [SYS/TEMP] ")
	}
	bob.say("NOOP", "+OK")
	if out := s.run("sessions", "bob"); !strings.Contains(out, "pop3s") || !strings.Contains(out, "selected") || !strings.Contains(out, "NOOP") {
		t.Errorf("sessions:\n%s", out)
	}
	if out := s.run("kick", "bob"); !strings.Contains(out, "1 session(s) ended") {
		t.Errorf("kick: %s", out)
	}
	bob.expect("-ERR [SYS/TEMP] Ended by the administrator")
	slapd.Restart()
	testenv.Eventually(t, time.Minute, func() error {
		d := open()
		d.say("USER bob", "+OK")
		d.send("PASS " + ldif.Password("bob") + "\r\n")
		if line, err := d.reply(); err != nil || !strings.HasPrefix(line, "+OK") {
			return fmt.Errorf("%q, %w", line, err)
		}
		d.say("STAT", "+OK 1 ", "QUIT", "+OK")
		return nil
	})
	open().say("USER alice", "+OK", "PASS wrong", "-ERR [AUTH] ")
}
