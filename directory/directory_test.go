package directory_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/directory"
	"github.com/postern-mail/postern/directory/ldif"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

const suffix = "dn: dc=x\nobjectClass: domain\ndc: x\n\ndn: ou=people,dc=x\nobjectClass: organizationalUnit\nou: people\n\n"

// person returns an entry in LDIF; each line of more is "attribute: value".
func person(uid string, more ...string) string {
	return fmt.Sprintf("dn: uid=%s,ou=people,dc=x\nobjectClass: inetOrgPerson\nuid: %s\n%s\n\n", uid, uid, strings.Join(more, "\n"))
}

func group(cn string, more ...string) string {
	return fmt.Sprintf("dn: cn=%s,dc=x\nobjectClass: groupOfNames\ncn: %s\n%s\n\n", cn, cn, strings.Join(more, "\n"))
}

func tree(t testing.TB, content string) *ldif.Tree {
	t.Helper()
	entries, err := ldif.Parse("test.ldif", strings.NewReader(suffix+content))
	if err != nil {
		t.Fatal(err)
	}
	return ldif.NewTree(entries)
}

func open(t testing.TB, cfg directory.Config, s directory.Searcher) *directory.Directory {
	t.Helper()
	cfg.BaseDN = "dc=x"
	d, err := directory.New(cfg, s, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// resolved returns the recipients, sorted, or the reason there are none.
func resolved(t testing.TB, d *directory.Directory, address string) string {
	t.Helper()
	got, err := d.Resolve(t.Context(), mail.MustAddress(address))
	if err != nil {
		return status.Of(err).String()
	}
	var names []string
	for _, r := range got {
		names = append(names, r.Address.String())
	}
	slices.Sort(names)
	return strings.Join(names, " ")
}

func TestResolveOddities(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		cfg     directory.Config
		content string
		address string
		want    string
	}{
		{
			name:    "two people claim one address",
			content: person("a", "mail: a@x.example") + person("b", "mail: b@x.example", "mailLocalAddress: A@x.example"),
			address: "a@x.example", want: "AddressAmbiguous",
		},
		{
			name:    "a person and a group claim one address",
			content: person("a", "mail: a@x.example") + group("a", "mail: a@x.example", "member: uid=a,ou=people,dc=x"),
			address: "a@x.example", want: "AddressAmbiguous",
		},
		{
			name:    "the exact address wins over the catch-all",
			content: person("a", "mail: a@x.example") + person("b", "mail: b@x.example", "mail: @x.example"),
			address: "a@x.example", want: "a@x.example",
		},
		{
			name:    "the address without its extension wins over the catch-all",
			content: person("a", "mail: a@x.example") + person("b", "mail: b@x.example", "mail: @x.example"),
			address: "a+y@x.example", want: "a+y@x.example",
		},
		{
			name:    "extensions can be off",
			cfg:     directory.Config{RecipientDelimiter: "off"},
			content: person("a", "mail: a@x.example"),
			address: "a+y@x.example", want: "NoSuchUser",
		},
		{
			name:    "delimiters are a set",
			cfg:     directory.Config{RecipientDelimiter: "-+"},
			content: person("a", "mail: a@x.example"),
			address: "a-y+z@x.example", want: "a-y+z@x.example",
		},
		{
			name:    "postmaster has no extension",
			content: person("a", "mail: postmaster@x.example"),
			address: "postmaster@x.example", want: "postmaster@x.example",
		},
		{
			name:    "a directory may write domains in Unicode",
			content: person("a", "mail:: "+"YUBiw7xjaGVyLmV4YW1wbGU="), // a@bücher.example
			address: "a@xn--bcher-kva.example", want: "a@xn--bcher-kva.example",
		},
		{
			name:    "the first domain's address is primary",
			cfg:     directory.Config{Domains: []mail.Domain{"x.example", "old.example"}},
			content: person("a", "mail: a@old.example", "mail: z@x.example", "mail: b@x.example"),
			address: "a@old.example", want: "b@x.example",
		},
		{
			name:    "external domains are not looked up",
			cfg:     directory.Config{Domains: []mail.Domain{"x.example"}},
			content: person("a", "mail: a@elsewhere.example"),
			address: "a@elsewhere.example", want: "NoSuchUser",
		},
		{
			name:    "forwards loop",
			content: person("a", "mail: a@x.example", "mailRoutingAddress: b@x.example") + person("b", "mail: b@x.example", "mailRoutingAddress: a@x.example"),
			address: "a@x.example", want: "AddressLoop",
		},
		{
			name:    "a forward to oneself keeps the mailbox",
			content: person("a", "mail: a@x.example", "mailRoutingAddress: A@x.example"),
			address: "a@x.example", want: "a@x.example",
		},
		{
			name:    "a forward to a missing address of ours leads nowhere",
			cfg:     directory.Config{Domains: []mail.Domain{"x.example"}},
			content: person("a", "mail: a@x.example", "mailRoutingAddress: gone@x.example"),
			address: "a@x.example", want: "NoSuchUser",
		},
		{
			name:    "commands, files and junk are no addresses",
			content: "dn: cn=g,dc=x\nobjectClass: nisMailAlias\ncn: g\nmail: g@x.example\nrfc822MailMember: |/bin/sh@x\nrfc822MailMember: /etc/passwd\nrfc822MailMember: :include:/etc/aliases\n\n",
			address: "g@x.example", want: "ConfigurationError",
		},
		{
			name:    "only nisMailAlias is addressed by its name",
			cfg:     directory.Config{Domains: []mail.Domain{"x.example"}},
			content: person("a", "mail: a@x.example") + group("admins", "member: uid=a,ou=people,dc=x"),
			address: "admins@x.example", want: "NoSuchUser",
		},
		{
			name:    "unique members may carry an identifier",
			content: person("a", "mail: a@x.example") + "dn: cn=g,dc=x\nobjectClass: groupOfUniqueNames\ncn: g\nmail: g@x.example\nuniqueMember: uid=a,ou=people,dc=x#'0101'B\n\n",
			address: "g@x.example", want: "a@x.example",
		},
		{
			name: "dynamic groups",
			content: person("a", "mail: a@x.example", "l: Berlin") + person("b", "mail: b@x.example", "l: Bonn") +
				group("g", "mail: g@x.example", "memberURL: ldap:///ou=people,dc=x??sub?(l=Berlin)"),
			address: "g@x.example", want: "a@x.example",
		},
		{
			name:    "URLs of other hosts are not followed",
			content: group("g", "mail: g@x.example", "memberURL: ldap://evil.example/dc=x??sub?(l=*)"),
			address: "g@x.example", want: "ConfigurationError",
		},
		{
			name:    "disabled people can be refused",
			cfg:     directory.Config{DisabledReceive: "reject"},
			content: person("a", "mail: a@x.example", "pwdAccountLockedTime: 000001010000Z"),
			address: "a@x.example", want: "AccountDisabled",
		},
		{
			name:    "disabled people can be deferred",
			cfg:     directory.Config{DisabledReceive: "defer"},
			content: person("a", "mail: a@x.example", "pwdAccountLockedTime: 000001010000Z"),
			address: "a@x.example", want: "PolicyDefer",
		},
		{
			name: "disabled people are left out of groups",
			cfg:  directory.Config{DisabledReceive: "reject"},
			content: person("a", "mail: a@x.example", "pwdAccountLockedTime: 000001010000Z") + person("b", "mail: b@x.example") +
				group("g", "mail: g@x.example", "member: uid=a,ou=people,dc=x", "member: uid=b,ou=people,dc=x"),
			address: "g@x.example", want: "b@x.example",
		},
		{
			name:    "too deep",
			cfg:     directory.Config{MaxDepth: 5},
			content: person("a", "mail: a@x.example") + nested(10),
			address: "g0@x.example", want: "AddressLoop",
		},
		{
			name:    "deep enough",
			cfg:     directory.Config{MaxDepth: 11},
			content: person("a", "mail: a@x.example") + nested(10),
			address: "g0@x.example", want: "a@x.example",
		},
		{
			name:    "too many",
			cfg:     directory.Config{MaxRecipients: 10},
			content: crowd(11),
			address: "crowd@x.example", want: "AddressLoop",
		},
		{
			name:    "qmail keeps a copy unless told otherwise",
			cfg:     directory.Config{Preset: "openldap-qmail"},
			content: "dn: uid=q,ou=people,dc=x\nobjectClass: qmailUser\nuid: q\nmail: q@x.example\nmailForwardingAddress: q@y.example\n\n",
			address: "q@x.example", want: "q@x.example q@y.example",
		},
		{
			name:    "postfix-book",
			cfg:     directory.Config{Preset: "openldap-postfixbook"},
			content: "dn: uid=q,ou=people,dc=x\nobjectClass: PostfixBookMailAccount\nuid: q\nmail: q@x.example\nmailAlias: Z@x.example\n\n",
			address: "z@X.example", want: "q@x.example",
		},
		{
			name:    "fields of a preset can be replaced and emptied",
			cfg:     directory.Config{Mapping: directory.Mapping{AddressAttributes: []string{"email"}, ForwardAttributes: []string{"-"}, GroupFilter: "-"}},
			content: person("a", "email: a@x.example", "mailRoutingAddress: z@y.example"),
			address: "a@x.example", want: "a@x.example",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			d := open(t, c.cfg, tree(t, c.content))
			if got := resolved(t, d, c.address); got != c.want {
				x, _ := d.Explain(t.Context(), c.address)
				t.Errorf("Resolve(%s) = %q, want %q\n%s", c.address, got, c.want, x)
			}
		})
	}
}

