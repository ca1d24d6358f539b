package config

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/mail"
)

// withLimits is a sound configuration with text in its gateway and in its
// listener mx.
func withLimits(t *testing.T, gateway, listener string) (*File, error) {
	t.Helper()
	text := strings.Replace(sound, "gateway {\n", "gateway {\n"+gateway+"\n", 1)
	text = strings.Replace(text, `listener "mx" { bind = [":25"] }`, "listener \"mx\" {\n bind = [\":25\"]\n"+listener+"\n}", 1)
	return Load(write(t, map[string]string{"postern.hcl": text, "people.ldif": "", "senders": ""}))
}

// TestLimitsDefaults are those of Postfix, but where docs/limits.md says.
func TestLimitsDefaults(t *testing.T) {
	t.Parallel()
	f, err := withLimits(t, "", "")
	if err != nil {
		t.Fatal(err)
	}
	l := f.Gateway.Listeners[0]
	c := l.Room(f, nil)
	rates := l.Rates(f)
	if rates.Most != ([mail.ClientEvents]int{}) || rates.Shared || rates.Unit != time.Minute {
		t.Errorf("rates %+v", rates)
	}
	if c.SoftErrors != 10 || c.HardErrors != 20 || c.ErrorDelay != time.Second || c.MaxJunkCommands != 100 || c.MaxSurplus != 1000 ||
		c.MaxAuthFailures != 3 || c.MinDataRate != 500 || c.MessageTimeout != time.Hour || c.Stress != 90 || c.StressTimeout != 10*time.Second ||
		c.IPv4Bits != 32 || c.IPv6Bits != 64 || len(c.Noop) != 0 || !slices.Equal(c.Forbidden, []string{"CONNECT", "GET", "POST"}) || len(c.ExemptClients) != 2 {
		t.Errorf("%+v", c)
	}
}

// TestListenersLimits: what a listener writes counts there, the rest is the
// gateway's, also where the listener wrote a default.
func TestListenersLimits(t *testing.T) {
	t.Parallel()
	f, err := withLimits(t, `limits {
  client_message_rate_limit = 100
  client_recipient_rate_limit = 1000
  soft_error_limit = 5
  hard_error_limit = 0
  error_sleep_time = "0s"
  client_event_limit_exceptions = ["192.0.2.0/24"]
  forbidden_commands = []
}`, `limits {
  client_message_rate_limit = 0
  soft_error_limit = 10
  limit_mynetworks = true
  shared = true
}`)
	if err != nil {
		t.Fatal(err)
	}
	l := f.Gateway.Listeners[0]
	c := l.Room(f, nil)
	rates := l.Rates(f)
	if rates.Most[mail.ClientSendsMessage] != 0 || rates.Most[mail.ClientNamesRecipient] != 1000 || !rates.Shared || rates.Service != "mx" ||
		!slices.Equal(rates.Exempt, []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}) {
		t.Errorf("rates %+v", rates)
	}
	if c.SoftErrors != 10 || c.HardErrors != -1 || c.ErrorDelay != -1 || c.Forbidden == nil || len(c.Forbidden) != 0 || len(c.ExemptClients) != 1 {
		t.Errorf("%+v", c)
	}
}

func TestLimitsMistakes(t *testing.T) {
	t.Parallel()
	for block, want := range map[string]string{
		"client_message_rate_limit = -1":                "client_message_rate_limit is -1",
		"client_ipv6_prefix_length = 129":               "client_ipv6_prefix_length is 129",
		"stress_percent = 101":                          "stress_percent is 101",
		`rate_time_unit = "10ms"`:                       "rate_time_unit is",
		`noop_commands = ["NO OP"]`:                     `"NO OP" is no command`,
		`forbidden_commands = "8BIT"`:                   `"8BIT" is no command`,
		"soft_error_limit = 30":                         "soft_error_limit (30) is above hard_error_limit (20)",
		"clients_tracked = 1":                           "clients_tracked is 1",
		`client_event_limit_exceptions = "192.0.2.1/8"`: "bits behind its mask",
	} {
		if _, err := withLimits(t, "limits {\n"+block+"\n}", ""); err == nil || !strings.Contains(fmt.Sprint(err), want) || !strings.Contains(err.Error(), " line ") {
			t.Errorf("%s: %v", block, err)
		}
		if _, err := withLimits(t, "", "limits {\n"+block+"\n}"); err == nil || !strings.Contains(fmt.Sprint(err), want) {
			t.Errorf("%s in a listener: %v", block, err)
		}
	}
	if _, err := withLimits(t, "", "limits {\nclients_tracked = 1000\n}"); err == nil || !strings.Contains(err.Error(), "one memory") {
		t.Errorf("clients_tracked in a listener: %v", err)
	}
	if _, err := withLimits(t, "", "require_tls = true"); err == nil || !strings.Contains(err.Error(), "needs a tls block") {
		t.Errorf("require_tls without a certificate: %v", err)
	}
}
