package main

import (
	"strings"
	"testing"

	"github.com/postern-mail/postern/testdata/ldif"
)

// membersOnly is the standard site with a group that only its members, and one
// partner, may send to.
var membersOnly = strings.Replace(standard, `  base = "dc=example,dc=com"
`, `  base = "dc=example,dc=com"
  members_only_filter = "(cn=info)"
`, 1)

func TestGroupsForMembersOnly(t *testing.T) {
	t.Parallel()
	s := newSite(t, membersOnly, nil).start()
	info := []string{"info@example.com"}

	if err := s.inject("stranger@far.example", info, "spam"); code(err) != 550 || !strings.Contains(err.Error(), "group") {
		t.Errorf("a stranger: %v; want 550 that speaks of the group", err)
	}
	if err := s.inject("alice@example.com", info, "forged"); code(err) != 550 {
		t.Errorf("a member's address without a login: %v; want 550", err)
	}
	if err := s.submit("carol", ldif.Password("carol"), "carol@example.com", info, "outside"); code(err) != 550 {
		t.Errorf("somebody of us who is no member: %v; want 550", err)
	}
	must(t, s.submit("alice", ldif.Password("alice"), "alice@example.com", info, "among us"))
	s.waitFor("bob", "among us", 1)
	if got := s.run("lookup", "info@example.com", "--login", "carol"); !strings.Contains(got, "GroupRestricted (550 5.7.2") {
		t.Errorf("lookup for carol:\n%s", got)
	}
}
