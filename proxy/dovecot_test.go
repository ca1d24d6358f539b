package proxy

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/backend/sessions"
	"github.com/postern-mail/postern/internal/testenv"
)

// startDovecot waits until IMAP is spoken, which is not at once.
func startDovecot(t *testing.T) *testenv.DovecotServer {
	t.Helper()
	d := testenv.Dovecot(t, "user0")
	awaitIMAP(t, d)
	return d
}

func awaitIMAP(t *testing.T, d *testenv.DovecotServer) {
	t.Helper()
	testenv.Eventually(t, patient, func() error {
		conn, err := net.Dial("tcp", d.IMAP)
		if err != nil {
			return err
		}
		defer conn.Close()
		_ = conn.SetReadDeadline(time.Now().Add(patient))
		_, err = bufio.NewReader(conn).ReadString('\n')
		return err
	})
}

// TestDovecotBehind: a real Dovecot as the node, reached by STARTTLS with its
// certificate verified, with the proxy as its master user; clients come by
// STARTTLS, too. Dovecot knows where they come from.
func TestDovecotBehind(t *testing.T) {
	t.Parallel()
	d := startDovecot(t)
	pem, err := os.ReadFile(d.CAFile)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	ca := testenv.NewCA(t)
	f := startProxyAs(t, sessions.Terms{TLS: &tls.Config{Certificates: []tls.Certificate{ca.Issue("mail.example.com").TLS(t)}}}, CellConfig{
		Name: "cell", Addresses: []string{d.IMAP}, TLSConfig: &tls.Config{RootCAs: roots}, User: d.Master, Secret: d.MasterPassword, Failover: patient,
	})
	c := f.dial()
	c.send("s STARTTLS\r\nx NOOP\r\n")
	c.want("s OK")
	protected := tls.Client(c.Conn, &tls.Config{RootCAs: ca.Pool(), ServerName: "mail.example.com"})
	if err := protected.HandshakeContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.Conn, c.r = protected, bufio.NewReader(protected)
	message := "Subject: through\r\n\r\nthe proxy\r\n"
	// All of it at once: nothing sent ahead of the login's answer gets lost.
	c.send(fmt.Sprintf("a LOGIN user0 secret\r\nb APPEND INBOX {%d+}\r\n%s\r\nc SELECT INBOX\r\nd FETCH 1 BODY.PEEK[]\r\n", len(message), message))
	if offered := c.want("a OK [CAPABILITY"); !strings.Contains(offered, "IDLE") {
		t.Errorf("offered %q", offered)
	}
	c.want("b OK")
	for line := ""; !strings.HasPrefix(line, "c OK"); {
		line = c.line()
	}
	c.want("* 1 FETCH")
	for line := range strings.SplitSeq(strings.TrimSuffix(message, "\r\n"), "\r\n") {
		c.want(line)
	}
	c.want(")")
	c.want("d OK")
	_, port, _ := net.SplitHostPort(c.LocalAddr().String())
	c.send("e LOGOUT\r\n")
	c.want("* BYE")
	c.want("e OK")
	testenv.Eventually(t, patient, func() error {
		if log := d.Process().Log(); !strings.Contains(log, "user=<user0>") || !strings.Contains(log, "rip=127.0.0.1") {
			return fmt.Errorf("Dovecot did not log the client (port %s):\n%s", port, log)
		}
		return nil
	})
	if wrong := f.Logins(); wrong[LoginHome] != 1 {
		t.Errorf("%v", wrong)
	}
}

// TestDovecotDies: its client is told to come again, and gets in when Dovecot
// is back.
func TestDovecotDies(t *testing.T) {
	t.Parallel()
	d := startDovecot(t)
	f := startProxyAs(t, sessions.Terms{}, CellConfig{Name: "cell", Addresses: []string{d.IMAP}, TLS: CellNone, User: d.Master, Secret: d.MasterPassword, Failover: patient, LoginTimeout: patient})
	c := f.dial()
	c.login("user0")
	c.send("b NOOP\r\n")
	c.want("b OK")
	d.Process().Stop()
	d.Process().Kill() // processes for logins outlive the first one, and greet
	c.want("* BYE")
	c.eof()
	away := f.dial()
	away.send("a LOGIN user0 secret\r\n")
	away.want("a NO [UNAVAILABLE]")
	d.Restart()
	awaitIMAP(t, d)
	again := f.dial()
	again.login("user0")
}

// TestServerWithoutTrust: a node with a certificate of nobody's we know gets
// neither secret nor user.
func TestServerWithoutTrust(t *testing.T) {
	t.Parallel()
	d := startDovecot(t)
	f := startProxyAs(t, sessions.Terms{}, CellConfig{Name: "cell", Addresses: []string{d.IMAP}, TLSConfig: &tls.Config{RootCAs: x509.NewCertPool()}, User: d.Master, Secret: d.MasterPassword, Failover: patient})
	c := f.dial()
	c.send("a LOGIN user0 secret\r\n")
	c.want("a NO [UNAVAILABLE]")
}
