package limits

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/mail"
)

// rates bounds one kind of event.
func rates(event mail.ClientEvent, most int) Rates {
	r := Rates{Service: "mx"}
	r.Most[event] = most
	return r
}

// TestComeBackWhenTold: whoever is told a time is served then, and would not
// have been a second before, at any load and however the windows lie.
func TestComeBackWhenTold(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		seed := testenv.Seed(t)
		random := rand.New(rand.NewPCG(seed, 1))
		addr := netip.MustParseAddr("192.0.2.1")
		for range 200 {
			most := 1 + random.IntN(50)
			l := NewClients(ClientsConfig{}).For(rates(mail.ClientSendsMessage, most))
			for range 3 * most {
				time.Sleep(time.Duration(random.Int64N(int64(4 * time.Minute / time.Duration(most)))))
				p := l.Take(mail.ClientSendsMessage, addr)
				if !p.Over {
					continue
				}
				if p.Wait < time.Second || p.Wait > 2*time.Minute || p.Unit != time.Minute || p.Count <= most {
					t.Fatalf("seed %d, most %d: %+v", seed, most, p)
				}
				if p.Wait > time.Second {
					time.Sleep(p.Wait - time.Second - time.Millisecond)
					if !l.Take(mail.ClientSendsMessage, addr).Over {
						t.Fatalf("seed %d, most %d: served a second before the time told", seed, most)
					}
					time.Sleep(time.Second + time.Millisecond)
				} else {
					time.Sleep(p.Wait)
				}
				if p := l.Take(mail.ClientSendsMessage, addr); p.Over {
					t.Fatalf("seed %d, most %d: came back when told, and has to wait %v more", seed, most, p.Wait)
				}
			}
		}
	})
}

// TestRateIsKept: never are more let through in a minute than twice the limit
// around a boundary would be by fixed windows: the sum over any minute stays
// near the limit.
func TestRateIsKept(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const most = 60
		l := NewClients(ClientsConfig{}).For(rates(mail.ClientConnects, most))
		var served []time.Time
		for range 3000 {
			if !l.Take(mail.ClientConnects, netip.MustParseAddr("192.0.2.1")).Over {
				served = append(served, time.Now())
			}
			time.Sleep(100 * time.Millisecond)
		}
		for i, from := range served {
			n := 0
			for _, at := range served[i:] {
				if at.Sub(from) < time.Minute {
					n++
				}
			}
			if n > most+1 {
				t.Fatalf("%d within a minute, limit %d", n, most)
			}
		}
		if len(served) < 4*most {
			t.Errorf("only %d served in five minutes, limit %d a minute", len(served), most)
		}
	})
}

// TestWhoIsOneClient: prefixes, exceptions, services and kinds of events are
// told apart.
func TestWhoIsOneClient(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name          string
		rates         Rates
		first, second string
		over          bool
	}{
		{"the same", Rates{}, "192.0.2.1", "192.0.2.1", true},
		{"the same in IPv6 form", Rates{}, "192.0.2.1", "::ffff:192.0.2.1", true},
		{"a neighbour", Rates{}, "192.0.2.1", "192.0.2.2", false},
		{"a neighbour in /24", Rates{IPv4Bits: 24}, "192.0.2.1", "192.0.2.2", true},
		{"one customer", Rates{}, "2001:db8::1", "2001:db8::2:3:4:5", true},
		{"one customer, as Postfix", Rates{IPv6Bits: 84}, "2001:db8::1", "2001:db8::2:3:4:5", false},
		{"another customer", Rates{}, "2001:db8::1", "2001:db8:0:1::1", false},
		{"exempt", Rates{Exempt: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}}, "192.0.2.1", "::ffff:192.0.2.1", false},
		{"zone", Rates{}, "fe80::1%eth0", "fe80::1%eth1", true},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			row.rates.Most[mail.ClientConnects] = 1
			l := NewClients(ClientsConfig{}).For(row.rates)
			if l.Take(mail.ClientConnects, netip.MustParseAddr(row.first)).Over {
				t.Fatal("the first one is over")
			}
			if l.Take(mail.ClientSendsMessage, netip.MustParseAddr(row.second)).Over {
				t.Error("an event without a limit is over")
			}
			if got := l.Take(mail.ClientConnects, netip.MustParseAddr(row.second)).Over; got != row.over {
				t.Errorf("over: %t", got)
			}
		})
	}
	nobody := NewClients(ClientsConfig{}).For(rates(mail.ClientConnects, 1))
	for range 2 {
		if nobody.Take(mail.ClientConnects, netip.Addr{}).Over {
			t.Error("who has no address is held")
		}
	}
	if NewClients(ClientsConfig{}).For(Rates{}) != nil {
		t.Error("rates without a limit give a limiter")
	}
}

