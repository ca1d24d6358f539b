package ldap_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	ber "github.com/go-asn1-ber/asn1-ber"

	"github.com/postern-mail/postern/directory"
	"github.com/postern-mail/postern/directory/directorytest"
	"github.com/postern-mail/postern/directory/ldap"
	"github.com/postern-mail/postern/internal/dns"
	"github.com/postern-mail/postern/internal/testenv"
)

// TestCheck has an administrator's mistakes found, each with what to do.
func TestCheck(t *testing.T) {
	t.Parallel()
	ca := testenv.NewCA(t)
	s := testenv.Slapd(t, testenv.SlapdOptions{CA: ca})
	limited := testenv.Slapd(t, testenv.SlapdOptions{CA: ca, Config: "sizelimit size.soft=3 size.hard=3 size.prtotal=3"})
	expired := testenv.Slapd(t, testenv.SlapdOptions{CA: ca, Certificate: new(ca.IssueExpired("127.0.0.1"))})
	other := testenv.NewCA(t).WriteFile(testenv.TempDir(t))
	refusing := func(code int, text string) string {
		return script(t, func(*ber.Packet) []*ber.Packet { return []*ber.Packet{result(1, code, text)} }).uri
	}
	for _, c := range []struct {
		name     string
		change   func(*ldap.Config, *directory.Needs)
		failures int
		want     []string // "grade what text" parts that are found, in a line each
		advice   string
	}{
		{"all is well", func(*ldap.Config, *directory.Needs) {}, 0, []string{"ok connect", "ok TLS TLS 1.3", "certificate 0 days left", "ok login as cn=mail", "ok vendor OpenLDAP", "ok controls paged results", "ok base dc=example", "ok people", "entries", "ok groups", "note schema the server does not know"}, ""},
		{"StartTLS", func(c *ldap.Config, _ *directory.Needs) { c.URIs, c.StartTLS = []string{s.LDAP}, true }, 0, []string{"ok StartTLS TLS 1.3", "warning certificate 0 days left", "ok people"}, ""},
		{"in the clear", func(c *ldap.Config, _ *directory.Needs) { c.URIs = []string{s.LDAP} }, 0, []string{"ok protection none, on this machine only"}, ""},
		{"a socket", func(c *ldap.Config, _ *directory.Needs) { c.URIs = []string{s.LDAPI} }, 0, []string{"ok protection a local socket"}, ""},
		{"unknown authority", func(c *ldap.Config, _ *directory.Needs) { c.CAFile = other }, 1, []string{"FAILURE certificate issued by"}, "The authority in ca_file did not issue it"},
		{"other name", func(c *ldap.Config, _ *directory.Needs) { c.ServerName = "ldap.example.com" }, 1, []string{"FAILURE certificate it is for localhost, 127.0.0.1, ::1, not for ldap.example.com"}, "Write a name that the certificate has"},
		{"expired", func(c *ldap.Config, _ *directory.Needs) { c.URIs = []string{expired.LDAPS} }, 1, []string{"FAILURE certificate issued by", "expired"}, "Renew it on the server"},
		{"not verified", func(c *ldap.Config, _ *directory.Needs) { c.CAFile, c.InsecureSkipVerify = other, true }, 0, []string{"warning certificate it is not verified", "ok people"}, "ca_file"},
		{"nobody there", func(c *ldap.Config, _ *directory.Needs) {
			c.URIs = []string{fmt.Sprintf("ldap://127.0.0.1:%d", testenv.FreePort(t))}
		}, 1, []string{"FAILURE connect"}, "Is the server running"},
		{"LDAPS at the port of LDAP", func(c *ldap.Config, _ *directory.Needs) {
			c.URIs = []string{strings.Replace(s.LDAP, "ldap:", "ldaps:", 1)}
		}, 1, []string{"FAILURE TLS"}, "389"},
		{"wrong password", func(c *ldap.Config, _ *directory.Needs) { c.BindPasswordFile = passwordFile(t, "wrong") }, 1, []string{"FAILURE login"}, "The service account does not get in"},
		{"wrong base", func(_ *ldap.Config, n *directory.Needs) { n.Base = "dc=example,dc=org" }, 1, []string{"FAILURE base"}, "does not hold that part|There is no such entry"},
		{"filter that finds nothing", func(_ *ldap.Config, n *directory.Needs) {
			n.Searches = []directory.NeededSearch{{What: "people", Request: directory.Request{Base: n.Base, Filter: directory.Equal("mail", "x@y")}}}
		}, 0, []string{"warning people nothing below"}, "ldapsearch"},
		{"size limit", func(c *ldap.Config, _ *directory.Needs) { c.URIs = []string{limited.LDAPS} }, 0, []string{"warning people (user_base, user_filter) the server cuts results"}, "olcLimits"},
		{"attribute nobody knows", func(_ *ldap.Config, n *directory.Needs) { n.Attributes = append(n.Attributes, "mialbox") }, 0, []string{"note schema the server does not know", ", mialbox"}, "misspelt"},
		{"strong authentication required", func(c *ldap.Config, _ *directory.Needs) { c.URIs = []string{refusing(8, "")} }, 1, []string{"FAILURE login"}, "set starttls = true or write ldaps://"},
		{"channel binding", func(c *ldap.Config, _ *directory.Needs) {
			c.URIs = []string{refusing(49, "80090346: LdapErr: DSID-0C0906B0, comment: AcceptSecurityContext error, data 80090346, v4563")}
		}, 1, []string{"FAILURE login"}, "LdapEnforceChannelBinding"},
		{"account disabled", func(c *ldap.Config, _ *directory.Needs) {
			c.URIs = []string{refusing(49, "80090308: LdapErr: DSID-0C09044E, comment: AcceptSecurityContext error, data 533, v2580")}
		}, 1, []string{"FAILURE login"}, "disabled (533)"},
		{"confidentiality required", func(c *ldap.Config, _ *directory.Needs) { c.URIs = []string{refusing(13, "")} }, 1, []string{"FAILURE login"}, "The server wants TLS"},
		{"found by DNS", func(c *ldap.Config, _ *directory.Needs) {
			c.URIs, c.StartTLS, c.ServerName = []string{"srv:example.com"}, true, "localhost"
			c.Resolver = &zone{ttl: time.Hour, records: map[string][]dns.SRV{"_ldap._tcp.example.com": {{Port: portOf(t, s.LDAP), Target: "localhost"}}}}
		}, 0, []string{"ok DNS servers in order: localhost:", "ok people"}, ""},
		{"not in the DNS", func(c *ldap.Config, _ *directory.Needs) {
			c.URIs, c.StartTLS, c.Resolver = []string{"srv:example.com"}, true, &zone{}
		}, 1, []string{"FAILURE DNS"}, "dig _ldap._tcp.example.com SRV"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			cfg := config(s, s.LDAPS)
			client := open(t, cfg)
			needs := directorytest.Open(t, directorytest.Config(s.Tree), client).Needs()
			c.change(&cfg, &needs)
			failures, lines, advice := 0, "", ""
			for _, f := range open(t, cfg).Check(ctx(t), needs) {
				lines += fmt.Sprintf("%s %s %s\n", f.Grade, f.What, f.Text)
				advice += f.Advice + "\n"
				if f.Grade == ldap.Failure {
					failures++
				}
				if f.Grade == ldap.Failure && f.Advice == "" {
					t.Errorf("%s: no advice", f.Text)
				}
			}
			for _, part := range c.want {
				if !strings.Contains(lines, part) {
					t.Errorf("no %q in\n%s", part, lines)
				}
			}
			advised := false
			for part := range strings.SplitSeq(c.advice, "|") {
				advised = advised || strings.Contains(advice, part)
			}
			if failures != c.failures || !advised {
				t.Errorf("%d failures, want %d; advice %q, want %q\n%s", failures, c.failures, advice, c.advice, lines)
			}
		})
	}
}
