package policy

import (
	"testing"

	"github.com/postern-mail/postern/table"
)

// TestMappedNetworks: clients are known by their IPv4 address, so a network
// written the other way must not be one that nobody is in.
func TestMappedNetworks(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"::ffff:192.0.2.0/120": "192.0.2.0/24", "[::ffff:192.0.2.1]": "192.0.2.1/32", "::ffff:0:0/96": "0.0.0.0/0",
		"::/0": "::/0", "::/90": "::/90", "::ffff:0:0/90": "", "fe80::1%eth0": "",
	} {
		got, err := table.ParseNetwork(text)
		if want == "" && err == nil || want != "" && (err != nil || got.String() != want) {
			t.Errorf("table.ParseNetwork(%q) = %v, %v; want %q", text, got, err, want)
		}
	}
}
