package config

import "testing"

// TestSessionLimits: 0 takes a bound away, which the rooms write as -1, and
// what is not set stays bounded.
func TestSessionLimits(t *testing.T) {
	t.Parallel()
	f := &File{}
	for _, row := range []struct{ set, want int }{{0, -1}, {1, 1}, {100, 100}} {
		imap := (&BackendListener{MaxPerClient: row.set, MaxPerLogin: row.set}).IMAP(f)
		if imap.MaxSessionsPerClient != row.want || imap.MaxSessionsPerAccount != row.want {
			t.Errorf("%d: %+v", row.set, imap)
		}
	}
}
