package lease

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/store"
)

// Config says who shares what.
type Config struct {
	// Prefix begins the keys of the heartbeats of all who share the leases.
	Prefix []byte
	// Name tells people which process it is.
	Name string
	// TTL is the same for all who share; 0 means DefaultTTL.
	TTL time.Duration
}

// Holder is a process that takes leases. It is safe for concurrent use.
type Holder struct {
	kv  store.Store
	cfg Config
	log hclog.Logger

	mu sync.Mutex
	id holderID
	// beats counts the heartbeats of this life; beat is the last that is
	// known to be in the store, nil for none.
	beats uint64
	beat  []byte
	// beatAt is when the commit of beat began: from then on others may have
	// seen it.
	beatAt time.Time
	// pending is a heartbeat whose outcome is not known, begun at pendingAt.
	pending   *store.Batch
	pendingAt time.Time
	// renounced is set when leases may be this life's that nobody here uses: a
	// new life frees them.
	renounced bool
	leases    map[string]*Lease
	seen      map[holderID]sighting
	stop      *time.Timer // ends all leases when the beat is too old
}

// sighting is a heartbeat of another and since when it has been the same.
type sighting struct {
	beat  []byte
	since time.Time
}

// NewHolder returns a holder that has nothing yet. Run keeps it alive.
func NewHolder(cfg Config, kv store.Store, log hclog.Logger) *Holder {
	if cfg.TTL <= 0 {
		cfg.TTL = DefaultTTL
	}
	h := &Holder{kv: kv, cfg: cfg, log: log, leases: map[string]*Lease{}, seen: map[holderID]sighting{}}
	h.bearLocked()
	return h
}

// bearLocked begins a new life.
func (h *Holder) bearLocked() {
	_, _ = rand.Read(h.id[:]) // never fails since Go 1.24
	h.beats, h.beat, h.pending, h.renounced = 0, nil, nil, false
}

func (h *Holder) renewAfter() time.Duration { return h.cfg.TTL / 3 }
func (h *Holder) retryAfter() time.Duration { return h.cfg.TTL / 15 }
func (h *Holder) stopAfter() time.Duration  { return 2 * h.cfg.TTL / 3 }

func (h *Holder) beatKey(id holderID) []byte {
	return append(bytes.Clone(h.cfg.Prefix), id[:]...)
}

// Run renews, watches the others, and gives everything back when ctx ends, so
// that others take over at once. It is called once.
func (h *Holder) Run(ctx context.Context) error {
	for {
		next := h.renewAfter()
		if err := h.Renew(ctx); err != nil && ctx.Err() == nil {
			h.log.Warn("renew leases", "err", err)
			next = h.retryAfter()
		}
		select {
		case <-ctx.Done():
			return h.leave(context.WithoutCancel(ctx))
		case <-time.After(next):
		}
	}
}

// Renew shows that the holder is alive and looks who else is. Run calls it; who
// has to know at once may call it too, one call at a time.
func (h *Holder) Renew(ctx context.Context) error {
	return errors.Join(h.beatOnce(ctx), h.watch(ctx))
}

// beatOnce commits the next heartbeat, or goes on with one whose outcome is not
// known: a new one could not tell its own predecessor from a stranger.
func (h *Holder) beatOnce(ctx context.Context) error {
	h.mu.Lock()
	if h.renounced || h.beat != nil && !h.inTimeLocked() {
		h.reviveLocked()
	}
	if h.pending == nil {
		h.pending, h.pendingAt = store.NewBatch(), time.Now()
		h.pending.UseReserve = true
		key := h.beatKey(h.id)
		if h.beat == nil {
			h.pending.IfAbsent(key)
		} else {
			h.pending.IfEquals(key, h.beat)
		}
		h.pending.Put(key, heartbeat(h.beats+1, h.cfg.Name))
	}
	b, begun, id := h.pending, h.pendingAt, h.id
	h.mu.Unlock()

	_, err := h.kv.Commit(ctx, b)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.id != id || h.pending != b {
		return nil // left meanwhile
	}
	switch {
	case err == nil:
		h.pending = nil
		h.beats++
		h.beat, h.beatAt = heartbeat(h.beats, h.cfg.Name), begun
		h.armLocked()
		return nil
	case errors.Is(err, store.ErrConflict):
		h.log.Warn("others took over: this process did not show itself in time", "holder", h.cfg.Name)
		h.dropAllLocked()
		h.bearLocked()
		return ErrFenced
	default:
		return fmt.Errorf("heartbeat: %w", err)
	}
}