// nested returns groups g0 to gN, each the member of the one before; a is
// the last one's.
func nested(n int) string {
	var b strings.Builder
	for i := range n {
		member := fmt.Sprintf("member: cn=g%d,dc=x", i+1)
		if i == n-1 {
			member = "member: uid=a,ou=people,dc=x"
		}
		b.WriteString(group(fmt.Sprintf("g%d", i), fmt.Sprintf("mail: g%d@x.example", i), member))
	}
	return b.String()
}

func crowd(n int) string {
	lines := []string{"mail: crowd@x.example"}
	var b strings.Builder
	for i := range n {
		uid := fmt.Sprintf("u%d", i)
		b.WriteString(person(uid, "mail: "+uid+"@x.example"))
		lines = append(lines, "member: uid="+uid+",ou=people,dc=x")
	}
	return b.String() + group("crowd", lines...)
}

func TestPostmasterWithoutDomain(t *testing.T) {
	t.Parallel()
	d := open(t, directory.Config{Domains: []mail.Domain{"x.example"}}, tree(t, person("a", "mail: a@x.example", "mail: postmaster@x.example")))
	got, err := d.Resolve(t.Context(), mail.Address{Local: "Postmaster"})
	if err != nil || len(got) != 1 || got[0].Address != mail.MustAddress("a@x.example") {
		t.Errorf("Resolve(postmaster) = %v, %v", got, err)
	}
}

