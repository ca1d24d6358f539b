package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/testdata/ldif"
)

const grouped = `
backend {
  listener "lmtp" { bind = ["unix:{{.Socket}}"] }
  listener "imaps" { bind = ["127.0.0.1:{{.Port.IMAPS}}"] }
  sharing {
    others          = "Other Users"
    group_attribute = "departmentNumber"
  }
}
`

// join puts bob into groups in the company's file, instead of those he is in.
func (s *site) join(groups ...string) {
	s.t.Helper()
	dn := []byte("dn: uid=bob,ou=people,dc=example,dc=com\n")
	entry := dn
	for _, g := range groups {
		entry = fmt.Appendf(bytes.Clone(entry), "departmentNumber: %s\n", g)
	}
	next := filepath.Join(s.Dir, "next.ldif")
	must(s.t, os.WriteFile(next, bytes.Replace(ldif.OpenLDAP().LDIF, dn, entry, 1), 0o600))
	must(s.t, os.Rename(next, filepath.Join(s.Dir, "company.ldif")))
}

// TestGroupsOfTheDirectory: what is shared with a group comes and goes with what
// the directory says of who is in it, in sessions that are open.
func TestGroupsOfTheDirectory(t *testing.T) {
	t.Parallel()
	text := bytes.Replace([]byte(standard[:bytes.Index([]byte(standard), []byte("\nbackend {"))]+grouped),
		[]byte("  base = \"dc=example,dc=com\"\n"), []byte("  base = \"dc=example,dc=com\"\n  policy_attributes = [\"departmentNumber\"]\n"), 1)
	s := newSite(t, string(text), nil)
	s.start()
	alice, err := s.imap("alice", ldif.Password("alice"))
	must(t, err)
	defer func() { _ = alice.Close() }()
	must(t, alice.Create("Plans", nil).Wait())
	must(t, alice.SetACL("Plans", "$sales", imap.RightModificationReplace, imap.RightSet("lr")).Wait())
	bob, err := s.imap("bob", ldif.Password("bob"))
	must(t, err)
	defer func() { _ = bob.Close() }()
	const plans = "Other Users/alice/Plans"
	if _, err := bob.Select(plans, nil).Wait(); err == nil {
		t.Fatal("who is in no group opens what is shared with one")
	}

	s.join("sales", "support")
	testenv.Eventually(t, time.Minute, func() error {
		_, err := bob.Select(plans, nil).Wait()
		return err
	})
	s.join("support")
	testenv.Eventually(t, time.Minute, func() error {
		if _, err := bob.Status(plans, &imap.StatusOptions{NumMessages: true}).Wait(); err == nil {
			return fmt.Errorf("STATUS of what is shared with a group that bob has left")
		}
		return nil
	})
	if _, err := bob.Search(&imap.SearchCriteria{}, nil).Wait(); err == nil {
		t.Error("the selected mailbox of a group that bob has left can be searched")
	}
}
