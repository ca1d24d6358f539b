package shared

import (
	"container/heap"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/postern-mail/postern/store"
)

// Keys in the store: the tag, a kind, and for records the length of the table's
// name, the name and the key.
const (
	tag        = 'P'
	kindNode   = 'n'
	kindRecord = 'r'
)

// Bounds of one commit.
const (
	batchWrites = 500
	batchOctets = 256 << 10
)

var keyNode = []byte{tag, kindNode}

func newNode() uint64 {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails since Go 1.24
	return binary.BigEndian.Uint64(b[:]) | 1
}

// loadNode returns the number that the store has, or gives it the fresh one.
func loadNode(ctx context.Context, kv store.Store, fresh uint64) (uint64, error) {
	node := fresh
	err := kv.View(ctx, func(v store.Snapshot) error {
		value, err := v.Get(keyNode)
		if err == nil && len(value) == 8 {
			node = binary.BigEndian.Uint64(value)
		}
		return err
	})
	if err == nil && node != fresh {
		return node, nil
	}
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return fresh, fmt.Errorf("read what policy remembers: %w", err)
	}
	b := store.NewBatch()
	b.Put(keyNode, binary.BigEndian.AppendUint64(nil, fresh))
	return fresh, commit(ctx, kv, b)
}

func commit(ctx context.Context, kv store.Store, b *store.Batch) error {
	_, err := kv.Commit(ctx, b)
	if errors.Is(err, store.ErrUnknown) {
		_, err = kv.Commit(ctx, b)
	}
	if err != nil {
		return fmt.Errorf("write what policy remembers: %w", err)
	}
	return nil
}

func tablePrefix(name string) []byte {
	return append([]byte{tag, kindRecord, byte(len(name))}, name...)
}

// end returns the first key after all that begin with prefix.
func end(prefix []byte) []byte {
	after := append([]byte(nil), prefix...)
	after[len(after)-1]++ // a kind or a letter: never 0xff
	return after
}

// load takes in what the store has of the table. What cannot be read, or has
// ended, is deleted by the next Flush.
func (t *Table) load(ctx context.Context) error {
	prefix := tablePrefix(t.name)
	now := time.Now().UnixMilli()
	damaged := 0
	t.mu.Lock()
	defer t.mu.Unlock()
	err := store.Scan(ctx, t.store.kv, prefix, end(prefix), 1000, func(_ store.Snapshot, key, value []byte) error {
		k := string(key[len(prefix):])
		r, err := decodeRecord(value)
		if err != nil {
			damaged++
		}
		// A stamp that lies too far ahead is of a clock that was wrong.
		if err != nil || r.expires <= now || !t.store.clock.see(r.stamp) {
			t.dirty[k] = struct{}{}
			return nil
		}
		t.loadLocked(k, r)
		return nil
	})
	if err != nil {
		return fmt.Errorf("read table %s of policy: %w", t.name, err)
	}
	if damaged > 0 {
		t.store.log.Warn("records of policy cannot be read and are dropped", "table", t.name, "records", damaged)
	}
	return nil
}

func (t *Table) loadLocked(key string, r record) {
	for len(t.entries) >= t.cfg.Entries {
		t.evictLocked()
	}
	e := &entry{key: key, record: r, stored: true}
	t.entries[key] = e
	heap.Push(&t.order, e)
}

// write is a record for the store; a nil value is to be deleted.
type write struct {
	key   string
	value []byte
}

// takeLocked hands out some of what the store does not have as it is, and counts
// it as stored.
func (t *Table) takeLocked() []write {
	var all []write
	octets := 0
	for key := range t.dirty {
		if len(all) >= batchWrites || octets >= batchOctets {
			break
		}
		w := write{key: key}
		if e := t.entries[key]; e != nil {
			w.value, e.stored = e.encode(), true
		}
		delete(t.dirty, key)
		octets += len(key) + len(w.value)
		all = append(all, w)
	}
	return all
}

// Flush drops what has ended and writes what changed since the last time. What
// could not be written is tried again by the next one.
func (s *Store) Flush(ctx context.Context) error {
	err := s.pending
	for _, t := range s.all() {
		if flushed := t.flush(ctx); flushed != nil {
			err = flushed
			break
		}
	}
	if ctx.Err() == nil {
		s.failed(err)
	}
	return err
}

func (t *Table) flush(ctx context.Context) error {
	t.mu.Lock()
	t.expireLocked(time.Now().UnixMilli())
	if t.store.kv == nil {
		clear(t.dirty)
	}
	t.mu.Unlock()
	for {
		t.mu.Lock()
		writes := t.takeLocked()
		t.mu.Unlock()
		if len(writes) == 0 {
			return nil
		}
		prefix := tablePrefix(t.name)
		b := store.NewBatch()
		for _, w := range writes {
			key := append(prefix[:len(prefix):len(prefix)], w.key...)
			if w.value == nil {
				b.Delete(key)
			} else {
				b.Put(key, w.value)
			}
		}
		if err := commit(ctx, t.store.kv, b); err != nil {
			t.mu.Lock()
			for _, w := range writes {
				t.dirty[w.key] = struct{}{}
			}
			t.mu.Unlock()
			return err
		}
	}
}

// sweep deletes what has ended of tables that nobody asked for, as those of
// restrictions that were taken out of the configuration.
func (s *Store) sweep(ctx context.Context) error {
	lo := []byte{tag, kindRecord}
	now := time.Now().UnixMilli()
	b := store.NewBatch()
	err := store.Scan(ctx, s.kv, lo, end(lo), 1000, func(_ store.Snapshot, key, value []byte) error {
		if len(key) > 2 && len(key) >= 3+int(key[2]) && s.table(string(key[3:3+int(key[2])])) != nil {
			return nil // its own business
		}
		if r, err := decodeRecord(value); err == nil && r.expires > now {
			return nil
		}
		b.Delete(append([]byte(nil), key...))
		if len(b.Ops) < batchWrites {
			return nil
		}
		full := b
		b = store.NewBatch()
		return commit(ctx, s.kv, full)
	})
	if err == nil && len(b.Ops) > 0 {
		err = commit(ctx, s.kv, b)
	}
	return err
}
