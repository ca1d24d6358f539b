package main

import (
	"fmt"
	"net"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/dns/dnstest"
	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/testdata/ldif"
)

// TestTLSReports: what the deliveries met is counted, shown to operators, and
// there after a restart.
func TestTLSReports(t *testing.T) {
	t.Parallel()
	outside, names := startOutside(t), dnstest.New(t)
	_, port, err := net.SplitHostPort(outside.Address)
	must(t, err)
	names.Add("hub.example. 60 IN MX 10 mx.hub.example.", "mx.hub.example. 60 IN A 127.0.0.1",
		`_smtp._tls.hub.example. 60 IN TXT "v=TLSRPTv1;rua=mailto:reports@hub.example"`)
	text := strings.NewReplacer(
		`"127.0.0.1:9"`, `"hub.example:`+port+`"`,
		"gateway {", `dns { servers = ["`+names.Addr+`"] }
gateway {
  tls_reports {
    organization = "Example Ltd"
    contact      = "postmaster@example.com"
  }`).Replace(standard)
	s := newSite(t, text, nil).start()
	must(t, s.submit("alice", ldif.Password("alice"), "alice@example.com", []string{"far@elsewhere.example"}, "hello"))
	testenv.Eventually(t, time.Minute, func() error {
		return holds(s.run("tlsrpt", "list"), "hub.example")
	})
	if n := len(outside.got()); n != 1 {
		t.Errorf("%d messages arrived", n)
	}
	s.proc.Stop()
	s.start()
	if err := holds(s.run("tlsrpt", "list", "--json"), `"domain":"hub.example"`, `"failed":1`, `"attempts":0`); err != nil {
		t.Error(err)
	}
	if err := holds(s.run("tlsrpt", "show", "Hub.example"), `"organization-name": "Example Ltd"`, `"policy-type": "no-policy-found"`,
		`"result-type": "starttls-not-supported"`, `"receiving-mx-hostname": "mx.hub.example"`, `"receiving-mx-helo": "outside.example"`); err != nil {
		t.Error(err)
	}
	if err := holds(s.run("tlsrpt", "send", "hub.example"), "no report on hub.example waits to be sent"); err != nil {
		t.Error(err)
	}
}

// holds returns an error unless a text holds all parts.
func holds(text string, parts ...string) error {
	for _, part := range parts {
		if !strings.Contains(text, part) {
			return fmt.Errorf("%q is not in\n%s", part, text)
		}
	}
	return nil
}

// TestTLSReportsAreOff: without a word in the configuration nobody reports.
func TestTLSReportsAreOff(t *testing.T) {
	t.Parallel()
	s := newSite(t, standard, nil).start()
	out, err := exec.Command(program, "tlsrpt", "list", "-c", s.Config).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "tls_reports") {
		t.Errorf("%v: %s", err, out)
	}
}
