package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-sasl"
	gosmtp "github.com/emersion/go-smtp"

	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/testdata/ldif"
)

// rewritten is the standard configuration with what changes addresses.
func rewritten(t *testing.T, outside *outsideServer) *site {
	t.Helper()
	text := variant(t, standard, nobodyListens, outside.Address)
	text = variant(t, text, "  mynetworks = []\n", `  mynetworks = []
  rewrite {
    myorigin           = "example.com"
    canonical_maps     = ["texthash:canonical", "query:company/uids"]
    sender_bcc_maps    = "regexp:copies"
    masquerade_domains = "example.com"
    smtp_generic_maps  = "texthash:generic"
  }
  srs {
    domain       = "srs.example.com"
    secret_files = "{{.Dir}}/srs.key"
  }
`)
	text = variant(t, text, "  base = \"dc=example,dc=com\"\n", `  base = "dc=example,dc=com"
  table "uids" {
    use              = "rewrite"
    domain           = "uid.example.com"
    query_filter     = "(uid=%u)"
    result_attribute = "mail"
  }
`)
	s := newSite(t, "", nil)
	for name, lines := range map[string]string{
		"canonical": "bob@old.example.com bob@example.com\nformer@example.com bob\nalice@example.com a.anders@example.com\n",
		"copies":    "/^.*@audited\\.example$/ carol@example.com\n",
		"generic":   "a.anders@example.com alice@isp.example\n",
		"srs.key":   "an old key, long enough\n",
	} {
		must(t, os.WriteFile(filepath.Join(s.Dir, name), []byte(lines), 0o600))
	}
	s.configure(text)
	return s.start()
}

// injectText sends a message of any text as another server would.
func (s *site) injectText(from string, to []string, text string) error {
	c, err := gosmtp.Dial(s.address("MX"))
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	return c.SendMail(from, to, strings.NewReader(text))
}

// waitForOutside waits for the number of messages the next hop got.
func waitForOutside(t *testing.T, outside *outsideServer, n int) []received {
	t.Helper()
	testenv.Eventually(t, time.Minute, func() error {
		if got := outside.got(); len(got) != n {
			return fmt.Errorf("%d messages arrived, want %d: %+v", len(got), n, got)
		}
		return nil
	})
	return outside.got()
}

func TestRewriting(t *testing.T) {
	t.Parallel()
	outside := startOutside(t)
	s := rewritten(t, outside)

	// Of our own people envelope and header change: canonical on the way in,
	// generic on the way out.
	c, err := gosmtp.DialStartTLS(s.address("Submission"), s.trust)
	must(t, err)
	must(t, c.Auth(sasl.NewPlainClient("", "alice", ldif.Password("alice"))))
	must(t, c.SendMail("alice@example.com", []string{"far@elsewhere.example"}, strings.NewReader(
		"From: \"Anders, Alice\" <alice@example.com>\r\nReply-To: team@desk.example.com\r\nTo: far@elsewhere.example (Far)\r\nCc: helper\r\nSubject: out\r\n\r\nFrom: alice@example.com\r\n")))
	must(t, c.Close())
	m := waitForOutside(t, outside, 1)[0]
	if m.From != "alice@isp.example" {
		t.Errorf("sent as %s", m.From)
	}
	for _, part := range []string{
		"\r\nFrom: \"Anders, Alice\" <alice@isp.example>\r\nReply-To: team@example.com\r\nTo: far@elsewhere.example (Far)\r\nCc: helper@example.com\r\nSubject: out\r\n",
		"\r\n\r\nFrom: alice@example.com\r\n",
	} {
		if !strings.Contains(m.Text, part) {
			t.Errorf("no %q in:\n%s", part, m.Text)
		}
	}

	// Of strangers only the envelope; copies of what they send go to Carol.
	must(t, s.injectText("x@audited.example", []string{"former@example.com"}, "From: alice@example.com\r\nTo: former@example.com\r\nSubject: in\r\n\r\nx\r\n"))
	s.waitFor("bob", "in", 1)
	s.waitFor("carol", "in", 1)
	if text := s.message(t, "bob", 1); !strings.Contains(text, "\r\nFrom: alice@example.com\r\nTo: former@example.com\r\n") {
		t.Errorf("the header of a stranger changed:\n%s", text)
	}
	must(t, s.injectText("x@audited.example", []string{"carol@example.com", "bob@example.com"}, "Subject: once\r\n\r\nx\r\n"))
	s.waitFor("carol", "once", 1)
	s.waitFor("bob", "once", 1)
	if code := code(s.injectText("x@far.example", []string{"bob@old.example.com"}, "Subject: x\r\n\r\nx\r\n")); code != 554 {
		t.Errorf("a map opened the relay: %d", code)
	}

	out := s.run("rewrite", "alice@example.com")
	for _, line := range []string{"envelope_sender     a.anders@example.com", "smtp_generic_maps   alice@example.com"} {
		if !strings.Contains(out, line) {
			t.Errorf("no %q in:\n%s", line, out)
		}
	}
	if out := s.run("rewrite", "carol+x@uid.example.com"); !strings.Contains(out, "envelope_recipient  Carol+x@example.com\n") {
		t.Errorf("the directory's table is not asked:\n%s", out)
	}
	if code := code(s.inject("x@far.example", []string{"carol@uid.example.com"}, "x")); code != 554 {
		t.Errorf("a table of maps is asked for aliases: %d", code)
	}
	s.waitForAudit(`"result":"copied"`, `"stage":"sender_bcc_maps"`, regexp.QuoteMeta("reverse-path rewritten to \\u003ca.anders@example.com\\u003e; addresses in the header rewritten"))
}

