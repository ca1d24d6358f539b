package delivery_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	gosmtp "github.com/emersion/go-smtp"
	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/delivery"
	"github.com/postern-mail/postern/delivery/relay"
	"github.com/postern-mail/postern/delivery/tlspolicy"
	"github.com/postern-mail/postern/internal/dns"
	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// names is a name service: records by absolute name, "!" for one that does
// not answer; a name that is missing is sure not to exist.
type names struct {
	mx   map[string]string // "10 host, 20 host"
	host map[string]string // "address, address"
}

var errOut = errors.New("out")

func (n names) MX(_ context.Context, name string) (dns.Answer[dns.MX], error) {
	list, found := n.mx[strings.TrimSuffix(name, ".")]
	switch {
	case list == "!":
		return dns.Answer[dns.MX]{}, errOut
	case !found || !strings.HasSuffix(name, "."):
		return dns.Answer[dns.MX]{Outcome: dns.NXDomain}, nil
	}
	var a dns.Answer[dns.MX]
	for word := range strings.SplitSeq(list, ", ") {
		var mx dns.MX
		if _, err := fmt.Sscanf(word, "%d %s", &mx.Preference, &mx.Host); err != nil {
			return a, err
		}
		mx.Host = strings.TrimSuffix(mx.Host, ".")
		a.Records = append(a.Records, mx)
	}
	return a, nil
}

func (n names) Addresses(_ context.Context, name string) (dns.Answer[netip.Addr], error) {
	list, found := n.host[strings.TrimSuffix(name, ".")]
	switch {
	case list == "!":
		return dns.Answer[netip.Addr]{}, errOut
	case !found:
		return dns.Answer[netip.Addr]{Outcome: dns.NXDomain}, nil
	}
	var a dns.Answer[netip.Addr]
	for word := range strings.SplitSeq(list, ", ") {
		a.Records = append(a.Records, netip.MustParseAddr(word))
	}
	return a, nil
}

func (names) TLSA(context.Context, string) (dns.Answer[dns.TLSA], error) {
	return dns.Answer[dns.TLSA]{Outcome: dns.NXDomain}, nil
}

func (names) CNAME(context.Context, string) (dns.Answer[string], error) {
	return dns.Answer[string]{Outcome: dns.NXDomain}, nil
}

func (names) TXT(context.Context, string) (dns.Answer[string], error) {
	return dns.Answer[string]{Outcome: dns.NXDomain}, nil
}

