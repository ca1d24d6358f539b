package smtp

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-sasl"
	gosmtp "github.com/emersion/go-smtp"

	"github.com/postern-mail/postern/internal/testenv"
)

// peerBody has what senders and receivers get wrong: leading dots, an empty
// line at the end, a line longer than any buffer.
var peerBody = "Subject: peers\r\n\r\n.dot\r\n..dots\r\n.\r\n" + strings.Repeat("long ", 20000) + "\r\n\r\n"

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func sendBody(t *testing.T, c *gosmtp.Client, from, to, body string) {
	t.Helper()
	check(t, c.Mail(from, &gosmtp.MailOptions{Size: int64(len(body)), Body: gosmtp.Body8BitMIME}))
	check(t, c.Rcpt(to, &gosmtp.RcptOptions{Notify: []gosmtp.DSNNotify{gosmtp.DSNNotifyFailure}}))
	w, err := c.Data()
	check(t, err)
	_, err = w.Write([]byte(body))
	check(t, err)
	check(t, w.Close())
}

// TestGoSMTPClient drives a session from STARTTLS to QUIT with go-smtp, and
// several messages in it.
func TestGoSMTPClient(t *testing.T) {
	t.Parallel()
	serverTLS, clientTLS := testTLS(t)
	h := &fakeHandler{}
	_, address, stop := startLoopback(t, ServerConfig{Mode: ModeSubmission, TLS: serverTLS}, h)
	c, err := gosmtp.DialStartTLS(address, clientTLS)
	check(t, err)
	if c.SupportsAuth("PLAIN") != true {
		t.Error("PLAIN is not offered under TLS")
	}
	if err := c.Auth(sasl.NewPlainClient("", "alice", "wrong")); err == nil || !strings.Contains(err.Error(), "credentials") {
		t.Errorf("wrong password: %v", err)
	}
	check(t, c.Auth(sasl.NewPlainClient("", "alice", "secret")))
	for range 3 {
		sendBody(t, c, "a@client.test", "b@mx.test", peerBody)
	}
	if err := c.Mail("a@client.test", nil); err != nil {
		t.Error(err)
	}
	if err := c.Rcpt("nosuchuser@mx.test", nil); err == nil || err.(*gosmtp.SMTPError).Code != 550 {
		t.Errorf("unknown recipient: %v", err)
	}
	check(t, c.Quit())
	stop()
	if got := h.messages(); len(got) != 3 || got[0] != peerBody || got[2] != peerBody {
		t.Errorf("%d messages arrived, or not as they were sent", len(got))
	}
}

// TestGoSMTPClientImplicitTLS does the same where TLS comes first.
func TestGoSMTPClientImplicitTLS(t *testing.T) {
	t.Parallel()
	serverTLS, clientTLS := testTLS(t)
	h := &fakeHandler{}
	_, address, stop := startLoopback(t, ServerConfig{Mode: ModeSubmission, TLS: serverTLS, ImplicitTLS: true}, h)
	c, err := gosmtp.DialTLS(address, clientTLS)
	check(t, err)
	check(t, c.Auth(sasl.NewPlainClient("", "alice", "secret")))
	sendBody(t, c, "a@client.test", "b@mx.test", peerBody)
	check(t, c.Quit())
	stop()
	if got := h.messages(); len(got) != 1 || got[0] != peerBody {
		t.Errorf("%d messages arrived, or not as they were sent", len(got))
	}
}

