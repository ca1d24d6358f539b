package main

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-sasl"
	gosmtp "github.com/emersion/go-smtp"

	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/testdata/ldif"
)

// ldapDirectory has people and passwords in a real slapd, over verified TLS. It
// is patient: only a directory that is dead is out of reach, not one whose
// machine has much to do. hasty is for those that hang.
const ldapDirectory = `directory "ldap" "company" {
  preset             = "{{.Extra.preset}}"
  uris               = ["{{.Extra.uri}}"]
  ca_file            = "{{.Extra.ca}}"
  base               = "{{.Extra.base}}"
  bind_dn            = "{{.Extra.bind}}"
  bind_password_file = "{{.Extra.password}}"
  timeout            = "1m"
}
`

func hasty(directory string) string {
	return strings.Replace(directory, `timeout            = "1m"`, `timeout            = "2s"`, 1)
}

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
	s := newLDAPSite(t, slapd, ldapAuthn)
	s.configure(variant(t, standard, ldifDirectory, hasty(ldapDirectory), ldifAuthn, ldapAuthn))
	s.start()
	testenv.Eventually(t, outageLimit, func() error {
		return s.send("alice", ldif.Password("alice"), "alice@example.com", "bob@example.com", "before")
	})
	slapd.Pause()
	s.wantOutage(t)
	slapd.Resume()
	testenv.Eventually(t, outageLimit, func() error {
		return s.send("alice", ldif.Password("alice"), "alice@example.com", "carol@example.com", "awake")
	})
}

// policyPerson is the DN of somebody in a slapd's tree.
func policyPerson(slapd *testenv.SlapdServer, uid string) string {
	return fmt.Sprintf("uid=%s,ou=people,%s", uid, slapd.Tree.BaseDN)
}

func setPassword(t *testing.T, slapd *testenv.SlapdServer, uid, password string) {
	t.Helper()
	slapd.Modify(t, fmt.Sprintf("dn: %s\nchangetype: modify\nreplace: userPassword\nuserPassword: %s\n", policyPerson(slapd, uid), password))
}

// askAnew has every lookup go to the directory, so that what changes there
// shows at once.
func askAnew(directory string) string {
	return strings.Replace(directory, `timeout            = "1m"`, "timeout            = \"1m\"\n  cache_ttl          = \"0s\"\n  negative_cache_ttl = \"0s\"", 1)
}

// TestOldTelephoneNeverLocksTheDirectory has a slapd with a password policy
// that locks, a telephone with last month's password, and its owner.
func TestOldTelephoneNeverLocksTheDirectory(t *testing.T) {
	t.Parallel()
	slapd := testenv.Slapd(t, testenv.SlapdOptions{})
	slapd.Modify(t, "dn: cn=default,ou=policies,dc=example,dc=com\nchangetype: modify\nreplace: pwdMaxFailure\npwdMaxFailure: 5\n")
	s := newLDAPSite(t, slapd, ldapAuthn)
	s.configure(variant(t, standard, ldifDirectory, askAnew(ldapDirectory), ldifAuthn, ldapAuthn+"\nlockout {\n  client_failures = -1\n  account_failures = -1\n  network_failures = -1\n}\n"))
	s.start()
	setPassword(t, slapd, "alice", "spring")
	must(t, s.login("alice", "spring"))
	setPassword(t, slapd, "alice", "summer")
	for i := range 25 { // on every folder, and by every name
		wantAnswer(t, fmt.Sprint("the old password, try ", i), s.login([]string{"alice", "alice@example.com"}[i%2], "spring"), "535 5.7.8")
	}
	must(t, s.login("alice", "summer"))
	for i := range 8 {
		_ = s.login("alice", fmt.Sprint("guess", i))
	}
	wantAnswer(t, "beyond what may go upstream", s.login("alice", "another guess"), "421 4.7.0")
	if out := s.run("auth", "status", "alice"); !strings.Contains(out, "alice") {
		t.Errorf("auth status alice: %s", out)
	}
	// The directory itself still lets her in.
	direct := newLDAPSite(t, slapd, ldapAuthn).start()
	wantAnswer(t, "at another server of the same directory", direct.login("alice", "summer"), "")

	// What was guessed before is the password now.
	setPassword(t, slapd, "alice", "guess0")
	s.run("auth", "unlock", "127.0.0.0/8")
	if out := s.run("auth", "unlock", "alice"); !strings.Contains(out, "forgotten") {
		t.Errorf("auth unlock alice: %s", out)
	}
	must(t, s.login("alice", "guess0"))
}

// TestPasswordTriedBeforeItWasSet is refused without asking, until the
// directory shows that the password changed.
func TestPasswordTriedBeforeItWasSet(t *testing.T) {
	t.Parallel()
	slapd := testenv.Slapd(t, testenv.SlapdOptions{})
	s := newLDAPSite(t, slapd, ldapAuthn)
	s.configure(variant(t, standard, ldifDirectory, askAnew(ldapDirectory), ldifAuthn, ldapAuthn))
	s.start()
	setPassword(t, slapd, "alice", "spring")
	must(t, s.login("alice", "spring"))
	for range 3 {
		wantAnswer(t, "too early", s.login("alice", "autumn"), "535 5.7.8")
	}
	setPassword(t, slapd, "alice", "autumn")
	must(t, s.login("alice", "autumn"))
}

