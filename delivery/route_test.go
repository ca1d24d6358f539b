package delivery_test

import (
	"context"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/delivery"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// recorder is a Transport that notes what it was given.
type recorder struct {
	name string
	log  *[]string
}

func (r recorder) Deliver(_ context.Context, d mail.Delivery) []mail.Outcome {
	line := r.name
	var outcomes []mail.Outcome
	for _, rcpt := range d.Envelope.Recipients {
		line += " " + rcpt.Address.String() + ">" + rcpt.Route.NextHop
		outcomes = append(outcomes, mail.Outcome{Recipient: rcpt.Address, Class: mail.Delivered, Remote: r.name})
	}
	*r.log = append(*r.log, line)
	return outcomes
}

func newRouter(t *testing.T, change func(*delivery.Config)) (*delivery.Router, *[]string) {
	t.Helper()
	log := new([]string)
	cfg := delivery.Config{
		Hostname: "mail.example.com",
		Targets: []delivery.Target{
			{Name: "mail1", Addresses: []string{"unix:/run/lmtp"}},
			{Name: "isp", Protocol: delivery.SMTP, Addresses: []string{"[smtp.isp.example]:587"}},
			{Name: "direct", Protocol: delivery.SMTP},
		},
		Domains: map[mail.Domain]string{"example.com": "mail1", "mail.example.com": "mail1"},
	}
	if change != nil {
		change(&cfg)
	}
	transports := map[string]delivery.Transport{}
	for _, name := range []string{"mail1", "isp", "direct", delivery.Outbound} {
		transports[name] = recorder{name, log}
	}
	r, err := delivery.New(cfg, transports, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	return r, log
}

func TestRouterDestination(t *testing.T) {
	t.Parallel()
	toISP := func(cfg *delivery.Config) { cfg.Relayhost = "isp" }
	for _, tt := range []struct {
		name   string
		change func(*delivery.Config)
		rcpt   mail.Recipient
		want   string
	}{
		{"local", nil, mail.Recipient{Address: mail.MustAddress("a@example.com")}, "mail1/"},
		{"world", nil, mail.Recipient{Address: mail.MustAddress("a@example.net")}, "smtp/example.net"},
		{"subdomain is not local", nil, mail.Recipient{Address: mail.MustAddress("a@sub.example.com")}, "smtp/sub.example.com"},
		{"address literal", nil, mail.Recipient{Address: mail.MustAddress("a@[IPv6:::1]")}, "smtp/[IPv6:::1]"},
		{"postmaster without domain", nil, mail.Recipient{Address: mail.Address{Local: "postmaster"}}, "mail1/"},
		{"relay host", toISP, mail.Recipient{Address: mail.MustAddress("a@example.net")}, "isp/"},
		{"local beside relay host", toISP, mail.Recipient{Address: mail.MustAddress("a@example.com")}, "mail1/"},
		{"account's host", nil, mail.Recipient{Address: mail.MustAddress("a@example.com"), Route: mail.Route{NextHop: "mail2:24"}}, "mail1/mail2:24"},
		{"account's host of a domain that is not ours, whose host is not the relay host", toISP,
			mail.Recipient{Address: mail.MustAddress("a@example.net"), Route: mail.Route{NextHop: "mail2"}}, "smtp/mail2"},
		{"route", nil, mail.Recipient{Address: mail.MustAddress("a@example.com"), Route: mail.Route{Transport: "isp", NextHop: "[x]"}}, "isp/[x]"},
		{"route by MX", nil, mail.Recipient{Address: mail.MustAddress("a@example.com"), Route: mail.Route{Transport: "direct"}}, "direct/example.com"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r, _ := newRouter(t, tt.change)
			if got := r.Destination(mail.Address{}, tt.rcpt); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestRouterDeliver(t *testing.T) {
	t.Parallel()
	r, log := newRouter(t, nil)
	d := message("a@example.com", "b@example.net", "c@example.com", "d@example.org")
	d.Envelope.Recipients[3].Route.Transport = "unheard-of"
	got := r.Deliver(t.Context(), d)
	var words []string
	for _, o := range got {
		words = append(words, o.Recipient.String()+"="+o.Remote)
	}
	if s := strings.Join(words, " "); s != "a@example.com=mail1 b@example.net=smtp c@example.com=mail1 d@example.org=" {
		t.Errorf("outcomes %s", s)
	}
	if got[3].Class != mail.Deferred || got[3].Reply != status.ConfigurationError.Reply() {
		t.Errorf("unknown target: %+v", got[3])
	}
	if s := strings.Join(*log, "; "); s != "mail1 a@example.com> c@example.com>; smtp b@example.net>example.net" {
		t.Errorf("attempts %s", s)
	}
	if d.Envelope.Recipients[1].Route.NextHop != "" {
		t.Error("the caller's recipients were changed")
	}
}

func TestRouterRefusesConfiguration(t *testing.T) {
	t.Parallel()
	have := map[string]delivery.Transport{"a": recorder{log: new([]string)}}
	for name, cfg := range map[string]delivery.Config{
		"domain":    {Domains: map[mail.Domain]string{"example.com": "b"}},
		"relayhost": {Relayhost: "b"},
		"transport": {Targets: []delivery.Target{{Name: "b"}}},
		"twice":     {Targets: []delivery.Target{{Name: "a"}, {Name: "a"}}},
		"no name":   {Targets: []delivery.Target{{}}},
		"address":   {Targets: []delivery.Target{{Name: "a", Addresses: []string{"unix:"}}}},
	} {
		if _, err := delivery.New(cfg, have, hclog.NewNullLogger()); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestParseNextHop(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		in   string
		want delivery.NextHop
		ok   bool
	}{
		{"unix:/run/lmtp", delivery.NextHop{Path: "/run/lmtp"}, true},
		{"example.com", delivery.NextHop{Host: "example.com"}, true},
		{"example.com:587", delivery.NextHop{Host: "example.com", Port: "587"}, true},
		{"[example.com]", delivery.NextHop{Host: "example.com", Literal: true}, true},
		{"[example.com]:587", delivery.NextHop{Host: "example.com", Port: "587", Literal: true}, true},
		{"inet:[::1]:24", delivery.NextHop{Host: "::1", Port: "24", Literal: true}, true},
		{"[IPv6:::1]", delivery.NextHop{Host: "::1", Literal: true}, true},
		{"::1", delivery.NextHop{Host: "::1", Literal: true}, true},
		{"192.0.2.1:25", delivery.NextHop{Host: "192.0.2.1", Port: "25", Literal: true}, true},
		{"Bücher.example:587", delivery.NextHop{Host: "xn--bcher-kva.example", Port: "587"}, true},
		{"[bücher.example]", delivery.NextHop{Host: "xn--bcher-kva.example", Literal: true}, true},
		{"a\u2024example", delivery.NextHop{}, false},
		{"", delivery.NextHop{}, false},
		{"unix:", delivery.NextHop{}, false},
		{":25", delivery.NextHop{}, false},
		{"a:", delivery.NextHop{}, false},
		{"[a", delivery.NextHop{}, false},
		{"[a]25", delivery.NextHop{}, false},
		{"[a]:", delivery.NextHop{}, false},
		{"[]", delivery.NextHop{}, false},
		{"a b", delivery.NextHop{}, false},
		{"a:b:c", delivery.NextHop{}, false},
		{"a:smtp", delivery.NextHop{}, false},
		{"a:70000", delivery.NextHop{}, false},
		{"a:2\r\n5", delivery.NextHop{}, false},
	} {
		got, err := delivery.ParseNextHop(tt.in)
		if (err == nil) != tt.ok || tt.ok && got != tt.want {
			t.Errorf("%q: got %+v, %v, want %+v", tt.in, got, err, tt.want)
		}
	}
}

// FuzzParseNextHop: what is accepted is a path, or a host without anything
// that belongs to notation.
func FuzzParseNextHop(f *testing.F) {
	for _, seed := range []string{"unix:/a", "[::1]:25", "a:25", "[IPv6:::1]", "inet:b", "[[a]]", "b\u00fc:25", "\u3002"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		h, err := delivery.ParseNextHop(s)
		if err != nil {
			return
		}
		if (h.Path == "") == (h.Host == "") || strings.ContainsAny(h.Host+h.Port, "[]/ \t\r\n") {
			t.Fatalf("%q: %+v", s, h)
		}
		if e := h.Endpoint("25"); e.Address == "" || e.Network == "" {
			t.Fatalf("%q: %+v", s, e)
		}
	})
}
