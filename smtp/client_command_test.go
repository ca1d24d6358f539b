package smtp

import "testing"

// TestClientOriginal: an address outside ASCII reaches the peer in ASCII, and
// reads there as it was.
func TestClientOriginal(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ kind, address, want string }{
		{"utf-8", "zoë+1@example.com", `zo\x{EB}\x{2B}1@example.com`},
		{"UTF-8", `a\b=c@例え.example`, `a\x{5C}b\x{3D}c@\x{4F8B}\x{3048}.example`},
		{"utf-8", "\xff", "+FF"},
		{"rfc822", "a+b@example.com", "a+2Bb@example.com"},
	} {
		got := clientOriginal(tt.kind, tt.address)
		if got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.address, got, tt.want)
		}
		if back, err := decodeUTF8Address(got); tt.kind == "utf-8" && tt.address != "\xff" && (err != nil || back != tt.address) {
			t.Errorf("%s came back as %q, %v", tt.address, back, err)
		}
	}
}
