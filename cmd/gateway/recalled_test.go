package main

import (
	"fmt"
	"testing"

	"github.com/postern-mail/postern/testdata/ldif"
)

// TestRememberedPasswordOfADisabledAccount: with a live copy of the directory an
// account that is disabled there is out at once, though its password is
// remembered for an hour and answers for a minute; and it stays out when the
// directory dies and the server starts anew.
func TestRememberedPasswordOfADisabledAccount(t *testing.T) {
	t.Parallel()
	slapd := followedSlapd(t)
	s := newLDAPSite(t, slapd, "authn \"ldap\" {\n  directory      = directory.company\n  verifier_cache = \"offline-ok\"\n}\n").start()
	waitForOutput(t, s, `, followed`, "directory", "status")
	for _, login := range []string{"alice", "bob", "alice", "bob"} {
		must(t, s.login(login, ldif.Password(login)))
	}
	slapd.Modify(t, fmt.Sprintf("dn: %s\nchangetype: modify\nreplace: pwdAccountLockedTime\npwdAccountLockedTime: 000001010000Z\n", policyPerson(slapd, "bob")))
	waitUntil(t, "bob is refused", func() bool { return answer(s.login("bob", ldif.Password("bob"))) == "535 5.7.8" })

	slapd.Kill()
	check := func(when string) {
		t.Helper()
		wantAnswer(t, "alice "+when, s.login("alice", ldif.Password("alice")), "")
		if answer(s.login("bob", ldif.Password("bob"))) == "" {
			t.Errorf("bob logs in %s", when)
		}
	}
	check("with a dead directory")
	s.proc.Stop()
	s.start()
	check("after a restart")
}
