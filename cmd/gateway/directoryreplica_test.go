package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	goldap "github.com/go-ldap/ldap/v3"

	"github.com/postern-mail/postern/authn"
	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/testdata/ldif"
)

// followedSlapd is a slapd whose service account may follow it.
func followedSlapd(t *testing.T) *testenv.SlapdServer {
	t.Helper()
	tree := ldif.OpenLDAP()
	return testenv.Slapd(t, testenv.SlapdOptions{Tree: tree, Sync: true, Config: fmt.Sprintf("limits dn.exact=%q size=unlimited time=unlimited", tree.ServiceDN)})
}

// TestMailWithoutDirectory: every server of the directory is dead, and
// recipients, senders' addresses and deliveries are what they were, also for
// who was never asked about before, and after a restart.
func TestMailWithoutDirectory(t *testing.T) {
	t.Parallel()
	slapd := followedSlapd(t)
	s := newLDAPSite(t, slapd, ldapAuthn+`
authn "file" {
  file      = "{{.Dir}}/passwords"
  directory = directory.company
}`)
	hash, err := authn.MakeHash("", "app-secret")
	must(t, err)
	must(t, os.WriteFile(filepath.Join(s.Dir, "passwords"), []byte("alice:"+hash+"\n"), 0o600))
	// The file is asked first: passwords themselves are the servers' to check.
	text, err := os.ReadFile(s.Config)
	must(t, err)
	must(t, os.WriteFile(s.Config, []byte(strings.Replace(string(text), ldapAuthn, "", 1)), 0o600))
	s.start()
	waitForOutput(t, s, `sync, ldaps://\S+, followed`, "directory", "status")
	slapd.Kill()

	check := func(when string) {
		t.Helper()
		wantAnswer(t, when+": a recipient nobody asked about", s.inject("a@elsewhere.example", []string{"carol@example.com"}, "to carol "+when), "")
		wantAnswer(t, when+": a group", s.inject("a@elsewhere.example", []string{"staff@example.com"}, "to staff "+when), "")
		wantAnswer(t, when+": nobody", s.inject("a@elsewhere.example", []string{"nobody@example.com"}, "x"), "550 5.1.1")
		wantAnswer(t, when+": her own address", s.send("alice", "app-secret", "a.anders@example.com", "bob@example.com", "from alice "+when), "")
		wantAnswer(t, when+": another's address", s.send("alice", "app-secret", "bob@example.com", "carol@example.com", "x"), "553 5.7.1")
		testenv.Eventually(t, time.Minute, func() error { return s.inboxHas("alice", "app-secret", "to staff "+when) })
		out := s.run("directory", "dump")
		if !strings.Contains(out, "mail: bob@example.com") || strings.Contains(strings.ToLower(out), "userpassword") {
			t.Errorf("%s: dump:\n%s", when, out)
		}
	}
	check("with dead servers")
	s.proc.Stop()
	s.start()
	check("after a restart")
	waitForOutput(t, s, "NOT FOLLOWED", "directory", "status")
	slapd.Restart()
	waitForOutput(t, s, `sync, ldaps://\S+, followed`, "directory", "status")
}

// inboxHas tells what is wrong while somebody has not the message.
func (s *site) inboxHas(login, password, subject string) error {
	c, err := s.imap(login, password)
	if err != nil {
		return err
	}
	defer c.Close()
	subjects, err := inbox(c)
	if err != nil {
		return err
	}
	if !slices.Contains(subjects, subject) {
		return fmt.Errorf("%q is not among %q", subject, subjects)
	}
	return nil
}

