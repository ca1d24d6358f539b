package dmarc

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/postern-mail/postern/internal/dns"
	"github.com/postern-mail/postern/mail"
)

func TestParseRecord(t *testing.T) {
	t.Parallel()
	reports := []ReportURI{{Address: mail.MustAddress("dmarc@example.com")}}
	for _, row := range []struct {
		txt  string
		want *Record
	}{
		{"v=DMARC1; p=none", &Record{Policy: PolicyNone, Percent: 100}},
		{"v=DMARC1;p=reject;adkim=s;aspf=s;pct=25;sp=quarantine;np=reject;fo=1:d:x;t=y", &Record{Policy: PolicyReject, Subdomains: PolicyQuarantine,
			Nonexistent: PolicyReject, StrictDKIM: true, StrictSPF: true, Percent: 25, Testing: true, Failures: []string{"1", "d"}}},

		// Typing of all kinds that must not switch a policy off.
		{" V = DMARC1 ; P = Reject ; ADKIM = S ; SP=NONE", &Record{Policy: PolicyReject, Subdomains: PolicyNone, StrictDKIM: true, Percent: 100}},
		{"v=DMARC1; p=reject; pct=abc; ri=x; rf=iodef; adkim=q", &Record{Policy: PolicyReject, Percent: 100}},
		{"v=DMARC1; p=reject; pct=150", &Record{Policy: PolicyReject, Percent: 100}},
		{"v=DMARC1; p=reject; pct=-1", &Record{Policy: PolicyReject, Percent: 100}},
		{"v=DMARC1; p=reject;;; junk; x y=z; =; p=none", &Record{Policy: PolicyReject, Percent: 100}},
		{"v=DMARC1; pct=10; p=quarantine", &Record{Policy: PolicyQuarantine, Percent: 10}},
		{"v=DMARC1; p=reject; rua=http://a.example,mailto:,mailto:x@[192.0.2.1], MailTo:dmarc@example.com", &Record{Policy: PolicyReject, Percent: 100, Aggregate: reports}},

		// Policies that cannot be told: reports alone, or nothing.
		{"v=DMARC1; rua=mailto:dmarc@example.com", &Record{Policy: PolicyNone, Percent: 100, Aggregate: reports}},
		{"v=DMARC1; p=rejekt; rua=mailto:dmarc@example.com", &Record{Policy: PolicyNone, Percent: 100, Aggregate: reports}},
		{"v=DMARC1; p=reject; sp=all; rua=mailto:dmarc@example.com", &Record{Policy: PolicyNone, Percent: 100, Aggregate: reports}},
		{"v=DMARC1", nil},
		{"v=DMARC1; p=rejekt", nil},
		{"v=DMARC1; p=reject; sp=all; rua=junk", nil},

		// No records of ours.
		{"", nil},
		{"v=dmarc1; p=reject", nil},
		{"v=DMARC2; p=reject", nil},
		{"v=DMARC1 p=reject", nil},
		{"p=reject; v=DMARC1", nil},
		{"v=spf1 -all", nil},
	} {
		got, ok := parseRecord(row.txt)
		if ok != (row.want != nil) || ok && !reflect.DeepEqual(got, row.want) {
			t.Errorf("%q: %+v, %v; want %+v", row.txt, got, ok, row.want)
		}
	}
}

func TestReportURI(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]int64{
		"mailto:a@b.example": 0, "mailto:a@b.example!10m": 10 << 20, "mailto:a@b.example!50K": 50 << 10,
		"mailto:a@b.example!1234": 1234, "mailto:a@b.example!9999999t": 1 << 50, "mailto:a%2bx@b.example?subject=x": 0,
		"mailto:a@b.example!": -1, "mailto:a@b.example!0": -1, "mailto:a@b.example!10x": -1, "mailto:a@b.example!-1": -1,
		"mailto:a": -1, "https://b.example": -1, "a@b.example": -1, "mailto:%zz@b.example": -1, "mailto:ä@b.example": -1,
	} {
		u, ok := parseURI(text)
		if ok != (want >= 0) || ok && u.MaxOctets != want {
			t.Errorf("%s: %+v, %v", text, u, ok)
		}
	}
	if many := parseURIs(strings.Repeat("mailto:a@b.example,", 1000)); len(many) != maxURIs {
		t.Errorf("%d places for reports", len(many))
	}
}

