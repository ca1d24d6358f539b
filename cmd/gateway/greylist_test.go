package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	gosmtp "github.com/emersion/go-smtp"

	"github.com/postern-mail/postern/internal/testenv"
)

// withPolicy is the standard site with more in its gateway block.
func withPolicy(more string) string {
	return strings.Replace(standard, "  mynetworks = []\n", "  mynetworks = []\n"+more, 1)
}

// greylisting is a gateway that greylists with a short delay and has a peer.
const greylisting = `
  greylist {
    delay  = "2s"
    window = "1h"
  }
  peers {
    listen      = ["127.0.0.1:{{.Extra.Listen}}"]
    addresses   = ["127.0.0.1:{{.Extra.Peer}}"]
    secret_file = "{{.Extra.Secret}}"
  }
  policy "recipient" {
    check_greylist {}
  }
`

// replyText is what a server answered, "" for mail it took.
func replyText(err error) string {
	var reply *gosmtp.SMTPError
	switch {
	case err == nil:
		return ""
	case errors.As(err, &reply):
		return fmt.Sprintf("%d %d.%d.%d %s", reply.Code, reply.EnhancedCode[0], reply.EnhancedCode[1], reply.EnhancedCode[2], reply.Message)
	}
	return err.Error()
}

// TestGatewaysShareTheGreylist: what one of two gateways learns the other knows,
// also after a kill, and operators change it on either.
func TestGatewaysShareTheGreylist(t *testing.T) {
	t.Parallel()
	secret := filepath.Join(testenv.TempDir(t), "peers.secret")
	testenv.Run(t, program, "replica", "keygen", secret)
	ports := [2]string{fmt.Sprint(testenv.FreePort(t)), fmt.Sprint(testenv.FreePort(t))}
	var both [2]*site
	for i := range both {
		both[i] = newSite(t, withPolicy(greylisting), map[string]string{"Listen": ports[i], "Peer": ports[1-i], "Secret": secret}).start()
	}
	a, b := both[0], both[1]
	waitForOutput(t, a, `peer 127.0.0.1:\d+ +connected`, "status")
	to := []string{"bob@example.com"}
	const deferred = "450 4.2.0 <bob@example.com>: Recipient address rejected: Greylisted, try again in"
	if got := replyText(a.inject("sender@stranger.example", to, "first")); !strings.HasPrefix(got, deferred) {
		t.Fatalf("the first attempt: %q", got)
	}
	// Who does not exist is put off, too, as in Postfix: strangers learn that from
	// the second attempt only.
	if got := replyText(a.inject("sender@stranger.example", []string{"nobody@example.com"}, "x")); !strings.HasPrefix(got, "450 4.2.0 <nobody@example.com>") {
		t.Errorf("an unknown recipient: %q", got)
	}
	waitForOutput(t, b, `waiting +127\.0\.0\.0/24 +sender@stranger\.example +bob@example\.com`, "greylist", "list")
	testenv.Eventually(t, time.Minute, func() error { return b.inject("sender@stranger.example", to, "passed") })
	b.waitFor("bob", "passed", 1)
	waitForOutput(t, a, `passed +127\.0\.0\.0/24 +sender@stranger\.example`, "greylist", "list", "127.0.0.1")
	// A gateway that was killed knows everything again, and what it missed.
	a.proc.Kill()
	waitForOutput(t, b, `peer 127.0.0.1:\d+ +NOT CONNECTED`, "status")
	b.run("greylist", "allow", "198.51.100.7", "--for", "1h")
	if got := replyText(b.inject("sender@stranger.example", to, "alone")); got != "" {
		t.Errorf("while the peer is away: %q", got)
	}
	a.start()
	if got := replyText(a.inject("sender@stranger.example", to, "after the kill")); got != "" {
		t.Errorf("after a kill: %q", got)
	}
	waitForOutput(t, a, `allowed +198\.51\.100\.0/24`, "greylist", "list", "--state", "allowed")
	if out := a.run("greylist", "delete", "ALL"); !strings.Contains(out, "are forgotten") {
		t.Errorf("delete says %q", out)
	}
	testenv.Eventually(t, time.Minute, func() error {
		if out := b.run("greylist", "list"); strings.Contains(out, "127.0.0.0/24") || strings.Contains(out, "198.51.100") {
			return &mismatch{"an empty list", out}
		}
		return nil
	})
	if got := replyText(b.inject("sender@stranger.example", to, "again")); !strings.HasPrefix(got, deferred) {
		t.Errorf("after it was deleted: %q", got)
	}
	out, err := runFailing(t, "greylist", "allow", "x", "--for", "99999h", "-c", a.Config)
	must(t, err)
	if !strings.Contains(out, "belong into the configuration") {
		t.Errorf("allowed for years: %s", out)
	}
}

// asksServices has one policy service that answers and one that does not, and
// answers others itself.
const asksServices = `
  policy_service "postgrey" { address = "inet:{{.Extra.Postgrey}}" }
  policy_service "gone" {
    address        = "unix:{{.Dir}}/gone"
    default_action = "DUNNO"
    retry_delay    = "10ms"
  }
  policy_server "postfix" {
    bind     = ["unix:{{.Dir}}/policy.sock"]
    listener = "mx"
  }
  policy "recipient" {
    check_policy_service { service = "policy_service.gone" }
    check_policy_service { service = "policy_service.postgrey" }
  }
`

// TestPolicyServices: a site asks the real postgrey, lives with a service that is
// gone, and is a policy service itself.
func TestPolicyServices(t *testing.T) {
	t.Parallel()
	s := newSite(t, withPolicy(asksServices), map[string]string{"Postgrey": testenv.Postgrey(t, 1)}).start()
	if got := replyText(s.inject("sender@stranger.example", []string{"bob@example.com"}, "first")); !strings.HasPrefix(got, "450 4.2.0 <bob@example.com>: Recipient address rejected: Greylisted") {
		t.Errorf("postgrey's word comes out as %q", got)
	}
	testenv.Eventually(t, time.Minute, func() error { return s.inject("sender@stranger.example", []string{"bob@example.com"}, "second") })
	s.waitFor("bob", "second", 1)
	waitForOutput(t, s, `service gone +DOWN for`, "status")
	waitForOutput(t, s, `service postgrey +answers`, "status")
	conn, err := net.Dial("unix", filepath.Join(s.Dir, "policy.sock"))
	must(t, err)
	defer func() { _ = conn.Close() }()
	must(t, conn.SetDeadline(time.Now().Add(time.Minute)))
	for _, tt := range []struct{ to, want string }{
		{"bob@elsewhere.example", "action=554 5.7.1 <bob@elsewhere.example>: Relay access denied\n\n"},
		{"nobody@example.com", "action=450 4.2.0 Greylisted, "},
	} {
		_, err := fmt.Fprintf(conn, "request=smtpd_access_policy\nprotocol_state=RCPT\nprotocol_name=ESMTP\nclient_address=198.51.100.9\nhelo_name=h.example\ninstance=%s\nsender=s@stranger.example\nrecipient=%s\n\n", tt.to, tt.to)
		must(t, err)
		got := make([]byte, len(tt.want))
		_, err = io.ReadFull(conn, got)
		must(t, err)
		if string(got) != tt.want {
			t.Errorf("asked about %s we say %q, want %q", tt.to, got, tt.want)
		}
	}
}
