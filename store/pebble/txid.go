package pebble

import (
	"encoding/binary"
	"errors"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/postern-mail/postern/store"
)

// The transaction ids of a group stand in one record under the group's number,
// so that remembering costs one small write for each sync, not for each batch.
// Looking one up reads the records of the last ten minutes; only a batch that
// may have been committed before asks for that.

// txIDWindow tells which records are old enough to go. It measures with the
// monotonic clock only: a clock that jumps forgets nothing too early.
type txIDWindow struct {
	marks []txIDMark
}

type txIDMark struct {
	at    time.Time
	group uint64
}

const txIDMarkEvery = time.Minute

func (w *txIDWindow) start(now time.Time, group uint64) {
	w.marks = []txIDMark{{now, group}}
}

// expire is told of each group and returns, about once a minute, the number
// below which every record is older than store.TxIDKept.
func (w *txIDWindow) expire(now time.Time, group uint64) (before uint64, due bool) {
	if now.Sub(w.marks[len(w.marks)-1].at) < txIDMarkEvery {
		return 0, false
	}
	w.marks = append(w.marks, txIDMark{now, group})
	for len(w.marks) > 1 && now.Sub(w.marks[0].at) >= store.TxIDKept {
		before, due = w.marks[0].group, true
		w.marks = w.marks[1:]
	}
	return before, due
}

// appendTxID adds one batch to a group's record: its id, how many runs of
// numbers it allocated, and their first numbers.
func appendTxID(record []byte, id store.TxID, result store.Result) []byte {
	record = append(record, id[:]...)
	record = binary.AppendUvarint(record, uint64(len(result.Allocated)))
	for _, n := range result.Allocated {
		record = binary.AppendVarint(record, n)
	}
	return record
}

var errTxIDRecord = errors.New("malformed record of transaction ids")

// findTxID looks for id in a group's record.
func findTxID(record []byte, id store.TxID) (result store.Result, found bool, err error) {
	for len(record) > 0 {
		if len(record) < len(id) {
			return result, false, errTxIDRecord
		}
		here := store.TxID(record)
		record = record[len(id):]
		count, n := binary.Uvarint(record)
		if n <= 0 || count > store.MaxBatchOps {
			return result, false, errTxIDRecord
		}
		record = record[n:]
		var allocated []int64
		for range count {
			first, n := binary.Varint(record)
			if n <= 0 {
				return result, false, errTxIDRecord
			}
			allocated = append(allocated, first)
			record = record[n:]
		}
		if here == id {
			return store.Result{Allocated: allocated}, true, nil
		}
	}
	return result, false, nil
}

// committed looks for an earlier commit of id, in the group being built and in
// those before, the newest first.
func (w *writer) committed(id store.TxID) (store.Result, bool, error) {
	if result, found, err := findTxID(w.ids, id); found || err != nil {
		return result, found, err
	}
	it, err := w.store.db.NewIter(&pebble.IterOptions{LowerBound: keyTxIDs, UpperBound: keyTxIDsEnd})
	if err != nil {
		return store.Result{}, false, err
	}
	defer it.Close()
	for ok := it.Last(); ok; ok = it.Prev() {
		record, err := it.ValueAndErr()
		if err != nil {
			return store.Result{}, false, err
		}
		result, found, err := findTxID(record, id)
		if found || err != nil {
			return result, found, err
		}
	}
	return store.Result{}, false, it.Error()
}

// lastGroup returns the number of the last recorded group.
func (s *Store) lastGroup() (uint64, error) {
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: keyTxIDs, UpperBound: keyTxIDsEnd})
	if err != nil {
		return 0, err
	}
	defer it.Close()
	if !it.Last() {
		return 0, it.Error()
	}
	number := it.Key()[len(keyTxIDs):]
	if len(number) != 8 {
		return 0, errTxIDRecord
	}
	return binary.BigEndian.Uint64(number), nil
}