func TestSharedGroupsMaySend(t *testing.T) {
	t.Parallel()
	content := person("a", "mail: a@x.example") + person("b", "mail: b@x.example") +
		group("desk", "mail: desk@x.example", "businessCategory: shared", "member: uid=a,ou=people,dc=x") +
		group("list", "mail: list@x.example", "member: uid=a,ou=people,dc=x", "owner: cn=desk,dc=x")
	d := open(t, directory.Config{Mapping: directory.Mapping{SharedFilter: "(businessCategory=shared)"}}, tree(t, content))
	for address, want := range map[string]string{"desk@x.example": "a", "list@x.example": "a", "b@x.example": "b", "none@x.example": ""} {
		got, err := d.Owners(t.Context(), mail.MustAddress(address))
		if err != nil || strings.Join(got, " ") != want {
			t.Errorf("Owners(%s) = %v, %v; want %q", address, got, err, want)
		}
	}
}

func TestNamesAreStable(t *testing.T) {
	t.Parallel()
	for _, uids := range []string{"uid: zoe\nuid: abc", "uid: abc\nuid: zoe"} {
		content := "dn: cn=Zoe,ou=people,dc=x\nobjectClass: inetOrgPerson\nmail: zoe@x.example\n" + uids + "\n\n"
		d := open(t, directory.Config{}, tree(t, content))
		if a, err := d.Account(t.Context(), "zoe"); err != nil || a.Name != "abc" {
			t.Errorf("%q: account %q, %v", uids, a.Name, err)
		}
	}
	d := open(t, directory.Config{}, tree(t, "dn: uid=Zoe,ou=people,dc=x\nobjectClass: inetOrgPerson\nuid: abc\nuid: ZOE\n\n"))
	if a, err := d.Account(t.Context(), "abc"); err != nil || a.Name != "zoe" {
		t.Errorf("the name in the DN counts: %q, %v", a.Name, err)
	}
}

func TestLoginAmbiguity(t *testing.T) {
	t.Parallel()
	d := open(t, directory.Config{}, tree(t, person("a", "mail: b@x.example")+person("b@x.example", "mail: c@x.example")))
	if a, err := d.Account(t.Context(), "b@x.example"); status.Of(err) != status.AddressAmbiguous {
		t.Errorf("a login that is one's uid and another's address = %+v, %v", a, err)
	}
}

func TestLoginFilter(t *testing.T) {
	t.Parallel()
	content := person("a", "employeeNumber: 7", "mail: a@x.example") + person("b", "employeeNumber: 8")
	d := open(t, directory.Config{Mapping: directory.Mapping{LoginFilter: "(&(employeeNumber=%u)(mail=*))"}}, tree(t, content))
	for login, want := range map[string]string{"7": "a", "8": "", "a": "", "*": ""} {
		a, err := d.Account(t.Context(), login)
		if a.Name != want || want == "" && status.Of(err) != status.NoSuchUser {
			t.Errorf("Account(%q) = %q, %v; want %q", login, a.Name, err, want)
		}
	}
}

