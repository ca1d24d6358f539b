package spf

import (
	"context"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-mail/postern/internal/dns"
	"github.com/postern-mail/postern/internal/dns/dnstest"
)

func resolver(t *testing.T, server *dnstest.Server) *dns.Resolver {
	t.Helper()
	none := t.TempDir() + "/none"
	r, err := dns.New(dns.Config{Servers: []string{server.Addr}, ResolvConf: none, HostsFile: none, Timeout: time.Minute, Attempts: 1})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestOutages: a name server in trouble is never the sender's fault, at
// whichever lookup it shows.
func TestOutages(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		record, name, qtype string
		want                Result
	}{
		{"v=spf1 -all", "example.com", "TXT", TempError},
		{"v=spf1 include:other.example -all", "other.example", "TXT", TempError},
		{"v=spf1 redirect=other.example", "other.example", "TXT", TempError},
		{"v=spf1 a:host.example -all", "host.example", "A", TempError},
		{"v=spf1 mx:host.example -all", "host.example", "MX", TempError},
		{"v=spf1 mx:both.example -all", "host.example", "A", TempError},
		{"v=spf1 exists:host.example -all", "host.example", "A", TempError},
		{"v=spf1 ptr:host.example -all", "1.2.0.192.in-addr.arpa", "PTR", Fail},
		{"v=spf1 -all exp=host.example", "host.example", "TXT", Fail},
		{"v=spf1 ip4:192.0.2.1 a:host.example -all", "host.example", "A", Pass},
	} {
		for _, how := range []string{"SERVFAIL", "REFUSED", "no answer"} {
			t.Run(row.record+" "+how, func(t *testing.T) {
				t.Parallel()
				server := dnstest.New(t)
				server.Add(`example.com. 60 TXT "`+row.record+`"`, "both.example. 60 MX 10 host.example.", `other.example. 60 TXT "v=spf1 -all"`)
				if how == "no answer" {
					server.HangUp(row.name, row.qtype)
				} else {
					server.Fail(row.name, row.qtype, how)
				}
				checker := Checker{Resolver: resolver(t, server)}
				got := checker.Check(t.Context(), Query{Client: netip.MustParseAddr("192.0.2.1"), Domain: "example.com", Helo: "mx.example.com"})
				if got.Result != row.want || got.Explanation != "" || (got.Result == TempError) != (got.Problem != "") {
					t.Errorf("got %+v, want %s", got, row.want)
				}
			})
		}
	}
}

// TestOddNames: macros make names of local-parts that no host has, and the
// domain hears of them.
func TestOddNames(t *testing.T) {
	t.Parallel()
	server := dnstest.New(t)
	server.Add(`example.com. 60 TXT "v=spf1 exists:%{l}.users.example.com -all"`, `a+b=c!d.users.example.com. 60 A 127.0.0.2`)
	checker := Checker{Resolver: resolver(t, server)}
	for local, want := range map[string]Result{"a+b=c!d": Pass, "a+b": Fail, `a"b`: Fail, "a b": Fail, "ö": Fail} {
		got := checker.Check(t.Context(), Query{Client: netip.MustParseAddr("192.0.2.1"), Domain: "example.com", Local: local})
		if got.Result != want {
			t.Errorf("%s: %+v, want %s", local, got, want)
		}
	}
}

// stuck answers when it is given up.
type stuck struct{ zone }

func (stuck) TXT(ctx context.Context, _ string) (dns.Answer[string], error) {
	<-ctx.Done()
	return dns.Answer[string]{}, ctx.Err()
}

func TestTimeBound(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		started := time.Now()
		checker := Checker{Resolver: stuck{}}
		got := checker.Check(t.Context(), Query{Client: netip.MustParseAddr("192.0.2.1"), Domain: "example.com"})
		if took := time.Since(started); got.Result != TempError || took != DefaultTimeout {
			t.Errorf("%+v after %v", got, took)
		}
	})
}