// TestLockoutSurvives restarts the server, and has it reload.
func TestLockoutSurvives(t *testing.T) {
	t.Parallel()
	s := newSite(t, strings.Replace(standard, "gateway {", "lockout {\n  max_delay = \"1h\"\n  delay     = \"30m\"\n}\ngateway {", 1), nil).start()
	for i := range 6 {
		_ = s.login("alice", fmt.Sprint("guess", i))
	}
	held := func(when string) {
		t.Helper()
		wantAnswer(t, "right password "+when, s.login("alice", ldif.Password("alice")), "421 4.7.0")
		wantAnswer(t, "somebody else "+when, s.login("bob", ldif.Password("bob")), "")
	}
	held("after the guesses")
	s.run("reload")
	held("after a reload")
	s.proc.Stop()
	s.start()
	held("after a restart")
	s.run("auth", "unlock", "ALL")
	wantAnswer(t, "after the unlock", s.login("alice", ldif.Password("alice")), "")
	if out := s.run("auth", "status"); !strings.Contains(out, "Nobody has to wait.") {
		t.Errorf("auth status after the unlock: %s", out)
	}
}

// TestLoginsWithoutTheDirectory kills it, and disables somebody while it runs.
func TestLoginsWithoutTheDirectory(t *testing.T) {
	t.Parallel()
	slapd := testenv.Slapd(t, testenv.SlapdOptions{})
	const rescue = `
authn "recovery" {
  file            = "{{.Dir}}/recovery"
  allow_cleartext = true
}
authn "master" {
  file            = "{{.Dir}}/recovery"
  directory       = directory.company
  allow_cleartext = true
}
`
	s := newLDAPSite(t, slapd, ldapAuthn)
	must(t, os.WriteFile(s.Dir+"/recovery", []byte("rescue:{PLAIN}rescue-secret\n"), 0o600))
	s.configure(variant(t, standard, ldifDirectory, strings.Replace(ldapDirectory, `timeout            = "1m"`, "timeout            = \"1m\"\n  cache_ttl          = \"300ms\"", 1),
		ldifAuthn, "authn \"ldap\" {\n  directory = directory.company\n  verifier_cache = \"offline-ok\"\n}"+rescue))
	s.start()
	must(t, s.login("alice", ldif.Password("alice")))
	must(t, s.login("bob", ldif.Password("bob")))
	must(t, s.login("bob", ldif.Password("bob")))
	must(t, s.login("alice*rescue", "rescue-secret"))
	wantAnswer(t, "a master without an account", s.login("nobody*rescue", "rescue-secret"), "535 5.7.8")

	slapd.Modify(t, fmt.Sprintf("dn: %s\nchangetype: modify\nreplace: pwdAccountLockedTime\npwdAccountLockedTime: 000001010000Z\n", policyPerson(slapd, "bob")))
	waitUntil(t, "bob is refused", func() bool { return answer(s.login("bob", ldif.Password("bob"))) == "535 5.7.8" })

	slapd.Kill()
	wantAnswer(t, "alice, whose password was right before", s.login("alice", ldif.Password("alice")), "")
	wantAnswer(t, "alice with another password", s.login("alice", "another"), "454 4.7.0")
	wantAnswer(t, "somebody who never logged in", s.login("carol", ldif.Password("carol")), "454 4.7.0")
	wantAnswer(t, "the recovery account", s.login("rescue", "rescue-secret"), "")
	if answer(s.login("bob", ldif.Password("bob"))) == "" {
		t.Error("bob, who is disabled, logs in while the directory is down")
	}
}

// TestAppPasswords makes one, uses it and takes it back.
func TestAppPasswords(t *testing.T) {
	t.Parallel()
	s := newSite(t, strings.Replace(standard, "gateway {", "authn \"app-passwords\" {\n  directory = directory.company\n  only_for  = [\"imap\"]\n}\ngateway {", 1), nil)
	made := s.run("app-password", "add", "alice@example.com", "--label", "telephone", "--protocol", "imap") // without a server
	s.start()
	secret, rest, _ := strings.Cut(made, "\n")
	if len(secret) != 24 {
		t.Fatalf("made: %s", made)
	}
	imap := func(what, login, password string, want bool) {
		t.Helper()
		c, err := s.imap(login, password)
		if (err == nil) != want {
			t.Errorf("%s: %v", what, err)
		}
		if err == nil {
			must(t, c.Close())
		}
	}
	imap("with the app password", "alice", secret, true)
	imap("with the app password, by address", "alice@example.com", strings.ReplaceAll(secret, "-", ""), true)
	imap("with her own, where only app passwords are good", "alice", ldif.Password("alice"), false)
	imap("another person with it", "bob", secret, false)
	wantAnswer(t, "another protocol", s.login("alice", secret), "535 5.7.8")
	wantAnswer(t, "her own password there", s.login("alice", ldif.Password("alice")), "")
	if out := s.run("app-password", "list", "alice"); !strings.Contains(out, "telephone") || !strings.Contains(out, "127.0.0.1") || strings.Contains(out, secret) {
		t.Errorf("list: %s", out)
	}
	id := strings.Fields(strings.TrimPrefix(rest, "This is app password "))[0]
	if out := s.run("app-password", "revoke", "alice", id); !strings.Contains(out, "1 app password") {
		t.Errorf("revoke: %s", out)
	}
	imap("with a revoked one", "alice", secret, false)
}

// waitUntil polls until something is so.
func waitUntil(t *testing.T, what string, so func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !so(); {
		if time.Now().After(deadline) {
			t.Fatalf("in vain waited until %s", what)
		}
		pause := time.NewTimer(100 * time.Millisecond)
		<-pause.C
	}
}
