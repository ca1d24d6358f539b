package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/postern-mail/postern/testdata/ldif"
)

// placed is the company's directory with what it says of where people's
// mailboxes are.
func placed(t *testing.T, lines map[string]string) []byte {
	t.Helper()
	text := string(ldif.OpenLDAP().LDIF)
	for name, line := range lines {
		before := "\nuid: " + name + "\n"
		if strings.Count(text, before) != 1 {
			t.Fatalf("the company has no %s", name)
		}
		text = strings.Replace(text, before, before+line+"\n", 1)
	}
	return []byte(text)
}

// TestAccountsOnSeveralBackends: each account's mail goes to the server that
// the directory names, one message for all of them too; where the configuration
// does not know the server, mail waits and the log says why, until it does.
func TestAccountsOnSeveralBackends(t *testing.T) {
	t.Parallel()
	company := placed(t, map[string]string{
		"alice": "employeeType: lmtp:unix:SECOND", "bob": "mailHost: Mail2.example.com", "carol": "mailHost: mail9.example.com",
	})
	second := newSite(t, variant(t, standard, standard[strings.Index(standard, "gateway {"):strings.Index(standard, "backend {")], ""), nil)
	first := newSite(t, variant(t, standard,
		`  base = "dc=example,dc=com"`, `  base = "dc=example,dc=com"
  transport_attribute = "employeeType"
  host "mail2.example.com" { deliver = target.second }
  #carol`,
		`  relay      = target.outside`, `  target "lmtp" "second" { address = ["unix:{{.Extra.second}}"] }
  relay      = target.outside`), map[string]string{"second": second.Socket})
	for _, s := range []*site{first, second} {
		must(t, os.WriteFile(filepath.Join(s.Dir, "company.ldif"), []byte(strings.Replace(string(company), "SECOND", second.Socket, 1)), 0o600))
	}
	second.start()
	first.start()
	everybody := []string{"alice@example.com", "bob@example.com", "carol@example.com"}
	must(t, first.inject("a@elsewhere.example", everybody, "to everybody"))
	for _, name := range []string{"alice", "bob"} {
		second.waitFor(name, "to everybody", 1)
		if got := count(t, first, name)["to everybody"]; got != 0 {
			t.Errorf("%s has it on the first server too", name)
		}
	}
	first.waitForLog(`no target for the route that the directory gives.*mail9\.example\.com`)
	waitForOutput(t, first, `(?i)carol@example.com(?s:.*)\n1 message`, "queue", "list")
	if got := count(t, first, "carol")["to everybody"] + count(t, second, "carol")["to everybody"]; got != 0 {
		t.Error("mail for a server that nobody knows was delivered")
	}

	text := read(t, first.Config)
	must(t, os.WriteFile(first.Config, []byte(strings.Replace(text, "#carol", `host "mail9.example.com" { deliver = target.backend }`, 1)), 0o600))
	first.run("reload")
	first.run("queue", "retry", "--all")
	first.waitFor("carol", "to everybody", 1)
	must(t, first.inject("a@elsewhere.example", everybody[:2], "again"))
	second.waitFor("alice", "again", 1)
	second.waitFor("bob", "again", 1)
	if got := count(t, second, "alice")["to everybody"]; got != 1 {
		t.Errorf("alice has it %d times", got)
	}
}