func newRelay(t *testing.T, target delivery.Target, resolver relay.Resolver) *relay.Transport {
	t.Helper()
	target.Name, target.Protocol = "test", delivery.SMTP
	if target.Timeouts.Connect == 0 {
		target.Timeouts.Connect = time.Minute
	}
	tr, err := relay.New(target, "mx.example.com", resolver, nil, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	running(t, tr.Run)
	return tr
}

// world is two mail servers on one port of two addresses.
func world(t *testing.T, first, second func(*peer)) (a, b *peer, port string) {
	t.Helper()
	asSMTP := func(change func(*peer)) func(*peer) {
		return func(p *peer) {
			p.server.LMTP = false
			if change != nil {
				change(p)
			}
		}
	}
	a = newPeer(t, "tcp", asSMTP(first))
	_, port, err := net.SplitHostPort(a.addr)
	if err != nil {
		t.Fatal(err)
	}
	return a, newPeerAt(t, "tcp", "127.0.0.2:"+port, asSMTP(second)), port
}

// through sends d to a domain whose mail servers listen on port.
func through(tr *relay.Transport, port string, d mail.Delivery) []mail.Outcome {
	for i := range d.Envelope.Recipients {
		r := &d.Envelope.Recipients[i]
		r.Route.NextHop = string(r.Address.Domain) + ":" + port
	}
	return tr.Deliver(context.Background(), d)
}

func refusal(code int, enhanced gosmtp.EnhancedCode, text string) *gosmtp.SMTPError {
	return &gosmtp.SMTPError{Code: code, EnhancedCode: enhanced, Message: text}
}

var twoMX = names{
	mx:   map[string]string{"example.com": "20 mx2.example.com., 10 mx1.example.com."},
	host: map[string]string{"mx1.example.com": "127.0.0.1", "mx2.example.com": "127.0.0.2"},
}

// TestRelayComesBackToUs: mail for a domain whose records lead to ourselves
// under another name is not sent round and round; a relay host may be called
// what it likes.
func TestRelayComesBackToUs(t *testing.T) {
	t.Parallel()
	us := func(p *peer) { p.server.Domain = "MX.example.com" }
	a, b, port := world(t, us, us)
	tr := newRelay(t, delivery.Target{}, twoMX)
	if got := through(tr, port, message("x@example.com")); got[0].Class != mail.Bounced || got[0].Reply.Enhanced != [3]int{5, 4, 6} {
		t.Errorf("%+v", got)
	}
	if len(a.letters())+len(b.letters()) != 0 {
		t.Error("the mail came back to us")
	}
	host := newRelay(t, delivery.Target{Addresses: []string{"[127.0.0.1]:" + port}}, twoMX)
	if got := host.Deliver(context.Background(), message("x@example.com")); got[0].Class != mail.Delivered {
		t.Errorf("relay host: %+v", got)
	}
}

// TestRelayBackupOfAHostThatIsAway: where the records lead to ourselves behind
// a host that is out of reach, mail waits for that host.
func TestRelayBackupOfAHostThatIsAway(t *testing.T) {
	t.Parallel()
	_, _, port := world(t, func(p *peer) { p.server.Domain = "mx.example.com" }, nil)
	tr := newRelay(t, delivery.Target{}, names{
		mx: map[string]string{
			"example.com":    "10 away.example.com., 20 backup.example.com.",
			"unsure.example": "10 unknown.example.com., 20 backup.example.com.",
		},
		host: map[string]string{"away.example.com": "127.0.0.3", "unknown.example.com": "!", "backup.example.com": "127.0.0.1"},
	})
	for range 2 { // at the second time the host is known to be down
		if got := through(tr, port, message("x@example.com")); sketch(got) != "deferred 4.4.1" || got[0].RemoteMTA != "away.example.com" {
			t.Errorf("got %s: %+v", sketch(got), got)
		}
	}
	if got := through(tr, port, message("x@unsure.example")); sketch(got) != "deferred 4.4.3" || got[0].RemoteMTA != "unknown.example.com" {
		t.Errorf("address not known: got %s: %+v", sketch(got), got)
	}
}

func TestRelayByMX(t *testing.T) {
	t.Parallel()
	a, b, port := world(t, nil, nil)
	tr := newRelay(t, delivery.Target{}, twoMX)
	for range 3 {
		got := through(tr, port, message("x@example.com", "y@example.com"))
		if sketch(got) != "delivered by peer 2.0.0, delivered by peer 2.0.0" || got[0].RemoteMTA != "mx1.example.com" || !got[0].Relayed || got[0].Final ||
			got[0].Remote != "mx1.example.com[127.0.0.1]:"+port {
			t.Fatalf("%+v", got)
		}
	}
	if total, _ := a.connections(); total != 1 || len(a.letters()) != 3 || len(b.letters()) != 0 {
		t.Errorf("%d connections, %d letters, %d to the second", total, len(a.letters()), len(b.letters()))
	}
	if got := a.letters()[0]; got.data != body || len(got.to) != 2 {
		t.Errorf("%+v", got)
	}
}

// TestRelayGoesOn: what the first host does not take now, the next may; what
// it refuses for good is refused.
func TestRelayGoesOn(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name          string
		first, second func(*peer)
		want          string
		firstLetters  int
		secondLetters int
	}{
		{"greeting refused", func(p *peer) { p.greeting = refusal(554, gosmtp.EnhancedCode{5, 7, 1}, "go away") }, nil,
			"delivered by peer 2.0.0, delivered by peer 2.0.0", 0, 1},
		{"greylisted", func(p *peer) { p.refuseRcpt["x@example.com"] = refusal(450, gosmtp.EnhancedCode{4, 7, 1}, "later") }, nil,
			"delivered by peer 2.0.0, delivered by peer 2.0.0", 1, 1},
		{"both later", func(p *peer) { p.refuseRcpt["x@example.com"] = refusal(450, gosmtp.EnhancedCode{4, 7, 1}, "later") },
			func(p *peer) { p.refuseRcpt["x@example.com"] = refusal(451, gosmtp.EnhancedCode{4, 7, 2}, "later") },
			"deferred by peer 4.7.2, delivered by peer 2.0.0", 1, 0},
		{"refused for good", func(p *peer) { p.refuseRcpt["x@example.com"] = refusal(550, gosmtp.EnhancedCode{5, 1, 1}, "no") }, nil,
			"bounced by peer 5.1.1, delivered by peer 2.0.0", 1, 0},
		{"all greetings refused", func(p *peer) { p.greeting = refusal(554, gosmtp.EnhancedCode{5, 7, 1}, "go away") },
			func(p *peer) { p.greeting = refusal(554, gosmtp.EnhancedCode{5, 7, 2}, "go away") },
			"deferred by peer 5.7.2, deferred by peer 5.7.2", 0, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			a, b, port := world(t, tt.first, tt.second)
			got := through(newRelay(t, delivery.Target{}, twoMX), port, message("x@example.com", "y@example.com"))
			if sketch(got) != tt.want {
				t.Errorf("got %s, want %s: %+v", sketch(got), tt.want, got)
			}
			if len(a.letters()) != tt.firstLetters || len(b.letters()) != tt.secondLetters {
				t.Errorf("letters: %+v and %+v", a.letters(), b.letters())
			}
		})
	}
}

