package delivery_test

import (
	"testing"

	gosmtp "github.com/emersion/go-smtp"

	"github.com/postern-mail/postern/delivery"
	"github.com/postern-mail/postern/delivery/tlspolicy"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// rewritten is d as a transport gets it with its reverse-path and its only
// recipient rewritten.
func rewritten(d mail.Delivery, from, to string) mail.Delivery {
	before := d.Envelope
	d.Before = &before
	d.Envelope.ReversePath = mail.MustAddress(from)
	recipient := before.Recipients[0]
	recipient.Address = mail.MustAddress(to)
	d.Envelope.Recipients = []mail.Recipient{recipient}
	return d
}

// TestRewrittenRecipientTrustsNobody: a host that the MX records of the
// recipient's domain name is not one of our choice because the address was
// rewritten after the route was chosen. It gets no login, and what the domain
// says for good stays so.
func TestRewrittenRecipientTrustsNobody(t *testing.T) {
	t.Parallel()
	p, _, port := world(t, nil, nil)
	logins := ruleFile(t, "@here.example  here:secret\n@out.example  out:secret\n")
	tr := newRelay(t, delivery.Target{TLS: tlspolicy.None, LoginsFile: logins}, names{
		mx: map[string]string{"example.com": "10 mx1.example.com.", "null.example": "0 ."}, host: map[string]string{"mx1.example.com": "127.0.0.1"},
	})
	d := messageFrom("a@here.example", "x@example.com")
	d.Envelope.Recipients[0].Route.NextHop = "example.com:" + port
	if got := tr.Deliver(t.Context(), rewritten(d, "a@out.example", "x@other.example")); sketch(got) != "delivered by peer 2.0.0" {
		t.Errorf("%+v", got)
	}
	for _, next := range []string{"gone.example", "null.example"} {
		d := messageFrom("a@here.example", "x@"+next)
		d.Envelope.Recipients[0].Route.NextHop = next
		if got := tr.Deliver(t.Context(), rewritten(d, "a@out.example", "x@other.example")); got[0].Class != mail.Bounced {
			t.Errorf("%s: %+v", next, got)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.logins) != 0 {
		t.Errorf("a host of the recipient's domain got the logins %v", p.logins)
	}
}

// TestLoginOfTheSenderBeforeRewriting: logins go by the sender as he is known
// here, as Postfix's do.
func TestLoginOfTheSenderBeforeRewriting(t *testing.T) {
	t.Parallel()
	p, _, port := world(t, nil, nil)
	tr := newRelay(t, delivery.Target{
		Addresses: []string{"[127.0.0.1]:" + port}, TLS: tlspolicy.None, LoginsFile: ruleFile(t, "@here.example  here:secret\n"),
	}, names{})
	d := rewritten(messageFrom("a@here.example", "x@example.com"), "a@out.example", "x@example.com")
	if got := tr.Deliver(t.Context(), d); sketch(got) != "delivered by peer 2.0.0" {
		t.Errorf("%+v", got)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.logins) != 1 || p.logins[0] != "here:secret" {
		t.Errorf("logins %v", p.logins)
	}
}

// TestFallbackOutage: that a domain does not exist is not the last word while
// nobody knows where the hosts are that would have taken its mail.
func TestFallbackOutage(t *testing.T) {
	t.Parallel()
	tr := newRelay(t, delivery.Target{Fallback: []string{"relay.example"}}, names{mx: map[string]string{"relay.example": "!"}})
	if got := tr.Deliver(t.Context(), message("x@gone.example")); got[0].Class != mail.Deferred || got[0].Reply != status.NameServiceDown.Reply() {
		t.Errorf("%+v", got)
	}
	d := message("x@gone.example")
	d.Envelope.Recipients[0].Route.NextHop = "relay.example, gone.example"
	if got := newRelay(t, delivery.Target{}, names{mx: map[string]string{"relay.example": "!"}}).Deliver(t.Context(), d); got[0].Class != mail.Deferred {
		t.Errorf("a next hop that nobody knows now, and one that does not exist: %+v", got)
	}
}

// TestRelayWantsLogin: a relay host of ours that wants a login for the mail
// judges our configuration, and nobody's mail bounces for it. A host of the
// recipient's domain is taken at its word.
func TestRelayWantsLogin(t *testing.T) {
	t.Parallel()
	wants := func(p *peer) {
		p.refuseRcpt["x@example.com"] = refusal(530, gosmtp.EnhancedCode{5, 7, 0}, "Authentication required")
	}
	_, _, port := world(t, wants, wants)
	relay := newRelay(t, delivery.Target{Addresses: []string{"[127.0.0.1]:" + port}}, names{})
	got := relay.Deliver(t.Context(), message("x@example.com", "y@example.com"))
	if sketch(got) != "deferred by peer 5.7.0, delivered by peer 2.0.0" {
		t.Errorf("%+v", got)
	}
	if got := through(newRelay(t, delivery.Target{}, twoMX), port, message("x@example.com")); sketch(got) != "bounced by peer 5.7.0" {
		t.Errorf("%+v", got)
	}
}

// TestThirdHostHasTheExtension: hosts that lack what the message needs are
// passed over without counting as conversations held.
func TestThirdHostHasTheExtension(t *testing.T) {
	t.Parallel()
	without := func(p *peer) { p.server.EnableSMTPUTF8 = false }
	_, _, port := world(t, without, without)
	third := newPeerAt(t, "tcp", "127.0.0.3:"+port, func(p *peer) { p.server.LMTP = false })
	tr := newRelay(t, delivery.Target{}, names{
		mx:   map[string]string{"example.com": "10 mx1.example.com., 20 mx2.example.com., 30 mx3.example.com."},
		host: map[string]string{"mx1.example.com": "127.0.0.1", "mx2.example.com": "127.0.0.2", "mx3.example.com": "127.0.0.3"},
	})
	if got := through(tr, port, message("ü@example.com")); sketch(got) != "delivered by peer 2.0.0" || third.sessions != 1 {
		t.Errorf("%+v", got)
	}
}
