package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-sasl"
	gosmtp "github.com/emersion/go-smtp"

	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/testdata/ldif"
)

// onlyAsked is a configuration that has no role but to be asked about logins.
const onlyAsked = `
hostname = "mail.example.com"
data_dir = "{{.Dir}}/data"
audit { file = "{{.Dir}}/audit.log" }
control {
  socket  = "{{.Dir}}/control.sock"
  metrics = "127.0.0.1:{{.Port.Metrics}}"
}
` + ldapDirectory + ldapAuthn + "\n"

// documented returns the fenced blocks of docs/auth-server.md that hold text.
func documented(t *testing.T, text string) string {
	t.Helper()
	blocks := strings.Split(read(t, filepath.Join("..", "..", "docs", "auth-server.md")), "```")
	for i := 1; i < len(blocks); i += 2 {
		if strings.Contains(blocks[i], text) {
			_, block, _ := strings.Cut(blocks[i], "\n")
			return block
		}
	}
	t.Fatalf("docs/auth-server.md has no block with %q", text)
	return ""
}

const documentedSocket = "/var/spool/postfix/postern/auth"

// newAsked runs a Postern that a Postfix can ask: with the block, and in the
// folder, that the document tells to make.
func newAsked(t *testing.T, slapd *testenv.SlapdServer, more string) (s *site, socket string) {
	t.Helper()
	dir := testenv.TempDir(t)
	must(t, os.Chmod(dir, 0o755))
	socket = filepath.Join(dir, "postern", "auth")
	here := strings.NewReplacer(documentedSocket, socket, filepath.Dir(documentedSocket), filepath.Dir(socket), "-o postern", "-o root")
	install := strings.Fields(here.Replace(documented(t, "install -d")))
	testenv.Run(t, testenv.Program(t, install[0]), install[1:]...)
	s = newSite(t, onlyAsked+here.Replace(documented(t, "auth_server"))+more, map[string]string{
		"preset": slapd.Tree.Preset, "uri": slapd.LDAPS, "ca": slapd.CAFile, "base": slapd.Tree.BaseDN,
		"bind": slapd.Tree.ServiceDN, "password": slapd.ServicePasswordFile,
	})
	return s.start(), socket
}

// asks starts the Postfix of the document, asking at path.
func asks(t *testing.T, path string) *testenv.PostfixServer {
	t.Helper()
	return testenv.PostfixMaster(t, strings.ReplaceAll(documented(t, "smtpd_sasl_type"), documentedSocket, path))
}

// login is an AUTH at a Postfix under TLS: "" or the reply's codes.
func login(t *testing.T, s *testenv.PostfixServer, client sasl.Client) string {
	t.Helper()
	trust, err := trustOf(s.CAFile)
	must(t, err)
	c, err := gosmtp.DialStartTLS(s.SMTP, trust)
	must(t, err)
	defer func() { _ = c.Close() }()
	err = c.Auth(client)
	var reply *gosmtp.SMTPError
	switch {
	case err == nil:
		return ""
	case errors.As(err, &reply):
		return fmt.Sprintf("%d %d.%d.%d", reply.Code, reply.EnhancedCode[0], reply.EnhancedCode[1], reply.EnhancedCode[2])
	}
	return err.Error()
}

// TestPostfixAsks: a real Postfix, set up word for word as the document says,
// lets in who may log in, refuses who may not, and puts off whom nobody can
// judge: with the directory gone and with Postern gone.
func TestPostfixAsks(t *testing.T) {
	t.Parallel()
	slapd := testenv.Slapd(t, testenv.SlapdOptions{})
	s, socket := newAsked(t, slapd, "")
	postfix := asks(t, socket)
	alice := func() string {
		return login(t, postfix, sasl.NewPlainClient("", "alice@example.com", ldif.Password("alice")))
	}
	for line := range strings.Lines(documented(t, "swaks")) {
		here := strings.NewReplacer("localhost:587", postfix.SMTP, "password secret", "password "+ldif.Password("alice"))
		args := strings.Fields(here.Replace(line))
		out, err := exec.Command(testenv.Program(t, "swaks"), args[1:]...).CombinedOutput()
		want := "235 2.7.0"
		if strings.Contains(line, "wrong") {
			want = "535 5.7.8"
		}
		if !strings.Contains(string(out), want) || (err == nil) != (want[0] == '2') {
			t.Errorf("%s: %v, want %s\n%s", line, err, want, out)
		}
	}
	if got := login(t, postfix, sasl.NewLoginClient("alice", ldif.Password("alice"))); got != "" {
		t.Errorf("AUTH LOGIN: %s", got)
	}
	if got := login(t, postfix, sasl.NewPlainClient("", "nobody", "secret")); got != "535 5.7.8" {
		t.Errorf("a login nobody has: %s", got)
	}
	if got := login(t, postfix, sasl.NewPlainClient("bob", "alice", ldif.Password("alice"))); got != "535 5.7.8" {
		t.Errorf("as somebody else: %s", got)
	}
	slapd.Stop()
	if got := login(t, postfix, sasl.NewPlainClient("", "bob", ldif.Password("bob"))); got != "454 4.7.0" {
		t.Errorf("without the directory: %s", got)
	}
	slapd.Restart()
	testenv.Eventually(t, time.Minute, func() error { return noReply(login(t, postfix, sasl.NewPlainClient("", "bob", ldif.Password("bob")))) })
	s.run("reload")
	if got := alice(); got != "" {
		t.Errorf("after a reload: %s", got)
	}
	s.proc.Stop()
	if got := alice(); got != "454 4.7.0" {
		t.Errorf("without Postern: %s", got)
	}
	s.start()
	testenv.Eventually(t, time.Minute, func() error { return noReply(alice()) })
	checkAskedAudit(t, events(t, s))
}

