package config

import (
	"strings"
	"testing"
)

func TestSpoolOfContent(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		text, wrong string
		share       int64
	}{
		{"", "", 256 << 20},
		{`content { spool_limit = "2 GiB" }`, "", 512 << 20},
		{`content { spool_limit = "200 MiB" }`, "", 100 << 20},
		{`content { spool_client_limit = "150 MiB" }`, "", 150 << 20},
		{`content { spool_client_limit = "99 MiB" }`, "spool_client_limit is below twice the largest message of listener mx", 0},
		{`content { spool_client_limit = "0" }`, "spool_client_limit is below twice", 0},
		{`content { spool_limit = "99 MiB" }`, "spool_limit is below twice the largest message of listener mx", 0},
	} {
		f, err := withLimits(t, tt.text, "")
		if tt.wrong != "" {
			if err == nil || !strings.Contains(err.Error(), tt.wrong) {
				t.Errorf("%s: %v", tt.text, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", tt.text, err)
			continue
		}
		if got := f.Gateway.Content.Room(f).MaxClientOctets; got != tt.share {
			t.Errorf("%s: %d octets for one client, want %d", tt.text, got, tt.share)
		}
	}
	f, err := withLimits(t, `limits { client_ipv6_prefix_length = 56 }`, "")
	if err != nil {
		t.Fatal(err)
	}
	if c := f.Gateway.Listeners[0].Sessions(f); c.IPv4Bits != 32 || c.IPv6Bits != 56 {
		t.Errorf("clients of /%d and /%d", c.IPv4Bits, c.IPv6Bits)
	}
}
