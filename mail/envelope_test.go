package mail

import (
	"net/netip"
	"testing"
)

func TestPeer(t *testing.T) {
	t.Parallel()
	for want, c := range map[string]Client{
		"local":               {},
		"192.0.2.1:25":        {Remote: netip.MustParseAddrPort("192.0.2.1:25")},
		"[2001:db8::1]:40000": {Remote: netip.MustParseAddrPort("[2001:db8::1]:40000")},
	} {
		if got := c.Peer(); got != want {
			t.Errorf("Peer() = %q, want %q", got, want)
		}
	}
}
