package dns_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	wire "github.com/miekg/dns"

	"github.com/postern-mail/postern/internal/dns"
	"github.com/postern-mail/postern/internal/dns/dnstest"
)

// quiet is a configuration that depends on nothing of this host.
func quiet(t *testing.T, servers ...string) dns.Config {
	t.Helper()
	none := filepath.Join(t.TempDir(), "none")
	return dns.Config{Servers: servers, ResolvConf: none, HostsFile: none, Timeout: time.Minute, Attempts: 1}
}

func newResolver(t *testing.T, cfg dns.Config) *dns.Resolver {
	t.Helper()
	r, err := dns.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func setUp(t *testing.T, records ...string) (*dns.Resolver, *dnstest.Server) {
	t.Helper()
	s := dnstest.New(t)
	s.Add(records...)
	return newResolver(t, quiet(t, s.Addr)), s
}

// write answers without caring whether the client is still there.
func write(w wire.ResponseWriter, m *wire.Msg) { _ = w.WriteMsg(m) }

func TestFound(t *testing.T) {
	t.Parallel()
	r, s := setUp(t,
		"example.com. 300 IN MX 10 mx1.example.com.", "example.com. 300 IN MX 5 MX2.example.com.", "null.example. 300 IN MX 0 .",
		"mx1.example.com. 300 IN A 192.0.2.1", "mx1.example.com. 300 IN AAAA 2001:db8::1",
		`example.com. 300 IN TXT "v=spf1 " "-all"`, `odd.example. 300 IN TXT "a\"b\\c\200"`,
		"_25._tcp.mx1.example.com. 300 IN TLSA 3 1 1 "+strings.Repeat("AB", 32),
		"1.2.0.192.in-addr.arpa. 300 IN PTR mx1.example.com.",
		"www.example.com. 300 IN CNAME mx1.example.com.",
		"xn--bcher-kva.example. 300 IN MX 1 mx1.example.com.",
	)
	s.Sign("example.com")
	ctx := context.Background()
	for _, row := range []struct {
		name string
		ask  func() (any, error)
		want string
	}{
		{"MX", func() (any, error) { return seen(r.MX(ctx, "Example.COM")) }, "found [{10 mx1.example.com} {5 MX2.example.com}] example.com secure"},
		{"null MX", func() (any, error) { return seen(r.MX(ctx, "null.example.")) }, "found [{0 }] null.example"},
		{"addresses", func() (any, error) { return seen(r.Addresses(ctx, "mx1.example.com.")) }, "found [2001:db8::1 192.0.2.1] mx1.example.com secure"},
		{"alias", func() (any, error) { return seen(r.Addresses(ctx, "www.example.com.")) }, "found [2001:db8::1 192.0.2.1] mx1.example.com secure"},
		{"CNAME itself", func() (any, error) { return seen(r.CNAME(ctx, "www.example.com")) }, "found [mx1.example.com] www.example.com secure"},
		{"TXT", func() (any, error) { return seen(r.TXT(ctx, "example.com")) }, "found [v=spf1 -all] example.com secure"},
		{"TXT escapes", func() (any, error) { return seen(r.TXT(ctx, "odd.example")) }, "found [a\"b\\c\xc8] odd.example"},
		{"PTR", func() (any, error) { return seen(r.PTR(ctx, netip.MustParseAddr("192.0.2.1"))) }, "found [mx1.example.com] 1.2.0.192.in-addr.arpa"},
		{"IDN", func() (any, error) { return seen(r.MX(ctx, "Bücher.example")) }, "found [{1 mx1.example.com}] xn--bcher-kva.example"},
		{"NXDOMAIN", func() (any, error) { return seen(r.MX(ctx, "nobody.example.com")) }, "NXDOMAIN [] nobody.example.com secure"},
		{"no data", func() (any, error) { return seen(r.MX(ctx, "mx1.example.com")) }, "no data [] mx1.example.com secure"},
		{"empty non-terminal", func() (any, error) { return seen(r.MX(ctx, "_tcp.mx1.example.com")) }, "no data [] _tcp.mx1.example.com secure"},
		{"impossible name", func() (any, error) { return seen(r.MX(ctx, strings.Repeat("a", 64)+".example")) }, "NXDOMAIN [] " + strings.Repeat("a", 64) + ".example"},
		{"escapes in a name", func() (any, error) { return seen(r.MX(ctx, `a\.b.example`)) }, `NXDOMAIN [] a\.b.example`},
	} {
		got, err := row.ask()
		if err != nil || got != row.want {
			t.Errorf("%s: got %q, %v; want %q", row.name, got, err, row.want)
		}
	}
	tlsa, err := r.TLSA(ctx, "_25._tcp.mx1.example.com")
	if err != nil || len(tlsa.Records) != 1 || tlsa.Records[0].Usage != 3 || len(tlsa.Records[0].Data) != 32 || !tlsa.Secure {
		t.Errorf("TLSA: %+v, %v", tlsa, err)
	}
}

func seen[T any](a dns.Answer[T], err error) (any, error) {
	text := fmt.Sprintf("%v %v %s", a.Outcome, a.Records, a.Canonical)
	if a.Secure {
		text += " secure"
	}
	return text, err
}

// TestFailureIsNotNo holds that no trouble is ever taken for an answer.
func TestFailureIsNotNo(t *testing.T) {
	t.Parallel()
	reply := func(change func(*wire.Msg)) wire.HandlerFunc {
		return func(w wire.ResponseWriter, q *wire.Msg) {
			m := new(wire.Msg).SetReply(q)
			m.RecursionAvailable = true
			change(m)
			write(w, m)
		}
	}
	mx := func(name, host string) wire.RR {
		return &wire.MX{Hdr: wire.RR_Header{Name: name, Rrtype: wire.TypeMX, Class: wire.ClassINET, Ttl: 60}, Preference: 1, Mx: host}
	}
	alias := func(name, target string) wire.RR {
		return &wire.CNAME{Hdr: wire.RR_Header{Name: name, Rrtype: wire.TypeCNAME, Class: wire.ClassINET, Ttl: 60}, Target: target}
	}
	for _, row := range []struct {
		name   string
		answer wire.HandlerFunc
		want   error
	}{
		{"SERVFAIL", reply(func(m *wire.Msg) { m.Rcode = wire.RcodeServerFailure }), dns.ErrServerFailure},
		{"REFUSED", reply(func(m *wire.Msg) { m.Rcode = wire.RcodeRefused }), dns.ErrServerFailure},
		{"FORMERR with and without EDNS", reply(func(m *wire.Msg) { m.Rcode = wire.RcodeFormatError }), dns.ErrServerFailure},
		{"silence", func(wire.ResponseWriter, *wire.Msg) {}, dns.ErrNoAnswer},
		{"wrong id", reply(func(m *wire.Msg) { m.Id++ }), dns.ErrNoAnswer},
		{"wrong name", reply(func(m *wire.Msg) { m.Question[0].Name = "other.example." }), dns.ErrNoAnswer},
		{"wrong type", reply(func(m *wire.Msg) { m.Question[0].Qtype = wire.TypeA }), dns.ErrNoAnswer},
		{"wrong class", reply(func(m *wire.Msg) { m.Question[0].Qclass = wire.ClassCHAOS }), dns.ErrNoAnswer},
		{"no question", reply(func(m *wire.Msg) { m.Question = nil }), dns.ErrNoAnswer},
		{"a question for an answer", reply(func(m *wire.Msg) { m.Response = false }), dns.ErrNoAnswer},
		{"referral", reply(func(m *wire.Msg) {
			m.RecursionAvailable = false
			m.Ns = []wire.RR{&wire.NS{Hdr: wire.RR_Header{Name: "example.", Rrtype: wire.TypeNS, Class: wire.ClassINET}, Ns: "ns.example."}}
		}), dns.ErrBadAnswer},
		{"lame", reply(func(m *wire.Msg) { m.RecursionAvailable = false }), dns.ErrBadAnswer},
		{"alias loop", reply(func(m *wire.Msg) {
			m.Answer = []wire.RR{alias("a.example.", "b.example."), alias("b.example.", "a.example.")}
		}), dns.ErrAliasLoop},
		{"alias to itself", reply(func(m *wire.Msg) { m.Answer = []wire.RR{alias("a.example.", "a.example.")} }), dns.ErrAliasLoop},
		{"another name's", reply(func(m *wire.Msg) { m.Answer = []wire.RR{mx("b.example.", "mx.a.example.")} }), dns.ErrBadAnswer},
		{"truncated everywhere", reply(func(m *wire.Msg) { m.Truncated = true }), dns.ErrBadAnswer},
		{"huge", func(w wire.ResponseWriter, q *wire.Msg) {
			m := new(wire.Msg).SetReply(q)
			m.Truncated = w.RemoteAddr().Network() == "udp"
			for i := 0; i < 2000 && !m.Truncated; i++ {
				m.Answer = append(m.Answer, mx("a.example.", "mx.a.example."))
			}
			m.Compress = true
			write(w, m)
		}, dns.ErrBadAnswer},
		{"garbage by TCP", func(w wire.ResponseWriter, q *wire.Msg) {
			if w.RemoteAddr().Network() == "udp" {
				m := new(wire.Msg).SetReply(q)
				m.Truncated = true
				write(w, m)
				return
			}
			_, _ = w.Write([]byte("this is no message of the DNS, is it?"))
		}, dns.ErrBadAnswer},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			s := dnstest.New(t)
			s.Answer("a.example", "MX", row.answer)
			cfg := quiet(t, s.Addr)
			if errors.Is(row.want, dns.ErrNoAnswer) {
				cfg.Timeout = 300 * time.Millisecond
			}
			a, err := newResolver(t, cfg).MX(context.Background(), "a.example")
			if !errors.Is(err, row.want) {
				t.Errorf("got %v %v, %v; want %v", a.Outcome, a.Records, err, row.want)
			}
			_, err = newResolver(t, cfg).LookupMX(context.Background(), "a.example")
			var inNet *net.DNSError
			if !errors.As(err, &inNet) || inNet.IsNotFound || !inNet.IsTemporary {
				t.Errorf("in terms of net: %#v", err)
			}
		})
	}
}

