package main

import (
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/emersion/go-sasl"
	gosmtp "github.com/emersion/go-smtp"

	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/testdata/ldif"
)

// withFilters is the standard site with a virus scanner, rspamd by HTTP and by its
// milter, and OpenDKIM in front of it, as docs/milters.md has them.
var withFilters = strings.Replace(standard, `  domains "local"`, `
  milter "clamav" {
    address         = "unix:{{.Extra.clamav}}"
    command_timeout = "1m"
  }
  milter "opendkim" {
    address  = "unix:{{.Extra.opendkim}}"
    on_error = "accept"
  }
  milter "rspamd" {
    address  = "unix:{{.Extra.proxy}}"
    max_idle = 4
  }
  policy "content" {
    milter { use = milter.clamav }
    rspamd {
      url     = "{{.Extra.rspamd}}"
      timeout = "1m"
      headers = "always"
    }
    milter { use = milter.opendkim }
  }
  listener "proxied" {
    mode = "mx"
    bind = ["127.0.0.1:{{.Port.IMAP}}"]
    policy "content" {
      milter { use = milter.rspamd }
    }
  }
  domains "local"`, 1)

// mailWith sends a message with more fields and another body than usual.
func (s *site) mailWith(port string, subject, fields, body string) error {
	c, err := gosmtp.Dial(s.address(port))
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	text := fmt.Sprintf("From: <a@elsewhere.example>\r\nTo: <bob@example.com>\r\nSubject: %s\r\n%s\r\n%s\r\n", subject, fields, body)
	return c.SendMail("a@elsewhere.example", []string{"bob@example.com"}, strings.NewReader(text))
}

// inboxText returns the message with a subject as it lies in somebody's INBOX.
func (s *site) inboxText(login, subject string) string {
	s.t.Helper()
	s.waitFor(login, subject, 1)
	c, err := s.imap(login, ldif.Password(login))
	must(s.t, err)
	defer func() { _ = c.Close() }()
	subjects, err := inbox(c)
	must(s.t, err)
	for i, found := range subjects {
		if found == subject {
			text, err := fetchText(c, uint32(i+1)) // #nosec G115 -- a few messages
			must(s.t, err)
			return text
		}
	}
	s.t.Fatalf("no message %q", subject)
	return ""
}