// TestGoSMTPClientLMTP: a reply for each recipient, over a unix socket.
func TestGoSMTPClientLMTP(t *testing.T) {
	t.Parallel()
	h := &fakeHandler{}
	l, err := net.Listen("unix", filepath.Join(testenv.TempDir(t), "lmtp"))
	check(t, err)
	_, stop := startServer(t, ServerConfig{Mode: ModeLMTP}, h, l)
	conn, err := net.Dial("unix", l.Addr().String())
	check(t, err)
	c := gosmtp.NewClientLMTP(conn)
	check(t, c.Hello("gateway.test"))
	check(t, c.Mail("a@client.test", nil))
	check(t, c.Rcpt("b@mx.test", nil))
	check(t, c.Rcpt("full@mx.test", nil))
	w, err := c.Data()
	check(t, err)
	_, err = w.Write([]byte(peerBody))
	check(t, err)
	replies, err := w.CloseWithLMTPResponse()
	var refused gosmtp.LMTPDataError
	if !errors.As(err, &refused) || len(refused) != 1 || refused["full@mx.test"].Code != 452 || len(replies) != 1 {
		t.Errorf("replies %v, refused %v", replies, err)
	}
	check(t, c.Quit())
	stop()
	if got := h.messages(); len(got) != 1 || got[0] != peerBody {
		t.Errorf("%d messages arrived, or not as they were sent", len(got))
	}
}

// TestPythonClient drives us with the standard library of another language.
func TestPythonClient(t *testing.T) {
	t.Parallel()
	python := testenv.Program(t, "python3")
	serverTLS, _ := testTLS(t)
	h := &fakeHandler{}
	_, address, stop := startLoopback(t, ServerConfig{Mode: ModeSubmission, TLS: serverTLS}, h)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	writeCertificate(t, ca, serverTLS)
	host, port, err := net.SplitHostPort(address)
	check(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, python, "-c", pythonClient, host, port, ca)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	stop()
	got := h.messages()
	if len(got) != 2 || !strings.Contains(got[0], "\r\n.dot\r\n") || got[0] != got[1] {
		t.Errorf("messages: %.200q", got)
	}
}

const pythonClient = `
import smtplib, ssl, sys
host, port, ca = sys.argv[1], int(sys.argv[2]), sys.argv[3]
c = smtplib.SMTP(host, port, timeout=120)
c.ehlo()
assert not c.has_extn("auth"), "AUTH without TLS"
c.starttls(context=ssl.create_default_context(cafile=ca))
c.ehlo()
assert c.has_extn("size") and c.has_extn("pipelining") and c.has_extn("smtputf8"), c.esmtp_features
try:
    c.login("alice", "wrong")
    raise SystemExit("wrong password taken")
except smtplib.SMTPAuthenticationError as e:
    assert e.smtp_code == 535, e
c.login("alice", "secret")
text = b"Subject: python\r\n\r\n.dot\r\nbye\r\n"
assert c.sendmail("a@client.test", ["b@mx.test"], text) == {}
refused = c.sendmail("a@client.test", ["b@mx.test", "nosuchuser@mx.test"], text)
assert refused["nosuchuser@mx.test"][0] == 550, refused
assert c.noop()[0] == 250
assert c.verify("alice")[0] == 252
assert c.docmd("BOGUS")[0] == 500
c.quit()
`

// TestSwaks sends one message the way an operator would try it.
func TestSwaks(t *testing.T) {
	t.Parallel()
	swaks := testenv.Program(t, "swaks")
	h := &fakeHandler{}
	_, address, stop := startLoopback(t, ServerConfig{Mode: ModeSubmission, AllowInsecureAuth: true}, h)
	host, port, err := net.SplitHostPort(address)
	check(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, swaks, "--server", host, "--port", port, "--ehlo", "client.test", "--pipeline",
		"--auth", "PLAIN", "--auth-user", "alice", "--auth-password", "secret",
		"--from", "a@client.test", "--to", "b@mx.test", "--body", "from swaks\n.dot")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	stop()
	if got := h.messages(); len(got) != 1 || !strings.Contains(got[0], "from swaks\r\n.dot\r\n") {
		t.Errorf("messages: %q", got)
	}
}

func writeCertificate(t *testing.T, path string, cfg *tls.Config) {
	t.Helper()
	der := cfg.Certificates[0].Certificate[0]
	_, err := x509.ParseCertificate(der)
	check(t, err)
	var b bytes.Buffer
	check(t, pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: der}))
	check(t, os.WriteFile(path, b.Bytes(), 0o600))
}
