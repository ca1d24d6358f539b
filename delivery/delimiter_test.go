package delivery_test

import (
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/delivery"
	"github.com/postern-mail/postern/delivery/tlspolicy"
	"github.com/postern-mail/postern/mail"
)

// TestRecipientDelimiter: the characters that begin a detail are the
// operator's choice, for rules and for logins by sender.
func TestRecipientDelimiter(t *testing.T) {
	t.Parallel()
	for setting, want := range map[string]map[string]string{
		"":    {"a+x@example.com": "a", "a-x@example.com": "", "foo@example.com": ""},
		"-":   {"a+x@example.com": "", "a-x@example.com": "a", "foo@example.com": ""},
		"off": {"a+x@example.com": "", "a-x@example.com": "", "foo@example.com": ""},
	} {
		r, err := delivery.New(delivery.Config{RecipientDelimiter: setting, Recipients: delivery.Rules{Fixed: map[string]mail.Route{
			"a@example.com": {Transport: "retry", NextHop: "a"}, "f@example.com": {Transport: "retry", NextHop: "f"},
		}}}, map[string]delivery.Transport{delivery.Outbound: newRelay(t, delivery.Target{}, names{})}, hclog.NewNullLogger())
		if err != nil {
			t.Fatal(err)
		}
		for address, hop := range want {
			got := r.Route(mail.Address{}, mail.Recipient{Address: mail.MustAddress(address)})
			if (got.Transport == "retry") != (hop != "") || hop != "" && got.NextHop != hop {
				t.Errorf("%q: %s goes to %+v", setting, address, got)
			}
		}
	}
	p, _, port := world(t, nil, nil)
	tr := newRelay(t, delivery.Target{
		Addresses: []string{"[127.0.0.1]:" + port}, TLS: tlspolicy.None, RecipientDelimiter: "-",
		LoginsFile: ruleFile(t, "a@here.example  here:secret\n"),
	}, names{})
	if got := tr.Deliver(t.Context(), messageFrom("a-x@here.example", "x@example.com")); sketch(got) != "delivered by peer 2.0.0" {
		t.Errorf("%+v", got)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.logins) != 1 {
		t.Errorf("logins %v", p.logins)
	}
}
