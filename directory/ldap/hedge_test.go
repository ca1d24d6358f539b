package ldap_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	ber "github.com/go-asn1-ber/asn1-ber"

	"github.com/postern-mail/postern/directory/ldap"
	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/status"
)

// bobs answers every search with Bob, after waiting for hold when it is not
// nil; binds succeed.
func bobs(t testing.TB, hold func()) *scripted {
	return script(t, func(op *ber.Packet) []*ber.Packet {
		if op.Tag == bindRequest {
			if hold != nil {
				hold()
			}
			return []*ber.Packet{result(1, 0, "")}
		}
		if hold != nil {
			hold()
		}
		return []*ber.Packet{entry("uid=bob,dc=example,dc=com", "mail", "bob@example.com"), result(5, 0, "")}
	})
}

// stuck returns a hold that lasts until the test ends, once it is switched on.
func stuck(t testing.TB) (hold func(), on *atomic.Bool) {
	on = &atomic.Bool{}
	end := make(chan struct{})
	t.Cleanup(func() { close(end) })
	return func() {
		if on.Load() {
			<-end
		}
	}, on
}

// TestSlowSearchGoesToTheNextServer: a server that does not answer in time
// keeps nobody waiting for the whole timeout.
func TestSlowSearchGoesToTheNextServer(t *testing.T) {
	t.Parallel()
	hold, frozen := stuck(t)
	first, second := bobs(t, hold), bobs(t, nil)
	cfg := scriptedConfig(first.uri, second.uri)
	cfg.Hedge = 300 * time.Millisecond
	c := open(t, cfg)
	// Saves up for second tries: ten, so that some are left also where a machine
	// stands still for that long now and then.
	for range 200 {
		if err := lookup(t, c); err != nil {
			t.Fatal(err)
		}
	}
	frozen.Store(true)
	if err := lookup(t, c); err != nil {
		t.Fatalf("search with the first server stuck: %v", err)
	}
	states := c.States()
	if states[1].Hedged == 0 || states[0].Failed != 0 {
		t.Errorf("states %+v: want a second try and no failure", states)
	}
}

// TestHedgesAreBounded: when all is slow, second tries stay a small share.
func TestHedgesAreBounded(t *testing.T) {
	t.Parallel()
	pause := func() { <-time.After(3 * time.Millisecond) }
	first, second := bobs(t, pause), bobs(t, pause)
	cfg := scriptedConfig(first.uri, second.uri)
	cfg.Hedge = time.Nanosecond
	c := open(t, cfg)
	const n = 200
	for range n {
		if err := lookup(t, c); err != nil {
			t.Fatal(err)
		}
	}
	if hedged := c.States()[1].Hedged; hedged == 0 || hedged > n/20+1 {
		t.Errorf("%d second tries of %d searches, want at most one in 20", hedged, n)
	}
}

// TestBindsAreNeverSentTwice: two tries of a wrong password count twice.
func TestBindsAreNeverSentTwice(t *testing.T) {
	t.Parallel()
	slow := func() { <-time.After(10 * time.Millisecond) }
	first, second := bobs(t, slow), bobs(t, slow)
	cfg := scriptedConfig(first.uri, second.uri)
	cfg.Hedge = time.Nanosecond
	c := open(t, cfg)
	for range 30 {
		_ = lookup(t, c)
	}
	before := c.States()[1].Asked
	for range 3 {
		if err := c.Bind(ctx(t), "uid=bob,dc=example,dc=com", "secret"); err != nil {
			t.Fatal(err)
		}
	}
	if after := c.States()[1].Asked; after != before {
		t.Errorf("%d binds went to the second server too", after-before)
	}
}

// TestSlowServerIsAskedLast: a server that answers, but slowly, is not
// preferred until it is fast again.
func TestSlowServerIsAskedLast(t *testing.T) {
	t.Parallel()
	var slow atomic.Bool
	first := bobs(t, func() {
		if slow.Load() {
			<-time.After(1100 * time.Millisecond)
		}
	})
	second := bobs(t, nil)
	cfg := scriptedConfig(first.uri, second.uri)
	// Slow is what takes a second, and no answer is what takes five.
	cfg.Timeout, cfg.Hedge = 5*time.Second, -1
	c := open(t, cfg)
	slow.Store(true)
	for range 2 {
		if err := lookup(t, c); err != nil {
			t.Fatal(err)
		}
	}
	states := c.States()
	if states[0].State != "slow" || states[1].Asked == 0 {
		t.Fatalf("states %+v: the first is not known as slow", states)
	}
	slow.Store(false)
	running, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { _ = c.Run(running) })
	defer wg.Wait()
	defer stop()
	testenv.Eventually(t, time.Minute, func() error {
		if s := c.States()[0]; s.State != "well" {
			return fmt.Errorf("the first server is %s", s.State)
		}
		return nil
	})
	stop()
	wg.Wait() // so that nobody asks but the test
	before := c.States()
	if err := lookup(t, c); err != nil {
		t.Fatal(err)
	}
	if after := c.States(); after[0].Asked != before[0].Asked+1 || after[1].Asked != before[1].Asked {
		t.Errorf("the preferred server is not asked again: %+v", after)
	}
}