// loose returns every entry for every search, as a server with careless
// matching rules might: accents, ligatures and spaces are equal to some.
type loose struct{ *ldif.Tree }

func (l loose) Search(ctx context.Context, req directory.Request) ([]directory.Entry, error) {
	if req.Scope != directory.ScopeBase {
		req.Filter = directory.Present("objectClass")
	}
	return l.Tree.Search(ctx, req)
}

func TestServersMatchingIsNotTrusted(t *testing.T) {
	t.Parallel()
	d := open(t, directory.Config{}, loose{tree(t, person("a", "mail: a@x.example")+person("b", "mail: b@x.example"))})
	if got := resolved(t, d, "a@x.example"); got != "a@x.example" {
		t.Errorf("Resolve(a) = %s", got)
	}
	if got := resolved(t, d, `ä@x.example`); got != "NoSuchUser" {
		t.Errorf("Resolve(ä) = %s", got)
	}
	if a, err := d.Account(t.Context(), "ä"); status.Of(err) != status.NoSuchUser {
		t.Errorf("Account(ä) = %+v, %v", a, err)
	}
}

// failing answers some searches and fails at the rest.
type failing struct {
	directory.Searcher
	after int
	asked int
	err   error
}

func (f *failing) Search(ctx context.Context, req directory.Request) ([]directory.Entry, error) {
	f.asked++
	if f.asked > f.after {
		return nil, f.err
	}
	return f.Searcher.Search(ctx, req)
}

// TestUnknownIsNeverNo breaks the directory at every search of an answer.
func TestUnknownIsNeverNo(t *testing.T) {
	t.Parallel()
	content := tree(t, person("a", "mail: a@x.example")+person("b", "mail: b@x.example")+
		group("g", "mail: g@x.example", "member: uid=a,ou=people,dc=x", "member: cn=h,dc=x", "owner: uid=b,ou=people,dc=x")+
		group("h", "mail: h@x.example", "member: uid=b,ou=people,dc=x", "member: uid=gone,ou=people,dc=x"))
	id := mail.Identity{Authentication: "a"}
	for name, ask := range map[string]func(*directory.Directory) error{
		"resolve": func(d *directory.Directory) error {
			_, err := d.Resolve(t.Context(), mail.MustAddress("g@x.example"))
			return err
		},
		"resolve no": func(d *directory.Directory) error {
			_, err := d.Resolve(t.Context(), mail.MustAddress("z@x.example"))
			return err
		},
		"account": func(d *directory.Directory) error { _, err := d.Account(t.Context(), "a"); return err },
		"account of": func(d *directory.Directory) error {
			_, err := d.AccountOf(t.Context(), mail.MustAddress("a@x.example"))
			return err
		},
		"owners": func(d *directory.Directory) error {
			_, err := d.Owners(t.Context(), mail.MustAddress("g@x.example"))
			return err
		},
		"send as": func(d *directory.Directory) error {
			_, err := d.MaySendAs(t.Context(), id, mail.MustAddress("g@x.example"))
			return err
		},
		"explain": func(d *directory.Directory) error { _, err := d.Explain(t.Context(), "g@x.example"); return err },
	} {
		t.Run(name, func(t *testing.T) {
			whole := &failing{Searcher: content, after: 1 << 20}
			_ = ask(open(t, directory.Config{Cache: directory.CacheConfig{Disabled: true}}, whole))
			if whole.asked == 0 {
				t.Fatal("nothing was searched")
			}
			for after := range whole.asked {
				for _, cause := range []error{errors.New("connection lost"), status.Errorf(status.NoSuchUser, "a searcher that lies")} {
					broken := &failing{Searcher: content, after: after, err: cause}
					err := ask(open(t, directory.Config{Cache: directory.CacheConfig{Disabled: true}}, broken))
					if status.Of(err) != status.DirectoryDown {
						t.Errorf("failing after %d of %d searches: %v, want DirectoryDown", after, whole.asked, err)
					}
				}
			}
		})
	}
}

