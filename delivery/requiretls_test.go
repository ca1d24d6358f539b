package delivery_test

import (
	"strings"
	"testing"

	"github.com/postern-mail/postern/delivery"
	"github.com/postern-mail/postern/delivery/tlspolicy"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// TestRequireTLS crosses REQUIRETLS and TLS-Required: No with what a
// destination has (RFC 8689 sections 4.2 and 5).
func TestRequireTLS(t *testing.T) {
	t.Parallel()
	good := func(i *internet) { c := i.ca.Issue("mx.example.com"); i.serve(&c) }
	untrusted := func(i *internet) { c := i.other.Issue("mx.example.com"); i.serve(&c) }
	misnamed := func(i *internet) { c := i.ca.Issue("mx.example.net"); i.serve(&c) }
	expired := func(i *internet) { c := i.ca.IssueExpired("mx.example.com"); i.serve(&c) }
	without := func(serve func(*internet)) func(*internet) {
		return func(i *internet) { i.noRequireTLS = true; serve(i) }
	}
	plain := func(i *internet) { i.serve(nil) }
	nothing := func(*internet) {}
	ownKey := func(i *internet) { i.tlsa(i.ee(i.cert)) }
	otherKey := func(i *internet) { i.tlsa(i.ee(i.ca.Issue("mx.example.com"))) }
	failing := func(i *internet) { i.dns.Fail("_"+i.port+"._tcp.mx.example.com", "TLSA", "SERVFAIL") }
	sts := func(policy string) func(*internet) { return func(i *internet) { i.publishSTS(policy) } }
	stsTesting := strings.Replace(stsEnforce, "enforce", "testing", 1)
	elsewhere := func(policy string) string { return strings.Replace(policy, "mx: mx.", "mx: other.", 1) }

	required := func(e *mail.Envelope) { e.RequireTLS = true }
	report := func(e *mail.Envelope) { e.RequireTLS, e.ReversePath = true, mail.Address{} }
	both := func(e *mail.Envelope) { e.RequireTLS, e.TLSOptional = true, true }
	optional := func(e *mail.Envelope) { e.TLSOptional = true }
	const signed, unsigned = true, false
	const lacks, unmet = "bounced 5.7.30", "bounced 5.7.10"
	for _, row := range []struct {
		name      string
		ask       func(*mail.Envelope)
		level     tlspolicy.Level
		signed    bool
		server    func(*internet)
		published func(*internet)
		want      string // behind + : MAIL had REQUIRETLS
	}{
		{"dane", required, tlspolicy.DANE, signed, untrusted, ownKey, "Verified dane +"},
		{"dane, not offered", required, tlspolicy.DANE, signed, without(untrusted), ownKey, lacks},
		{"dane, wrong key", required, tlspolicy.DANE, signed, good, otherKey, unmet},
		{"dane, no STARTTLS", required, tlspolicy.DANE, signed, plain, func(i *internet) { i.tlsa("3 1 1 " + strings.Repeat("ab", 32)) }, unmet},
		{"dane, TLSA lookup fails", required, tlspolicy.DANE, signed, good, failing, "deferred TLSPolicyUnknown"},
		{"dane, unusable, good certificate", required, tlspolicy.DANE, signed, good, func(i *internet) { i.tlsa("1 1 1 " + strings.Repeat("ab", 32)) }, "Verified rule +"},
		{"signed MX", required, tlspolicy.DANE, signed, good, nothing, "Verified rule +"},
		{"signed MX, untrusted", required, tlspolicy.DANE, signed, untrusted, nothing, unmet},
		{"signed MX, wrong name", required, tlspolicy.DANE, signed, misnamed, nothing, unmet},
		{"signed MX, expired", required, tlspolicy.DANE, signed, expired, nothing, unmet},
		{"signed MX, not offered", required, tlspolicy.May, signed, without(good), nothing, lacks},
		{"signed MX, no STARTTLS", required, tlspolicy.May, signed, plain, nothing, unmet},
		{"insecure MX", required, tlspolicy.DANE, unsigned, good, nothing, unmet},
		{"insecure MX, encrypt", required, tlspolicy.Encrypt, unsigned, good, nothing, unmet},
		{"insecure MX, sts", required, tlspolicy.May, unsigned, good, sts(stsEnforce), "Verified mta-sts +"},
		{"insecure MX, sts, untrusted", required, tlspolicy.May, unsigned, untrusted, sts(stsEnforce), unmet},
		{"insecure MX, sts, not offered", required, tlspolicy.May, unsigned, without(good), sts(stsEnforce), lacks},
		{"insecure MX, sts testing", required, tlspolicy.May, unsigned, good, sts(stsTesting), "Verified mta-sts +"},
		{"insecure MX, sts testing, untrusted", required, tlspolicy.May, unsigned, untrusted, sts(stsTesting), unmet},
		{"insecure MX, sts testing, another host", required, tlspolicy.May, unsigned, good, sts(elsewhere(stsTesting)), unmet},
		{"insecure MX, sts cannot be had", required, tlspolicy.May, unsigned, good, sts("hello"), "deferred TLSPolicyUnknown"},
		{"secure", required, tlspolicy.Secure, unsigned, func(i *internet) { c := i.ca.Issue("example.com"); i.serve(&c) }, nothing, "Verified rule +"},
		{"none", required, tlspolicy.None, signed, good, nothing, unmet},
		{"and not required at once", both, tlspolicy.DANE, signed, good, otherKey, unmet},
		{"report", report, tlspolicy.DANE, signed, untrusted, ownKey, "Verified dane +"},
		{"report, not offered", report, tlspolicy.DANE, signed, without(untrusted), nothing, "Untrusted rule"},
		{"report, no STARTTLS", report, tlspolicy.DANE, signed, plain, nothing, "clear"},
		{"report, wrong key", report, tlspolicy.DANE, signed, good, otherKey, "deferred PeerNotTrusted"},

		{"optional, dane, wrong key", optional, tlspolicy.DANE, signed, good, otherKey, "Untrusted rule"},
		{"optional, dane, no STARTTLS", optional, tlspolicy.DANE, signed, plain, func(i *internet) { i.tlsa("3 1 1 " + strings.Repeat("ab", 32)) }, "clear"},
		{"optional, dane, TLSA lookup fails", optional, tlspolicy.DANE, signed, good, failing, "Untrusted rule"},
		{"optional, sts, untrusted", optional, tlspolicy.May, unsigned, untrusted, sts(stsEnforce), "Untrusted rule"},
		{"optional, sts, another host", optional, tlspolicy.May, unsigned, good, sts(elsewhere(stsEnforce)), "Untrusted rule"},
		{"optional, encrypt, no STARTTLS", optional, tlspolicy.Encrypt, signed, plain, nothing, "deferred PeerNeedsTLS"},
		{"optional, secure, untrusted", optional, tlspolicy.Secure, signed, untrusted, nothing, "deferred PeerNotTrusted"},
		{"optional, dane-only", optional, tlspolicy.DANEOnly, signed, good, nothing, "deferred TLSPolicyUnmet"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			i := newUnsignedInternet(t)
			if row.signed {
				i.dns.Sign("example.com")
			}
			row.server(i)
			row.published(i)
			d := message("x@example.com")
			row.ask(&d.Envelope)
			o := through(i.relay(delivery.Target{TLS: row.level}), i.port, d)[0]
			got := told(o)
			if o.Class == mail.Bounced {
				got = o.Class.String() + " " + o.Reply.EnhancedString()
			}
			letters := i.server.letters()
			if len(letters) == 1 && letters[0].opts.RequireTLS {
				got += " +"
			}
			if got != row.want || len(letters) == 1 != (o.Class == mail.Delivered) {
				t.Errorf("got %q with %d letters, want %q: %+v", got, len(letters), row.want, o)
			}
		})
	}
}