// TestLastServerIsTried: when all are left alone and failing costs nothing, a
// server that is back serves at the next search.
func TestLastServerIsTried(t *testing.T) {
	t.Parallel()
	s := bobs(t, nil)
	var down atomic.Bool
	down.Store(true)
	sick := script(t, func(op *ber.Packet) []*ber.Packet {
		if down.Load() {
			return []*ber.Packet{result(5, 52, "")}
		}
		return s.answer(op)
	})
	cfg := scriptedConfig(sick.uri)
	cfg.MaxPause = time.Hour
	c := open(t, cfg.WithCheapFailures(time.Minute))
	for range 30 {
		if err := lookup(t, c); status.Of(err) != status.DirectoryDown {
			t.Fatal(err)
		}
	}
	down.Store(false)
	if err := lookup(t, c); err != nil {
		t.Errorf("first search after the server came back: %v", err)
	}
}

func TestReferralsAreChasedToListedServers(t *testing.T) {
	t.Parallel()
	done := result(5, 0, "")
	child := script(t, func(op *ber.Packet) []*ber.Packet {
		if base := op.Children[0].Data.String(); base != "dc=child,dc=example,dc=com" {
			return []*ber.Packet{result(5, 32, base)}
		}
		return []*ber.Packet{entry("uid=bob,dc=child,dc=example,dc=com", "mail", "bob@example.com"), done}
	})
	target := child.uri + "/dc=child,dc=example,dc=com??sub"
	var circleURI string
	circle := script(t, func(*ber.Packet) []*ber.Packet { return []*ber.Packet{referral(circleURI + "/dc=example,dc=com")} })
	circleURI = circle.uri
	for _, c := range []struct {
		name   string
		answer []*ber.Packet
		chase  []string
		want   status.Reason
	}{
		{"reference", []*ber.Packet{reference(target), done}, []string{child.uri}, status.OK},
		{"reference to a server not listed", []*ber.Packet{reference(target), done}, nil, status.DirectoryDown},
		{"referral", []*ber.Packet{referral(target)}, []string{child.uri}, status.OK},
		{"referral to a server not listed", []*ber.Packet{referral(target)}, []string{"ldap://127.0.0.1:1"}, status.DirectoryDown},
		{"both ways to the same entry", []*ber.Packet{reference(target), reference(target), done}, []string{child.uri}, status.OK},
		{"circle", []*ber.Packet{referral(circle.uri + "/dc=example,dc=com")}, []string{circle.uri}, status.DirectoryDown},
		{"listed and down", []*ber.Packet{reference("ldap://127.0.0.1:1/dc=x"), done}, []string{"ldap://127.0.0.1:1"}, status.DirectoryDown},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := script(t, func(*ber.Packet) []*ber.Packet { return c.answer })
			cfg := scriptedConfig(s.uri)
			cfg.ChaseReferrals = c.chase
			if err := lookup(t, open(t, cfg)); status.Of(err) != c.want {
				t.Errorf("search = %v, want %s", err, c.want)
			}
		})
	}
}

// referral is the result of a server that has none of it (RFC 4511 section
// 4.1.10).
func referral(uri string) *ber.Packet {
	p := result(5, 10, "")
	list := ber.Encode(ber.ClassContext, ber.TypeConstructed, 3, nil, "referral")
	list.AppendChild(octets(uri))
	p.AppendChild(list)
	return p
}

func TestDereferenceIsAsked(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]int64{"": 0, "never": 0, "searching": 1, "finding": 2, "always": 3} {
		var got atomic.Int64
		s := script(t, func(op *ber.Packet) []*ber.Packet {
			got.Store(op.Children[2].Value.(int64))
			return []*ber.Packet{entry("uid=bob", "mail", "bob@example.com"), result(5, 0, "")}
		})
		cfg := scriptedConfig(s.uri)
		cfg.Dereference = name
		if err := lookup(t, open(t, cfg)); err != nil || got.Load() != want {
			t.Errorf("dereference %q: %v, asked for %d, want %d", name, err, got.Load(), want)
		}
	}
	if _, err := ldap.New(ldap.Config{URIs: []string{"ldap://localhost"}, Dereference: "sometimes"}, nil); err == nil {
		t.Error("dereference \"sometimes\" is accepted")
	}
}
