package main

import (
	"errors"
	"strings"
	"testing"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-sasl"
	gosmtp "github.com/emersion/go-smtp"

	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/testdata/ldif"
)

// ldapDirectory has people and passwords in a real slapd, over verified TLS.
const ldapDirectory = `directory "ldap" "company" {
  preset             = "{{.Extra.preset}}"
  uris               = ["{{.Extra.uri}}"]
  ca_file            = "{{.Extra.ca}}"
  base               = "{{.Extra.base}}"
  bind_dn            = "{{.Extra.bind}}"
  bind_password_file = "{{.Extra.password}}"
  timeout            = "2s"
}
`

const ldapAuthn = `authn "ldap" { directory = directory.company }`

// newLDAPSite is a site on a slapd; authn says how logins are verified.
func newLDAPSite(t *testing.T, slapd *testenv.SlapdServer, authn string) *site {
	t.Helper()
	return newSite(t, variant(t, standard, ldifDirectory, ldapDirectory, ldifAuthn, authn), map[string]string{
		"preset": slapd.Tree.Preset, "uri": slapd.LDAPS, "ca": slapd.CAFile, "base": slapd.Tree.BaseDN,
		"bind": slapd.Tree.ServiceDN, "password": slapd.ServicePasswordFile,
	})
}

// send submits from somebody's own address to another person.
func (s *site) send(login, password, from, to, subject string) error {
	return s.submit(login, password, from, []string{to}, subject)
}

// TestDirectories runs a site on each shape of directory: the same company has
// the same mail.
func TestDirectories(t *testing.T) {
	t.Parallel()
	for _, tree := range ldif.Trees() {
		t.Run(tree.Preset, func(t *testing.T) {
			t.Parallel()
			s := newLDAPSite(t, testenv.Slapd(t, testenv.SlapdOptions{Tree: tree}), ldapAuthn).start()
			secret := ldif.Password("alice")
			logins := []string{"alice", "ALICE", "alice@example.com", "a.anders@example.com"}
			if tree.Preset == "ad" {
				logins = append(logins, "alice@corp.example.com") // userPrincipalName
			}
			for _, login := range logins {
				wantAnswer(t, "login as "+login, s.send(login, secret, "a.anders@example.com", "bob@example.com", "by "+login), "")
				s.waitFor("bob", "by "+login, 1)
			}
			must(t, s.send("bob", ldif.Password("bob"), "bob@example.com", "staff@example.com", "to all"))
			for _, login := range []string{"alice", "bob", "carol"} {
				s.waitFor(login, "to all", 1)
			}
			must(t, s.inject("a@elsewhere.example", []string{"bob@example.com", "staff@example.com", "everyone@example.com"}, "three ways"))
			s.waitFor("bob", "three ways", 1)
			for what, row := range map[string]struct {
				err  error
				want string
			}{
				"wrong password":        {s.send("alice", "wrong", "alice@example.com", "bob@example.com", "x"), "535 5.7.8"},
				"no such login":         {s.send("nobody", "nobody-secret", "alice@example.com", "bob@example.com", "x"), "535 5.7.8"},
				"filter as login":       {s.send("*", secret, "alice@example.com", "bob@example.com", "x"), "535 5.7.8"},
				"another's address":     {s.send("alice", secret, "bob@example.com", "carol@example.com", "x"), "553 5.7.1"},
				"no such recipient":     {s.inject("a@elsewhere.example", []string{"nobody@example.com"}, "x"), "550 5.1.1"},
				"filter as recipient":   {s.inject("a@elsewhere.example", []string{"*@example.com"}, "x"), "550 5.1.1"},
				"a group one may be in": {s.send("bob", ldif.Password("bob"), "info@example.com", "alice@example.com", "x"), ""},
			} {
				wantAnswer(t, what, row.err, row.want)
			}
			if err := s.send("dave", ldif.Password("dave"), "dave@example.com", "bob@example.com", "x"); code(err) != 535 {
				t.Errorf("a disabled account: %v, want 535", err)
			}
		})
	}
}

// TestDNTemplate binds as what was typed, without a search before.
func TestDNTemplate(t *testing.T) {
	t.Parallel()
	s := newLDAPSite(t, testenv.Slapd(t, testenv.SlapdOptions{}), `authn "ldap" {
  directory   = directory.company
  dn_template = "uid={local},ou=people,dc=example,dc=com"
}`).start()
	wantAnswer(t, "alice", s.send("alice", ldif.Password("alice"), "alice@example.com", "bob@example.com", "by template"), "")
	wantAnswer(t, "alice's address", s.send("alice@example.com", ldif.Password("alice"), "alice@example.com", "bob@example.com", "x"), "")
	s.waitFor("bob", "by template", 1)
	for _, login := range []string{"bob", "alice,ou=people", "alice+cn=x", "nobody"} {
		if err := s.send(login, ldif.Password("alice"), "alice@example.com", "bob@example.com", "x"); code(err) != 535 {
			t.Errorf("login as %q with alice's password: %v, want 535", login, err)
		}
	}
}