// listText is a list with rules of each kind; the fillers make it long enough.
func listText() string {
	var b strings.Builder
	b.WriteString("// ===BEGIN ICANN DOMAINS===\ncom\n\nuk\nco.uk\n*.ck\n!www.ck\n*.kawasaki.jp\n!city.kawasaki.jp\njp\n公司.cn\ncn\ngithub.io  // private\nio\n")
	for i := range minRules {
		fmt.Fprintf(&b, "filler%d.example\n", i)
	}
	return b.String()
}

// TestOrganization: a list from a file means what the one built in means.
func TestOrganization(t *testing.T) {
	t.Parallel()
	read, err := ReadSuffixes(strings.NewReader(listText()))
	if err != nil {
		t.Fatal(err)
	}
	for name, list := range map[string]*Suffixes{"built in": nil, "read": read} {
		for domain, want := range map[string]string{
			"example.com": "example.com", "a.b.example.com": "example.com", "com": "com",
			"example.co.uk": "example.co.uk", "mail.example.co.uk": "example.co.uk", "co.uk": "co.uk",
			"b.c.ck": "b.c.ck", "a.b.c.ck": "b.c.ck", "www.ck": "www.ck", "a.www.ck": "www.ck", "c.ck": "c.ck",
			"city.kawasaki.jp": "city.kawasaki.jp", "a.city.kawasaki.jp": "city.kawasaki.jp", "a.b.c.kawasaki.jp": "b.c.kawasaki.jp",
			"someone.github.io": "someone.github.io", "x.someone.github.io": "someone.github.io",
			"a.xn--55qx5d.cn": "a.xn--55qx5d.cn", "b.a.xn--55qx5d.cn": "a.xn--55qx5d.cn",
			"a.b.unknown-top": "b.unknown-top", "": "", "localhost": "localhost",
		} {
			if got := list.Organization(domain); got != want {
				t.Errorf("%s list: organization of %s is %s, want %s", name, domain, got, want)
			}
		}
	}
}

func TestReadSuffixes(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"empty": "", "a page of HTML": "<html>\n" + strings.Repeat("<p>x</p>\n", 200), "cut short": "com\nuk\n",
		"too large": strings.Repeat("// comment\n", maxListOctets/10), "star within": listText() + "a.*.b\n",
	} {
		if _, err := ReadSuffixes(strings.NewReader(text)); err == nil {
			t.Errorf("%s is a list", name)
		}
	}
}

