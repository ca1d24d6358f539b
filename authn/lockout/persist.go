package lockout

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/postern-mail/postern/store"
)

// tag is the first octet of our keys in the store: the table's kind follows,
// and the key in the table.
const tag = 'l'

// batchWrites bounds one commit, flushEvery how long a change waits for it.
const (
	batchWrites = 500
	flushEvery  = time.Second
)

// persisted are the tables that the store has.
func (m *Memory) persisted() []*table {
	return []*table{m.accounts, m.unknown, m.pairs, m.networks, m.wrong, m.sprayed, m.familiar}
}

// Load takes in what the store has, before the Memory is used. Records that
// cannot be read, or are over the bounds, are deleted by the next Run.
func (m *Memory) Load(ctx context.Context) error {
	if m.store == nil {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	now, damaged := time.Now().UnixMilli(), 0
	err := m.store.View(ctx, func(s store.Snapshot) error {
		for _, t := range m.persisted() {
			n, err := m.loadLocked(s, t, now)
			if err != nil {
				return err
			}
			damaged += n
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("read what is remembered of logins: %w", err)
	}
	if damaged > 0 {
		m.log.Warn("records of failed logins cannot be read and are dropped", "records", damaged)
	}
	return nil
}

func (m *Memory) loadLocked(s store.Snapshot, t *table, now int64) (damaged int, err error) {
	type loaded struct {
		key string
		*record
	}
	var all []loaded
	for pair, err := range s.Range([]byte{tag, t.kind}, []byte{tag, t.kind + 1}, 0, false) {
		if err != nil {
			return damaged, err
		}
		key := string(pair.Key[2:])
		r, err := decodeRecord(pair.Value)
		if err != nil {
			damaged++
			t.mark(key)
			continue
		}
		m.soberLocked(t, r, now)
		all = append(all, loaded{key, r})
	}
	slices.SortFunc(all, func(a, b loaded) int { return int(min(1, max(-1, a.last-b.last))) })
	for i, l := range all {
		if len(all)-i > m.cfg.Entries {
			t.mark(l.key)
			continue
		}
		t.load(l.key, l.record)
	}
	return damaged, nil
}

// soberLocked takes times back that lie ahead, as after a clock that was wrong:
// nobody is to wait for the year that it showed.
func (m *Memory) soberLocked(t *table, r *record, now int64) {
	r.last = min(r.last, now)
	longest := m.cfg.MaxDelay
	switch t {
	case m.wrong:
		longest = max(0, m.cfg.WrongFor)
	case m.sprayed:
		longest = m.cfg.SprayWindow
	}
	r.until = min(r.until, now+longest.Milliseconds())
	r.times = slices.DeleteFunc(r.times, func(at int64) bool { return at > now })
}

// Run writes what changes until ctx ends, and then the rest.
func (m *Memory) Run(ctx context.Context) error {
	if m.store == nil {
		<-ctx.Done()
		return nil
	}
	tick := time.NewTicker(flushEvery)
	defer tick.Stop()
	warned := false
	for {
		select {
		case <-ctx.Done():
			return m.Flush(context.WithoutCancel(ctx))
		case <-tick.C:
		}
		err := m.Flush(ctx)
		if err != nil && !warned && ctx.Err() == nil {
			m.log.Error("what is remembered of failed logins cannot be written, a restart will forget it", "err", err)
		}
		warned = err != nil
	}
}

// Flush writes what changed since the last time. What could not be written is
// tried again by the next one.
func (m *Memory) Flush(ctx context.Context) error {
	for m.store != nil {
		writes := m.take()
		if len(writes) == 0 {
			return nil
		}
		if err := m.write(ctx, writes); err != nil {
			m.mu.Lock()
			for _, w := range writes {
				w.table.giveBack(w.key)
			}
			m.mu.Unlock()
			return err
		}
	}
	return nil
}

func (m *Memory) take() []write {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.expireLocked(time.Now().UnixMilli())
	var all []write
	for _, t := range m.persisted() {
		all = append(all, t.take(batchWrites-len(all))...)
	}
	return all
}

// write commits, without waiting longer than the store's own for a full disk.
func (m *Memory) write(ctx context.Context, writes []write) error {
	b := store.NewBatch()
	for _, w := range writes {
		key := append([]byte{tag, w.table.kind}, w.key...)
		if len(key) > store.MaxKeyOctets {
			continue // no login is that long
		}
		if w.value == nil {
			b.Delete(key)
		} else {
			b.Put(key, w.value)
		}
	}
	_, err := m.store.Commit(ctx, b)
	if errors.Is(err, store.ErrUnknown) {
		_, err = m.store.Commit(ctx, b)
	}
	return err
}
