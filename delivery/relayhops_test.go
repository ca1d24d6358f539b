package delivery_test

import (
	"context"
	"net/netip"
	"testing"

	gosmtp "github.com/emersion/go-smtp"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/delivery"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// TestRelayHostsInTurn: each of several relay hosts gets its conversations, and
// those to fall back to come last.
func TestRelayHostsInTurn(t *testing.T) {
	t.Parallel()
	busy := func(p *peer) { p.refuseRcpt["x@example.net"] = refusal(450, gosmtp.EnhancedCode{4, 7, 1}, "later") }
	a, b, port := world(t, busy, busy)
	c := newPeerAt(t, "tcp", "127.0.0.3:"+port, func(p *peer) { p.server.LMTP = false })
	host := func(n string) string { return "[127.0.0." + n + "]:" + port }
	for name, target := range map[string]delivery.Target{
		"list":      {Addresses: []string{host("1"), host("2"), host("3")}},
		"fall back": {Addresses: []string{host("1"), host("2")}, Fallback: []string{host("3")}},
		"not found": {Addresses: []string{"[gone.example]"}, Fallback: []string{host("3")}},
	} {
		got := newRelay(t, target, names{}).Deliver(t.Context(), message("x@example.net"))
		if sketch(got) != "delivered by peer 2.0.0" {
			t.Errorf("%s: %+v", name, got)
		}
	}
	routed := message("x@example.net")
	routed.Envelope.Recipients[0].Route.NextHop = host("1") + ", " + host("9") + ", " + host("3")
	if got := newRelay(t, delivery.Target{}, names{}).Deliver(t.Context(), routed); sketch(got) != "delivered by peer 2.0.0" {
		t.Errorf("list in a route: %+v", got)
	}
	if len(c.letters()) != 4 || len(a.letters())+len(b.letters()) != 0 {
		t.Errorf("letters: %d, %d, %d", len(a.letters()), len(b.letters()), len(c.letters()))
	}
}

// TestFallbackOfWorld: a domain that cannot be found goes to the fallback, one
// that takes no mail or is ours to relay does not.
func TestFallbackOfWorld(t *testing.T) {
	t.Parallel()
	p, _, port := world(t, nil, nil)
	resolver := names{
		mx:   map[string]string{"null.example": "0 .", "ours.example": "10 away.example., 20 mx.example.com.", "loop.example": "10 mx.example.com."},
		host: map[string]string{"away.example": "127.0.0.9"},
	}
	tr := newRelay(t, delivery.Target{Fallback: []string{"[127.0.0.1]:" + port}}, resolver)
	for domain, want := range map[string]string{
		"gone.example": "delivered by peer 2.0.0", "away.example": "delivered by peer 2.0.0",
		"null.example": "bounced 5.1.10", "ours.example": "deferred 4.4.1", "loop.example": "bounced 5.4.6",
	} {
		if got := through(tr, port, message("x@"+domain)); sketch(got) != want {
			t.Errorf("%s: got %s, want %s: %+v", domain, sketch(got), want, got)
		}
	}
	if n := len(p.letters()); n != 2 {
		t.Errorf("%d letters", n)
	}
}

// TestOurselvesByAddress: an MX is known to be us by its address, too.
func TestOurselvesByAddress(t *testing.T) {
	t.Parallel()
	a, b, port := world(t, nil, nil)
	us := delivery.NewOurselves([]string{"127.0.0.2:" + port}, []netip.Prefix{netip.MustParsePrefix("127.0.0.77/32")})
	resolver := names{
		mx: map[string]string{
			"backup.example": "10 mx1.example., 20 mx2.example., 30 mx3.example.", "loop.example": "10 mx2.example., 20 mx1.example.",
			"equal.example": "10 mx2.example., 10 mx1.example.", "nat.example": "10 nat.example., 20 mx1.example.",
			"unsure.example": "10 slow.example., 20 mx2.example.",
		},
		host: map[string]string{
			"mx1.example": "127.0.0.1", "mx2.example": "127.0.0.2", "mx3.example": "127.0.0.3", "implicit.example": "127.0.0.2",
			"nat.example": "127.0.0.77", "slow.example": "!",
		},
	}
	tr := newRelay(t, delivery.Target{Ourselves: us}, resolver)
	for domain, want := range map[string]string{
		"backup.example": "delivered by peer 2.0.0", "loop.example": "bounced 5.4.6", "equal.example": "bounced 5.4.6",
		"implicit.example": "bounced 5.4.6", "nat.example": "bounced 5.4.6", "[127.0.0.2]": "bounced 5.4.6", "unsure.example": "deferred 4.4.3",
	} {
		if got := through(tr, port, message("x@"+domain)); sketch(got) != want {
			t.Errorf("%s: got %s, want %s: %+v", domain, sketch(got), want, got)
		}
	}
	// A next hop of ours that leads back is a mistake of ours.
	chosen := newRelay(t, delivery.Target{Addresses: []string{"[127.0.0.2]:" + port}, Ourselves: us}, resolver)
	if got := chosen.Deliver(t.Context(), message("x@example.net")); got[0].Class != mail.Deferred || got[0].Reply != status.ConfigurationError.Reply() {
		t.Errorf("%+v", got)
	}
	if len(a.letters()) != 1 || len(b.letters()) != 0 {
		t.Errorf("letters: %d, %d", len(a.letters()), len(b.letters()))
	}
}

// TestGreetingOfOurselves: what our own name in a greeting means depends on who
// chose the host.
func TestGreetingOfOurselves(t *testing.T) {
	t.Parallel()
	p, _, _ := world(t, func(p *peer) { p.server.Domain = "mx.example.com" }, nil)
	for ownName, want := range map[delivery.OwnName]string{
		delivery.OwnNameLoops: "bounced 5.4.6", delivery.OwnNameMistake: "deferred 4.3.5", delivery.OwnNameAllowed: "delivered by peer 2.0.0",
	} {
		pool, err := delivery.NewPool(delivery.Target{Name: "t", Protocol: delivery.SMTP, Addresses: []string{p.addr}}, "mx.example.com", hclog.NewNullLogger())
		if err != nil {
			t.Fatal(err)
		}
		running(t, pool.Run)
		e := delivery.Endpoint{Network: "tcp", Address: p.addr, Host: "relay.example", OwnName: ownName}
		if got := pool.Attempt(context.Background(), message("x@example.net"), []delivery.Endpoint{e}); sketch(got) != want {
			t.Errorf("%d: %+v", ownName, got)
		}
	}
}