// reviveLocked ends this life and begins another in one commit: what leases the
// old one had are free then, those too that it may have without knowing.
func (h *Holder) reviveLocked() {
	old := h.beatKey(h.id)
	h.dropAllLocked()
	h.bearLocked()
	h.pending, h.pendingAt = store.NewBatch(), time.Now()
	h.pending.UseReserve = true
	h.pending.Delete(old)
	h.pending.Put(h.beatKey(h.id), heartbeat(1, h.cfg.Name))
}

// renounce has the next heartbeat begin a new life.
func (h *Holder) renounce() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.renounced = true
}

// armLocked has all leases end when no further heartbeat succeeds in time.
func (h *Holder) armLocked() {
	left := time.Until(h.beatAt.Add(h.stopAfter()))
	if h.stop == nil {
		h.stop = time.AfterFunc(left, h.expire)
	} else {
		h.stop.Reset(left)
	}
}

// expire ends all leases if the heartbeat is as old as that.
func (h *Holder) expire() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.inTimeLocked() {
		h.dropAllLocked()
	}
}

func (h *Holder) inTimeLocked() bool {
	return h.beat != nil && time.Since(h.beatAt) < h.stopAfter()
}

func (h *Holder) dropAllLocked() {
	for _, l := range h.leases {
		h.dropLocked(l)
	}
}

func (h *Holder) dropLocked(l *Lease) {
	if h.leases[string(l.key)] == l {
		delete(h.leases, string(l.key))
		close(l.lost)
	}
}

// watch looks at the heartbeats of the others, and ends those that have been the
// same for a whole TTL. Only the time between two looks of this process counts,
// so no two clocks are compared.
func (h *Holder) watch(ctx context.Context) error {
	before := time.Now()
	beats, err := h.allBeats(ctx)
	if err != nil {
		return err
	}
	silent := h.note(beats, before, time.Now())
	var failed error
	for id, beat := range silent {
		failed = errors.Join(failed, h.bury(ctx, id, beat))
	}
	return failed
}

// note remembers what a look from before to after found, and returns those who
// have been silent for too long.
func (h *Holder) note(beats map[holderID][]byte, before, after time.Time) (silent map[holderID][]byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for id := range h.seen {
		if beats[id] == nil {
			delete(h.seen, id)
		}
	}
	for id, beat := range beats {
		s, known := h.seen[id]
		if !known || !bytes.Equal(s.beat, beat) {
			h.seen[id] = sighting{beat: beat, since: after}
		} else if id != h.id && before.Sub(s.since) >= h.cfg.TTL {
			if silent == nil {
				silent = map[holderID][]byte{}
			}
			silent[id] = beat
		}
	}
	return silent
}

// bury ends a holder whose heartbeat still is beat: it is dead from then on,
// and learns so if it is not.
func (h *Holder) bury(ctx context.Context, id holderID, beat []byte) error {
	b := store.NewBatch()
	b.UseReserve = true
	b.IfEquals(h.beatKey(id), beat)
	b.Delete(h.beatKey(id))
	switch _, err := h.kv.Commit(ctx, b); {
	case err == nil:
		h.log.Warn("a process is silent, its work is free", "silent", nameIn(beat), "holder", h.cfg.Name)
	case !errors.Is(err, store.ErrConflict):
		return fmt.Errorf("end a silent holder: %w", err)
	}
	return nil
}

func (h *Holder) allBeats(ctx context.Context) (map[holderID][]byte, error) {
	beats := map[holderID][]byte{}
	end := append(bytes.Clone(h.cfg.Prefix), bytes.Repeat([]byte{0xff}, len(holderID{})+1)...)
	err := store.Scan(ctx, h.kv, h.cfg.Prefix, end, 1000, func(_ store.Snapshot, key, value []byte) error {
		if len(key) == len(h.cfg.Prefix)+len(holderID{}) {
			beats[holderID(key[len(h.cfg.Prefix):])] = bytes.Clone(value)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("look for other holders: %w", err)
	}
	return beats, nil
}

// Living is how many holders there were at the last look, this one included.
func (h *Holder) Living() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := 1
	for id := range h.seen {
		if id != h.id {
			n++
		}
	}
	return n
}

// leave ends this life: all leases are free at once.
func (h *Holder) leave(ctx context.Context) error {
	h.mu.Lock()
	h.dropAllLocked()
	if h.stop != nil {
		h.stop.Stop()
	}
	b := store.NewBatch()
	b.UseReserve = true
	b.Delete(h.beatKey(h.id))
	h.bearLocked()
	h.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, h.stopAfter())
	defer cancel()
	if _, err := h.kv.Commit(ctx, b); err != nil {
		return fmt.Errorf("give leases back: %w", err)
	}
	return nil
}
