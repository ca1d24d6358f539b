package pebble

import (
	"slices"
	"testing"

	"github.com/postern-mail/postern/store"
)

// FuzzTxIDs reads whatever may stand in a record of transaction ids.
func FuzzTxIDs(f *testing.F) {
	first, second := store.TxID{1}, store.TxID{2}
	record := appendTxID(nil, first, store.Result{Allocated: []int64{1, -5, 1 << 62}})
	record = appendTxID(record, second, store.Result{})
	f.Add(record, second[:])
	f.Add(record, first[:])
	f.Add(record[:20], first[:])
	f.Add(append(second[:], 0xff, 0xff, 0xff, 0xff, 0x0f), first[:])
	f.Add([]byte{}, first[:])
	f.Fuzz(func(t *testing.T, record, id []byte) {
		if len(id) != len(first) {
			return
		}
		wanted := store.TxID(id)
		result, found, err := findTxID(record, wanted)
		if err != nil && (found || result.Allocated != nil) {
			t.Errorf("%+v, %v, and yet %v", result, found, err)
		}
		if err != nil || found {
			return
		}
		// One more at the end is found, and takes nothing from the others.
		longer := appendTxID(slices.Clone(record), wanted, store.Result{Allocated: []int64{7, -9}})
		result, found, err = findTxID(longer, wanted)
		if err != nil || !found || !slices.Equal(result.Allocated, []int64{7, -9}) {
			t.Errorf("appended to %x: %+v, %v, %v", record, result, found, err)
		}
	})
}
