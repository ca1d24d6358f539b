package dns

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	wire "github.com/miekg/dns"
)

// scripted answers by a function and counts the questions.
type scripted struct {
	answer func(q *wire.Msg) (*wire.Msg, error)
	asked  int
}

func (s *scripted) exchange(_ context.Context, _ string, q *wire.Msg, _ bool) (*wire.Msg, error) {
	s.asked++
	return s.answer(q)
}

func scriptedResolver(t *testing.T, cfg Config, answer func(q *wire.Msg) (*wire.Msg, error)) (*Resolver, *scripted) {
	t.Helper()
	cfg.Servers, cfg.ResolvConf, cfg.HostsFile = []string{"192.0.2.53"}, t.TempDir()+"/none", t.TempDir()+"/none"
	r, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	s := &scripted{answer: answer}
	r.exchange = s
	return r, s
}

func header(name string, qtype uint16, ttl uint32) wire.RR_Header {
	return wire.RR_Header{Name: name, Rrtype: qtype, Class: wire.ClassINET, Ttl: ttl}
}

// byServer answers by the server that is asked.
type byServer map[string]func(q *wire.Msg) (*wire.Msg, error)

func (b byServer) exchange(_ context.Context, server string, q *wire.Msg, _ bool) (*wire.Msg, error) {
	return b[server](q)
}

// TestBogusIsNotOverruled: what a server that validates does not vouch for is
// not believed of one that does not.
func TestBogusIsNotOverruled(t *testing.T) {
	t.Parallel()
	forged := func(q *wire.Msg) (*wire.Msg, error) {
		m := new(wire.Msg).SetReply(q)
		m.Answer = []wire.RR{&wire.TXT{Hdr: header("a.example.", wire.TypeTXT, 300), Txt: []string{"forged"}}}
		return m, nil
	}
	bogus := func(q *wire.Msg) (*wire.Msg, error) { return new(wire.Msg).SetRcode(q, wire.RcodeServerFailure), nil }
	silent := func(*wire.Msg) (*wire.Msg, error) { return nil, ErrNoAnswer }
	for name, row := range map[string]struct {
		trust    Trust
		own      func(q *wire.Msg) (*wire.Msg, error)
		believed bool
	}{
		"bogus":             {TrustLoopback, bogus, false},
		"silent":            {TrustLoopback, silent, true},
		"of equal standing": {TrustAll, bogus, true},
		"nobody validates":  {TrustNone, bogus, true},
	} {
		none := t.TempDir() + "/none"
		r, err := New(Config{Servers: []string{"127.0.0.1", "192.0.2.53"}, ResolvConf: none, HostsFile: none, Trust: row.trust})
		if err != nil {
			t.Fatal(err)
		}
		r.exchange = byServer{"127.0.0.1:53": row.own, "192.0.2.53:53": forged}
		a, err := r.TXT(t.Context(), "a.example")
		if (err == nil) != row.believed || err != nil && !errors.Is(err, ErrServerFailure) {
			t.Errorf("%s: %v, %v", name, a.Records, err)
		}
	}
}

// TestExpiry looks one instant before and at the end of each answer's life.
func TestExpiry(t *testing.T) {
	t.Parallel()
	txt := func(ttl uint32) func(q *wire.Msg) (*wire.Msg, error) {
		return func(q *wire.Msg) (*wire.Msg, error) {
			m := new(wire.Msg).SetReply(q)
			m.Answer = []wire.RR{
				&wire.CNAME{Hdr: header("a.example.", wire.TypeCNAME, 3000000), Target: "b.example."},
				&wire.TXT{Hdr: header("b.example.", wire.TypeTXT, ttl), Txt: []string{"x"}},
			}
			return m, nil
		}
	}
	none := func(rcode int, ttl, minimum uint32) func(q *wire.Msg) (*wire.Msg, error) {
		return func(q *wire.Msg) (*wire.Msg, error) {
			m := new(wire.Msg).SetRcode(q, rcode)
			m.Ns = []wire.RR{&wire.SOA{Hdr: header("example.", wire.TypeSOA, ttl), Ns: "ns.example.", Mbox: "h.example.", Minttl: minimum}}
			return m, nil
		}
	}
	for _, row := range []struct {
		name   string
		answer func(q *wire.Msg) (*wire.Msg, error)
		life   time.Duration
	}{
		{"positive", txt(300), 300 * time.Second},
		{"positive, capped", txt(1 << 30), 24 * time.Hour},
		{"positive, negative number", txt(1<<32 - 1), 0},
		{"positive, none", txt(0), 0},
		{"NXDOMAIN by SOA minimum", none(wire.RcodeNameError, 600, 60), 60 * time.Second},
		{"no data by SOA TTL", none(wire.RcodeSuccess, 30, 60), 30 * time.Second},
		{"negative, capped", none(wire.RcodeNameError, 1<<30, 1<<30), time.Hour},
		{"NXDOMAIN without SOA", func(q *wire.Msg) (*wire.Msg, error) { return new(wire.Msg).SetRcode(q, wire.RcodeNameError), nil }, 0},
		{"failure", func(q *wire.Msg) (*wire.Msg, error) { return new(wire.Msg).SetRcode(q, wire.RcodeServerFailure), nil }, failureTTL},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r, s := scriptedResolver(t, Config{}, row.answer)
				ask := func() {
					_, err := r.TXT(t.Context(), "a.example")
					if (err != nil) != (row.name == "failure") {
						t.Fatal(err)
					}
				}
				ask()
				if row.life > 0 {
					time.Sleep(row.life - time.Nanosecond)
					if ask(); s.asked != 1 {
						t.Errorf("asked %d times within the life of the answer", s.asked)
					}
					time.Sleep(time.Nanosecond)
				}
				if ask(); s.asked != 2 {
					t.Errorf("asked %d times after the answer's end, want 2", s.asked)
				}
			})
		})
	}
}

