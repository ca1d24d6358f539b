package directory_test

import (
	"encoding/base64"
	"testing"

	"github.com/postern-mail/postern/directory"
	"github.com/postern-mail/postern/mail"
)

// adEntry returns an entry of a domain in LDIF.
func adEntry(cn, class, more string) string {
	return "dn: cn=" + cn + ",dc=x\nobjectClass: " + class + "\ncn: " + cn + "\nsAMAccountName: " + cn + "\n" + more + "\n\n"
}

// TestWaysToBelong: members that no attribute of the group names, and mail that
// goes elsewhere by other attributes than an address.
func TestWaysToBelong(t *testing.T) {
	t.Parallel()
	sid := "objectSid:: " + base64.StdEncoding.EncodeToString([]byte("\x01\x05\x00\x00\x00\x00\x00\x05\x15\x00\x00\x00\xb6\x26\x02\x5c\xfb\x87\xec\x2c\xe0\xfd\x08\xd0\x01\x02\x00\x00"))
	book := func(uid, more string) string {
		return "dn: uid=" + uid + ",ou=people,dc=x\nobjectClass: PostfixBookMailAccount\nuid: " + uid + "\nmail: " + uid + "@x.example\n" + more + "\n\n"
	}
	ours := []mail.Domain{"x.example"}
	for _, c := range []struct {
		name    string
		cfg     directory.Config
		content string
		address string
		want    string
	}{
		{
			name: "accounts name a group that has no entry", cfg: directory.Config{Preset: "postfix-book"},
			content: book("a", "mailGroupMember: team@x.example") + book("b", "mailGroupMember: team@x.example") + book("c", ""),
			address: "team@x.example", want: "a@x.example b@x.example",
		},
		{
			name: "such a group wins over a catch-all", cfg: directory.Config{Preset: "postfix-book"},
			content: book("a", "mailGroupMember: team@x.example") + book("c", "mailAlias: @x.example"),
			address: "team@x.example", want: "a@x.example",
		},
		{
			name: "and an account's own address over such a group", cfg: directory.Config{Preset: "postfix-book"},
			content: book("a", "mailGroupMember: c@x.example") + book("c", ""),
			address: "c@x.example", want: "c@x.example",
		},
		{
			name: "the primary group", cfg: directory.Config{Preset: "ad"},
			content: adEntry("g", "group", "mail: g@x.example\n"+sid) + adEntry("a", "user", "mail: a@x.example\nprimaryGroupID: 513") +
				adEntry("b", "user", "mail: b@x.example\nprimaryGroupID: 514"),
			address: "g@x.example", want: "a@x.example",
		},
		{
			name: "a broken identifier names no group", cfg: directory.Config{Preset: "ad"},
			content: adEntry("g", "group", "mail: g@x.example\nobjectSid: \x01") + adEntry("a", "user", "mail: a@x.example\nprimaryGroupID: 513"),
			address: "g@x.example", want: "NoSuchUser",
		},
		{
			name: "forwarded by DN", cfg: directory.Config{Preset: "ad"},
			content: adEntry("a", "user", "mail: a@x.example\naltRecipient: cn=b,dc=x") + adEntry("b", "user", "mail: b@x.example"),
			address: "a@x.example", want: "b@x.example",
		},
		{
			name: "forwarded by DN, with a copy", cfg: directory.Config{Preset: "ad"},
			content: adEntry("a", "user", "mail: a@x.example\naltRecipient: cn=b,dc=x\ndeliverAndRedirect: TRUE") + adEntry("b", "user", "mail: b@x.example"),
			address: "a@x.example", want: "a@x.example b@x.example",
		},
		{
			name: "forwarded to somebody who is gone", cfg: directory.Config{Preset: "ad"},
			content: adEntry("a", "user", "mail: a@x.example\naltRecipient: cn=gone,dc=x"),
			address: "a@x.example", want: "NoSuchUser",
		},
		{
			name: "a contact with an address here", cfg: directory.Config{Preset: "ad", Domains: ours},
			content: adEntry("c", "contact", "mail: c@x.example\nproxyAddresses: smtp:old@x.example\ntargetAddress: SMTP:c@away.example"),
			address: "old@x.example", want: "c@away.example",
		},
		{
			name: "a contact whose address is the one elsewhere", cfg: directory.Config{Preset: "ad"},
			content: adEntry("c", "contact", "mail: c@away.example\ntargetAddress: SMTP:c@away.example") + adEntry("g", "group", "mail: g@x.example\nmember: cn=c,dc=x"),
			address: "g@x.example", want: "c@away.example",
		},
		{
			name: "a group of a FreeIPA domain has an address only by its mail attribute", cfg: directory.Config{Preset: "freeipa", Domains: ours},
			content: "dn: cn=accounts,dc=x\nobjectClass: nsContainer\ncn: accounts\n\ndn: cn=users,cn=accounts,dc=x\nobjectClass: nsContainer\ncn: users\n\n" +
				"dn: cn=groups,cn=accounts,dc=x\nobjectClass: nsContainer\ncn: groups\n\ndn: cn=g,cn=groups,cn=accounts,dc=x\nobjectClass: ipaUserGroup\ncn: g\n\n",
			address: "g@x.example", want: "NoSuchUser",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if got := resolved(t, open(t, c.cfg, tree(t, c.content)), c.address); got != c.want {
				t.Errorf("%s: %q, want %q", c.address, got, c.want)
			}
		})
	}
}
