package config

import (
	"strings"
	"testing"
)

// TestShadowMode: gateways are told to keep mail where that is the mode of any
// account, and for those accounts only.
func TestShadowMode(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		pair, bank       string
		offers, all, one bool
	}{
		{"semi-sync", "strict", false, false, false},
		{"semi-sync", "shadow", true, false, true},
		{"shadow", "strict", true, true, false},
	} {
		b := &Backend{Replica: &Replica{Durability: row.pair, Accounts: []*ReplicaAccount{{Mask: "*@bank.example", Durability: row.bank}}}}
		if got := strings.HasSuffix(b.PairHint(), " KEEP"); got != row.offers {
			t.Errorf("%+v: %q", row, b.PairHint())
		}
		if all, one := b.Replica.Keeps("kim"), b.Replica.Keeps("kim@bank.example"); all != row.all || one != row.one {
			t.Errorf("%+v: %v, %v", row, all, one)
		}
	}
}