func TestSilentServerIsAskedTwice(t *testing.T) {
	t.Parallel()
	r, s := scriptedResolver(t, Config{Attempts: 2}, func(*wire.Msg) (*wire.Msg, error) { return nil, ErrNoAnswer })
	if _, err := r.TXT(context.Background(), "a.example"); !errors.Is(err, ErrNoAnswer) || s.asked != 2 {
		t.Errorf("asked %d times, %v", s.asked, err)
	}
}

func TestCacheIsBounded(t *testing.T) {
	t.Parallel()
	now := time.Now()
	c := newCache(100 * (entryOctets + 400))
	for i := range 1000 {
		c.put(key{name: fmt.Sprint(i)}, result{octets: 100, expires: now.Add(time.Hour)}, now)
		c.get(key{name: "0"}, now)
	}
	if c.octets > c.limit || len(c.entries) != 100 || c.recent.Len() != 100 {
		t.Errorf("%d octets in %d entries", c.octets, len(c.entries))
	}
	if _, ok := c.get(key{name: "0"}, now); !ok {
		t.Error("the entry in use was dropped")
	}
	if _, ok := c.get(key{name: "500"}, now); ok {
		t.Error("an entry out of use was kept")
	}
	c.put(key{name: "big"}, result{octets: c.limit, expires: now.Add(time.Hour)}, now)
	if len(c.entries) != 100 {
		t.Error("an entry larger than the cache emptied it")
	}
}

// FuzzRead holds that no message makes reading fail other than by an error,
// and that only records of the question's name and type come out.
func FuzzRead(f *testing.F) {
	q := new(wire.Msg).SetQuestion("a.example.", wire.TypeMX)
	m := new(wire.Msg).SetReply(q)
	m.Answer = []wire.RR{
		&wire.CNAME{Hdr: header("a.example.", wire.TypeCNAME, 60), Target: "b.example."},
		&wire.MX{Hdr: header("b.example.", wire.TypeMX, 60), Mx: "mx.example."},
	}
	for _, seed := range []*wire.Msg{q, m, new(wire.Msg).SetRcode(q, wire.RcodeNameError)} {
		packed, err := seed.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(packed)
	}
	f.Fuzz(func(t *testing.T, packed []byte) {
		m := new(wire.Msg)
		if m.Unpack(packed) != nil {
			return
		}
		r, err := read(m, "a.example.", wire.TypeMX)
		if err != nil {
			return
		}
		if (r.outcome == Found) != (len(r.records) > 0) || r.ttl < 0 || r.aliases > maxAliases {
			t.Fatalf("%+v", r)
		}
		for _, rr := range r.records {
			if rr.Header().Rrtype != wire.TypeMX {
				t.Fatalf("got a %v", rr)
			}
		}
	})
}

// FuzzResolvConf holds that any file gives a usable configuration.
func FuzzResolvConf(f *testing.F) {
	f.Add("nameserver 127.0.0.1\nsearch a b\noptions ndots:99 timeout:0 attempts:999 trust-ad\n")
	f.Add("nameserver fe80::1%eth0\ndomain .\n;x\n")
	f.Fuzz(func(t *testing.T, text string) {
		s := &system{}
		c := s.complete(parseResolvConf(text))
		if len(c.servers) == 0 || len(c.servers) > maxServers || c.timeout <= 0 || c.attempts <= 0 || c.attempts > 5 {
			t.Fatalf("%+v", c)
		}
		parseHosts(text)
	})
}
