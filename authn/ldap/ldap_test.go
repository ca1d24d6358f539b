package ldap

import (
	"context"
	"errors"
	"strings"
	"testing"

	goldap "github.com/go-ldap/ldap/v3"

	"github.com/postern-mail/postern/authn"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// tree is a directory with one person.
type tree struct {
	findErr, bindErr error
	disabled         bool
	bound            []string
}

const aliceDN = "uid=alice,ou=people,dc=example,dc=com"

func (d *tree) FindLogin(_ context.Context, login string) (string, mail.Account, error) {
	if d.findErr != nil {
		return "", mail.Account{}, d.findErr
	}
	if login != "alice" && login != "alice@example.com" {
		return "", mail.Account{}, status.New(status.NoSuchUser, nil)
	}
	return aliceDN, mail.Account{Name: "alice", Disabled: d.disabled}, nil
}

func (d *tree) Bind(_ context.Context, dn, password string) error {
	d.bound = append(d.bound, dn)
	switch {
	case d.bindErr != nil:
		return d.bindErr
	case dn == aliceDN && password == "secret":
		return nil
	}
	return status.New(status.AuthFailed, errors.New("invalid credentials"))
}

func TestVerify(t *testing.T) {
	t.Parallel()
	const local = "uid={local},ou=people,dc=example,dc=com"
	down, full := status.New(status.DirectoryDown, nil), status.Reason(255)
	notMine := full
	tests := []struct {
		name, template  string
		directory       tree
		login, password string
		want            status.Reason
		binds           int
	}{
		{"search by uid", "", tree{}, "alice", "secret", status.OK, 1},
		{"search by address", "", tree{}, "alice@example.com", "secret", status.OK, 1},
		{"search, wrong password", "", tree{}, "alice", "wrong", status.AuthFailed, 1},
		{"search, unknown", "", tree{}, "bob", "secret", notMine, 0},
		{"search, empty password", "", tree{}, "alice", "", status.AuthFailed, 0},
		{"search, NUL", "", tree{}, "alice", "secret\x00", status.AuthFailed, 0},
		{"search down", "", tree{findErr: down}, "alice", "secret", status.DirectoryDown, 0},
		{"search ambiguous", "", tree{findErr: status.New(status.AddressAmbiguous, nil)}, "alice", "secret", status.AddressAmbiguous, 0},
		{"bind down", "", tree{bindErr: down}, "alice", "wrong", status.DirectoryDown, 1},
		{"disabled, right", "", tree{disabled: true}, "alice", "secret", status.AuthFailed, 1},
		{"disabled, wrong", "", tree{disabled: true}, "alice", "wrong", status.AuthFailed, 1},

		{"template by uid", local, tree{}, "alice", "secret", status.OK, 1},
		{"template by address", local, tree{}, "alice@example.com", "secret", status.OK, 1},
		{"template, other domain", local, tree{}, "alice@example.org", "secret", notMine, 0},
		{"template, wrong password", local, tree{}, "alice", "wrong", status.AuthFailed, 1},
		{"template, no local-part", local, tree{}, "@example.com", "secret", notMine, 0},
		{"template with domain, none given", "uid={local},dc={domain}", tree{}, "alice", "secret", notMine, 0},
		{"template, another RDN in the login", "uid={login},ou=people,dc=example,dc=com", tree{}, "alice,ou=people,dc=example,dc=com", "secret", status.AuthFailed, 1},
		{"template down", local, tree{bindErr: down}, "alice", "secret", status.DirectoryDown, 1},
		{"template, empty password", local, tree{}, "alice", "", status.AuthFailed, 0},
	}
	for i := range tests {
		tt := &tests[i]
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			v, err := New(Config{DNTemplate: tt.template, Domains: []mail.Domain{"example.com"}}, &tt.directory, &tt.directory)
			if err != nil {
				t.Fatal(err)
			}
			id, err := v.Verify(t.Context(), authn.Attempt{Login: tt.login, Password: tt.password})
			got := status.Of(err)
			if errors.Is(err, authn.ErrUnknownLogin) {
				got = notMine
			}
			if got != tt.want || len(tt.directory.bound) != tt.binds {
				t.Errorf("Verify(%q, %q) = %v, bound as %q; want %v, %d binds", tt.login, tt.password, err, tt.directory.bound, tt.want, tt.binds)
			}
			if tt.want == status.OK && id.Authentication != "alice" {
				t.Errorf("identity %+v, want alice", id)
			}
		})
	}
}

func TestTemplateMistakes(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"ou=people", "uid=alice,dc={domain}", "{login}", "{login}=x", "uid={login", "uid=login}", "uid={user}",
		"uid={login}+cn=x", `uid=a\,b{login}`, "uid={login},,dc=x", "uid={login},=x", "uid={login},dc=", "9id={login}",
	} {
		if _, err := New(Config{DNTemplate: text}, nil, &tree{}); !errors.Is(err, errTemplate) {
			t.Errorf("template %q = %v, want a mistake", text, err)
		}
	}
}

func TestSearchNeedsADirectory(t *testing.T) {
	t.Parallel()
	if _, err := New(Config{}, nil, &tree{}); err == nil {
		t.Error("a search without a directory was accepted")
	}
}

// FuzzTemplate: whatever the login, go-ldap reads the DN as the template's own
// RDNs with the login as the one value it is.
func FuzzTemplate(f *testing.F) {
	for _, seed := range []string{"alice", "alice,dc=evil", "alice+cn=root", `al\ice`, " alice ", "#abc", "a\x00b", "ä", "\xff", `"x"`, "a=b", "a;b<c>"} {
		f.Add(seed)
	}
	t, err := parseTemplate("uid={login},ou=people")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(tt *testing.T, login string) {
		if login == "" {
			return
		}
		dn := t.fill(map[string]string{"login": login})
		parsed, err := goldap.ParseDN(dn)
		if err != nil {
			tt.Fatalf("login %q gives %q: %v", login, dn, err)
		}
		if len(parsed.RDNs) != 2 || len(parsed.RDNs[0].Attributes) != 1 || parsed.RDNs[0].Attributes[0].Value != login {
			tt.Errorf("login %q gives %q, which reads as %v", login, dn, parsed)
		}
		if strings.Count(dn, ",") != 1 {
			tt.Errorf("login %q gives %q", login, dn)
		}
	})
}
