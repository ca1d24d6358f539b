package config

import (
	"strings"
	"testing"
)

func TestNetworks(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"192.0.2.1": "192.0.2.1/32", "::ffff:192.0.2.1": "192.0.2.1/32", "::ffff:192.0.2.0/120": "192.0.2.0/24",
		"::ffff:0:0/96": "0.0.0.0/0", "2001:db8::/32": "2001:db8::/32",
		"::/0": "::/0", "::ffff:0:0/95": "", "fe80::1%eth0": "", "192.0.2.1/24": "", "192.0.2": "",
	} {
		got, err := parsePrefix(text)
		if want == "" && err == nil || want != "" && got.String() != want {
			t.Errorf("parsePrefix(%q) = %v, %v; want %q", text, got, err, want)
		}
	}
}

func TestEverybodyInMyNetworks(t *testing.T) {
	t.Parallel()
	f, err := Load(write(t, map[string]string{
		"postern.hcl": strings.Replace(tabled, "gateway {", "gateway {\n  mynetworks = [\"::1\", \"0.0.0.0/0\"]", 1), "virtual": "", "aliases": "",
	}))
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(f.Warnings(), "\n"); !strings.Contains(got, "postern.hcl:26: mynetworks holds 0.0.0.0/0") {
		t.Errorf("warnings: %s", got)
	}
}
