package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	gosmtp "github.com/emersion/go-smtp"

	"github.com/postern-mail/postern/internal/dns/dnstest"
	"github.com/postern-mail/postern/internal/testenv"
)

// example is a site that runs one of deploy/examples with its paths in one
// folder and more replacements, old and new in turn.
func example(t *testing.T, name string, replace ...string) *site {
	t.Helper()
	s := newSite(t, "", nil)
	replace = append(replace, "/var/lib/postern", filepath.Join(s.Dir, "data"), "/run/postern/submit.sock", filepath.Join(s.Dir, "l.sock"),
		"/etc/postern/tls/", s.Dir+"/", "/etc/postern/", s.Dir+"/", "{{MX}}", strconv.Itoa(s.Port["MX"]))
	text := read(t, filepath.Join("../../deploy/examples", name))
	for i := 0; i < len(replace); i += 2 {
		text = strings.ReplaceAll(text, replace[i], replace[i+1])
	}
	must(t, os.WriteFile(s.Config, []byte(text), 0o600))
	return s
}

// TestNullClient runs the example of a machine that only sends: whatever is
// submitted goes to the relay host, whoever it is for, and nobody can connect
// from elsewhere.
func TestNullClient(t *testing.T) {
	t.Parallel()
	relay := startOutside(t)
	_, port, err := net.SplitHostPort(relay.Address)
	must(t, err)
	s := example(t, "null-client.hcl", `["127.0.0.1:25", "[::1]:25"]`, `["127.0.0.1:{{MX}}"]`, `["example.com"]`, `["[127.0.0.1]:`+port+`"]`).start()
	must(t, s.inject("app@web1.example.com", []string{"root@web1.example.com", "x@example.net"}, "by SMTP"))
	command := exec.Command(program, "sendmail", "-C", s.Config, "-t", "-i")
	command.Stdin = strings.NewReader("To: admin@example.com\nSubject: by sendmail\n\ntext\n")
	if out, err := command.CombinedOutput(); err != nil {
		t.Fatalf("sendmail: %v: %s", err, out)
	}
	testenv.Eventually(t, time.Minute, func() error {
		got := relay.got()
		all := fmt.Sprint(got)
		if len(got) != 2 || !strings.Contains(all, "by SMTP") || !strings.Contains(all, "by sendmail") ||
			!strings.Contains(all, "root@web1.example.com") || !strings.Contains(all, "admin@example.com") {
			return fmt.Errorf("the relay host got %d messages: %s", len(got), all)
		}
		return nil
	})
	for _, line := range strings.Split(read(t, "../../deploy/examples/null-client.hcl"), "\n") {
		if strings.Contains(line, "bind") && !strings.Contains(line, "unix:") && !strings.Contains(line, `["127.0.0.1:25", "[::1]:25"]`) {
			t.Errorf("%s: not of this machine alone", line)
		}
	}
}

// TestBackupMX runs the example of a backup MX: known recipients' mail is taken
// and kept while the preferred host is away, never sent round, and passed on
// when it is back.
func TestBackupMX(t *testing.T) {
	t.Parallel()
	names := dnstest.New(t)
	names.Add("example.org. 60 IN MX 10 mail.example.org.", "example.org. 60 IN MX 20 elsewhere.example.com.",
		"mail.example.org. 60 IN A 127.0.0.2", "elsewhere.example.com. 60 IN A 127.0.0.1")
	s := example(t, "backup-mx.hcl", `[":25"]`, `["127.0.0.1:{{MX}}"]`, "gateway {",
		`dns { servers = ["`+names.Addr+`"] }
gateway {
  mynetworks = ["127.0.0.9"]
  transport "example.org" { next_hop = "example.org:{{MX}}" }`, "maximal_queue_lifetime", "minimal_backoff = \"1s\"\n    maximal_backoff = \"1s\"\n    maximal_queue_lifetime",
		"queue { ", "queue {\n    ", "\"14d\" }", "\"14d\"\n  }")
	must(t, os.WriteFile(filepath.Join(s.Dir, "relay_recipients.ldif"), []byte(`dn: dc=example,dc=org
objectClass: domain
dc: example

dn: uid=alice,dc=example,dc=org
objectClass: inetOrgPerson
uid: alice
cn: alice
sn: alice
mail: alice@example.org
`), 0o600))
	s.start()
	for to, want := range map[string]int{"nobody@example.org": 550, "x@example.net": 554} {
		if err := s.inject("a@example.net", []string{to}, "refused"); code(err) != want {
			t.Errorf("%s: %v, want %d", to, err, want)
		}
	}
	must(t, s.inject("a@example.net", []string{"alice@example.org"}, "kept"))
	s.waitForLog(`out of reach.*mail\.example\.org\[127\.0\.0\.2\]`)
	if out := s.run("route", "alice@example.org"); strings.Contains(out, "elsewhere") || !strings.Contains(out, "mail.example.org[127.0.0.2]") {
		t.Errorf("route: %s", out)
	}
	l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.2", strconv.Itoa(s.Port["MX"])))
	must(t, err)
	primary := &outsideServer{}
	server := gosmtp.NewServer(primary)
	server.Domain = "mail.example.org"
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(l) }()
	t.Cleanup(func() { _, _ = server.Close(), l.Close(); <-ended })
	s.run("queue", "retry", "--all")
	testenv.Eventually(t, time.Minute, func() error {
		if got := primary.got(); len(got) != 1 || !strings.Contains(got[0].Text, "kept") {
			return fmt.Errorf("the primary got %v", got)
		}
		return nil
	})
}
