package config

import (
	"fmt"
	"strings"
	"testing"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/policy"
)

// loadWith loads the sound configuration with more in gateway and in its mx
// listener.
func loadWith(t *testing.T, gateway, listener string) (*File, error) {
	t.Helper()
	text := strings.Replace(sound, "gateway {\n", "gateway {\n"+gateway, 1)
	text = strings.Replace(text, `listener "mx" { bind = [":25"] }`, "listener \"mx\" {\n bind = [\":25\"]\n"+listener+"}", 1)
	return Load(write(t, map[string]string{"postern.hcl": text, "people.ldif": "", "senders": "", "access": "a.example strict\n"}))
}

// TestOverrides: a listener goes its own way where it says so, and else the
// gateway's.
func TestOverrides(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ gateway, listener, want string }{
		"defaults":       {"", "", "early=false accept=false sender=false networks=2 soft=false footer= keep=false"},
		"the gateway's":  {"delay_reject = false\nreject_unlisted_sender = true\nsoft_bounce = true\nreject_footer = \"x\"\nmynetworks = []\n", "", "early=true accept=false sender=true networks=0 soft=true footer=x keep=false"},
		"the listener's": {"delay_reject = false\nreject_unlisted_sender = true\nsoft_bounce = true\nreject_footer = \"x\"\nmynetworks = []\n", "delay_reject = true\nreject_unlisted_sender = false\nsoft_bounce = false\nreject_footer = \"\"\nmynetworks = [\"192.0.2.1\"]\nreject_unlisted_recipient = false\n", "early=false accept=true sender=false networks=1 soft=false footer= keep=false"},
		"loose":          {"strict_rfc821_envelopes = false\n", "", "early=false accept=false sender=false networks=2 soft=false footer= keep=false"},
		"loose but here": {"strict_rfc821_envelopes = false\n", "strict_rfc821_envelopes = true\n", "early=false accept=false sender=false networks=2 soft=false footer= keep=false"},
		"after a filter": {"", "receive_override_options = [\"no_unknown_recipient_checks\", \"no_address_mappings\"]\n", "early=false accept=true sender=false networks=2 soft=false footer= keep=true"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, err := loadWith(t, tt.gateway, tt.listener)
			if err != nil {
				t.Fatal(err)
			}
			l := f.Gateway.Listeners[0]
			p, wire := f.PolicyOf(l), l.Room(f, nil)
			got := fmt.Sprintf("early=%t accept=%t sender=%t networks=%d soft=%t footer=%s keep=%t", p.EarlyReject, p.AcceptUnlisted, p.RejectUnlistedSender,
				len(p.Networks), wire.SoftBounce, wire.RejectFooter, l.Sessions(f).KeepAddresses && l.KeepsAddresses())
			if got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
			loose := strings.Contains(tt.gateway, "envelopes = false") && !strings.Contains(tt.listener, "envelopes = true")
			if wire.LooseEnvelopes != loose {
				t.Errorf("loose envelopes %v, want %v", wire.LooseEnvelopes, loose)
			}
			// What other servers say is no listener's.
			if soft := f.Delivery().SoftBounce; soft != f.Gateway.SoftBounce {
				t.Errorf("soft_bounce of what others refuse is %v", soft)
			}
		})
	}
}

// TestLeftOutOfTheContentList: what looks into messages is left out by name.
func TestLeftOutOfTheContentList(t *testing.T) {
	t.Parallel()
	l := &SMTPListener{Overrides: []string{noHeaderBodyChecks, noMilters}}
	lists := map[policy.List][]policy.Spec{policy.ListContent: {{Name: "header_checks"}, {Name: "Milter"}, {Name: "sign_dkim"}, {Name: "body_checks"}}}
	l.leaveOut(lists)
	if left := lists[policy.ListContent]; len(left) != 1 || left[0].Name != "sign_dkim" {
		t.Errorf("left: %v", left)
	}
}

func TestRestrictionClasses(t *testing.T) {
	t.Parallel()
	const strict = "restriction_class \"strict\" {\n reject_non_fqdn_sender {}\n inner {}\n}\nrestriction_class \"inner\" {\n reject {}\n}\npolicy \"sender\" {\n check_sender_access { table = \"access\" }\n strict {}\n}\n"
	f, err := loadWith(t, strict, "")
	if err != nil {
		t.Fatal(err)
	}
	if classes := f.Policy().Classes; len(classes) != 2 || classes[0].Name != "strict" || classes[0].Specs[1].Name != "inner" || classes[0].Pos.Line == 0 {
		t.Errorf("classes %+v", classes)
	}
	if route, err := f.FilterRoute("smtp:[127.0.0.1]:10024"); err != nil || route != (mail.Route{Transport: "smtp", NextHop: "[127.0.0.1]:10024"}) {
		t.Errorf("route %v, %v", route, err)
	}
	if _, err := f.FilterRoute("scan:x"); err == nil {
		t.Error("there is no target scan")
	}
}

func TestOverrideMistakes(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ gateway, listener, want string }{
		{"reject_footer = \"see $client_ip\"\n", "", "$client_ip stands for nothing here"},
		{"", "reject_footer = \"see $time\"\n", "$time stands for nothing here"},
		{"reject_footer = \"" + strings.Repeat("x", maxFooter+1) + "\"\n", "", "2000 is the most"},
		{"", "receive_override_options = [\"no_milter\"]\n", "no_milters"},
		{"restriction_class \"reject\" {\n}\n", "", "is a restriction already"},
		{"restriction_class \"a\" {\n reject_nothing {}\n}\n", "", "Unknown restriction"},
		{"restriction_class \"a\" {\n b {}\n}\nrestriction_class \"b\" {\n a {}\n}\n", "", "leads back to itself"},
	} {
		_, err := loadWith(t, tt.gateway, tt.listener)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s%s: got %v\nwant %s", tt.gateway, tt.listener, err, tt.want)
		}
	}
}