func TestConfigMistakes(t *testing.T) {
	t.Parallel()
	for name, cfg := range map[string]directory.Config{
		"no base":            {},
		"bad base":           {BaseDN: "example.com"},
		"preset":             {BaseDN: "dc=x", Preset: "lotus"},
		"domain":             {BaseDN: "dc=x", Domains: []mail.Domain{"a b"}},
		"disabled":           {BaseDN: "dc=x", DisabledReceive: "maybe"},
		"filter":             {BaseDN: "dc=x", Mapping: directory.Mapping{UserFilter: "uid=*"}},
		"login filter":       {BaseDN: "dc=x", Mapping: directory.Mapping{LoginFilter: "(uid=%x)"}},
		"no user filter":     {BaseDN: "dc=x", Mapping: directory.Mapping{UserFilter: "-"}},
		"attribute":          {BaseDN: "dc=x", Mapping: directory.Mapping{AddressAttributes: []string{"mail)(uid=*"}}},
		"name attribute":     {BaseDN: "dc=x", Mapping: directory.Mapping{NameAttribute: "-"}},
		"no addresses":       {BaseDN: "dc=x", Mapping: directory.Mapping{AddressAttributes: []string{"-"}}},
		"unknown rule":       {BaseDN: "dc=x", Mapping: directory.Mapping{DisabledFilter: "(a:1.2.3:=x)"}},
		"group base":         {BaseDN: "dc=x", Mapping: directory.Mapping{GroupBase: "groups"}},
		"negative recursion": {BaseDN: "dc=x", MaxDepth: -1},
	} {
		if _, err := directory.New(cfg, nil, hclog.NewNullLogger()); err == nil {
			t.Errorf("%s: New accepts %+v", name, cfg)
		}
	}
}

// TestCredentialVersion has a password changed: what the directory tells of
// that is another version, and nothing else is.
func TestCredentialVersion(t *testing.T) {
	t.Parallel()
	version := func(cfg directory.Config, more ...string) string {
		d := open(t, cfg, tree(t, person("a", append(more, "mail: a@x.example")...)))
		account, err := d.Account(t.Context(), "a")
		if err != nil {
			t.Fatal(err)
		}
		return account.CredentialVersion
	}
	before := version(directory.Config{}, "pwdChangedTime: 20260101000000Z", "shadowLastChange: 20454")
	if before == "" {
		t.Fatal("no version of a password whose time is known")
	}
	for _, row := range []struct {
		name string
		same bool
		now  string
	}{
		{"the same in another order", true, version(directory.Config{}, "shadowLastChange: 20454", "pwdChangedTime: 20260101000000Z", "description: x")},
		{"another time", false, version(directory.Config{}, "pwdChangedTime: 20260101000001Z", "shadowLastChange: 20454")},
		{"one time is gone", false, version(directory.Config{}, "pwdChangedTime: 20260101000000Z")},
		{"none is told", false, version(directory.Config{})},
	} {
		if (row.now == before) != row.same {
			t.Errorf("%s: %q, before %q", row.name, row.now, before)
		}
	}
	if v := version(directory.Config{Mapping: directory.Mapping{CredentialAttributes: []string{"description"}}}, "description: 7"); v != "description=7;" {
		t.Errorf("by an attribute of its own: %q", v)
	}
}

// TestPeopleWithoutMail: where the configuration says so, a uid is an address.
func TestPeopleWithoutMail(t *testing.T) {
	t.Parallel()
	d := open(t, directory.Config{
		Name: "x", Domains: []mail.Domain{"x.example", "y.example"}, Mapping: directory.Mapping{LocalPartAttributes: []string{"uid"}},
	}, tree(t, person("ann", "sn: a")+person("bob", "mail: robert@y.example")+person("x y", "sn: odd")+
		group("g", "mail: g@x.example", "member: uid=ann,ou=people,dc=x", "member: uid=bob,ou=people,dc=x")))
	for address, want := range map[string]string{
		"ann@x.example":      "ann@x.example",
		"ANN+list@x.example": "ann+list@x.example",
		"ann@y.example":      "NoSuchUser", // in the first domain only
		"bob@x.example":      "robert@y.example",
		"robert@y.example":   "robert@y.example",
		"g@x.example":        "ann@x.example robert@y.example",
		"nobody@x.example":   "NoSuchUser",
	} {
		if got := resolved(t, d, address); got != want {
			t.Errorf("%s: %s; want %s", address, got, want)
		}
	}
	account, err := d.Account(t.Context(), "bob@x.example")
	if err != nil || account.Name != "bob" || account.Primary != mail.MustAddress("robert@y.example") {
		t.Errorf("the login bob@x.example: %+v, %v", account, err)
	}
	if ok, err := d.MaySendAs(t.Context(), mail.Identity{Authentication: "bob", Source: "x"}, mail.MustAddress("bob@x.example")); !ok || err != nil {
		t.Errorf("bob may not send as bob@x.example: %v", err)
	}
}
