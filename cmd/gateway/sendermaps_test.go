package main

import (
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/mail"
)

// TestSenderMapsByAnyLogin: a table of senders may name people by address, as
// those of Postfix do, where the directory names their accounts otherwise; and
// another directory's account of that name is another person.
func TestSenderMapsByAnyLogin(t *testing.T) {
	t.Parallel()
	g := generationOf(t, `
hostname = "mail.example.com"
data_dir = "%[1]s/data"
directory "ldif" "company" {
  file = "%[1]s/company.ldif"
  base = "dc=example,dc=com"
}
gateway {
  sender_login_maps = ["texthash:%[1]s/senders"]
  listener "mx" { bind = ["127.0.0.1:0"] }
  domains "local" {
    names      = ["example.com"]
    recipients = directory.company
    deliver    = target.box
  }
  target "lmtp" "box" { address = ["127.0.0.1:9"] }
}
`, map[string]string{
		"company.ldif": read(t, "../../testdata/ldif/openldap.ldif"),
		"senders":      "info@example.com alice@example.com, nobody@example.com\nsales@example.com bob\n",
	})
	b := &builder{generation: g, log: hclog.NewNullLogger()}
	owners := b.loginMaps(g.book)
	for _, tt := range []struct {
		who, source, as string
		want            bool
	}{
		{"alice", "company", "info@example.com", true},
		{"bob", "company", "info@example.com", false},
		{"bob", "company", "sales@example.com", true},
		{"alice", "elsewhere", "info@example.com", false},
		{"alice", "", "info@example.com", false},
	} {
		id := mail.Identity{Authentication: tt.who, Authorization: tt.who, Source: tt.source}
		if got, err := owners.MaySendAs(t.Context(), id, mail.MustAddress(tt.as)); got != tt.want || err != nil {
			t.Errorf("%s of %q as %s: %t, %v", tt.who, tt.source, tt.as, got, err)
		}
	}
}