// TestStraysAreIgnored answers with lies first and the truth afterwards.
func TestStraysAreIgnored(t *testing.T) {
	t.Parallel()
	r, s := setUp(t)
	s.Answer("a.example", "TXT", func(w wire.ResponseWriter, q *wire.Msg) {
		lie := new(wire.Msg).SetRcode(q, wire.RcodeNameError)
		lie.Id++
		write(w, lie)
		lie = new(wire.Msg).SetRcode(q, wire.RcodeNameError)
		lie.Question[0].Name = "b.example."
		write(w, lie)
		_, _ = w.Write([]byte("garbage"))
		truth := new(wire.Msg).SetReply(q)
		truth.Answer = []wire.RR{
			&wire.TXT{Hdr: wire.RR_Header{Name: "other.example.", Rrtype: wire.TypeTXT, Class: wire.ClassINET, Ttl: 60}, Txt: []string{"poison"}},
			&wire.TXT{Hdr: wire.RR_Header{Name: "A.example.", Rrtype: wire.TypeTXT, Class: wire.ClassINET, Ttl: 60}, Txt: []string{"truth"}},
		}
		write(w, truth)
	})
	a, err := r.TXT(context.Background(), "a.example")
	if err != nil || !slices.Equal(a.Records, []string{"truth"}) {
		t.Errorf("got %v, %v", a.Records, err)
	}
}