func TestFindAuthors(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		values []string
		want   []string
		err    error
	}{
		{[]string{"a@example.com"}, []string{"example.com"}, nil},
		{[]string{" A Name <a@Example.COM>"}, []string{"example.com"}, nil},
		{[]string{"\"Name, with <b@other.example>\"\r\n <a@example.com> (c <d@other.example>)"}, []string{"example.com"}, nil},
		{[]string{"=?utf-8?q?b=40other.example?= <a@example.com>"}, []string{"example.com"}, nil},
		{[]string{"b@other.example <a@example.com>"}, []string{"example.com"}, nil},
		{[]string{`"quoted @ local"@example.com`}, []string{"example.com"}, nil},
		{[]string{"a . b @ example . (x) com"}, []string{"example.com"}, nil},
		{[]string{"<@relay.example,@other.example:a@example.com>"}, []string{"example.com"}, nil},
		{[]string{"a@example.com, B <b@example.com>, c@sub.example.com"}, []string{"example.com", "sub.example.com"}, nil},
		{[]string{"Group: a@example.com, b@other.example;"}, []string{"example.com", "other.example"}, nil},
		{[]string{"a@example.com", "b@other.example"}, []string{"example.com", "other.example"}, nil},
		{[]string{"a@bücher.example"}, []string{"xn--bcher-kva.example"}, nil},
		{[]string{"a@example.com,,"}, []string{"example.com"}, nil},

		{nil, nil, ErrNoFrom},
		{[]string{""}, nil, ErrNoAuthor},
		{[]string{"Undisclosed:;"}, nil, ErrNoAuthor},
		{[]string{"no address"}, nil, ErrFromSyntax},
		{[]string{"<a@example.com"}, nil, ErrFromSyntax},
		{[]string{"a@example.com>"}, nil, ErrFromSyntax},
		{[]string{"<a@example.com> <b@other.example>"}, nil, ErrFromSyntax},
		{[]string{"a@b@example.com"}, nil, ErrFromSyntax},
		{[]string{"a@example.com b@other.example"}, nil, ErrFromSyntax},
		{[]string{"a@example.com other.example"}, nil, ErrFromSyntax},
		{[]string{"@example.com"}, nil, ErrFromSyntax},
		{[]string{"a@"}, nil, ErrFromSyntax},
		{[]string{"<>"}, nil, ErrFromSyntax},
		{[]string{`"not closed <a@example.com>`}, nil, ErrFromSyntax},
		{[]string{"(not closed <a@example.com>"}, nil, ErrFromSyntax},
		{[]string{strings.Repeat("(", 100) + strings.Repeat(")", 100) + "a@example.com"}, nil, ErrFromSyntax},
		{[]string{strings.Repeat("a@example.com, ", 10000)}, nil, ErrFromSyntax},
		{[]string{"a@[192.0.2.1]"}, nil, ErrAuthorDomain},
		{[]string{"a@localhost"}, nil, ErrAuthorDomain},

		// Of what is malformed every domain counts that somebody may be shown.
		{[]string{"x, a@example.com", "b@example.net"}, []string{"example.com", "example.net"}, ErrFromSyntax},
		{[]string{"a@localhost, b@example.com"}, []string{"example.com"}, ErrAuthorDomain},
		{[]string{"\"A <a@ Example.COM.>"}, []string{"example.com"}, ErrFromSyntax},
		{[]string{"<a@example.com@example.net>"}, []string{"example.com", "example.net"}, ErrFromSyntax},
		{[]string{"a@exa\x00mple.com"}, nil, ErrAuthorDomain},
	} {
		got, err := FindAuthors(row.values)
		if !errors.Is(err, row.err) || (row.err == nil || row.want != nil) && !slices.Equal(got.Domains, row.want) || got.Fields != len(row.values) {
			t.Errorf("%.80q: %+v, %v; want %v, %v", row.values, got, err, row.want, row.err)
		}
	}
	var many strings.Builder
	for i := range 50 {
		fmt.Fprintf(&many, "a@d%d.example, ", i)
	}
	if got, err := FindAuthors([]string{many.String()}); !errors.Is(err, ErrManyAuthors) || len(got.Domains) != maxAuthors {
		t.Errorf("%d domains, %v", len(got.Domains), err)
	}
}

// names answers from memory; "!" fails.
type names struct {
	txt     map[string][]string
	missing []string // do not exist, instead of having nothing
}

func (n *names) TXT(_ context.Context, name string) (dns.Answer[string], error) {
	texts := n.txt[strings.TrimSuffix(name, ".")]
	if len(texts) == 1 && texts[0] == "!" {
		return dns.Answer[string]{}, &dns.Error{Name: name, Type: "TXT", Err: dns.ErrServerFailure}
	}
	if len(texts) == 0 {
		return dns.Answer[string]{Outcome: dns.NXDomain}, nil
	}
	return dns.Answer[string]{Records: texts}, nil
}