// TestWrongCertificate: somebody in the directory's place learns no password,
// and nobody is told that people do not exist.
func TestWrongCertificate(t *testing.T) {
	t.Parallel()
	ca := testenv.NewCA(t)
	for name, o := range map[string]testenv.SlapdOptions{
		"other name": {CA: ca, Certificate: new(ca.Issue("ldap.elsewhere.example"))},
		"expired":    {CA: ca, Certificate: new(ca.IssueExpired("localhost", "127.0.0.1"))},
		"other CA":   {CA: ca, Certificate: new(testenv.NewCA(t).Issue("localhost", "127.0.0.1"))},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			slapd := testenv.Slapd(t, o)
			s := newLDAPSite(t, slapd, ldapAuthn).start()
			s.wantOutage(t)
			if log := slapd.Process().Log(); strings.Contains(log, "BIND") {
				t.Errorf("a bind was tried:\n%s", log)
			}
		})
	}
}

// wantOutage: nothing that needs the directory is refused for good.
func (s *site) wantOutage(t *testing.T) {
	t.Helper()
	wantAnswer(t, "recipient", s.inject("a@elsewhere.example", []string{"carol@example.com"}, "x"), "451 4.4.3")
	wantAnswer(t, "recipient who does not exist", s.inject("a@elsewhere.example", []string{"nobody@example.com"}, "x"), "451 4.4.3")
	wantAnswer(t, "login", s.send("alice", ldif.Password("alice"), "alice@example.com", "bob@example.com", "x"), "454 4.7.0")
	wantAnswer(t, "wrong password", s.send("alice", "wrong", "alice@example.com", "bob@example.com", "x"), "454 4.7.0")
	_, err := s.imap("carol", ldif.Password("carol"))
	var no *imap.Error
	if !errors.As(err, &no) || no.Type != imap.StatusResponseTypeNo || no.Code != imap.ResponseCodeUnavailable {
		t.Errorf("IMAP login: %v, want NO [UNAVAILABLE]", err)
	}
}

// TestSlapdKilledInMidSession: sessions go on, what is known goes on, and all
// of it comes back by itself.
func TestSlapdKilledInMidSession(t *testing.T) {
	t.Parallel()
	slapd := testenv.Slapd(t, testenv.SlapdOptions{})
	s := newLDAPSite(t, slapd, ldapAuthn).start()
	must(t, s.inject("a@elsewhere.example", []string{"bob@example.com"}, "before the outage"))
	s.waitFor("bob", "before the outage", 1)
	mx, err := gosmtp.Dial(s.address("MX"))
	must(t, err)
	defer func() { _ = mx.Close() }()
	must(t, mx.Mail("a@elsewhere.example", nil))
	must(t, mx.Rcpt("bob@example.com", nil))
	msa, err := gosmtp.DialStartTLS(s.address("Submission"), s.trust)
	must(t, err)
	defer func() { _ = msa.Close() }()

	slapd.Kill()
	wantAnswer(t, "a second recipient", mx.Rcpt("carol@example.com", nil), "451 4.4.3")
	wantAnswer(t, "a known recipient again", mx.Rcpt("bob@example.com", nil), "")
	w, err := mx.Data()
	must(t, err)
	_, err = w.Write([]byte("Subject: during the outage\r\n\r\n"))
	must(t, err)
	wantAnswer(t, "the message", w.Close(), "")
	wantAnswer(t, "login", msa.Auth(sasl.NewPlainClient("", "alice", ldif.Password("alice"))), "454 4.7.0")
	s.wantOutage(t)

	slapd.Restart()
	testenv.Eventually(t, outageLimit, func() error {
		return s.send("alice", ldif.Password("alice"), "alice@example.com", "carol@example.com", "after the outage")
	})
	s.waitFor("carol", "after the outage", 1)
	s.waitFor("bob", "during the outage", 1)
	wantAnswer(t, "who does not exist", s.inject("a@elsewhere.example", []string{"nobody@example.com"}, "x"), "550 5.1.1")
}

// TestSlapdHangs: a directory that accepts connections and says nothing is as
// good as dead, within the time configured.
func TestSlapdHangs(t *testing.T) {
	t.Parallel()
	slapd := testenv.Slapd(t, testenv.SlapdOptions{})
	s := newLDAPSite(t, slapd, ldapAuthn).start()
	wantAnswer(t, "before", s.send("alice", ldif.Password("alice"), "alice@example.com", "bob@example.com", "x"), "")
	slapd.Pause()
	s.wantOutage(t)
	slapd.Resume()
	testenv.Eventually(t, outageLimit, func() error {
		return s.send("alice", ldif.Password("alice"), "alice@example.com", "carol@example.com", "awake")
	})
}