// TestBounds: what strangers publish costs a bounded number of lookups and
// gives bounded text.
func TestBounds(t *testing.T) {
	t.Parallel()
	z := counted{zone: zone{
		"wide.example":    {txt: []string{"v=spf1 " + strings.Repeat("include:wide.example ", 200) + "-all"}},
		"terms.example":   {txt: []string{"v=spf1 " + strings.Repeat("ip4:192.0.2.9 ", 3000) + "-all exp=long.example"}},
		"long.example":    {txt: []string{strings.Repeat("x", 60000)}},
		"macro.example":   {txt: []string{"v=spf1 -all exp=control.example"}},
		"control.example": {txt: []string{"%{l}%{l}%{h}"}},
		"six.example":     {txt: []string{"v=spf1 a:four.example a:four.example a:four.example a:four.example ip6:2001:db8::1 -all"}},
		"four.example":    {a: []netip.Addr{netip.MustParseAddr("192.0.2.4")}},
	}}
	checker := Checker{Resolver: &z}
	client := netip.MustParseAddr("192.0.2.1")
	if got := checker.Check(t.Context(), Query{Client: client, Domain: "wide.example"}); got.Result != PermError || z.asked > maxLookups+1 {
		t.Errorf("%+v after %d lookups", got, z.asked)
	}
	if got := checker.Check(t.Context(), Query{Client: client, Domain: "terms.example"}); got.Result != Fail || len(got.Explanation) != maxExplanation {
		t.Errorf("%+v", got)
	}
	got := checker.Check(t.Context(), Query{Client: client, Domain: "macro.example", Local: "a\r\n250 ok\x00ä", Helo: strings.Repeat("h", 1000)})
	if got.Result != Fail || strings.ContainsFunc(got.Explanation, func(r rune) bool { return r < ' ' || r > '~' }) || len(got.Explanation) > maxExplanation {
		t.Errorf("%+v", got)
	}
	if got := checker.Check(t.Context(), Query{Client: netip.MustParseAddr("2001:db8::1"), Domain: "six.example"}); got.Result != Pass {
		t.Errorf("an IPv6 client suffers from hosts without IPv6: %+v", got)
	}
}

type counted struct {
	zone
	asked int
}

func (c *counted) TXT(ctx context.Context, name string) (dns.Answer[string], error) {
	c.asked++
	return c.zone.TXT(ctx, name)
}

func FuzzRecord(f *testing.F) {
	for _, seed := range []string{
		"v=spf1", "v=spf1 +all", "v=spf1 a:%{d}/24//64 mx/0 ptr:x.example -all exp=%{ir}.%{v}.example",
		"v=spf1 ip4:192.0.2.0/24 ip6:2001:db8::/32 ?exists:%{l1r-}.example redirect=_spf.%{d2}", "v=spf1 moo=%%%_%- a:a..b",
	} {
		f.Add(seed, "local", "helo")
	}
	f.Fuzz(func(t *testing.T, txt, local, helo string) {
		z := zone{"example.com": {txt: []string{txt}}, "x.example": {txt: []string{txt}}}
		checker := Checker{Resolver: z}
		for _, client := range []string{"192.0.2.1", "2001:db8::1"} {
			got := checker.Check(t.Context(), Query{Client: netip.MustParseAddr(client), Domain: "example.com", Local: local, Helo: helo})
			if !isRecord(txt) && got.Result != None {
				t.Fatalf("%q: %+v", txt, got)
			}
			if strings.ContainsFunc(got.Explanation, func(r rune) bool { return r < ' ' || r > '~' }) || len(got.Explanation) > maxExplanation {
				t.Fatalf("explanation %q", got.Explanation)
			}
		}
	})
}

// slowReverse is a client whose name servers never answer.
type slowReverse struct{ Resolver }

func (slowReverse) PTR(ctx context.Context, _ netip.Addr) (dns.Answer[string], error) {
	<-ctx.Done()
	return dns.Answer[string]{}, ctx.Err()
}

func (slowReverse) TXT(ctx context.Context, name string) (dns.Answer[string], error) {
	if err := ctx.Err(); err != nil {
		return dns.Answer[string]{}, err
	}
	texts := map[string]string{"example.com.": "v=spf1 ptr include:other.example -all", "other.example.": "v=spf1 -all"}
	return dns.Answer[string]{Records: []string{texts[name]}}, nil
}

// TestSlowReverseNames: a client cannot use up the time of the check by name
// servers of its own, and so make nothing of a fail.
func TestSlowReverseNames(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		checker := Checker{Resolver: slowReverse{}}
		got := checker.Check(t.Context(), Query{Client: netip.MustParseAddr("192.0.2.1"), Domain: "example.com", Helo: "mx.example.com"})
		if got.Result != Fail {
			t.Errorf("%+v", got)
		}
	})
}