func (n *names) MX(_ context.Context, name string) (dns.Answer[dns.MX], error) {
	name = strings.TrimSuffix(name, ".")
	if slices.Contains(n.missing, "!"+name) {
		return dns.Answer[dns.MX]{}, &dns.Error{Name: name, Type: "MX", Err: dns.ErrNoAnswer}
	}
	if slices.Contains(n.missing, name) {
		return dns.Answer[dns.MX]{Outcome: dns.NXDomain}, nil
	}
	return dns.Answer[dns.MX]{Outcome: dns.NoData}, nil
}

func TestCheck(t *testing.T) {
	t.Parallel()
	passes := func(domain string) Identifier { return Identifier{Domain: domain, Result: "pass"} }
	resolver := &names{
		txt: map[string][]string{
			"_dmarc.none.example":          {"v=DMARC1; p=none"},
			"_dmarc.quarantine.example":    {"v=DMARC1; p=quarantine"},
			"_dmarc.reject.example":        {"some text", "v=DMARC1; p=reject"},
			"_dmarc.strict.example":        {"v=DMARC1; p=reject; adkim=s; aspf=s"},
			"_dmarc.sp.example":            {"v=DMARC1; p=reject; sp=none"},
			"_dmarc.np.example":            {"v=DMARC1; p=none; sp=quarantine; np=reject"},
			"_dmarc.own.reject.example":    {"v=DMARC1; p=none"},
			"_dmarc.two.example":           {"v=DMARC1; p=reject", "v=DMARC1; p=none"},
			"_dmarc.down.example":          {"!"},
			"_dmarc.sub.down2.example":     {"v=spf1 -all"},
			"_dmarc.down2.example":         {"!"},
			"_dmarc.pct0.example":          {"v=DMARC1; p=reject; pct=0"},
			"_dmarc.pct0q.example":         {"v=DMARC1; p=quarantine; pct=0"},
			"_dmarc.test.example":          {"v=DMARC1; p=reject; t=y"},
			"_dmarc.broken.example":        {"v=DMARC1; p=what"},
			"_dmarc.co.uk":                 {"v=DMARC1; p=reject"},
			"_dmarc.sub.sub.other.example": {"v=DMARC1; p=reject"},
		},
		missing: []string{"gone.np.example", "!unknown.np.example"},
	}
	checker := Checker{Resolver: resolver}
	for _, row := range []struct {
		name      string
		authors   []string
		spf       Identifier
		dkim      []Identifier
		result    Result
		policy    Policy
		requested Policy
		at        string
	}{
		{"nothing published", []string{"nobody.example"}, passes("nobody.example"), nil, None, PolicyNone, PolicyNone, ""},
		{"SPF aligned", []string{"reject.example"}, passes("reject.example"), nil, Pass, PolicyReject, PolicyNone, "reject.example"},
		{"SPF of the same organization", []string{"reject.example"}, passes("bounces.reject.example"), nil, Pass, PolicyReject, PolicyNone, "reject.example"},
		{"SPF of another", []string{"reject.example"}, passes("list.example"), nil, Fail, PolicyReject, PolicyReject, "reject.example"},
		{"SPF failed", []string{"quarantine.example"}, Identifier{Domain: "quarantine.example", Result: "fail"}, nil, Fail, PolicyQuarantine, PolicyQuarantine, "quarantine.example"},
		{"policy none", []string{"none.example"}, Identifier{}, nil, Fail, PolicyNone, PolicyNone, "none.example"},
		{"DKIM of the list, then of the author", []string{"reject.example"}, Identifier{}, []Identifier{passes("list.example"), passes("mail.reject.example")}, Pass, PolicyReject, PolicyNone, "reject.example"},
		{"DKIM failed", []string{"reject.example"}, Identifier{}, []Identifier{{Domain: "reject.example", Result: "fail"}}, Fail, PolicyReject, PolicyReject, "reject.example"},
		{"strict, subdomain", []string{"strict.example"}, passes("a.strict.example"), []Identifier{passes("b.strict.example")}, Fail, PolicyReject, PolicyReject, "strict.example"},
		{"strict, the same", []string{"strict.example"}, Identifier{}, []Identifier{passes("strict.example")}, Pass, PolicyReject, PolicyNone, "strict.example"},
		{"subdomain of p", []string{"deep.sub.reject.example"}, Identifier{}, nil, Fail, PolicyReject, PolicyReject, "reject.example"},
		{"subdomain of sp", []string{"a.sp.example"}, Identifier{}, nil, Fail, PolicyNone, PolicyNone, "sp.example"},
		{"subdomain with its own", []string{"own.reject.example"}, Identifier{}, nil, Fail, PolicyNone, PolicyNone, "own.reject.example"},
		{"no tree walk", []string{"a.sub.sub.other.example"}, Identifier{}, nil, None, PolicyNone, PolicyNone, ""},
		{"subdomain that exists", []string{"there.np.example"}, Identifier{}, nil, Fail, PolicyQuarantine, PolicyQuarantine, "np.example"},
		{"subdomain that does not", []string{"gone.np.example"}, Identifier{}, nil, Fail, PolicyReject, PolicyReject, "np.example"},
		{"subdomain that may", []string{"unknown.np.example"}, Identifier{}, nil, TempError, PolicyQuarantine, PolicyNone, "np.example"},
		{"public suffix is no organization", []string{"victim.co.uk"}, passes("attacker.co.uk"), nil, None, PolicyNone, PolicyNone, ""},
		{"several records", []string{"two.example"}, Identifier{}, nil, None, PolicyNone, PolicyNone, ""},
		{"record without sense", []string{"broken.example"}, Identifier{}, nil, None, PolicyNone, PolicyNone, ""},
		{"DNS down", []string{"down.example"}, Identifier{}, nil, TempError, PolicyNone, PolicyNone, ""},
		{"DNS down at the organization", []string{"sub.down2.example"}, Identifier{}, nil, TempError, PolicyNone, PolicyNone, ""},
		{"SPF not known", []string{"reject.example"}, Identifier{Domain: "reject.example", Result: "temperror"}, nil, TempError, PolicyReject, PolicyNone, "reject.example"},
		{"SPF not known, DKIM passes", []string{"reject.example"}, Identifier{Domain: "reject.example", Result: "temperror"}, []Identifier{passes("reject.example")}, Pass, PolicyReject, PolicyNone, "reject.example"},
		{"SPF of another not known", []string{"reject.example"}, Identifier{Domain: "list.example", Result: "temperror"}, nil, Fail, PolicyReject, PolicyReject, "reject.example"},
		{"DKIM not known", []string{"reject.example"}, Identifier{}, []Identifier{{Domain: "reject.example", Result: "temperror"}}, TempError, PolicyReject, PolicyNone, "reject.example"},
		{"pct=0", []string{"pct0.example"}, Identifier{}, nil, Fail, PolicyReject, PolicyQuarantine, "pct0.example"},
		{"pct=0 of quarantine", []string{"pct0q.example"}, Identifier{}, nil, Fail, PolicyQuarantine, PolicyNone, "pct0q.example"},
		{"testing", []string{"test.example"}, Identifier{}, nil, Fail, PolicyReject, PolicyQuarantine, "test.example"},
		{"several authors, one spoofed", []string{"none.example", "reject.example"}, passes("none.example"), nil, Fail, PolicyReject, PolicyReject, "reject.example"},
		{"several authors, the first spoofed", []string{"reject.example", "nobody.example"}, passes("nobody.example"), nil, Fail, PolicyReject, PolicyReject, "reject.example"},
		{"several authors, one organization", []string{"reject.example", "a.reject.example"}, passes("reject.example"), nil, Pass, PolicyReject, PolicyNone, "reject.example"},
		{"no author", nil, passes("reject.example"), nil, PermError, PolicyNone, PolicyNone, ""},
	} {
		got := checker.Check(t.Context(), Query{Authors: row.authors, SPF: row.spf, DKIM: row.dkim, Sample: "x"})
		if got.Result != row.result || got.Policy != row.policy || got.Requested != row.requested || got.Domain != row.at {
			t.Errorf("%s: %+v", row.name, got)
		}
		if (got.Result == TempError) != (got.Problem != "") {
			t.Errorf("%s: problem %q", row.name, got.Problem)
		}
	}
}