// TestRelayNames: only a name service that is sure bounces, and only for the
// recipient's own domain.
func TestRelayNames(t *testing.T) {
	t.Parallel()
	resolver := names{
		mx: map[string]string{
			"null.example": "0 .", "temp.example": "!", "loop.example": "10 MX.example.com., 20 other.example.",
			"address.example": "10 192.0.2.1", "odd.example": `10 a\ b.example., 20 !.example.`,
			"equal.example":    "10 a.example., 10 mx.example.com, 20 b.example.",
			"dangling.example": "10 gone.example.", "unsure.example": "10 slow.example., 20 gone.example.", "plain.example": "!",
			// more hosts than are looked up
			"many.example": strings.Repeat("10 gone.example., ", 10) + "20 other.example.",
		},
		host: map[string]string{"slow.example": "!", "tempa.example": "!", "other.example": "192.0.2.1"},
	}
	for _, tt := range []struct {
		domain string
		want   status.Reason
		class  mail.OutcomeClass
	}{
		{"nowhere.example", status.HostNotFound, mail.Bounced},
		{"null.example", status.NullMX, mail.Bounced},
		{"dangling.example", status.HostNotFound, mail.Bounced},
		{"loop.example", status.MailLoop, mail.Bounced},
		{"equal.example", status.MailLoop, mail.Bounced},
		{"address.example", status.HostNotFound, mail.Bounced},
		{"odd.example", status.HostNotFound, mail.Bounced},
		{"temp.example", status.NameServiceDown, mail.Deferred},
		{"tempa.example", status.NameServiceDown, mail.Deferred},
		{"unsure.example", status.NameServiceDown, mail.Deferred},
		{"many.example", status.NameServiceDown, mail.Deferred},
	} {
		t.Run(tt.domain, func(t *testing.T) {
			t.Parallel()
			got := newRelay(t, delivery.Target{}, resolver).Deliver(t.Context(), message("x@"+tt.domain))
			if got[0].Class != tt.class || got[0].Reply != tt.want.Reply() {
				t.Errorf("%+v, want %v", got, tt.want)
			}
			relayed := newRelay(t, delivery.Target{Addresses: []string{tt.domain}}, resolver).Deliver(t.Context(), message("x@example.com"))
			if relayed[0].Class != mail.Deferred {
				t.Errorf("as relay host: %+v", relayed)
			}
		})
	}
}

func TestRelayWithoutMX(t *testing.T) {
	t.Parallel()
	a, _, port := world(t, nil, nil)
	tr := newRelay(t, delivery.Target{}, names{host: map[string]string{"example.com": "127.0.0.1"}})
	if got := through(tr, port, message("x@example.com")); got[0].Class != mail.Delivered {
		t.Errorf("%+v", got)
	}
	// An address literal is its own answer, and a dead address leads to the next.
	if got := through(tr, port, message("x@[127.0.0.1]")); got[0].Class != mail.Delivered {
		t.Errorf("%+v", got)
	}
	dead := newRelay(t, delivery.Target{}, names{host: map[string]string{"example.com": "127.0.0.1, 127.0.0.9, ::1"}})
	if got := through(dead, port, message("x@example.com")); got[0].Class != mail.Delivered {
		t.Errorf("%+v", got)
	}
	if n := len(a.letters()); n != 3 {
		t.Errorf("%d letters", n)
	}
}