// Real filters, in a chain, in front of a whole server: what they find, write,
// refuse, hold, and what happens when they are gone.
func TestFilters(t *testing.T) {
	t.Parallel()
	clam, rspamd, dkim := testenv.ClamAV(t), testenv.Rspamd(t), testenv.OpenDKIM(t, "127.0.0.1")
	s := newSite(t, withFilters, map[string]string{"clamav": clam.Milter, "opendkim": dkim.Milter, "proxy": rspamd.Milter, "rspamd": rspamd.URL})
	// Submission has lists of its own: the gateway's are for mx.
	s.configure(strings.Replace(withFilters, `listener "submission" { bind = ["127.0.0.1:{{.Port.Submission}}"] }`, `listener "submission" {
    bind = ["127.0.0.1:{{.Port.Submission}}"]
    policy "content" {
      milter { use = milter.clamav }
      milter { use = milter.opendkim }
    }
  }`, 1))
	s.start()

	must(t, s.submit("alice", ldif.Password("alice"), "alice@example.com", []string{"bob@example.com"}, "signed"))
	text := s.inboxText("bob", "signed")
	for _, want := range []string{"DKIM-Signature: ", "d=example.com", "X-Virus-Status: Clean"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	if received, signature := strings.Index(text, "Received: from"), strings.Index(text, "DKIM-Signature: "); received > signature {
		t.Errorf("the trace stands below the signature:\n%s", text)
	}
	virus := s.mailWith("MX", "virus", "", clam.Infected)
	if code(virus) != 550 || !strings.Contains(virus.Error(), "Infected: "+clam.Virus) {
		t.Errorf("a virus: %v", virus)
	}
	must(t, s.mailWith("MX", "seen", "X-Want-Edits: yes\r\nX-Remove: 1\r\nX-Want-Symbol: x\r\n", "body"))
	text = s.inboxText("carol", "seen") // whom rspamd added
	if !strings.Contains(text, "X-Spam-Symbols: METADATA(0.00) TEST_SYMBOL(1.50)") || strings.Contains(text, "X-Remove") ||
		!strings.Contains(text, "X-Added: one") || !strings.Contains(text, "Return-Path: <changed@example.com>") {
		t.Errorf("what rspamd wanted is not done:\n%s", text)
	}
	for _, port := range []string{"MX", "IMAP"} { // by HTTP, and by its milter
		for want, expected := range map[string]int{"reject": 550, "soft reject": 451, "discard": 0, "quarantine": 0} {
			err := s.mailWith(port, want+" "+port, "X-Want: "+want+"\r\n", "body")
			if got := code(err); got != expected && (got != 554 || expected != 550) {
				t.Errorf("%s by %s: %v", want, port, err)
			}
		}
	}
	if out := s.run("queue", "list"); strings.Count(out, "a@elsewhere.example") != 2 {
		t.Errorf("two messages should be on hold:\n%s", out)
	}
	s.run("queue", "release", "ALL")
	s.waitFor("bob", "quarantine MX", 1)
	s.waitFor("bob", "quarantine IMAP", 1)

	dkim.Process.Kill()
	must(t, s.submit("alice", ldif.Password("alice"), "alice@example.com", []string{"bob@example.com"}, "unsigned"))
	if text := s.inboxText("bob", "unsigned"); strings.Contains(text, "DKIM-Signature: ") {
		t.Errorf("signed by whom?\n%s", text)
	}
	clam.Filter.Kill()
	if err := s.mailWith("MX", "later", "", "body"); code(err) != 451 {
		t.Errorf("without the scanner: %v", err)
	}
	rspamd.Process.Stop() // which ends its workers, too
	if err := s.mailWith("IMAP", "later", "", "body"); code(err) != 451 {
		t.Errorf("without rspamd: %v", err)
	}
}

// A client that sends its message in parts, resets and starts anew does not
// confuse a filter that follows the session.
func TestFilterFollowsASession(t *testing.T) {
	t.Parallel()
	clam := testenv.ClamAV(t)
	text := strings.Replace(standard, `  domains "local"`, `
  milter "clamav" { address = "unix:{{.Extra.clamav}}" }
  listener "people" {
    mode = "submission"
    bind = ["127.0.0.1:{{.Port.IMAP}}"]
    policy "content" { milter { use = milter.clamav } }
  }
  domains "local"`, 1)
	text = strings.Replace(text, "{ milter { use = milter.clamav } }", "{\n milter { use = milter.clamav }\n }", 1)
	s := newSite(t, text, map[string]string{"clamav": clam.Milter}).start()
	c, err := gosmtp.DialStartTLS(s.address("IMAP"), s.trust)
	must(t, err)
	defer func() { _ = c.Close() }()
	must(t, c.Auth(sasl.NewPlainClient("", "alice", ldif.Password("alice"))))
	must(t, c.Mail("alice@example.com", nil))
	must(t, c.Reset())
	for n := range 3 {
		must(t, c.Mail("alice@example.com", nil))
		must(t, c.Rcpt("bob@example.com", nil))
		if err := c.Rcpt("nobody@example.com", nil); code(err) != 550 {
			t.Errorf("nobody: %v", err)
		}
		w, err := c.Data()
		must(t, err)
		body := "clean"
		if n == 1 {
			body = clam.Infected
		}
		_, err = io.WriteString(w, fmt.Sprintf("From: <alice@example.com>\r\nSubject: number %d\r\n\r\n%s\r\n", n, body))
		must(t, err)
		if err := w.Close(); (code(err) == 550) != (n == 1) {
			t.Errorf("number %d: %v", n, err)
		}
	}
	s.waitFor("bob", "number 0", 1)
	s.waitFor("bob", "number 2", 1)
}
