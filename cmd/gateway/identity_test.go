package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/authn"
	"github.com/postern-mail/postern/config"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// person is an entry of a small LDIF directory.
const person = `dn: dc=%[1]s
objectClass: domain
dc: %[1]s

dn: ou=people,dc=%[1]s
objectClass: organizationalUnit
ou: people

dn: uid=alice,ou=people,dc=%[1]s
objectClass: inetOrgPerson
uid: alice
cn: Alice
sn: A
mail: alice@%[1]s.example
userPassword: {CLEARTEXT}%[1]s-secret
`

// twoCompanies is a configuration of two directories in which the same name is
// two people.
const twoCompanies = `
hostname = "mail.corp.example"
data_dir = "%[1]s"
directory "ldif" "corp"    {
  file = "%[1]s/corp.ldif"
  base = "dc=corp"
}
directory "ldif" "partner" {
  file = "%[1]s/partner.ldif"
  base = "dc=partner"
}
authn "ldif" {
  directory       = directory.corp
  additional      = true
  allow_cleartext = true
}
authn "ldif" {
  directory       = directory.partner
  allow_cleartext = true
}
gateway {
  listener "mx" { bind = ["127.0.0.1:0"] }
  target "lmtp" "box" { address = ["unix:%[1]s/l"] }
  domains "local" {
    names      = ["corp.example"]
    recipients = directory.corp
    deliver    = target.box
  }
  domains "local" {
    names      = ["partner.example"]
    recipients = directory.partner
    deliver    = target.box
  }
}
backend {
  directory = directory.corp
  listener "imap" {
    bind                 = ["127.0.0.1:0"]
    allow_plaintext_auth = true
  }
}
`

func generationOf(t *testing.T, text string, files map[string]string) *generation {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600))
	}
	path := filepath.Join(dir, "postern.hcl")
	must(t, os.WriteFile(path, []byte(strings.ReplaceAll(text, "%[1]s", dir)), 0o600))
	f, err := config.Load(path)
	must(t, err)
	g, err := newGeneration(f, discard{}, nil, hclog.NewNullLogger(), lived{})
	must(t, err)
	return g
}

func TestNamesOfTwoDirectoriesAreTwoPeople(t *testing.T) {
	t.Parallel()
	g := generationOf(t, twoCompanies, map[string]string{
		"corp.ldif": fmt.Sprintf(person, "corp"), "partner.ldif": fmt.Sprintf(person, "partner"),
	})
	box := own{g.verifiers, g.file.Backend.Directory}
	for _, company := range []string{"corp", "partner"} {
		attempt := authn.Attempt{Login: "alice", Password: company + "-secret", Service: "imap"}
		id, err := g.verifiers.Verify(t.Context(), attempt)
		if err != nil || id.Authentication != "alice" || id.Source != company {
			t.Fatalf("alice of %s: %+v, %v", company, id, err)
		}
		for _, other := range []string{"corp", "partner"} {
			sender := mail.MustAddress("alice@" + other + ".example")
			may, err := g.book.MaySendAs(t.Context(), id, sender)
			if err != nil || may != (company == other) {
				t.Errorf("alice of %s may send as %s: %v, %v", company, sender, may, err)
			}
		}
		want := map[string]status.Reason{"corp": status.OK, "partner": status.AuthorizationDenied}[company]
		if _, err := box.Verify(t.Context(), attempt); status.Of(err) != want {
			t.Errorf("alice of %s to the mailboxes of corp: %v, want %s", company, err, want)
		}
	}
}
