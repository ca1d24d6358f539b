package delivery_test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/postern-mail/postern/delivery"
	"github.com/postern-mail/postern/delivery/tlspolicy"
	"github.com/postern-mail/postern/mail"
)

// witness keeps the sessions it is told of, as "type result" with + for the
// presence of hosts and text.
type witness struct {
	mu  sync.Mutex
	got []string
}

func (w *witness) Note(s tlspolicy.Session) {
	w.mu.Lock()
	defer w.mu.Unlock()
	result := string(s.Failure)
	if result == "" {
		result = "success"
	}
	if s.Published.Domain != "example.com" || s.Host != "mx.example.com" || s.Remote.String() != "127.0.0.1" || s.Failure != "" && s.Detail == "" {
		result += fmt.Sprintf(" %+v", s)
	}
	if (s.Published.Type == tlspolicy.NoPolicy) != (len(s.Published.Text) == 0) {
		result += " without text"
	}
	w.got = append(w.got, string(s.Published.Type)+" "+result)
}

func (w *witness) said() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.got)
}

// TestSessions: what is told of connections, in the words of TLS reports (RFC
// 8460 section 4.3).
func TestSessions(t *testing.T) {
	t.Parallel()
	good := func(i *internet) { c := i.ca.Issue("mx.example.com"); i.serve(&c) }
	untrusted := func(i *internet) { c := i.other.Issue("mx.example.com"); i.serve(&c) }
	misnamed := func(i *internet) { c := i.ca.Issue("mx.example.net"); i.serve(&c) }
	expired := func(i *internet) { c := i.ca.IssueExpired("mx.example.com"); i.serve(&c) }
	plain := func(i *internet) { i.serve(nil) }
	nothing := func(*internet) {}
	ownKey := func(i *internet) { i.tlsa(i.ee(i.cert)) }
	otherKey := func(i *internet) { i.tlsa(i.ee(i.ca.Issue("mx.example.com"))) }
	anyKey := func(i *internet) { i.tlsa("3 1 1 " + strings.Repeat("ab", 32)) }
	unusable := func(i *internet) { i.tlsa("1 1 1 " + strings.Repeat("ab", 32)) }
	authority := func(i *internet) { i.tlsa(i.ta(i.ca)) }
	failing := func(i *internet) { i.dns.Fail("_"+i.port+"._tcp.mx.example.com", "TLSA", "SERVFAIL") }
	sts := func(policy string) func(*internet) { return func(i *internet) { i.publishSTS(policy) } }
	stsTesting := strings.Replace(stsEnforce, "enforce", "testing", 1)
	elsewhere := func(policy string) string { return strings.Replace(policy, "mx: mx.", "mx: other.", 1) }
	noHost := func(i *internet) {
		i.publishSTS(stsEnforce)
		i.dns.Remove("mta-sts.example.com")
	}
	for _, row := range []struct {
		name      string
		level     tlspolicy.Level
		server    func(*internet)
		published func(*internet)
		want      string // separated by ", "
	}{
		{"no policy", tlspolicy.DANE, untrusted, nothing, "no-policy-found success"},
		{"no policy, no STARTTLS", tlspolicy.DANE, plain, nothing, "no-policy-found starttls-not-supported"},
		{"dane", tlspolicy.DANE, untrusted, ownKey, "tlsa success"},
		{"dane, wrong key", tlspolicy.DANE, good, otherKey, "tlsa validation-failure"},
		{"dane, no STARTTLS", tlspolicy.DANE, plain, anyKey, "tlsa starttls-not-supported"},
		{"dane, authority, wrong name", tlspolicy.DANE, misnamed, authority, "tlsa certificate-host-mismatch"},
		{"dane, authority, expired", tlspolicy.DANE, expired, authority, "tlsa certificate-expired"},
		{"dane, unusable", tlspolicy.DANE, good, unusable, "tlsa tlsa-invalid"},
		{"dane, lookup fails", tlspolicy.DANE, good, failing, "tlsa dnssec-invalid without text"},
		{"dane-only without TLSA", tlspolicy.DANEOnly, good, nothing, "tlsa dane-required without text"},
		{"sts", tlspolicy.May, good, sts(stsEnforce), "sts success"},
		{"sts, untrusted", tlspolicy.May, untrusted, sts(stsEnforce), "sts certificate-not-trusted"},
		{"sts, expired", tlspolicy.May, expired, sts(stsEnforce), "sts certificate-expired"},
		{"sts, wrong name", tlspolicy.May, misnamed, sts(stsEnforce), "sts certificate-host-mismatch"},
		{"sts, no STARTTLS", tlspolicy.May, plain, sts(stsEnforce), "sts starttls-not-supported"},
		{"sts, another host", tlspolicy.May, good, sts(elsewhere(stsEnforce)), "sts validation-failure"},
		{"sts testing", tlspolicy.May, good, sts(stsTesting), "sts success"},
		{"sts testing, untrusted", tlspolicy.May, untrusted, sts(stsTesting), "sts certificate-not-trusted"},
		{"sts testing, another host", tlspolicy.May, good, sts(elsewhere(stsTesting)), "sts validation-failure"},
		{"sts testing, no STARTTLS", tlspolicy.May, plain, sts(stsTesting), "sts starttls-not-supported"},
		{"sts none", tlspolicy.May, good, sts("version: STSv1\nmode: none\nmax_age: 86400\n"), "no-policy-found success"},
		{"sts, nonsense", tlspolicy.May, good, sts("hello"), "sts sts-policy-invalid without text"},
		{"sts, no host", tlspolicy.May, good, noHost, "sts sts-policy-fetch-error without text"},
		{"dane before sts", tlspolicy.DANE, untrusted, func(i *internet) { ownKey(i); i.publishSTS(stsEnforce) }, "tlsa success"},
		{"rule of ours", tlspolicy.Verify, untrusted, sts(stsEnforce), ""},
		{"rule of ours, none", tlspolicy.None, plain, nothing, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			i := newInternet(t)
			row.server(i)
			row.published(i)
			var w witness
			through(i.relay(delivery.Target{TLS: row.level, Sessions: &w}), i.port, message("x@example.com"))
			if got := strings.Join(w.said(), ", "); got != row.want {
				t.Errorf("told %q, want %q", got, row.want)
			}
		})
	}
}

// TestSessionsOfMessages: connections are counted, not messages, and those made
// for a message that wants no protection, or to a dead host, are not.
func TestSessionsOfMessages(t *testing.T) {
	t.Parallel()
	i := newInternet(t)
	cert := i.ca.Issue("mx.example.com")
	i.serve(&cert)
	i.tlsa("3 1 1 " + strings.Repeat("ab", 32))
	var w witness
	tr := i.relay(delivery.Target{TLS: tlspolicy.DANE, Sessions: &w})
	optional := message("x@example.com")
	optional.Envelope.TLSOptional = true
	if got := through(tr, i.port, optional); got[0].Class != mail.Delivered || len(w.said()) != 0 {
		t.Errorf("TLS-Required: No: %+v, told %q", got, w.said())
	}
	i.dns.Remove("_" + i.port + "._tcp.mx.example.com")
	i.tlsa(i.ee(cert))
	for range 3 {
		if got := through(tr, i.port, message("x@example.com")); told(got[0]) != "Verified dane" {
			t.Fatalf("%+v", got)
		}
	}
	if got := w.said(); !slices.Equal(got, []string{"tlsa success"}) {
		t.Errorf("told %q of one connection", got)
	}
	i.server.close()
	through(tr, i.port, message("x@example.com"))
	if got := w.said(); len(got) != 1 {
		t.Errorf("told %q of a dead host", got)
	}
}