func TestTruncatedAnswerComesByTCP(t *testing.T) {
	t.Parallel()
	r, s := setUp(t)
	for i := range 100 {
		s.Add(fmt.Sprintf("big.example. 300 IN TXT \"%d %s\"", i, strings.Repeat("x", 100)))
	}
	a, err := r.TXT(context.Background(), "big.example")
	if err != nil || len(a.Records) != 100 {
		t.Errorf("got %d records, %v", len(a.Records), err)
	}
	if n := s.Asked("big.example", "TXT"); n != 2 {
		t.Errorf("asked %d times, want once by UDP and once by TCP", n)
	}
}

func TestServerWithoutEDNS(t *testing.T) {
	t.Parallel()
	r, s := setUp(t)
	s.Answer("a.example", "TXT", func(w wire.ResponseWriter, q *wire.Msg) {
		m := new(wire.Msg).SetReply(q)
		if q.IsEdns0() != nil {
			m.SetRcode(q, wire.RcodeFormatError)
			m.Question = nil
		} else {
			m.Answer = []wire.RR{&wire.TXT{Hdr: wire.RR_Header{Name: "a.example.", Rrtype: wire.TypeTXT, Class: wire.ClassINET, Ttl: 60}, Txt: []string{"old"}}}
		}
		write(w, m)
	})
	a, err := r.TXT(context.Background(), "a.example")
	if err != nil || !slices.Equal(a.Records, []string{"old"}) {
		t.Errorf("got %v, %v", a.Records, err)
	}
}