// TestSample: the same message is always in or out, and as many are in as the
// domain asks for.
func TestSample(t *testing.T) {
	t.Parallel()
	in := 0
	for i := range 10000 {
		sample := fmt.Sprintf("<%d@example.com>", i)
		if inSample(30, sample, "example.com") {
			in++
		}
		if inSample(30, sample, "example.com") && !inSample(31, sample, "example.com") || inSample(0, sample, "example.com") || !inSample(100, sample, "example.com") {
			t.Fatalf("%s is in and out", sample)
		}
	}
	if in < 2800 || in > 3200 {
		t.Errorf("%d of 10000 are in a sample of 30 percent", in)
	}
}

func TestAuthorized(t *testing.T) {
	t.Parallel()
	checker := Checker{Resolver: &names{txt: map[string][]string{
		"example.com._report._dmarc.reports.example": {"x", "v=DMARC1"},
		"other.com._report._dmarc.reports.example":   {"v=DMARC2"},
		"down.com._report._dmarc.reports.example":    {"!"},
	}}}
	for _, row := range []struct {
		domain, to  string
		want, fails bool
	}{
		{"example.com", "a@example.com", true, false},
		{"example.com", "a@mail.example.com", true, false},
		{"example.com", "a@reports.example", true, false},
		{"other.com", "a@reports.example", false, false},
		{"third.com", "a@reports.example", false, false},
		{"down.com", "a@reports.example", false, true},
	} {
		got, err := checker.Authorized(t.Context(), row.domain, ReportURI{Address: mail.MustAddress(row.to)})
		if got != row.want || (err != nil) != row.fails {
			t.Errorf("%s to %s: %v, %v", row.domain, row.to, got, err)
		}
	}
}

