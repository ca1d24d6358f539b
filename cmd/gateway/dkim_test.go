package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-sasl"
	gosmtp "github.com/emersion/go-smtp"

	"github.com/postern-mail/postern/internal/dns/dnstest"
	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/testdata/ldif"
)

// signs is a site whose people's mail is signed, and passed on sealed.
func signs(t *testing.T, relay, names string) *site {
	t.Helper()
	return newSite(t, strings.NewReplacer(
		`"127.0.0.1:9"`, `"`+relay+`"`,
		`listener "submission" { bind = ["127.0.0.1:{{.Port.Submission}}"] }`, `listener "submission" {
    bind = ["127.0.0.1:{{.Port.Submission}}"]
    policy "content" {
      sign_dkim {}
    }
  }`,
		"gateway {", `dns { servers = ["`+names+`"] }
gateway {
  dkim { subdomains = true }
  policy "content" {
    seal_arc { when = "always" }
  }`).Replace(standard), nil)
}

// publish adds what the commands print for a zone file to the name server.
func publish(names *dnstest.Server, printed string) {
	for _, record := range regexp.MustCompile(`(?s)\S+\. IN TXT \(.*?\)`).FindAllString(printed, -1) {
		names.Add(strings.Replace(strings.ReplaceAll(record, "\n\t", " "), " IN ", " 1 IN ", 1))
	}
}

// failing runs a command that is to fail.
func (s *site) failing(args ...string) string {
	s.t.Helper()
	out, err := exec.Command(program, append(args, "-c", s.Config)...).CombinedOutput()
	if err == nil {
		s.t.Errorf("%v succeeds:\n%s", args, out)
	}
	return string(out)
}

func told(t *testing.T, text string, parts ...string) {
	t.Helper()
	if err := holds(text, parts...); err != nil {
		t.Error(err)
	}
}

// TestDKIM takes a domain from its first key to signed mail, to a second key, and
// to a message that fails its verification, by the commands an operator has.
func TestDKIM(t *testing.T) {
	t.Parallel()
	outside, names := startOutside(t), dnstest.New(t)
	s := signs(t, outside.Address, names.Addr).start()
	told(t, s.failing("dkim", "check", "example.com"), "has no key", "keygen")
	printed := s.run("dkim", "keygen", "Example.com", "--selector", "one")
	told(t, printed, "one._domainkey.example.com", "v=DKIM1; k=rsa; p=", "postern dkim rotate example.com")
	told(t, s.run("dkim", "list"), "one", "waits")
	told(t, s.failing("dkim", "rotate", "example.com"), "no record in the DNS", "nothing was changed")
	told(t, s.run("dkim", "check", "example.com"), "no record in the DNS", "to do: put the record")
	must(t, s.submit("alice", ldif.Password("alice"), "alice@example.com", []string{"far@elsewhere.example"}, "too early"))

	publish(names, printed)
	testenv.Eventually(t, time.Minute, func() error { // what the DNS did not have is remembered for a moment
		out, err := exec.Command(program, "dkim", "rotate", "example.com", "-c", s.Config).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%s", out)
		}
		return holds(string(out), "the DNS has it, 2048 bits", "sign from")
	})
	told(t, s.run("dkim", "list"), "example.com", "rsa-sha256", "signs")
	told(t, s.run("dkim", "rotate", "example.com"), "nothing to do")
	s.run("reload")
	must(t, s.submit("alice", ldif.Password("alice"), "alice@example.com", []string{"far@elsewhere.example"}, "signed"))
	var signed string
	testenv.Eventually(t, time.Minute, func() error {
		for _, m := range outside.got() {
			if strings.Contains(m.Text, "too early") && strings.Contains(m.Text, "DKIM-Signature") {
				return fmt.Errorf("signed before its time: %s", m.Text)
			}
			if strings.Contains(m.Text, "Subject: signed") {
				signed = m.Text
				return nil
			}
		}
		return fmt.Errorf("%d messages arrived", len(outside.got()))
	})
	file := filepath.Join(s.Dir, "signed.eml")
	must(t, os.WriteFile(file, []byte(signed), 0o600))
	told(t, s.run("dkim", "verify", file), "signature 1: pass", "one._domainkey.example.com", "2048-bit rsa key", "header: as signed", "body:   as signed")
	must(t, os.WriteFile(file, []byte(signed+"more\n"), 0o600))
	told(t, s.failing("dkim", "verify", file), "signature 1: fail: the body was changed", "header: as signed", "body:   not as signed", "no DKIM signature")

	told(t, s.run("dkim", "rotate", "example.com", "--older-than", "0s"), "r2", "When the DNS has it")
	told(t, s.failing("dkim", "rotate", "example.com", "--older-than", "0s"), "nothing was changed")
	publish(names, s.run("dkim", "dns", "example.com"))
	key := filepath.Join(s.Dir, "data", "dkim", "example.com", "one.pem")
	must(t, os.Chmod(key, 0o640))
	told(t, s.failing("dkim", "check", "example.com"), "chmod 600 "+key)
	told(t, s.failing("reload"), "chmod 600")
}

// TestWhatTheServerWritesIsSigned sees reports signed, with the key of the domain
// above the server's name, and what passes through sealed.
func TestWhatTheServerWritesIsSigned(t *testing.T) {
	t.Parallel()
	outside, names := startOutside(t), dnstest.New(t)
	s := signs(t, outside.Address, names.Addr)
	publish(names, s.run("dkim", "keygen", "example.com", "--algorithm", "ed25519"))
	s.run("dkim", "rotate", "example.com")
	s.start()
	c, err := gosmtp.DialStartTLS(s.address("Submission"), s.trust)
	must(t, err)
	defer func() { _ = c.Close() }()
	must(t, c.Auth(sasl.NewPlainClient("", "alice", ldif.Password("alice"))))
	must(t, c.Mail("alice@example.com", nil))
	must(t, c.Rcpt("bob@example.com", &gosmtp.RcptOptions{Notify: []gosmtp.DSNNotify{gosmtp.DSNNotifySuccess}}))
	w, err := c.Data()
	must(t, err)
	_, err = w.Write([]byte("Subject: tell me\r\n\r\n"))
	must(t, err)
	must(t, w.Close())
	s.waitFor("alice", "Successful Mail Delivery Report", 1)
	must(t, s.inject("eve@elsewhere.example", []string{"carol@example.com"}, "from elsewhere"))
	s.waitFor("carol", "from elsewhere", 1)
	for login, want := range map[string]string{"alice": "signature 1: pass", "carol": "ARC chain: pass"} {
		file := filepath.Join(s.Dir, login+".eml")
		must(t, os.WriteFile(file, []byte(s.message(t, login, 1)), 0o600))
		out, _ := exec.Command(program, "dkim", "verify", file, "-c", s.Config).CombinedOutput()
		told(t, string(out), want, "example.com")
	}
}