// TestForwarding follows mail that leaves again: its sender, the report that
// comes back, what is forged, and what went round.
func TestForwarding(t *testing.T) {
	t.Parallel()
	outside := startOutside(t)
	s := rewritten(t, outside)
	must(t, s.inject("Stranger+1@other.example", []string{"erin@example.com"}, "forwarded"))
	m := waitForOutside(t, outside, 1)[0]
	if !strings.HasPrefix(m.From, "SRS0=") || !strings.HasSuffix(m.From, "=other.example=Stranger+1@srs.example.com") {
		t.Fatalf("forwarded as %s", m.From)
	}
	if !strings.HasPrefix(m.Text, "Delivered-To: erin@example.com\r\nReceived: ") {
		t.Errorf("the forwarded message has no mark:\n%s", m.Text)
	}

	// The report goes back to the sender, and so it does after a new key.
	must(t, os.WriteFile(filepath.Join(s.Dir, "srs.key"), []byte("a newer key, long enough\nan old key, long enough\n"), 0o600))
	s.run("reload")
	must(t, s.inject("", []string{m.From}, "a report"))
	back := waitForOutside(t, outside, 2)[1]
	if back.From != "" || len(back.To) != 1 || back.To[0] != "Stranger+1@other.example" {
		t.Errorf("the report went on as %+v", back)
	}
	if out := s.run("srs", "decode", m.From); out != "Stranger+1@other.example\n" {
		t.Errorf("decode: %q", out)
	}
	if out := s.run("srs", "encode", "x@y.example"); !strings.HasSuffix(out, "=y.example=x@srs.example.com\n") {
		t.Errorf("encode: %q", out)
	}
	for name, to := range map[string]string{
		"forged":        "SRS0=AAAA" + m.From[len("SRS0=AAAA"):],
		"another":       strings.Replace(m.From, "Stranger", "Victim", 1),
		"not rewritten": "anybody@srs.example.com",
	} {
		if code := code(s.inject("", []string{to}, "x")); code != 550 {
			t.Errorf("%s: %d, want 550", name, code)
		}
	}
	must(t, s.inject("x@other.example", []string{"postmaster@srs.example.com"}, "to the postmaster"))

	// It comes back.
	const round = "Delivered-To: erin@example.com\r\nSubject: round\r\n\r\nx\r\n"
	if code := code(s.injectText("stranger@other.example", []string{"erin@example.com"}, round)); code != 554 {
		t.Errorf("a loop is answered %d, want 554", code)
	}
	must(t, s.injectText("stranger@other.example", []string{"erin@example.com", "bob@example.com"}, round))
	s.waitFor("bob", "round", 1)
	report := waitForOutside(t, outside, 3)[2]
	if report.From != "" || len(report.To) != 1 || report.To[0] != "stranger@other.example" {
		t.Errorf("the report is %+v", report)
	}
	for _, part := range []string{"erin@example.com", "Action: failed", "Status: 5.4.6"} {
		if !strings.Contains(report.Text, part) {
			t.Errorf("no %q in the report:\n%s", part, report.Text)
		}
	}
	if strings.Contains(report.Text, "bob@example.com") {
		t.Error("the report speaks of Bob, who has the message")
	}
}