func FuzzRecord(f *testing.F) {
	for _, seed := range []string{"v=DMARC1; p=reject; rua=mailto:a@b.example!10m", " V = DMARC1;;=;p = none ;pct=1e3"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, txt string) {
		r, ok := parseRecord(txt)
		if !ok {
			return
		}
		if r.Percent < 0 || r.Percent > 100 || r.Policy.strictness() == 0 && r.Policy != PolicyNone || len(r.Aggregate) > maxURIs {
			t.Fatalf("%+v", r)
		}
	})
}

func FuzzFindAuthors(f *testing.F) {
	for _, seed := range []string{"A <a@example.com>, \"b\" <@x:b@c.d>", "g: a@b.c, (x(y)) d@e.f;", "a@b <c@d.e> x"} {
		f.Add(seed, seed)
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		got, err := FindAuthors([]string{a, b})
		if len(got.Domains) > maxAuthors || err == nil && len(got.Domains) == 0 {
			t.Fatalf("%+v, %v", got, err)
		}
		for _, domain := range got.Domains {
			if parsed, err := mail.ParseDomain(domain); err != nil || string(parsed) != domain {
				t.Fatalf("%q is no domain", domain)
			}
		}
	})
}

func FuzzSuffixes(f *testing.F) {
	f.Add(listText(), "a.b.c.ck")
	f.Fuzz(func(t *testing.T, list, domain string) {
		s, err := ReadSuffixes(strings.NewReader(list))
		if err != nil {
			return
		}
		if got := s.Organization(domain); got != domain && !strings.HasSuffix(domain, "."+got) {
			t.Fatalf("organization of %q is %q", domain, got)
		}
	})
}
