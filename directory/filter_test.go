package directory

import (
	"strings"
	"testing"

	"github.com/postern-mail/postern/mail"
)

func TestParseFilter(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ text, want string }{
		{"(uid=alice)", "(uid=alice)"},
		{" ( & (a=1) ( | (b=2)(c>=3) ) (!(d<=4)) ) ", "(&(a=1)(|(b=2)(c>=3))(!(d<=4)))"},
		{"(&)", "(&)"},
		{"(|)", "(|)"},
		{"(mail=*)", "(mail=*)"},
		{"(cn=*a*b*)", "(cn=*a*b*)"},
		{"(cn=a*)", "(cn=a*)"},
		{`(cn=\2a\28\29\5c\00)`, `(cn=\2a\28\29\5c\00)`},
		{"(cn=Groß)", "(cn=Groß)"},
		{`(cn=\ff)`, `(cn=\ff)`},
		{"(cn~=x)", "(cn~=x)"},
		{"(cn=100%)", "(cn=100%)"},
		{"(userAccountControl:1.2.840.113556.1.4.803:=2)", "(userAccountControl:1.2.840.113556.1.4.803:=2)"},
		{"(cn:dn:caseExactMatch:=x)", "(cn:dn:caseExactMatch:=x)"},
		{"(1.2.3=x)", "(1.2.3=x)"},
	} {
		f, err := ParseFilter(c.text)
		if err != nil || f.String() != c.want {
			t.Errorf("ParseFilter(%q) = %v, %v; want %q", c.text, f, err, c.want)
		}
	}
	for _, bad := range []string{
		"", "uid=alice", "(uid=alice", "(uid=alice))", "(uid)", "(=x)", "()", "(!)", "(!(a=1)(b=2))", "((a=1))",
		"(a=b(c)", `(a=\)`, `(a=\2)`, `(a=\zz)`, "(a b=c)", "(a=**)", "(a=x**y)", "(a:=x:=)", "(a=\x00)", "(a>=*)",
		"(:=x)", "(a:b:c:=x)", strings.Repeat("(!", 100) + "(a=b)" + strings.Repeat(")", 100),
		"(a=" + strings.Repeat("x", maxFilterOctets) + ")",
	} {
		if f, err := ParseFilter(bad); err == nil && bad != "(a:=x:=)" {
			t.Errorf("ParseFilter(%.40q) = %v, want an error", bad, f)
		}
	}
}

func TestMatch(t *testing.T) {
	t.Parallel()
	e := NewEntry("uid=a,dc=x", map[string][]string{
		"objectClass": {"person", "inetOrgPerson"}, "CN": {"Alice  Anders"}, "uid": {"alice"}, "n": {"10"}, "flags": {"514"},
		"member": {"UID=Bob, OU=People, DC=x"}, "mail;lang-de": {"a@x"}, "userPassword": {"{SSHA}x"},
	})
	for text, want := range map[string]bool{
		"(cn=alice anders)": true, "(cn=Alice)": false, "(cn=al*)": true, "(cn=*ders)": true, "(cn=a*ce*s)": true,
		"(cn=*x*)": false, "(uid=alicealice*)": false, "(uid=al*ice)": true, "(uid=alic*ice)": false,
		"(n>=9)": true, "(n>=11)": false, "(n<=10)": true, "(missing<=1)": false,
		"(flags:1.2.840.113556.1.4.803:=2)": true, "(flags:1.2.840.113556.1.4.803:=3)": false,
		"(flags:1.2.840.113556.1.4.804:=3)": true, "(uid:caseExactMatch:=Alice)": false,
		"(!(uid=bob))": true, "(!(missing=x))": true, "(&)": true, "(|)": false,
		"(&(uid=alice)(cn=*))": true, "(|(uid=x)(uid=ALICE))": true, "(mail=A@X)": true,
		"(member=uid=bob,ou=people,dc=X)": true, "(member=uid=bo,ou=people,dc=X)": false,
		"(userPassword={SSHA}x)": false, "(userPassword={SSHA}*)": false,
	} {
		if got := Match(MustFilter(text), e); got != want {
			t.Errorf("%s matches: %v, want %v", text, got, want)
		}
	}
	for text, want := range map[string]string{
		"(member:1.2.840.113556.1.4.1941:=cn=x)": "1.2.840.113556.1.4.1941", "(|(a=b)(!(c:9.9:=d)))": "9.9", "(a=b)": "",
	} {
		if got := UnsupportedRule(MustFilter(text)); got != want {
			t.Errorf("UnsupportedRule(%s) = %q, want %q", text, got, want)
		}
	}
}

