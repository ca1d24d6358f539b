package tlspolicy

import (
	"strings"
	"testing"
	"time"
)

func TestSTSRecord(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		texts string // separated by "|"
		want  string
	}{
		{"v=STSv1; id=20160831085700Z;", "20160831085700Z"},
		{"v=STSv1;id=1", "1"},
		{"v=STSv1 ; ext=x; id = 7", "7"},
		{"v=spf1 -all|v=STSv1; id=1;", "1"},
		{"v=STSv1; id=1;|v=STSv1; id=2;", ""},
		{"v=STSv1; id=;", ""},
		{"v=STSv1;", ""},
		{"v=STSv2; id=1;", ""},
		{"v=STSv10; id=1;", ""},
		{"id=1; v=STSv1", ""},
		{"v=STSv1; id=a-b;", ""},
		{"v=STSv1; id=" + strings.Repeat("1", 33), ""},
		{"", ""},
	} {
		if got := parseSTSRecord(strings.Split(row.texts, "|")); got != row.want {
			t.Errorf("%q: got %q, want %q", row.texts, got, row.want)
		}
	}
}

func TestSTSPolicy(t *testing.T) {
	t.Parallel()
	const good = "version: STSv1\r\nmode: enforce\r\nmx: Mail.example.com\r\nmx: *.example.net\r\nmax_age: 604800\r\n"
	p, err := parseSTSPolicy(good)
	if err != nil || p.Mode != STSEnforce || p.MaxAge != 7*24*time.Hour || len(p.MX) != 2 {
		t.Fatalf("got %+v, %v", p, err)
	}
	for host, want := range map[string]bool{
		"mail.example.com": true, "MAIL.example.com.": true, "mx.example.net": true, "a.b.example.net": false,
		"example.net": false, "mail.example.org": false, "com": false, "": false, "*.example.net": true,
	} {
		if p.Allows(host) != want {
			t.Errorf("host %q: allowed %v", host, !want)
		}
	}
	for _, row := range []struct {
		name, text string
		ok         bool
	}{
		{"LF, blank lines, unknown fields, a field twice", "version:STSv1\nmode:testing\nmode:none\n\nmx:a.example\nx: y\nmax_age:1\n", true},
		{"none needs no mx", "version: STSv1\nmode: none\nmax_age: 86400", true},
		{"huge age is cut", "version: STSv1\nmode: none\nmax_age: 9999999999", true},
		{"no mx", "version: STSv1\nmode: enforce\nmax_age: 86400", false},
		{"no age", "version: STSv1\nmode: none\n", false},
		{"negative age", "version: STSv1\nmode: none\nmax_age: -1", false},
		{"age that overflows", "version: STSv1\nmode: none\nmax_age: 99999999999", false},
		{"no version", "mode: none\nmax_age: 1", false},
		{"other version", "version: STSv2\nmode: none\nmax_age: 1", false},
		{"unknown mode", "version: STSv1\nmode: reject\nmax_age: 1\nmx: a.example", false},
		{"a web page", "<html><body>version: STSv1</body>\nnot found</html>", false},
		{"wildcard inside", "version: STSv1\nmode: enforce\nmax_age: 1\nmx: a.*.example", false},
		{"bare wildcard", "version: STSv1\nmode: enforce\nmax_age: 1\nmx: *", false},
		{"empty mx", "version: STSv1\nmode: enforce\nmax_age: 1\nmx:", false},
		{"too many mx", "version: STSv1\nmode: enforce\nmax_age: 1\n" + strings.Repeat("mx: a.example\n", maxPolicyMX+1), false},
		{"too long", "version: STSv1\nmode: none\nmax_age: 1\n" + strings.Repeat("x: y\n", maxPolicyOctets/5), false},
	} {
		p, err := parseSTSPolicy(row.text)
		if (err == nil) != row.ok || err != nil && FailureOf(err) != STSPolicyInvalid || row.ok && p.MaxAge > maxPolicyAge {
			t.Errorf("%s: got %+v, %v", row.name, p, err)
		}
	}
}

// FuzzSTSPolicy holds that a policy survives the cache, and its bounds.
func FuzzSTSPolicy(f *testing.F) {
	f.Add("version: STSv1\nmode: enforce\nmx: *.example.com\nmax_age: 86400\n")
	f.Add("version: STSv1\r\nmode: none\r\nmax_age: 31557601\r\n\n\n")
	f.Add(":\nmx: \xff\n")
	f.Fuzz(func(t *testing.T, text string) {
		p, err := parseSTSPolicy(text)
		if err != nil {
			return
		}
		if p.MaxAge < 0 || p.MaxAge > maxPolicyAge || len(p.MX) > maxPolicyMX || p.Mode != STSNone && len(p.MX) == 0 {
			t.Fatalf("%+v", p)
		}
		k := known{id: "1", fetched: time.Unix(1e9, 0), text: text, policy: p}
		again, err := decodeKnown(k.encode())
		if err != nil || again.text != text || !again.fetched.Equal(k.fetched) || again.id != "1" {
			t.Fatalf("%q came back as %+v, %v", text, again, err)
		}
	})
}

// FuzzStored holds that what is read from the disk is a valid policy or refused.
func FuzzStored(f *testing.F) {
	f.Add([]byte("postern-mta-sts 1\nid: 1\nfetched: 2026-01-01T00:00:00Z\n\nversion: STSv1\nmode: none\nmax_age: 1"))
	f.Add([]byte("postern-mta-sts 2\nid: 1\nfetched: 2026-01-01T00:00:00Z\n\n"))
	f.Fuzz(func(t *testing.T, stored []byte) {
		k, err := decodeKnown(stored)
		if err == nil && (k.policy == nil || k.policy.Mode == "") {
			t.Fatalf("%+v", k)
		}
	})
}