// TestAliasesAreFollowed asks a server that does not follow them itself.
func TestAliasesAreFollowed(t *testing.T) {
	t.Parallel()
	r, s := setUp(t, "c.example. 300 IN A 192.0.2.3")
	for _, pair := range [][2]string{{"a.example.", "b.example."}, {"b.example.", "c.example."}, {"loop1.example.", "loop2.example."}, {"loop2.example.", "loop1.example."}} {
		for _, qtype := range []string{"A", "AAAA"} {
			s.Answer(pair[0], qtype, func(w wire.ResponseWriter, q *wire.Msg) {
				m := new(wire.Msg).SetReply(q)
				m.RecursionAvailable = true
				m.Answer = []wire.RR{&wire.CNAME{Hdr: wire.RR_Header{Name: q.Question[0].Name, Rrtype: wire.TypeCNAME, Class: wire.ClassINET, Ttl: 60}, Target: pair[1]}}
				write(w, m)
			})
		}
	}
	a, err := r.Addresses(context.Background(), "a.example.")
	if err != nil || a.Canonical != "c.example" || len(a.Records) != 1 {
		t.Errorf("got %+v, %v", a, err)
	}
	if _, err := r.Addresses(context.Background(), "loop1.example."); !errors.Is(err, dns.ErrAliasLoop) {
		t.Errorf("loop: %v", err)
	}
}

func TestHalfOfTheAddresses(t *testing.T) {
	t.Parallel()
	r, s := setUp(t, "a.example. 300 IN A 192.0.2.3")
	s.Fail("a.example", "AAAA", "SERVFAIL")
	if a, err := r.Addresses(context.Background(), "a.example."); err != nil || len(a.Records) != 1 {
		t.Errorf("one family failed: %+v, %v", a, err)
	}
	s.Fail("b.example", "A", "SERVFAIL")
	if a, err := r.Addresses(context.Background(), "b.example."); !errors.Is(err, dns.ErrServerFailure) {
		t.Errorf("one family failed, the other has nothing: %+v, %v", a, err)
	}
}