func TestRelayHostWithLogin(t *testing.T) {
	t.Parallel()
	var caFile string
	p, _, _ := world(t, func(p *peer) { caFile = withTLS(t, p) }, nil)
	plain, _, _ := world(t, nil, nil)
	dir := testenv.TempDir(t)
	secret := func(s string) string {
		path := filepath.Join(dir, s)
		if err := os.WriteFile(path, []byte(s+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	_, port, _ := net.SplitHostPort(p.addr)
	for _, tt := range []struct {
		name, address, password, want string
	}{
		{"right", "[localhost]:" + port, "secret", "delivered by peer 2.0.0"},
		{"wrong", "[localhost]:" + port, "wrong", "deferred by peer 5.7.8"},
		{"no TLS", plain.addr, "secret", "deferred 4.7.4"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tr := newRelay(t, delivery.Target{
				Addresses: []string{tt.address}, Login: "gateway", PasswordFile: secret(tt.password),
				TLS: tlspolicy.Verify, CAFile: caFile,
			}, names{host: map[string]string{"localhost": "127.0.0.1"}})
			if got := tr.Deliver(t.Context(), message("x@example.net")); sketch(got) != tt.want {
				t.Errorf("%+v, want %s", got, tt.want)
			}
		})
	}
	if got := fmt.Sprint(p.logins); got != "[gateway:secret gateway:wrong]" || len(plain.logins) != 0 {
		t.Errorf("logins %v and %v", p.logins, plain.logins)
	}
}

// TestRelayRefusesConfiguration: what cannot work, or would give a password to
// strangers, is refused at the start.
func TestRelayRefusesConfiguration(t *testing.T) {
	t.Parallel()
	for name, target := range map[string]delivery.Target{
		"login without addresses":      {Protocol: delivery.SMTP, Login: "a", PasswordFile: "/dev/null"},
		"login without password":       {Protocol: delivery.SMTP, Addresses: []string{"[a]"}, Login: "a"},
		"lmtp":                         {Protocol: delivery.LMTP, Addresses: []string{"[a]"}},
		"addresses mean lmtp":          {Addresses: []string{"[a]"}},
		"TLS mode":                     {Protocol: delivery.SMTP, TLS: "maybe"},
		"implicit TLS and none":        {Protocol: delivery.SMTP, TLS: tlspolicy.None, ImplicitTLS: true},
		"address":                      {Protocol: delivery.SMTP, Addresses: []string{"a b"}},
		"missing CA file":              {Protocol: delivery.SMTP, CAFile: "/nonexistent"},
		"CA file without certificates": {Protocol: delivery.SMTP, CAFile: "/dev/null"},
		"certificate without key":      {Protocol: delivery.SMTP, CertFile: "/dev/null"},
		"no certificate in the file":   {Protocol: delivery.SMTP, CertFile: "/dev/null", KeyFile: "/dev/null"},
		"missing password file":        {Protocol: delivery.SMTP, Addresses: []string{"[a]"}, Login: "a", PasswordFile: "/nonexistent"},
		"protocol":                     {Protocol: "uucp"},
	} {
		target.Name = "test"
		if _, err := relay.New(target, "", names{}, nil, hclog.NewNullLogger()); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := relay.New(delivery.Target{}, "", names{}, nil, hclog.NewNullLogger()); err == nil {
		t.Error("target without a name accepted")
	}
}

// TestRelayContextEnds: an attempt that is called off defers, also in a lookup.
func TestRelayContextEnds(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	got := newRelay(t, delivery.Target{}, hanging{}).Deliver(ctx, message("x@example.com"))
	if got[0].Class != mail.Deferred {
		t.Errorf("%+v", got)
	}
}

// hanging answers nothing about MX records.
type hanging struct{ names }

func (hanging) MX(ctx context.Context, _ string) (dns.Answer[dns.MX], error) {
	<-ctx.Done()
	return dns.Answer[dns.MX]{}, ctx.Err()
}
