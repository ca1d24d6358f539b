package mailstore

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/postern-mail/postern/store/storetest"
)

func TestNewNames(t *testing.T) {
	t.Parallel()
	a := openAccount(t, openStore(t, Config{Mailboxes: []ConfiguredMailbox{}, MaxNameOctets: 20, MaxLevelOctets: 8, MaxDepth: 3, RefusedCharacters: "~\u00fc"}), "kim")
	for name, want := range map[string]struct {
		reason string
		limit  bool
	}{
		"eight888/eight888/e":     {},
		"eight888/eight888/es2":   {"is longer than 20 octets", true},
		"nine99999":               {"has a level that is longer than 8 octets", true},
		"a/b/c":                   {},
		"a/b/c/d":                 {"has more than 3 levels", true},
		"home~":                   {"has the character U+007E, which is not allowed", false},
		"u\u0308b":                {"has the character U+00FC, which is not allowed", false}, // in any form
		"a*":                      {"has the character U+002A, which is not allowed", false},
		"a//b":                    {"has an empty level", false},
		"\xff":                    {"is not UTF-8", false},
		strings.Repeat("x", 2000): {"is longer than 1000 octets", true},
	} {
		_, err := a.Create(t.Context(), name, "")
		var refused *NameError
		switch {
		case want.reason == "" && err != nil:
			t.Errorf("%.30q: %v", name, err)
		case want.reason != "" && (!errors.As(err, &refused) || !errors.Is(err, ErrBadName) || refused.Reason != want.reason || refused.Limit != want.limit):
			t.Errorf("%.30q: %v, want %q", name, err, want.reason)
		}
	}
}

// What is there when limits are lowered goes on to work, and may be renamed
// with what lies above it.
func TestLoweredLimits(t *testing.T) {
	t.Parallel()
	kv, blobs := storetest.Open(t)
	ctx := t.Context()
	const long = "a/mailbox~with a long name/below"
	a := openAccount(t, openOn(t, Config{Mailboxes: []ConfiguredMailbox{}}, kv, blobs), "kim")
	for _, name := range []string{"a", long, "b"} {
		if _, err := a.Create(ctx, name, ""); err != nil {
			t.Fatal(err)
		}
	}
	a.Close()
	lowered := Config{Mailboxes: []ConfiguredMailbox{}, MaxMailboxes: 2, MaxNameOctets: 12, MaxLevelOctets: 5, MaxDepth: 2, RefusedCharacters: "~"}
	a = openAccount(t, openOn(t, lowered, kv, blobs), "kim")
	if got := names(t, a); !slices.Equal(got, []string{"INBOX*", "a", long, "b"}) {
		t.Errorf("names %q", got)
	}
	m, err := a.Mailbox(ctx, long)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	m.Close()
	if _, err := a.Status(ctx, long); err != nil {
		t.Errorf("status: %v", err)
	}
	if err := a.Subscribe(ctx, long, true); err != nil {
		t.Errorf("subscribe: %v", err)
	}
	if _, err := a.Create(ctx, "c", ""); !errors.Is(err, ErrTooManyMailboxes) {
		t.Errorf("create: %v", err)
	}
	if err := a.Rename(ctx, "b", "a/other"); err != nil {
		t.Errorf("rename within the limits: %v", err)
	}
	if err := a.Rename(ctx, "a/other", "a/other~"); !errors.Is(err, ErrBadName) {
		t.Errorf("rename beyond them: %v", err)
	}
	if err := a.Rename(ctx, "a", "new"); err != nil {
		t.Errorf("rename of what lies above: %v", err)
	}
	if err := a.Delete(ctx, "new"+long[1:]); err != nil {
		t.Errorf("delete: %v", err)
	}
}