func noReply(got string) error {
	if got != "" {
		return errors.New(got)
	}
	return nil
}

func checkAskedAudit(t *testing.T, all []mail.Event) {
	t.Helper()
	seen := make(map[string]int)
	for _, e := range all {
		if e.Kind != mail.EventAuth {
			continue
		}
		seen[e.Result]++
		if e.Service != "smtp" || !e.Remote.Addr().IsLoopback() || e.Mechanism == "" || e.Session == "" {
			t.Errorf("event %+v", e)
		}
	}
	if seen["ok"] < 4 || seen["refused"] < 3 || seen["unknown"] < 1 {
		t.Errorf("results %v", seen)
	}
}

// TestPostfixAsksOverTCP also sends mail: the sender may use an address only
// when Postfix is told the account's name.
func TestPostfixAsksOverTCP(t *testing.T) {
	t.Parallel()
	slapd := testenv.Slapd(t, testenv.SlapdOptions{})
	address := net.JoinHostPort("127.0.0.1", strconv.Itoa(testenv.FreePort(t)))
	s, _ := newAsked(t, slapd, fmt.Sprintf("auth_server \"tcp\" {\n  bind = [%q]\n  mechanisms = [\"PLAIN\"]\n}\n", address))
	postfix := testenv.PostfixMaster(t, strings.ReplaceAll(documented(t, "smtpd_sasl_type"), documentedSocket, "inet:"+address),
		"smtpd_sender_login_maps = inline:{a.anders@example.com=alice}", "smtpd_sender_restrictions = reject_sender_login_mismatch",
		"smtpd_recipient_restrictions = permit_sasl_authenticated, reject")
	trust, err := trustOf(postfix.CAFile)
	must(t, err)
	send := func(from string) error {
		c, err := gosmtp.DialStartTLS(postfix.SMTP, trust)
		must(t, err)
		defer func() { _ = c.Close() }()
		must(t, c.Auth(sasl.NewPlainClient("", "A.Anders@example.com", ldif.Password("alice"))))
		if err := c.Mail(from, nil); err != nil {
			return err
		}
		return c.Rcpt("somebody@elsewhere.example", nil)
	}
	if err := send("a.anders@example.com"); err != nil {
		t.Errorf("her own address: %v", err)
	}
	if err := send("bob@example.com"); err == nil || !strings.Contains(err.Error(), "553") {
		t.Errorf("another's address: %v", err)
	}
	if got := login(t, postfix, sasl.NewPlainClient("", "alice", "wrong")); got != "535 5.7.8" {
		t.Errorf("wrong password: %s", got)
	}
	slapd.Kill()
	if got := login(t, postfix, sasl.NewPlainClient("", "bob", ldif.Password("bob"))); got != "454 4.7.0" {
		t.Errorf("without the directory: %s", got)
	}
	metrics, err := s.metrics()
	must(t, err)
	for _, want := range []string{
		`gateway_auth_server_requests_total{listener="tcp",result="ok"} 2`, `gateway_auth_server_requests_total{listener="tcp",result="refused"} 1`,
		`gateway_auth_server_requests_total{listener="tcp",result="temporary"} 1`, `gateway_auth_server_requests_total{listener="postfix",result="ok"} 0`,
	} {
		if !strings.Contains(metrics, want) {
			t.Errorf("metrics lack %s", want)
		}
	}
}

// TestAuthnOverSockets: our own listeners ask a Dovecot and a saslauthd.
func TestAuthnOverSockets(t *testing.T) {
	t.Parallel()
	dovecot := testenv.Dovecot(t, "alice", "bob")
	saslauthd := testenv.Saslauthd(t, dovecot.IMAP)
	for kind, socket := range map[string]string{"dovecot": dovecot.Auth, "saslauthd": saslauthd.Socket} {
		t.Run(kind, func(t *testing.T) {
			block := fmt.Sprintf("authn %q {\n  socket = %q\n  directory = directory.company\n}", kind, socket)
			s := newSite(t, variant(t, standard, ldifAuthn, block), nil).start()
			wantAnswer(t, "right", s.send("a.anders@example.com", dovecot.Password, "a.anders@example.com", "bob@example.com", "hello"), "")
			wantAnswer(t, "wrong", s.send("alice", "wrong", "a.anders@example.com", "bob@example.com", "hello"), "535 5.7.8")
		})
	}
}
