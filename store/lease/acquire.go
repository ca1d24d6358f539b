package lease

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/postern-mail/postern/store"
)

// Acquire takes the lease at key, with a new epoch, when nobody living has it,
// or the caller has lost it. It returns ErrHeld when somebody else has it or is
// quicker, and ErrFenced when the holder itself cannot show that it is alive:
// Renew comes first.
func (h *Holder) Acquire(ctx context.Context, key []byte) (*Lease, error) {
	h.mu.Lock()
	me, mine, alive := h.id, h.leases[string(key)], h.inTimeLocked()
	h.mu.Unlock()
	if mine != nil && alive {
		return mine, nil
	}
	if !alive {
		return nil, ErrFenced
	}
	value, now, err := h.read(ctx, key)
	if err != nil {
		return nil, err
	}
	b := store.NewBatch()
	b.UseReserve = true
	if value == nil {
		b.IfAbsent(key)
	} else {
		b.IfEquals(key, value)
	}
	if now.holder != nobody && now.holder != me {
		b.IfAbsent(h.beatKey(now.holder))
	}
	next := record{epoch: now.epoch + 1, holder: me}
	b.Put(key, next.encode())
	if _, err := h.kv.Commit(ctx, b); errors.Is(err, store.ErrConflict) {
		return nil, ErrHeld
	} else if err != nil {
		h.renounce() // it may be ours after all
		return nil, fmt.Errorf("acquire lease: %w", err)
	}
	return h.take(&Lease{holder: h, key: bytes.Clone(key), record: next, value: next.encode(), lost: make(chan struct{})})
}

// take enters a lease, unless the life that acquired it is over.
func (h *Holder) take(l *Lease) (*Lease, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.id != l.record.holder || !h.inTimeLocked() {
		close(l.lost)
		return nil, ErrFenced
	}
	if earlier := h.leases[string(l.key)]; earlier != nil {
		h.dropLocked(earlier)
	}
	h.leases[string(l.key)] = l
	return l, nil
}

// read returns what is at the key of a lease; nil for nothing.
func (h *Holder) read(ctx context.Context, key []byte) (value []byte, r record, err error) {
	err = h.kv.View(ctx, func(v store.Snapshot) error {
		octets, err := v.Get(key)
		if errors.Is(err, store.ErrNotFound) {
			return nil
		}
		value = bytes.Clone(octets)
		return err
	})
	if err == nil {
		r, err = decodeRecord(value)
	}
	return value, r, err
}

// Confirm asks the store whether the lease still is the newest: ErrFenced when
// it is not, and Lost is closed then.
func (l *Lease) Confirm(ctx context.Context) error {
	value, _, err := l.holder.read(ctx, l.key)
	if err != nil {
		return err
	}
	if !bytes.Equal(value, l.value) {
		l.holder.drop(l)
	}
	if !l.Held() {
		return ErrFenced
	}
	return nil
}

func (h *Holder) drop(l *Lease) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.dropLocked(l)
}

// Release gives the lease back: others may take it at once. Nothing guarded by
// it may be under way any more that matters.
func (l *Lease) Release(ctx context.Context) error {
	l.holder.drop(l)
	b := store.NewBatch()
	b.UseReserve = true
	l.Guard(b)
	b.Put(l.key, record{epoch: l.record.epoch}.encode())
	if _, err := l.holder.kv.Commit(ctx, b); err != nil && !errors.Is(err, store.ErrConflict) {
		l.holder.renounce()
		return fmt.Errorf("release lease: %w", err)
	}
	return nil
}

// HeldBy tells for people who has the lease at key: "" for nobody living.
func (h *Holder) HeldBy(ctx context.Context, key []byte) (name string, err error) {
	_, now, err := h.read(ctx, key)
	if err != nil || now.holder == nobody {
		return "", err
	}
	beats, err := h.allBeats(ctx)
	return nameIn(beats[now.holder]), err
}

// Seize makes every lease below prefix void, for whoever has the store to
// itself: what their holders still have under way is not written.
func Seize(ctx context.Context, kv store.Store, lo, hi []byte) error {
	var stale []store.Pair
	err := store.Scan(ctx, kv, lo, hi, 1000, func(_ store.Snapshot, key, value []byte) error {
		stale = append(stale, store.Pair{Key: bytes.Clone(key), Value: bytes.Clone(value)})
		return nil
	})
	if err != nil || len(stale) == 0 {
		return err
	}
	b := store.NewBatch()
	for _, s := range stale {
		r, err := decodeRecord(s.Value)
		if err != nil {
			return err
		}
		if r.holder != nobody {
			b.Put(s.Key, record{epoch: r.epoch + 1}.encode())
		}
	}
	if len(b.Ops) == 0 {
		return nil
	}
	_, err = kv.Commit(ctx, b)
	return err
}
