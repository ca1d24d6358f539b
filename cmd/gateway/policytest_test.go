package main

import (
	"bytes"
	"encoding/json"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/postern-mail/postern/mail"
)

// walks is a gateway with restrictions of several kinds.
const walks = `
hostname = "mail.example.com"
data_dir = "%[1]s/data"
directory "ldif" "company" {
  file = "%[1]s/company.ldif"
  base = "dc=example,dc=com"
}
authn "ldif" { directory = directory.company }
gateway {
  policy "client" {
    check_client_access { table = "cidr:%[1]s/clients" }
  }
  listener "mx" { bind = ["127.0.0.1:0"] }
  listener "submission" {
    bind                 = ["127.0.0.1:0"]
    allow_plaintext_auth = true
  }
  domains "local" {
    names      = ["example.com"]
    recipients = directory.company
    deliver    = target.box
  }
  target "lmtp" "box" { address = ["127.0.0.1:9"] }
}
`

func walk(t *testing.T, g *generation, args url.Values) string {
	t.Helper()
	var out bytes.Buffer
	if err := g.rehearse(t.Context(), args, &out); err != nil {
		t.Fatal(err)
	}
	times := regexp.MustCompile(`[0-9.]+(ns|µs|ms)\b`)
	return regexp.MustCompile(`  +`).ReplaceAllString(times.ReplaceAllString(out.String(), "T"), "  ")
}

// TestPolicyTest: what is printed is each restriction that is come to, in order,
// with what it looked at and its verdict, and the replies that a client gets.
func TestPolicyTest(t *testing.T) {
	t.Parallel()
	g := generationOf(t, walks, map[string]string{
		"company.ldif": read(t, "../../testdata/ldif/openldap.ldif"),
		"clients":      "192.0.2.66 REJECT no thanks\n192.0.2.77 HOLD suspicious\n192.0.2.88 PREPEND X-Seen: yes\n",
	})
	const message = "U3ViamVjdDogaGkNCg0KaGVsbG8NCg=="
	for _, tt := range []struct {
		name string
		args url.Values
		want []string
	}{
		{"accepted", url.Values{"client": {"192.0.2.1"}, "name": {"mx.far.example"}, "from": {"a@far.example"}, "to": {"alice@example.com"}, "message": {message}}, []string{
			"connection from mx.far.example[192.0.2.1] to listener mx\n", "EHLO mx.far.example\n  => 250 2.0.0 Ok\n", "MAIL FROM:<a@far.example>\n  => 250 2.1.0 Ok\n",
			"RCPT TO:<alice@example.com>\n  client  check_client_access  <mx.far.example[192.0.2.1]>  dunno  T  \n  sender  reject_non_fqdn_sender  <a@far.example>  dunno  T  \n" +
				"  relay  permit_mynetworks  <mx.far.example[192.0.2.1]>  dunno  T  \n  relay  permit_authenticated  nobody logged in  dunno  T  \n" +
				"  relay  reject_unauth_destination  <alice@example.com>  dunno  T  \n  recipient  reject_non_fqdn_recipient  <alice@example.com>  dunno  T  \n" +
				"  recipient  reject_unlisted_recipient  <alice@example.com>  dunno  T  \n  => 250 2.1.5 Ok\n",
			"DATA\n  => 354 ", "the message, 22 octets\n  => 250 2.0.0 Ok: queued\n", "would be queued, from <a@far.example>, for:\n  alice@example.com\n",
		}},
		{"refused", url.Values{"client": {"192.0.2.66"}, "to": {"alice@example.com"}}, []string{
			"EHLO [192.0.2.66]\n", "MAIL FROM:<>\n", "check_client_access  <unknown[192.0.2.66]>  reject  T  \n  => 554 5.7.1 <unknown[192.0.2.66]>: Client host rejected: no thanks\n",
		}},
		{"held", url.Values{"client": {"192.0.2.77"}, "to": {"alice@example.com"}, "message": {message}}, []string{
			"hold  T  <unknown[192.0.2.77]>: Client host suspicious\n", "would be held in the queue, from <>, for:\n",
		}},
		{"one of two", url.Values{"client": {"192.0.2.1"}, "to": {"nobody@example.com", "alice@example.com"}}, []string{
			"=> 550 5.1.1 <nobody@example.com>: Recipient address rejected: User unknown\n", "RCPT TO:<alice@example.com>\n", "=> 354 ",
		}},
		{"submission", url.Values{"client": {"192.0.2.1"}, "auth": {"alice@example.com"}, "from": {"bob@example.com"}, "to": {"x@far.example"}}, []string{
			"listener submission\n", "reject_sender_login_mismatch  <bob@example.com>  reject", "not owned by user alice\n",
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := walk(t, g, tt.args)
			for _, want := range tt.want {
				if !strings.Contains(got, want) {
					t.Errorf("no %q in\n%s", want, got)
				}
			}
		})
	}
	t.Run("json", func(t *testing.T) {
		t.Parallel()
		var out bytes.Buffer
		must(t, g.rehearse(t.Context(), url.Values{"client": {"192.0.2.66"}, "to": {"alice@example.com"}, "json": {"true"}}, &out))
		var refused mail.PolicyStep
		for decoder := json.NewDecoder(&out); ; {
			var step mail.PolicyStep
			err := decoder.Decode(&step)
			if err == io.EOF {
				break
			}
			must(t, err)
			if step.Verdict == "reject" {
				refused = step
			}
		}
		if refused.Stage != "check_client_access" || refused.List != "client" || refused.Recipient != "alice@example.com" || refused.Cost <= 0 {
			t.Errorf("%+v", refused)
		}
	})
	for text, args := range map[string]url.Values{
		"--client is the client's IP address":          {"to": {"alice@example.com"}},
		"--to names who gets the mail":                 {"client": {"192.0.2.1"}},
		`no listener "smtp"; there are mx, submission`: {"client": {"192.0.2.1"}, "to": {"alice@example.com"}, "listener": {"smtp"}},
	} {
		if err := g.rehearse(t.Context(), args, io.Discard); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%v, want %s", err, text)
		}
	}
}

// TestPolicyTestLeavesNoTrace: the running server is asked, and its audit, queue
// and mailboxes know nothing of it; a real message's audit names the same
// restrictions.
func TestPolicyTestLeavesNoTrace(t *testing.T) {
	t.Parallel()
	s := newSite(t, strings.Replace(standard, `audit { file = "{{.Dir}}/audit.log" }`, `audit {
  policy_steps = "all"
  file         = "{{.Dir}}/audit.log"
}`, 1), nil).start()
	letter := filepath.Join(s.Dir, "letter.eml")
	must(t, os.WriteFile(letter, []byte("Subject: rehearsed\n\nhello\n"), 0o600))
	out := s.run("policy", "test", "--client", "192.0.2.1", "--from", "a@far.example", "--to", "alice@example.com", letter)
	if !strings.Contains(out, "would be queued, from <a@far.example>") || !strings.Contains(out, "reject_unauth_destination") {
		t.Fatal(out)
	}
	must(t, s.inject("far@elsewhere.example", []string{"alice@example.com"}, "sent"))
	s.waitFor("alice", "sent", 1)
	s.waitForAudit(regexp.QuoteMeta(`"steps":[{"list":"sender","stage":"reject_non_fqdn_sender","rcpt":"alice@example.com","input":`))
	// What was before the message stands there before it.
	if strings.Contains(read(t, s.Dir+"/audit.log"), "a@far.example") {
		t.Error("a rehearsal stands in the audit")
	}
}
