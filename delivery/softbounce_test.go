package delivery_test

import (
	"context"
	"net"
	"testing"

	gosmtp "github.com/emersion/go-smtp"
	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/delivery"
	"github.com/postern-mail/postern/mail"
)

// What a next hop or a route refuses for good is deferred with soft_bounce, in
// the words of the refusal. A probe is told how it is.
func TestSoftBounce(t *testing.T) {
	t.Parallel()
	p := newPeer(t, "tcp", func(p *peer) {
		p.server.LMTP = false
		p.refuseRcpt["gone@example.com"] = refusal(550, gosmtp.EnhancedCode{5, 1, 1}, "No such person")
		p.refuseRcpt["plain@example.com"] = refusal(550, gosmtp.NoEnhancedCode, "No")
		p.refuseRcpt["later@example.com"] = refusal(451, gosmtp.EnhancedCode{4, 2, 1}, "Later")
	})
	_, port, err := net.SplitHostPort(p.addr)
	if err != nil {
		t.Fatal(err)
	}
	addresses := []string{"[127.0.0.1]:" + port}
	tr := newRelay(t, delivery.Target{Addresses: addresses}, twoMX)
	for soft, want := range map[bool]string{
		false: "delivered by peer 2.0.0, bounced by peer 5.1.1, bounced by peer, deferred by peer 4.2.1, bounced 5.1.10",
		true:  "delivered by peer 2.0.0, deferred by peer 4.1.1, deferred by peer, deferred by peer 4.2.1, deferred 4.1.10",
	} {
		r, err := delivery.New(delivery.Config{Relayhost: "test", SoftBounce: soft, Targets: []delivery.Target{{Name: "test", Protocol: delivery.SMTP, Addresses: addresses}}},
			map[string]delivery.Transport{"test": tr}, hclog.NewNullLogger())
		if err != nil {
			t.Fatal(err)
		}
		d := message("there@example.com", "gone@example.com", "plain@example.com", "later@example.com", "error@example.com")
		d.Envelope.Recipients[4].Route = mail.Route{Transport: "error", NextHop: "5.1.10 Not here"}
		got := r.Deliver(context.Background(), d)
		if sketch(got) != want {
			t.Errorf("soft %v: %s", soft, sketch(got))
		}
		if soft && (got[1].Reply.Code != 450 || got[1].Reply.Text != "No such person" || got[2].Reply.Code != 450) {
			t.Errorf("replies %v, %v", got[1].Reply, got[2].Reply)
		}
		probe := message("gone@example.com")
		probe.Probe = true
		if got := r.Deliver(context.Background(), probe); sketch(got) != "bounced by peer 5.1.1" {
			t.Errorf("soft %v: a probe: %s", soft, sketch(got))
		}
	}
}