// TestRequireTLSAtAnotherHost: one that cannot do it is passed over, and one
// that is out of reach keeps the message from being sent back.
func TestRequireTLSAtAnotherHost(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name       string
		preference [2]string // of the host without REQUIRETLS and of the other one
		reachable  bool
		want       string
	}{
		{"behind it", [2]string{"10", "20"}, true, "Verified dane"},
		{"out of reach behind it", [2]string{"10", "20"}, false, "deferred ConnectionFailed"},
		{"out of reach before it", [2]string{"20", "10"}, false, "deferred ConnectionFailed"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			i := newInternet(t)
			i.noRequireTLS = true
			cert := i.ca.Issue("mx.example.com")
			i.serve(&cert)
			i.tlsa(i.ee(cert))
			i.noRequireTLS = false
			if row.reachable {
				newPeerAt(t, "tcp", "127.0.0.2:"+i.port, func(p *peer) { i.dress(p, &cert) })
			}
			i.dns.Remove("example.com")
			i.dns.Add("example.com. 0 IN MX "+row.preference[0]+" mx.example.com.", "example.com. 0 IN MX "+row.preference[1]+" mx2.example.com.",
				"mx2.example.com. 0 IN A 127.0.0.2", "_"+i.port+"._tcp.mx2.example.com. 0 IN TLSA "+i.ee(cert))
			d := message("x@example.com")
			d.Envelope.RequireTLS = true
			if got := through(i.relay(delivery.Target{TLS: tlspolicy.DANE}), i.port, d); told(got[0]) != row.want {
				t.Errorf("got %q, want %q: %+v", told(got[0]), row.want, got[0])
			}
			if n := len(i.server.letters()); n != 0 {
				t.Errorf("the host without REQUIRETLS has %d letters", n)
			}
		})
	}
}

// TestRequireTLSToRelayHost: a host that the operator names needs no proof of
// being the right one but its certificate.
func TestRequireTLSToRelayHost(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{"mx.example.com": "Verified rule", "other.example.com": "bounced " + status.RequireTLSUnmet.Reply().String()} {
		i := newUnsignedInternet(t)
		cert := i.ca.Issue(name)
		i.serve(&cert)
		d := message("x@elsewhere.example")
		d.Envelope.RequireTLS = true
		got := i.relay(delivery.Target{Addresses: []string{"[mx.example.com]:" + i.port}}).Deliver(t.Context(), d)
		if told(got[0]) != want {
			t.Errorf("certificate for %s: got %q, want %q", name, told(got[0]), want)
		}
	}
}

// TestRequireTLSToMailbox: our own mailbox server is the end of the way, and
// takes the message whatever it offers.
func TestRequireTLSToMailbox(t *testing.T) {
	t.Parallel()
	p := newPeer(t, "unix", nil)
	d := message("x@example.com")
	d.Envelope.RequireTLS = true
	tr := newLMTP(t, delivery.Target{Addresses: []string{p.addr}})
	if got := tr.Deliver(t.Context(), d); sketch(got) != "delivered by peer 2.0.0" || p.letters()[0].opts.RequireTLS {
		t.Errorf("%+v", got)
	}
}
