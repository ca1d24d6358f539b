package main

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/smtp"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-imap/v2/imapclient"

	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/testdata/ldif"
)

// behind is the standard site whose listeners are behind proxies of this host.
var behind = strings.NewReplacer(
	`listener "mx" { bind = ["127.0.0.1:{{.Port.MX}}"] }`, `listener "mx" {
    bind = ["127.0.0.1:{{.Port.MX}}"]
    proxy_protocol {
      networks = ["127.0.0.1"]
      timeout  = "1m"
    }
  }`,
	`listener "imaps" { bind = ["127.0.0.1:{{.Port.IMAPS}}"] }`, `listener "imaps" {
    bind = ["127.0.0.1:{{.Port.IMAPS}}"]
    proxy_protocol {
      networks = ["127.0.0.1"]
      timeout  = "1m"
    }
  }`,
).Replace(standard)

// TestHAProxy runs the listeners behind a real HAProxy, by both versions of the
// protocol: mail and mailboxes work, with the client's own address in the log,
// TLS from end to end, and nobody gets in beside.
func TestHAProxy(t *testing.T) {
	t.Parallel()
	s := newSite(t, behind, nil).start()
	front := testenv.HAProxy(t, map[string]string{
		"mx1":    s.address("MX") + " send-proxy check inter 500ms",
		"mx2":    s.address("MX") + " send-proxy-v2 check-send-proxy check inter 500ms",
		"imaps":  s.address("IMAPS") + " send-proxy-v2-ssl-cn",
		"direct": s.address("MX"),
	})
	for _, name := range []string{"mx1", "mx2"} {
		conn, err := net.Dial("tcp", front[name])
		must(t, err)
		client := conn.LocalAddr().String()
		c, err := smtp.NewClient(conn, "mail.example.com")
		must(t, err)
		must(t, c.Hello("client.test"))
		must(t, c.StartTLS(s.tls()))
		must(t, c.Mail("a@client.test"))
		must(t, c.Rcpt("alice@example.com"))
		w, err := c.Data()
		must(t, err)
		_, err = fmt.Fprintf(w, "Subject: by %s\r\n\r\ntext\r\n", name)
		must(t, err)
		must(t, w.Close())
		must(t, c.Quit())
		s.waitForLog(`message accepted.*remote=` + client + `.*via=127\.0\.0\.1:`)
	}
	conn, err := tls.Dial("tcp", front["imaps"], s.tls())
	must(t, err)
	imap := imapclient.New(conn, nil)
	must(t, imap.WaitGreeting())
	must(t, imap.Login("alice", ldif.Password("alice")).Wait())
	must(t, imap.Logout().Wait())
	s.waitForLog(`imapd: session ended.*remote=` + conn.LocalAddr().String())

	// HAProxy itself is a proxy that does not tell: it hears nothing.
	conn, err = tls.Dial("tcp", front["direct"], s.tls())
	if err == nil {
		conn.Close()
		t.Error("a connection without a header was served")
	}
	s.waitForLog("no PROXY header")
}

// tls is what clients trust.
func (s *site) tls() *tls.Config {
	c := s.trust.Clone()
	c.ServerName = "mail.example.com"
	return c
}

// filtered is the standard site with a listener for mail that comes back from a
// content filter.
var filtered = strings.Replace(standard, `listener "mx" {`, `listener "filtered" {
    mode           = "mx"
    bind           = ["127.0.0.1:{{.Port.Metrics}}"]
    xclient_hosts  = ["127.0.0.1"]
    xforward_hosts = ["127.0.0.1"]
  }
  listener "mx" {`, 1)

// TestPostfixForwards has a real Postfix pass mail on with XFORWARD: our log has
// the client and queue id that it had there.
func TestPostfixForwards(t *testing.T) {
	t.Parallel()
	s := newSite(t, filtered, nil).start()
	relay := strings.Replace(s.address("Metrics"), "127.0.0.1", "[127.0.0.1]", 1)
	postfix := testenv.PostfixMaster(t, "mynetworks = 127.0.0.0/8", "default_transport = smtp", "relayhost = "+relay,
		"smtp_send_xforward_command = yes", "smtp_tls_security_level = none")
	send := func(to string) {
		t.Helper()
		conn, err := net.Dial("tcp", postfix.SMTP)
		must(t, err)
		c, err := smtp.NewClient(conn, "postfix.example.com")
		must(t, err)
		must(t, c.Hello("first.test"))
		must(t, c.Mail("a@client.test"))
		must(t, c.Rcpt(to))
		w, err := c.Data()
		must(t, err)
		_, err = fmt.Fprint(w, "Subject: forwarded\r\n\r\ntext\r\n")
		must(t, err)
		must(t, w.Close())
		must(t, c.Quit())
	}
	send("alice@example.com")
	s.waitForLog(`message accepted.*orig_client=\S*\[127\.0\.0\.1\].*orig_queue_id=[0-9A-Za-z]+ orig_helo=first\.test`)
	send("bob@example.com")
	testenv.Eventually(t, time.Minute, func() error {
		if n := strings.Count(s.proc.Log(), "orig_queue_id="); n != 2 {
			return fmt.Errorf("%d messages with the queue id of Postfix", n)
		}
		return nil
	})
}

// TestSwaksClaims has swaks say by XCLIENT who its client is: policy and log
// believe it, from the hosts that may, and no others.
func TestSwaksClaims(t *testing.T) {
	t.Parallel()
	swaks := testenv.Program(t, "swaks")
	text := strings.Replace(filtered, "mynetworks = []", `mynetworks = ["192.0.2.0/24"]`, 1)
	s := newSite(t, text, nil).start()
	ask := func(port, xclient, to string) string {
		t.Helper()
		out, _ := exec.Command(swaks, "--server", "127.0.0.1", "--port", port, "--ehlo", "proxy.test", "--from", "a@client.test", "--to", to,
			"--quit-after", "RCPT", "--xclient", xclient).CombinedOutput()
		return string(out)
	}
	filter := s.port("Metrics")
	for _, row := range []struct{ port, xclient, to, want string }{
		{filter, "ADDR=192.0.2.7 NAME=inside.example.com", "x@elsewhere.test", "<-  250 2.1.5 Ok"},
		{filter, "ADDR=198.51.100.7 NAME=outside.example.org", "x@elsewhere.test", "554 5.7.1 <x@elsewhere.test>: Relay access denied"},
		{s.port("MX"), "ADDR=192.0.2.7", "x@elsewhere.test", "Host did not advertise XCLIENT"},
	} {
		if got := ask(row.port, row.xclient, row.to); !strings.Contains(got, row.want) {
			t.Errorf("%s: want %q in\n%s", row.xclient, row.want, got)
		}
	}
	s.waitForLog(`remote=198\.51\.100\.7:\d+.*via=127\.0\.0\.1:`)
}
