package ldap_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/directory/ldap"
	"github.com/postern-mail/postern/directory/replica"
	"github.com/postern-mail/postern/internal/testenv"
)

// TestFollow389 is the trap of FreeIPA's cookies: what changed while nobody
// listened is known after the reconnect, though a resumed session would tell of
// nothing.
func TestFollow389(t *testing.T) {
	t.Parallel()
	s := testenv.DS389(t, testenv.DS389Options{})
	cfg := ldap.Config{URIs: []string{s.LDAPI}, CAFile: s.CAFile, BindDN: s.Tree.ServiceDN, BindPasswordFile: s.ServicePasswordFile, Timeout: time.Minute}
	f := follow(t, s.Tree, cfg, ldap.FeedConfig{Heartbeat: time.Second})
	f.ready(t)
	if st := f.Status(); st.Mode != ldap.FollowSync {
		t.Fatalf("status %+v, want content synchronization", st)
	}
	bob := "uid=bob,cn=users,cn=accounts," + s.Tree.BaseDN
	change := func(address string) {
		t.Helper()
		s.Modify(t, fmt.Sprintf("dn: %s\nchangetype: modify\nadd: mail\nmail: %s\n", bob, address))
	}
	people := func(address string) bool {
		found := false
		for _, e := range f.Entries().All() {
			found = found || slices.Contains(e.Values("mail"), address)
		}
		return found
	}
	change("while-listening@example.com")
	f.until(t, "a change", func(replica.Status) bool { return people("while-listening@example.com") })

	before := f.Status().Refreshes
	f.stop()
	change("while-away@example.com")
	f.again(t)
	f.until(t, "a refresh", func(st replica.Status) bool { return st.Refreshes > before })
	if !people("while-away@example.com") {
		t.Error("what changed while nobody listened is not known after the reconnect")
	}
	s.Modify(t, "dn: "+bob+"\nchangetype: delete\n")
	f.until(t, "a deletion", func(replica.Status) bool { return !people("while-away@example.com") })
}

// TestFollowSamba follows a domain by DirSync: additions, changes, values taken
// from and given to a group, attributes that are cleared, renames and deletions.
func TestFollowSamba(t *testing.T) {
	t.Parallel()
	s := testenv.Samba(t, testenv.SambaOptions{})
	cfg := ldap.Config{URIs: []string{s.LDAPS}, CAFile: s.CAFile, BindDN: s.Tree.ServiceDN, BindPasswordFile: s.ServicePasswordFile, Timeout: time.Minute}
	f := follow(t, s.Tree, cfg, ldap.FeedConfig{PollInterval: 100 * time.Millisecond})
	f.ready(t)
	if st := f.Status(); st.Mode != ldap.FollowDirSync {
		t.Fatalf("status %+v, want DirSync", st)
	}
	values := func(rdn, attribute string) []string {
		for _, e := range f.Entries().All() {
			if strings.HasPrefix(strings.ToLower(string(e.DN)), rdn) {
				return e.Values(attribute)
			}
		}
		return nil
	}
	users := "CN=Users," + s.Tree.BaseDN
	s.Modify(t, fmt.Sprintf("dn: CN=newgroup,%[1]s\nchangetype: add\nobjectClass: group\nsAMAccountName: newgroup\nmail: newgroup@example.com\nmember: CN=Administrator,%[1]s\n", users))
	f.until(t, "a new group", func(replica.Status) bool { return len(values("cn=newgroup,", "member")) == 1 })
	s.Modify(t, fmt.Sprintf("dn: CN=newgroup,%[1]s\nchangetype: modify\nadd: member\nmember: CN=Guest,%[1]s\n-\nreplace: mail\nmail: changed@example.com\n", users))
	f.until(t, "another member", func(replica.Status) bool {
		return len(values("cn=newgroup,", "member")) == 2 && slices.Equal(values("cn=newgroup,", "mail"), []string{"changed@example.com"})
	})
	s.Modify(t, fmt.Sprintf("dn: CN=newgroup,%[1]s\nchangetype: modify\ndelete: member\nmember: CN=Administrator,%[1]s\n-\ndelete: mail\n", users))
	f.until(t, "a member less and no address", func(replica.Status) bool {
		return len(values("cn=newgroup,", "member")) == 1 && len(values("cn=newgroup,", "mail")) == 0
	})
	s.Modify(t, fmt.Sprintf("dn: CN=newgroup,%s\nchangetype: modrdn\nnewrdn: CN=renamed\ndeleteoldrdn: 1\n", users))
	f.until(t, "the rename", func(replica.Status) bool {
		return len(values("cn=renamed,", "member")) == 1 && values("cn=newgroup,", "member") == nil
	})
	s.Modify(t, fmt.Sprintf("dn: CN=renamed,%s\nchangetype: delete\n", users))
	f.until(t, "the deletion", func(replica.Status) bool { return values("cn=renamed,", "member") == nil })
}
