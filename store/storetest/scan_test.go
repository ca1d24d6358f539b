package storetest_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/postern-mail/postern/store"
	"github.com/postern-mail/postern/store/storetest"
)

// TestScan: every pair once and in order, wherever the pages end, each in a
// view that holds it.
func TestScan(t *testing.T) {
	t.Parallel()
	kv, _ := storetest.Open(t)
	b := store.NewBatch()
	for i := range 10 {
		b.Put(fmt.Appendf(nil, "k%d", i), fmt.Append(nil, i))
	}
	b.Put([]byte("l"), nil)
	if _, err := kv.Commit(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	for _, page := range []int{1, 3, 5, 10, 11} {
		seen := ""
		err := store.Scan(t.Context(), kv, []byte("k"), []byte("l"), page, func(v store.Snapshot, key, value []byte) error {
			again, err := v.Get(key)
			if err != nil || string(again) != string(value) {
				t.Errorf("%s holds %q in its view, %v", key, again, err)
			}
			seen += string(value)
			return nil
		})
		if err != nil || seen != "0123456789" {
			t.Errorf("by %d: %q, %v", page, seen, err)
		}
	}
	stop := errors.New("enough")
	n := 0
	err := store.Scan(t.Context(), kv, []byte("k"), []byte("l"), 3, func(store.Snapshot, []byte, []byte) error {
		if n++; n == 4 {
			return stop
		}
		return nil
	})
	if !errors.Is(err, stop) || n != 4 {
		t.Errorf("stopped after %d with %v", n, err)
	}
}