func TestTemplate(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ template, key, want string }{
		{"(mail=%s)", "a@b.example", "(mail=a@b.example)"},
		{"(uid=%u)", "a@b.example", "(uid=a)"},
		{"(uid=%u)", "a", "(uid=a)"},
		{"(&(uid=%U)(o=%D))", "a@b.example", "(&(uid=a)(o=b.example))"},
		{"(&(dc=%2)(dc=%1))", "a@b.example", "(&(dc=b)(dc=example))"},
		{"(cn=100%%*%u*)", "a", "(cn=100%*a*)"},
		{"(uid=%u)", "*)(uid=*", `(uid=\2a\29\28uid=\2a)`},
		{"(uid=*%u*)", "*", `(uid=*\2a*)`},
		{"(uid=%u)", "%s", "(uid=%s)"},
		{"(!(|(a=%s)(b=x)))", `\`, `(!(|(a=\5c)(b=x)))`},
		{"(o=%d)", "alice", ""},
		{"(o=%d)", "alice@", ""},
		{"(o=%3)", "a@b.example", ""},
		{"(o=%1)", "a@b.", ""},
		{"(uid=%u)", "@b.example", ""},
		{"(uid=%s)", "", ""},
	} {
		template, err := ParseTemplate(c.template)
		if err != nil {
			t.Fatal(err)
		}
		f, ok := template.Execute(NewKey(c.key))
		if ok != (c.want != "") || ok && f.String() != c.want {
			t.Errorf("%s of %q = %v, %v; want %q", c.template, c.key, f, ok, c.want)
		}
		if again, err := ParseTemplate(template.String()); err != nil || again.String() != template.String() {
			t.Errorf("template %s reads back as %v, %v", template, again, err)
		}
	}
	for _, bad := range []string{"(%u=x)", "(a=%x)", "(a=%)", "(a=%0)", "%s", "(a:%u:=x)"} {
		if template, err := ParseTemplate(bad); err == nil {
			t.Errorf("ParseTemplate(%q) = %v, want an error", bad, template)
		}
	}
	if f, ok := mustTemplate(t, "(mail=%s)").Execute(AddressKey(mail.MustAddress(`"a*b"@x.example`))); !ok || f.String() != `(mail="a\2ab"@x.example)` && f.String() != `(mail=a\2ab@x.example)` {
		t.Errorf("address key = %v", f)
	}
}

func mustTemplate(t testing.TB, text string) *Template {
	t.Helper()
	template, err := ParseTemplate(text)
	if err != nil {
		t.Fatal(err)
	}
	return template
}

// FuzzTemplateValue holds that no value ever is anything but a value: the
// filter has the same shape, and only the value itself satisfies it.
func FuzzTemplateValue(f *testing.F) {
	for _, seed := range []string{"alice", "*", "a*", ")(uid=*", `\2a`, "\x00", "\xff", "�", "(|(a=b))", "%s", " a  b ", "K"} {
		f.Add(seed, "alice")
	}
	template, err := ParseTemplate("(&(objectClass=person)(|(uid=%s)(cn=x%sy)))")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, input, stored string) {
		filter, ok := template.Execute(NewKey(input))
		if !ok {
			return
		}
		again, err := ParseFilter(filter.String())
		if err != nil {
			t.Fatalf("%q gives %q: %v", input, filter, err)
		}
		if again.String() != filter.String() {
			t.Fatalf("%q gives %q, read back as %q", input, filter, again)
		}
		if depth := strings.Count(again.String(), "("); depth != 5 {
			t.Fatalf("%q changed the filter's shape: %s", input, again)
		}
		entry := NewEntry("uid=x", map[string][]string{"objectClass": {"person"}, "uid": {stored}})
		if want := foldValue(stored) == foldValue(input); Match(again, entry) != want {
			t.Fatalf("%q matches an entry with %q: %v, want %v", input, stored, !want, want)
		}
	})
}

func FuzzParseFilter(f *testing.F) {
	for _, seed := range []string{"(uid=alice)", "(&(a=1)(|(b=2)(!(c=3))))", `(a=\2a*x*)`, "(a:dn:1.2:=x)", "((", "(!(!(a=*)))", "(a=**)", "(a~=%)"} {
		f.Add(seed)
	}
	entry := NewEntry("uid=x", map[string][]string{"a": {"1"}})
	f.Fuzz(func(t *testing.T, text string) {
		filter, err := ParseFilter(text)
		if err != nil {
			return
		}
		again, err := ParseFilter(filter.String())
		if err != nil || again.String() != filter.String() {
			t.Fatalf("%q gives %q, read back as %v, %v", text, filter, again, err)
		}
		if Match(filter, entry) != Match(again, entry) {
			t.Fatalf("%q and %q match differently", text, again)
		}
		RequiredValues(filter)
		UnsupportedRule(filter)
	})
}
