package config

import (
	"errors"
	"strings"
	"testing"

	"github.com/postern-mail/postern/mail"
)

func TestRouting(t *testing.T) {
	t.Parallel()
	load := func(settings string) (*File, error) {
		return Load(write(t, map[string]string{
			"postern.hcl": strings.Replace(sound, "gateway {", "gateway {\n"+settings, 1), "people.ldif": "", "senders": "",
			"transport": "a.example smart:\n", "relays": "@a.example [b]\n", "broken": "a.example nosuch:\n",
		}))
	}
	if _, err := load(`sender_transport_files = ["$DIR/nowhere"]`); err == nil || !strings.Contains(err.Error(), "nowhere") {
		t.Errorf("a file that is not there: %v", err)
	}
	f, err := load(`
  target "smtp" "smart" {
    address  = ["[relay.example.net]:587", "[2001:db8::1]", "relay.example.org"]
    fallback = ["[last.example.net]"]
  }
  transport ".example.org" { deliver = target.smart }
  transport "example.org" { next_hop = "[192.0.2.1]:26, mx.example.org" }
  transport "gone@example.org" { error = "5.1.6 has moved" }
  transport "*" { discard = "" }
  sender "<>" {
    deliver  = target.smart
    next_hop = "[192.0.2.1]"
  }
  transport_files    = ["$DIR/transport"]
  sender_relay_files = ["$DIR/relays"]
  proxy_interfaces   = ["192.0.2.7"]
`)
	if err != nil {
		t.Fatal(err)
	}
	d := f.Delivery()
	for key, want := range map[string]mail.Route{
		".example.org": {Transport: "smart"}, "example.org": {NextHop: "[192.0.2.1]:26, mx.example.org"},
		"gone@example.org": {Transport: "error", NextHop: "5.1.6 has moved"}, "*": {Transport: "discard"},
	} {
		if got := d.Recipients.Fixed[key]; got != want {
			t.Errorf("%s: %+v, want %+v", key, got, want)
		}
	}
	if got := d.Senders.Fixed["<>"]; got != (mail.Route{Transport: "smart", NextHop: "[192.0.2.1]"}) {
		t.Errorf("sender: %+v", got)
	}
	if d.RecipientDelimiter != "+" {
		t.Errorf("delimiter %q", d.RecipientDelimiter)
	}
	for setting, want := range map[string]string{"": "off", "-+": "-+"} {
		f, err := load("recipient_delimiter = \"" + setting + "\"\ntarget \"smtp\" \"smart\" { address = [\"[relay.example.net]\"] }")
		if err != nil {
			t.Fatal(err)
		}
		if d := f.Delivery(); d.RecipientDelimiter != want || d.Targets[0].RecipientDelimiter != want {
			t.Errorf("delimiter %q: %+v", setting, d)
		}
	}
	if len(d.Recipients.Files) != 1 || len(d.Senders.RelayFiles) != 1 {
		t.Errorf("files: %+v", d)
	}
	for _, target := range d.Targets {
		if target.Name == "smart" && (len(target.Fallback) != 1 || target.Ourselves == nil) {
			t.Errorf("%+v", target)
		}
	}
	for _, row := range []struct{ settings, want string }{
		{`transport "example.org" {}`, "Say where mail for example.org goes"},
		{"transport \"example.org\" {\nerror = \"no\"\ndeliver = target.mail1\n}", "end here"},
		{"transport \"example.org\" {\nerror = \"no\"\nretry = \"no\"\n}", "end here"},
		{`transport "@example.org" { error = "no" }`, "malformed"},
		{`transport "example.org" { next_hop = "[a" }`, "malformed next hop"},
		{"transport \"example.org\" { error = \"no\" }\ntransport \"Example.org\" { error = \"no\" }", "stands here twice"},
		{`sender "example.org" { deliver = target.mail1 }`, "is no key of a sender"},
		{`sender "@example.org" {}`, "Say where mail of @example.org goes"},
		{`transport_files = ["$DIR/broken"]`, `there is no target "nosuch"`},
		{"target \"smtp\" \"x\" {\nfallback = [\"[a\"]\n}", "malformed next hop"},
		{"target \"lmtp\" \"x\" {\naddress = [\"[::1]:24\"]\nfallback = [\"a\"]\n}", "means nothing"},
		{`proxy_interfaces = ["mail.example.org"]`, "proxy_interfaces"},
	} {
		if _, err := load(row.settings); err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s:\ngot %v, want %q", row.settings, err, row.want)
		}
	}
}

// TestMistakesAreToldOnce: one wrong word is one mistake.
func TestMistakesAreToldOnce(t *testing.T) {
	t.Parallel()
	for _, setting := range []string{
		`tls_policy "example.org" { tls = "strict" }`,
		`transport "example.org" { deliver = target.nope }`,
		`sender "@example.org" { deliver = target.nope }`,
	} {
		_, err := Load(write(t, map[string]string{
			"postern.hcl": strings.Replace(sound, "gateway {", "gateway {\n"+setting, 1), "people.ldif": "", "senders": "",
		}))
		var m *Mistakes
		if !errors.As(err, &m) || len(m.diags) != 1 {
			t.Errorf("%s: got %v", setting, err)
		}
	}
}