func TestSecureOnlyIfTrusted(t *testing.T) {
	t.Parallel()
	s := dnstest.New(t)
	s.Sign("signed.example")
	s.Add("www.signed.example. 300 IN CNAME host.plain.example.", "host.plain.example. 300 IN TXT x", "signed.example. 300 IN TXT y")
	for _, row := range []struct {
		trust dns.Trust
		name  string
		want  bool
	}{
		{"", "signed.example", true},
		{dns.TrustAll, "signed.example", true},
		{dns.TrustNone, "signed.example", false},
		{"", "www.signed.example", false},
		{"", "host.plain.example", false},
	} {
		cfg := quiet(t, s.Addr)
		cfg.Trust = row.trust
		a, err := newResolver(t, cfg).TXT(context.Background(), row.name)
		if err != nil || a.Secure != row.want {
			t.Errorf("trust %q, %s: secure %v, %v; want %v", row.trust, row.name, a.Secure, err, row.want)
		}
	}
}

func TestNextServer(t *testing.T) {
	t.Parallel()
	bad, good := dnstest.New(t), dnstest.New(t)
	bad.Fail("a.example", "TXT", "SERVFAIL")
	good.Add("a.example. 300 IN TXT good", "b.example. 300 IN TXT good")
	cfg := quiet(t, bad.Addr, good.Addr)
	cfg.Timeout, cfg.Attempts = time.Second, 10 // the good one may be slow on a busy machine, too
	r := newResolver(t, cfg)
	if a, err := r.TXT(context.Background(), "a.example"); err != nil || len(a.Records) != 1 {
		t.Errorf("after SERVFAIL: %v, %v", a, err)
	}
	bad.Answer("b.example", "TXT", func(wire.ResponseWriter, *wire.Msg) {})
	if a, err := r.TXT(context.Background(), "b.example"); err != nil || len(a.Records) != 1 {
		t.Errorf("after silence: %v, %v", a, err)
	}
	// It is not asked first again, unless the good one was as slow on a busy
	// machine: then the next question shows it.
	for i := range 5 {
		name := fmt.Sprintf("c%d.example", i)
		good.Add(name + ". 300 IN TXT good")
		bad.Answer(name, "TXT", func(wire.ResponseWriter, *wire.Msg) {})
		if a, err := r.TXT(context.Background(), name); err != nil || len(a.Records) != 1 {
			t.Fatalf("%s: %v, %v", name, a, err)
		}
		if bad.Asked(name, "TXT") == 0 {
			return
		}
	}
	t.Error("the silent server was asked first again")
}

func TestOneQuestionForMany(t *testing.T) {
	t.Parallel()
	r, s := setUp(t)
	arrived, release := make(chan struct{}, 100), make(chan struct{})
	var answered atomic.Int32
	s.Answer("a.example", "TXT", func(w wire.ResponseWriter, q *wire.Msg) {
		arrived <- struct{}{}
		<-release
		answered.Add(1)
		m := new(wire.Msg).SetReply(q)
		m.Answer = []wire.RR{&wire.TXT{Hdr: wire.RR_Header{Name: "a.example.", Rrtype: wire.TypeTXT, Class: wire.ClassINET, Ttl: 60}, Txt: []string{"x"}}}
		write(w, m)
	})
	// The first asker goes away: the others must not share its fate.
	gone, leave := context.WithCancel(context.Background())
	first := make(chan error, 1)
	go func() {
		_, err := r.TXT(gone, "a.example")
		first <- err
	}()
	<-arrived
	var group sync.WaitGroup
	errs := make(chan error, 50)
	for range 50 {
		group.Go(func() {
			_, err := r.TXT(context.Background(), "a.example")
			errs <- err
		})
	}
	leave()
	if err := <-first; !errors.Is(err, context.Canceled) {
		t.Errorf("the one who left got %v", err)
	}
	<-arrived
	close(release)
	group.Wait()
	close(errs)
	for err := range errs {
		if err != nil {
			t.Error(err)
		}
	}
	if n := s.Asked("a.example", "TXT"); n > 3 {
		t.Errorf("50 askers made %d questions", n)
	}
}