// TestDirectoryIsFollowed: what changes in the directory has its effect at once,
// without the time that answers are remembered for.
func TestDirectoryIsFollowed(t *testing.T) {
	t.Parallel()
	slapd := followedSlapd(t)
	s := newLDAPSite(t, slapd, ldapAuthn)
	// An answer from memory would serve the whole test.
	s.configure(variant(t, standard, ldifDirectory, strings.Replace(ldapDirectory, "\n  timeout ", "\n  negative_cache_ttl = \"1h\"\n  timeout ", 1), ldifAuthn, ldapAuthn))
	s.start()
	waitForOutput(t, s, `, followed`, "directory", "status")
	wantAnswer(t, "before", s.inject("a@elsewhere.example", []string{"new.bob@example.com"}, "x"), "550 5.1.1")
	l, err := goldap.DialURL(slapd.LDAPI)
	must(t, err)
	defer l.Close()
	must(t, l.Bind(slapd.RootDN, slapd.RootPassword))
	r := goldap.NewModifyRequest("uid=bob,ou=people,dc=example,dc=com", nil)
	r.Add("mail", []string{"new.bob@example.com"})
	must(t, l.Modify(r))
	testenv.Eventually(t, time.Minute, func() error {
		return s.inject("a@elsewhere.example", []string{"new.bob@example.com"}, "to the new address")
	})
	s.waitFor("bob", "to the new address", 1)

	// What explains the answer is what the server answers from, unless told otherwise.
	for command, want := range map[string]string{
		"lookup": `in memory: a (yes|no).*\n(.*\n)*.* from replica generation \d+, [0-9hm]+s old`, "lookup --running": `from replica generation \d+, [0-9hm]+s old`,
		"lookup --servers": `1 entry in`,
	} {
		out := s.run(append(strings.Fields(command), "new.bob@example.com")...)
		if !regexp.MustCompile(want).MatchString(out) || !strings.Contains(out, "account     bob") {
			t.Errorf("%s, want %s:\n%s", command, want, out)
		}
		if strings.Contains(out, "replica") == strings.Contains(command, "--servers") {
			t.Errorf("%s did not ask where it should:\n%s", command, out)
		}
	}

	// Two people with one address are told of.
	r = goldap.NewModifyRequest("uid=carol,ou=people,dc=example,dc=com", nil)
	r.Add("mail", []string{"new.bob@example.com"})
	must(t, l.Modify(r))
	waitForOutput(t, s, `new.bob@example.com +uid=(bob|carol),.* \| uid=(bob|carol),`, "directory", "status")

	// A reload that leaves the directory as it is leaves the replica alone.
	s.run("reload")
	if out := s.run("directory", "status"); !strings.Contains(out, "1 refresh(es)") {
		t.Errorf("after a reload:\n%s", out)
	}
}

// TestManyGoneWaitForAnOperator empties the directory while nobody listens.
func TestManyGoneWaitForAnOperator(t *testing.T) {
	t.Parallel()
	slapd := followedSlapd(t)
	s := newLDAPSite(t, slapd, ldapAuthn).start()
	waitForOutput(t, s, `, followed`, "directory", "status")
	s.proc.Stop()
	l, err := goldap.DialURL(slapd.LDAPI)
	must(t, err)
	defer l.Close()
	must(t, l.Bind(slapd.RootDN, slapd.RootPassword))
	found, err := l.Search(goldap.NewSearchRequest("dc=example,dc=com", goldap.ScopeWholeSubtree, goldap.NeverDerefAliases, 0, 0, false, "(|(mail=*)(cn=*))", []string{"1.1"}, nil))
	must(t, err)
	for _, e := range found.Entries {
		if e.DN != slapd.Tree.ServiceDN {
			must(t, l.Del(goldap.NewDelRequest(e.DN, nil)))
		}
	}
	s.start()
	waitForOutput(t, s, "QUARANTINE", "directory", "status")
	wantAnswer(t, "somebody who is gone", s.inject("a@elsewhere.example", []string{"bob@example.com"}, "x"), "")
	s.run("directory", "accept", "company")
	wantAnswer(t, "somebody who is gone, accepted", s.inject("a@elsewhere.example", []string{"bob@example.com"}, "x"), "550 5.1.1")
}
