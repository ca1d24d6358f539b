package main

import (
	"encoding/base64"
	"net/url"
	"os"
	"strings"
	"testing"

	"github.com/postern-mail/postern/config"
)

// ruled is a company with rules of all kinds.
const ruled = `
hostname = "mail.example.com"
data_dir = "%[1]s/data"
directory "ldif" "company" {
  file              = "%[1]s/company.ldif"
  base              = "dc=example,dc=com"
  policy_attributes = ["employeeType"]
}
authn "ldif" { directory = directory.company }
gateway {
  policy "recipient" {
    reject_non_fqdn_recipient {}
    rules {}
  }
  policy "content" {
    rules {}
  }
  rule "all of us" {
    when { recipients = ["staff@example.com"] }
    unless { sender_groups = ["staff@example.com"] }
    then { reject = "Only staff writes to staff" }
  }
  rule "partners by the secure way" {
    when { recipients = ["partner.example"] }
    then { deliver = target.partners }
  }
  rule "mark what comes from outside" {
    when { direction = "incoming" }
    then {
      tag     = "[EXTERNAL]"
      headers = ["X-External: yes"]
      strip   = ["X-Trusted"]
    }
  }
  listener "mx" { bind = ["127.0.0.1:0"] }
  listener "submission" {
    bind                 = ["127.0.0.1:0"]
    allow_plaintext_auth = true
    policy "recipient" {
      rules {}
    }
  }
  domains "local" {
    names      = ["example.com"]
    recipients = directory.company
    deliver    = target.box
  }
  target "lmtp" "box" { address = ["127.0.0.1:9"] }
  target "smtp" "partners" { tls = "secure" }
}
`

func TestRules(t *testing.T) {
	t.Parallel()
	g := generationOf(t, ruled, map[string]string{"company.ldif": read(t, "../../testdata/ldif/openldap.ldif")})
	message := base64.StdEncoding.EncodeToString([]byte("Subject: hi\r\nX-Trusted: yes\r\n\r\nhello\r\n"))
	for _, tt := range []struct {
		name string
		args url.Values
		want string
	}{
		{"a stranger", url.Values{"to": {"staff@example.com"}, "from": {"a@far.example"}}, "rules  <a@far.example> to <staff@example.com>  reject  T  rule all of us\n  => 554 5.7.1 Only staff writes to staff\n"},
		{"who says he is one", url.Values{"to": {"staff@example.com"}, "from": {"alice@example.com"}}, "=> 554 5.7.1 Only staff writes to staff\n"},
		{"one of them", url.Values{"to": {"staff@example.com"}, "from": {"alice@example.com"}, "auth": {"alice"}, "message": {message}}, "would be queued"},
		{"to a partner", url.Values{"to": {"x@partner.example", "y@far.example"}, "from": {"alice@example.com"}, "auth": {"alice"}, "message": {message}}, "  y@far.example\n  x@partner.example by partners\n"},
		{"from outside", url.Values{"to": {"bob@example.com"}, "from": {"a@far.example"}, "message": {message}}, "content  rules  <a@far.example> to <bob@example.com>  dunno  T  rule mark what comes from outside\n  => 250 2.0.0 Ok: queued\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			tt.args.Set("client", "192.0.2.1")
			if got := walk(t, g, tt.args); !strings.Contains(got, tt.want) {
				t.Errorf("no %q in\n%s", tt.want, got)
			}
		})
	}
}

// TestRulesThatCannotBe: each mistake is told with what to do, at its place.
func TestRulesThatCannotBe(t *testing.T) {
	t.Parallel()
	for change, want := range map[[2]string]string{
		{`sender_groups = ["staff@example.com"]`, `sender_groups = ["staff@far.example"]`}:                   `No directory knows the groups of "far.example"`,
		{`direction = "incoming"`, `sender_attributes = ["title=boss"]`}:                                     `name it in policy_attributes`,
		{`deliver = target.partners`, `deliver = target.partner`}:                                            `There is no target block named "partner"`,
		{`reject = "Only staff writes to staff"`, ``}:                                                        `Then says nothing`,
		{`headers = ["X-External: yes"]`, `headers = ["X-External"]`}:                                        `is no header field`,
		{`recipients = ["partner.example"]`, `recipients = ["part ner"]`}:                                    `Recipients: malformed domain: "part ner"`,
		{`recipients = ["partner.example"]`, `headers = ["Subject: (a"]`}:                                    `missing closing )`,
		{"  policy \"content\" {\n    rules {}\n  }\n", ""}:                                                  `put rules {} into the list content`,
		{`rule "partners by the secure way"`, `rule "all of us"`}:                                            `all of us`,
		{"    rules {}\n  }\n  policy \"content\"", "    rules { only = \"x\" }\n  }\n  policy \"content\""}: `does not know the attribute "only"`,
	} {
		text := strings.Replace(ruled, change[0], change[1], 1)
		if text == ruled {
			t.Fatalf("%q is not in the text", change[0])
		}
		dir := t.TempDir()
		write(t, dir+"/company.ldif", "")
		write(t, dir+"/postern.hcl", strings.ReplaceAll(text, "%[1]s", dir))
		if _, err := config.Load(dir + "/postern.hcl"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}

func write(t *testing.T, file, text string) {
	t.Helper()
	must(t, os.WriteFile(file, []byte(text), 0o600))
}
