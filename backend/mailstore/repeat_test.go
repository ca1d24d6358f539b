package mailstore

import (
	"fmt"
	"testing"

	"github.com/postern-mail/postern/store/storetest"
)

// TestRepeatsInAnyOrder: a delivery is known again whether its ID lies above or
// below those before it, in the same commit, after a restart, and when another
// writer of the account stored it.
func TestRepeatsInAnyOrder(t *testing.T) {
	t.Parallel()
	kv, blobs := storetest.Open(t)
	first := openOn(t, Config{}, kv, blobs)
	content := stage(t, first, message(1))
	defer content.Discard()
	deliver := func(a *Account, ids ...string) {
		t.Helper()
		list := make([]Delivery, len(ids))
		for i, id := range ids {
			list[i] = Delivery{ID: id, Content: content}
		}
		for i, err := range a.Deliver(t.Context(), list) {
			if err != nil {
				t.Errorf("%s: %v", ids[i], err)
			}
		}
	}
	holds := func(a *Account, want int) {
		t.Helper()
		if st, err := a.Status(t.Context(), "INBOX"); err != nil || st.Messages != want {
			t.Errorf("%d messages, want %d; %v", st.Messages, want, err)
		}
	}
	one := openAccount(t, first, "kim")
	deliver(one, "5", "5", "7")
	deliver(one, "3", "7", "5")
	holds(one, 3)
	// IDs that begin alike, shorter and longer than what keeps their order.
	deliver(one, "2026-02-03 a", "2026-02-03 b", "2026-02-", "2026-02-0", "2026-02-03 a")
	deliver(one, "2026-02-03 b", "2026-02-0", "2026-02-")
	holds(one, 7)

	// Another store has read the account before the next ones.
	second := openOn(t, Config{}, kv, blobs)
	two := openAccount(t, second, "kim")
	deliver(one, "8", "9")
	deliver(two, "9", "8", "7", "3")
	holds(two, 9)
	deliver(two, "99")
	deliver(one, "99", "98")
	holds(one, 11)

	third := openAccount(t, openOn(t, Config{}, kv, blobs), "kim")
	deliver(third, "99", "98", "2026-02-", "3")
	holds(third, 11)
	for i := range 40 {
		deliver(third, fmt.Sprint("w", i*7%40))
	}
	holds(third, 51)
	for i := range 40 {
		deliver(third, fmt.Sprint("w", i))
	}
	holds(third, 51)
}
