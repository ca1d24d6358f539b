package main

import (
	"regexp"
	"strings"
	"testing"

	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/testdata/ldif"
)

var (
	directoryBlock = regexp.MustCompile(`(?ms)^directory "ldap" "([a-z]+)" \{\n.*?^\}\n`)
	authnLine      = regexp.MustCompile(`(?m)^authn .*\n`)
	urisLine       = regexp.MustCompile(`(?m)^ *uris .*\n`)
	caLine         = regexp.MustCompile(`(?m)^ *ca_file .*\n`)
)

// exampleOf returns what an example says of directory and logins, for a server
// of this machine: only where it is and where its files are is exchanged. It
// fails when that is more than ten lines.
func exampleOf(t *testing.T, name, uri, caFile, passwordFile string) (directory, authn string) {
	t.Helper()
	text := read(t, "../../deploy/examples/"+name+".hcl")
	block := directoryBlock.FindStringSubmatch(text)
	authn = authnLine.FindString(text)
	if block == nil || authn == "" {
		t.Fatalf("%s.hcl has no directory block or no line of authn", name)
	}
	if lines := strings.Count(block[0]+authn, "\n"); lines > 10 {
		t.Errorf("%s.hcl needs %d lines for a directory, more than ten", name, lines)
	}
	directory = urisLine.ReplaceAllString(caLine.ReplaceAllString(block[0], ""), `uris = ["`+uri+`"]`+"\n"+`ca_file = "`+caFile+`"`+"\n")
	directory = strings.NewReplacer(
		"/etc/postern/ldap.password", passwordFile,
		"dc=corp,dc=example,dc=com", "dc=example,dc=com",
		`directory "ldap" "`+block[1]+`"`, `directory "ldap" "company"`,
	).Replace(directory)
	return directory, strings.Replace(authn, "directory."+block[1], "directory.company", 1)
}

// TestExamplesOnTheirServers: what the examples say of a directory works on the
// real one, with mail, logins, and what people are told of mistakes.
func TestExamplesOnTheirServers(t *testing.T) {
	t.Parallel()
	type server struct{ uri, caFile, passwordFile string }
	onSlapd := func(tree testenv.Tree) func(*testing.T) server {
		return func(t *testing.T) server {
			s := testenv.Slapd(t, testenv.SlapdOptions{Tree: tree})
			return server{s.LDAPS, s.CAFile, s.ServicePasswordFile}
		}
	}
	on389 := func(o testenv.DS389Options) func(*testing.T) server {
		return func(t *testing.T) server {
			s := testenv.DS389(t, o)
			return server{s.LDAPS, s.CAFile, s.ServicePasswordFile}
		}
	}
	for name, start := range map[string]func(*testing.T) server{
		"openldap":     onSlapd(ldif.OpenLDAP()),
		"qmail":        onSlapd(ldif.Qmail()),
		"postfix-book": onSlapd(ldif.PostfixBook()),
		"389ds":        on389(testenv.DS389Options{Tree: ldif.DS389(), Plain: true}),
		"freeipa":      on389(testenv.DS389Options{}),
		"ad": func(t *testing.T) server {
			s := testenv.Samba(t, testenv.SambaOptions{})
			return server{s.LDAPS, s.CAFile, s.ServicePasswordFile}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			at := start(t)
			directory, authn := exampleOf(t, name, at.uri, at.caFile, at.passwordFile)
			s := newSite(t, variant(t, standard, ldifDirectory, directory, ldifAuthn, authn), nil).start()
			for _, login := range []string{"alice", "alice@example.com"} {
				wantAnswer(t, "login as "+login, s.send(login, ldif.Password("alice"), "alice@example.com", "bob@example.com", "by "+login), "")
				s.waitFor("bob", "by "+login, 1)
			}
			must(t, s.send("bob", ldif.Password("bob"), "bob@example.com", "staff@example.com", "to all"))
			for _, login := range []string{"alice", "bob", "carol"} {
				s.waitFor(login, "to all", 1)
			}
			for what, row := range map[string]struct {
				err  error
				want string
			}{
				"wrong password":    {s.send("alice", "wrong", "alice@example.com", "bob@example.com", "x"), "535 5.7.8"},
				"disabled":          {s.send("dave", ldif.Password("dave"), "dave@example.com", "bob@example.com", "x"), "535 5.7.8"},
				"another's address": {s.send("alice", ldif.Password("alice"), "bob@example.com", "carol@example.com", "x"), "553 5.7.1"},
				"nobody":            {s.inject("a@elsewhere.example", []string{"nobody@example.com"}, "x"), "550 5.1.1"},
			} {
				wantAnswer(t, what, row.err, row.want)
			}
			s.run("directory", "check") // fails the test when it finds a fault
			if out := s.run("lookup", "sales@example.com"); !strings.Contains(out, "recipient   bob@example.com") {
				t.Errorf("lookup says\n%s", out)
			}
		})
	}
}