// TestServicesCountApart: as in Postfix each listener has counts of its own,
// and the memory behind them is one.
func TestServicesCountApart(t *testing.T) {
	t.Parallel()
	all := NewClients(ClientsConfig{})
	mx, submission := rates(mail.ClientConnects, 1), rates(mail.ClientConnects, 1)
	submission.Service = "submission"
	addr := netip.MustParseAddr("192.0.2.1")
	if all.For(mx).Take(mail.ClientConnects, addr).Over || all.For(submission).Take(mail.ClientConnects, addr).Over {
		t.Error("the first one of a service is over")
	}
	p := all.For(mx).Take(mail.ClientConnects, addr) // after a reload
	if !p.Over || !p.First {
		t.Errorf("%+v", p)
	}
	if p := all.For(mx).Take(mail.ClientConnects, addr); !p.Over || p.First {
		t.Errorf("the second one over: %+v", p)
	}
	if rows := all.Rows(10); len(rows) != 2 || rows[0].Service != "mx" || !rows[0].Held[mail.ClientConnects] || rows[1].Counts[mail.ClientConnects] != 1 {
		t.Errorf("rows %+v", rows)
	}
	if n := all.Forget(netip.MustParsePrefix("192.0.2.0/24")); n != 2 || len(all.Rows(10)) != 0 {
		t.Errorf("forgot %d", n)
	}
	if all.For(mx).Take(mail.ClientConnects, addr).Over {
		t.Error("over after it was forgotten")
	}
	if s := all.Stats(); s.Over[mail.ClientConnects] != 2 || s.Clients != 1 || s.Evicted != 0 {
		t.Errorf("stats %+v", s)
	}
}

// TestMemoryIsBounded: a flood from ever new addresses costs what the
// configuration allows, and who had to go while he counted is told of.
func TestMemoryIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		all := NewClients(ClientsConfig{Entries: 1000})
		l := all.For(rates(mail.ClientConnects, 5))
		flood := func(from, n int) {
			for i := from; i < from+n; i++ {
				l.Take(mail.ClientConnects, netip.AddrFrom16([16]byte{0x20, 1, byte(i >> 24), byte(i >> 16), byte(i >> 8), byte(i)}))
			}
		}
		flood(0, 20_000)
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		flood(20_000, 100_000)
		runtime.GC()
		runtime.ReadMemStats(&after)
		if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 4<<20 {
			t.Errorf("a hundred thousand more clients took %d octets", grown)
		}
		if s := all.Stats(); s.Clients != 1000 || s.Evicted != 119_000 {
			t.Errorf("%+v", s)
		}
		time.Sleep(3 * time.Minute)
		flood(0, 1000)
		if s := all.Stats(); s.Evicted != 119_000 {
			t.Errorf("%d evicted: those whose time was over count", s.Evicted)
		}
	})
}

// totals is a Counters whose others can be set.
type totals struct{ ours, others map[string]int64 }

func (c totals) Add(key string, n int64) { c.ours[key] += n }

func (c totals) Total(key string) int64 { return c.ours[key] + c.others[key] }

// TestSharedRates: what a client does at other gateways counts here.
func TestSharedRates(t *testing.T) {
	t.Parallel()
	c := totals{map[string]int64{}, map[string]int64{"mx connection 192.0.2.1/32": 3}}
	mx := rates(mail.ClientConnects, 5)
	mx.Shared = true
	l := NewClients(ClientsConfig{Shared: func(unit time.Duration) Counters {
		if unit != time.Minute {
			t.Errorf("unit %v", unit)
		}
		return c
	}}).For(mx)
	addr := netip.MustParseAddr("192.0.2.1")
	for i, want := range []bool{false, false, true, true} {
		if p := l.Take(mail.ClientConnects, addr); p.Over != want || want && p.Wait != time.Minute {
			t.Errorf("number %d: %+v", i, p)
		}
	}
	if got := fmt.Sprint(c.ours); got != "map[mx connection 192.0.2.1/32:2]" {
		t.Errorf("told the others %s", got)
	}
}

// TestClockSetBack: nobody is held by events of a future that did not come.
func TestClockSetBack(t *testing.T) {
	t.Parallel()
	var w window
	at := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	w.take(at, time.Minute, 10, 10)
	if _, ok := w.take(at.Add(-time.Hour), time.Minute, 10, 10); !ok {
		t.Error("held after the clock was set back")
	}
}

func BenchmarkTake(b *testing.B) {
	l := NewClients(ClientsConfig{}).For(rates(mail.ClientConnects, 1<<30))
	addr := netip.MustParseAddr("192.0.2.1")
	b.ReportAllocs()
	for b.Loop() {
		l.Take(mail.ClientConnects, addr)
	}
}
