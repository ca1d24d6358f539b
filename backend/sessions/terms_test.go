package sessions

import (
	"strings"
	"testing"
	"time"
)

// TestTerms: zero values mean their defaults, and what makes no sense is told.
func TestTerms(t *testing.T) {
	t.Parallel()
	full := Terms{Hostname: "mail.example.com", AuthDelay: -1, MaxSessionsPerClient: -1}.WithDefaults("imap", 30*time.Minute)
	if err := full.Check(); err != nil || full.Listener != "imap" || full.IdleTimeout != 30*time.Minute || full.AuthDelay != 0 || full.MaxSessionsPerClient != -1 || full.MaxSessions != 10000 {
		t.Errorf("%+v, %v", full, err)
	}
	if door := full.Door(); door.MaxPerClient != -1 || door.MaxPerAccount != 100 || door.Grace != 20*time.Second {
		t.Errorf("%+v", door)
	}
	for want, wrong := range map[string]Terms{
		`hostname "a <b>" cannot stand`: {Hostname: "a <b>"},
		`hostname "" cannot stand`:      {},
		"needs a certificate":           {Hostname: "x", ImplicitTLS: true},
		"write timeout is negative":     {Hostname: "x", WriteTimeout: -1},
	} {
		full := wrong.WithDefaults("imap", time.Minute)
		if err := full.Check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", wrong, err, want)
		}
	}
}