func TestFilesOfTheHost(t *testing.T) {
	t.Parallel()
	s := dnstest.New(t)
	s.Add("mail.corp.example. 300 IN A 192.0.2.7")
	dir := t.TempDir()
	cfg := dns.Config{ResolvConf: filepath.Join(dir, "resolv.conf"), HostsFile: filepath.Join(dir, "hosts"), Servers: []string{s.Addr}, Timeout: time.Minute}
	for name, text := range map[string]string{
		cfg.ResolvConf: "# comment\nnameserver 192.0.2.53\nsearch other.example corp.example.\noptions ndots:2 trust-ad timeout:1\n",
		cfg.HostsFile:  "192.0.2.9 Fixed.example fixed # the fixed one\nnonsense\n",
	} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r := newResolver(t, cfg)
	for name, want := range map[string]string{
		"mail":               "192.0.2.7",
		"mail.corp.example.": "192.0.2.7",
		"fixed.example.":     "192.0.2.9",
		"FIXED":              "192.0.2.9",
		"localhost":          "::1 127.0.0.1",
		"mail.":              "",
	} {
		a, err := r.Addresses(context.Background(), name)
		if got := strings.Trim(fmt.Sprint(a.Records), "[]"); err != nil || got != want || a.Secure {
			t.Errorf("%s: got %q, %v; want %q", name, got, err, want)
		}
	}
	for address, want := range map[string]string{"192.0.2.9": "fixed.example fixed", "::ffff:192.0.2.9": "fixed.example fixed", "127.0.0.1": "localhost", "::1": "localhost"} {
		a, err := r.PTR(context.Background(), netip.MustParseAddr(address))
		if got := strings.Join(a.Records, " "); err != nil || got != want || a.Secure {
			t.Errorf("%s: got %q, %v; want %q", address, got, err, want)
		}
	}
}

func TestConfig(t *testing.T) {
	t.Parallel()
	for _, cfg := range []dns.Config{
		{Servers: []string{"ns.example.com"}}, {Servers: []string{"127.0.0.1:0"}}, {Trust: "everybody"},
		{Servers: slices.Repeat([]string{"127.0.0.1"}, 9)},
	} {
		if _, err := dns.New(cfg); err == nil {
			t.Errorf("%+v was accepted", cfg)
		}
	}
}

func TestInTermsOfNet(t *testing.T) {
	t.Parallel()
	r, _ := setUp(t, "example.com. 300 IN MX 10 mx.example.com.", "mx.example.com. 300 IN A 127.0.0.1",
		"example.com. 300 IN TXT hello", "9.2.0.192.in-addr.arpa. 300 IN PTR mx.example.com.")
	ctx := context.Background()
	mx, err := r.LookupMX(ctx, "example.com.")
	if err != nil || len(mx) != 1 || mx[0].Host != "mx.example.com." {
		t.Errorf("MX: %v, %v", mx, err)
	}
	if _, err := r.LookupNetIP(ctx, "ip6", "mx.example.com."); !isNotFound(err) {
		t.Errorf("ip6 of an IPv4 host: %v", err)
	}
	addrs, err := r.LookupNetIP(ctx, "ip", "mx.example.com.")
	if err != nil || len(addrs) != 1 {
		t.Errorf("addresses: %v, %v", addrs, err)
	}
	names, err := r.LookupAddr(ctx, "192.0.2.9")
	if err != nil || !slices.Equal(names, []string{"mx.example.com."}) {
		t.Errorf("names: %v, %v", names, err)
	}
	if texts, err := r.LookupTXT(ctx, "example.com."); err != nil || !slices.Equal(texts, []string{"hello"}) {
		t.Errorf("TXT: %v, %v", texts, err)
	}
	if _, err := r.LookupTXT(ctx, "nobody.example."); !isNotFound(err) {
		t.Errorf("TXT of nobody: %v", err)
	}
}

func isNotFound(err error) bool {
	var dnsErr *net.DNSError
	return errors.As(err, &dnsErr) && dnsErr.IsNotFound
}
