package ldap

import (
	"testing"

	"github.com/postern-mail/postern/internal/dns"
)

// TestInOrder draws servers by weight within their priority (RFC 2782).
func TestInOrder(t *testing.T) {
	t.Parallel()
	records := []dns.SRV{
		{Priority: 20, Weight: 0, Target: "last"},
		{Priority: 10, Weight: 90, Target: "often"},
		{Priority: 10, Weight: 10, Target: "seldom"},
		{Priority: 10, Weight: 0, Target: "hardly"},
	}
	first := map[string]int{}
	for range 2000 {
		got := inOrder(records)
		if len(got) != len(records) || got[3].Target != "last" {
			t.Fatalf("order %v", got)
		}
		first[got[0].Target]++
	}
	if first["often"] < 1600 || first["seldom"] < 80 || first["seldom"] > 400 || first["hardly"] > 120 {
		t.Errorf("first in 2000 draws: %v", first)
	}
}
