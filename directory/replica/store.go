package replica

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sort"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/directory/index"
	"github.com/postern-mail/postern/store"
)

// Store keeps replicas over restarts. It is safe to delete: what it held is
// brought again by the servers. docs/formats/directory.md tells what is in it.
type Store struct{ kv store.Store }

// NewStore returns a store of replicas in kv, in which it owns the keys that
// begin with 'R'.
func NewStore(kv store.Store) *Store { return &Store{kv} }

const (
	tag           = 'R'
	kindHead      = 'h'
	kindEntry     = 'e'
	formatVersion = 1
	chunkOctets   = 60 << 10 // of an entry; a value holds no more than 64 KiB
	batchOps      = 500
	batchOctets   = 512 << 10
	maxTouched    = batchOps / 2 // changes of a refresh that are stored one by one
)

// head says which entries of the store count. It is written last.
type head struct {
	Format      int       `json:"format"`
	Fingerprint string    `json:"fingerprint"`
	Version     uint64    `json:"version"` // of the entries' keys
	Entries     int       `json:"entries"`
	Generation  uint64    `json:"generation"`
	Position    Position  `json:"position"`
	Synced      time.Time `json:"synced"`
	Refreshed   time.Time `json:"refreshed"`
}

// held is what a store held.
type held struct {
	set               *index.Set // nil for nothing
	position          Position
	synced, refreshed time.Time
	generation        uint64
}

// keeper writes one replica to the store, behind the replica's back: whoever
// changes something only notes what.
type keeper struct {
	kv          store.Store
	name        string
	fingerprint string
	log         hclog.Logger
	wake        chan struct{}

	mu    sync.Mutex
	set   *index.Set // what is written from
	whole bool       // all of it, not only what was touched
	// together is true when what was touched is a refresh, of which a half
	// must never be read.
	together bool
	touched  map[index.ID]struct{}
	moved    bool // the position or the time changed
	next     head // what the next write says
	error    string

	written head // the writer's own
}

// quietTime is how long the writer lets changes gather, and the least time
// between writes that only say that nothing changed.
const (
	gatherTime = 200 * time.Millisecond
	quietTime  = 30 * time.Second
)

func newKeeper(s *Store, cfg Config, log hclog.Logger) *keeper {
	return &keeper{kv: s.kv, name: cfg.Name, fingerprint: cfg.fingerprint(), log: log, wake: make(chan struct{}, 1), touched: make(map[index.ID]struct{})}
}

// fingerprint names everything that decides what the store holds.
func (cfg Config) fingerprint() string {
	names := slices.Clone(cfg.Needs.Attributes)
	sort.Strings(names)
	text := fmt.Sprintf("%q %q %s %q", cfg.Source, cfg.Needs.Base(), cfg.Needs.Filter, names)
	return fmt.Sprintf("%x", sha256.Sum256([]byte(text)))
}

func (k *keeper) key(kind byte) []byte {
	key := binary.AppendUvarint([]byte{tag}, uint64(len(k.name)))
	return append(append(key, k.name...), kind)
}

func (k *keeper) versionKey(version uint64) []byte {
	return binary.BigEndian.AppendUint64(k.key(kindEntry), version)
}

func (k *keeper) entryKey(version uint64, id index.ID) []byte {
	return append(k.versionKey(version), id[:]...)
}

// load returns what the store holds, nothing when it is of another
// configuration or damaged: it can be brought again.
func (k *keeper) load(ctx context.Context) (held, error) {
	var h head
	err := k.kv.View(ctx, func(v store.Snapshot) error {
		value, err := v.Get(k.key(kindHead))
		if err != nil {
			return err
		}
		return json.Unmarshal(value, &h)
	})
	if errors.Is(err, store.ErrNotFound) {
		return held{}, nil
	}
	if err != nil && ctx.Err() != nil {
		return held{}, err
	}
	switch {
	case err != nil:
		k.log.Warn("the stored replica cannot be read and is brought anew", "error", err)
	case h.Format > formatVersion:
		k.log.Warn("the stored replica is of a newer program and is brought anew", "format", h.Format)
	case h.Fingerprint != k.fingerprint:
		k.log.Info("the configuration of the directory changed: the stored replica is brought anew")
	default:
		set, err := k.entries(ctx, h)
		if err == nil {
			k.written, k.next, k.set = h, h, set
			return held{set: set, position: h.Position, synced: h.Synced, refreshed: h.Refreshed, generation: h.Generation}, nil
		}
		if ctx.Err() != nil {
			return held{}, err
		}
		k.log.Warn("the stored replica is damaged and is brought anew", "error", err)
	}
	k.written.Version = h.Version
	return held{}, nil
}

func (k *keeper) entries(ctx context.Context, h head) (*index.Set, error) {
	set := index.New()
	prefix := k.versionKey(h.Version)
	var id index.ID
	var data []byte
	put := func() error {
		if data == nil {
			return nil
		}
		e, err := parseEntry(data)
		if err != nil {
			return err
		}
		set.Put(id, e)
		data = nil
		return nil
	}
	err := store.Scan(ctx, k.kv, prefix, k.versionKey(h.Version+1), 1000, func(_ store.Snapshot, key, value []byte) error {
		rest := key[len(prefix):]
		if len(rest) != len(id)+2 {
			return errCodec
		}
		if binary.BigEndian.Uint16(rest[len(id):]) == 0 {
			if err := put(); err != nil {
				return err
			}
			copy(id[:], rest)
			data = []byte{}
		}
		if data == nil || !bytes.Equal(id[:], rest[:len(id)]) {
			return errCodec
		}
		data = append(data, value...)
		return nil
	})
	if err == nil {
		err = put()
	}
	if err == nil && set.Len() != h.Entries {
		err = fmt.Errorf("%d entries are there, and %d should be", set.Len(), h.Entries)
	}
	return set, err
}

// note marks an entry as changed.
func (k *keeper) note(id index.ID) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.touched[id] = struct{}{}
	k.wakeUp()
}

// at notes the position that everything noted so far leads to.
func (k *keeper) at(p Position, synced time.Time, generation uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	old := k.next
	k.next.Position, k.next.Synced, k.next.Generation = p, synced, generation
	if len(k.touched) > 0 || !bytes.Equal(old.Position.Cookie, p.Cookie) || synced.Sub(k.written.Synced) >= quietTime {
		k.moved = true
		k.wakeUp()
	}
}

// replace has another set written: all of it, or where that is little what
// differs from the one before.
func (k *keeper) replace(set *index.Set, touched map[index.ID]struct{}, p Position, synced time.Time, generation uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if touched == nil || len(touched)+len(k.touched) > maxTouched || k.set == nil {
		k.whole = true
	}
	k.together = true
	for id := range touched {
		k.touched[id] = struct{}{}
	}
	k.set, k.moved = set, true
	k.next.Position, k.next.Synced, k.next.Refreshed, k.next.Generation = p, synced, synced, generation
	k.wakeUp()
}

// forget has the store emptied.
func (k *keeper) forget() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.set, k.whole, k.moved = index.New(), true, true
	k.next = head{}
	k.wakeUp()
}

func (k *keeper) wakeUp() {
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

func (k *keeper) failure() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.error
}

// run writes until ctx ends, and then once more.
func (k *keeper) run(ctx context.Context) {
	for ended := false; !ended; {
		select {
		case <-ctx.Done():
			ended = true
		case <-k.wake:
			select {
			case <-ctx.Done():
				ended = true
			case <-time.After(gatherTime):
			}
		}
		err := k.write(context.WithoutCancel(ctx))
		k.mu.Lock()
		before := k.error
		k.error = ""
		if err != nil {
			k.error = err.Error()
		}
		k.mu.Unlock()
		if err != nil && before == "" {
			k.log.Error("the replica cannot be stored: a restart while the directory is down would begin without", "error", err)
		}
	}
}

// write stores what was noted since the last time.
func (k *keeper) write(ctx context.Context) error {
	k.mu.Lock()
	set, whole, touched, next, due := k.set, k.whole, k.touched, k.next, k.moved || len(k.touched) > 0
	together := k.together
	k.whole, k.together, k.moved, k.touched = false, false, false, make(map[index.ID]struct{})
	k.mu.Unlock()
	if !due || set == nil {
		return nil
	}
	next.Format, next.Fingerprint, next.Version = formatVersion, k.fingerprint, k.written.Version
	var err error
	if !whole {
		err = k.writeTouched(ctx, set, touched, next, together)
	}
	if whole || errors.Is(err, errTooBig) {
		err = k.writeAll(ctx, set, next)
	}
	if err != nil { // all of it next time, with the next change
		k.mu.Lock()
		k.whole = true
		k.mu.Unlock()
	}
	return err
}

// errTooBig means that changes do not fit in one batch.
var errTooBig = errors.New("too much for one batch")

// writeTouched stores single changes and how far they lead. Unless they are to
// be seen together they may take several batches, of which the last one says
// how far they lead: what comes again after a crash changes nothing.
func (k *keeper) writeTouched(ctx context.Context, set *index.Set, touched map[index.ID]struct{}, next head, together bool) error {
	b, octets, entries := store.NewBatch(), 0, k.written.Entries
	for id := range touched {
		if len(b.Ops) >= batchOps || octets > batchOctets {
			if together {
				return errTooBig
			}
			step := k.written
			step.Entries = entries
			if err := k.seal(ctx, b, step); err != nil {
				return err
			}
			b, octets = store.NewBatch(), 0
		}
		first := k.entryKey(next.Version, id)
		there, err := k.stored(ctx, first)
		if err != nil {
			return err
		}
		if there {
			b.DeleteRange(first, append(bytes.Clone(first), 0xff, 0xff))
			entries--
		}
		e, ok := set.Get(id)
		if !ok {
			continue
		}
		data := appendEntry(nil, e)
		if len(data) > batchOctets {
			return errTooBig
		}
		octets += putEntry(b, first, data)
		entries++
	}
	next.Entries = entries
	return k.seal(ctx, b, next)
}

// stored reports whether an entry is in the store.
func (k *keeper) stored(ctx context.Context, key []byte) (bool, error) {
	err := k.kv.View(ctx, func(v store.Snapshot) error {
		_, err := v.Get(append(bytes.Clone(key), 0, 0))
		return err
	})
	if errors.Is(err, store.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// seal adds the head to a batch and commits it.
func (k *keeper) seal(ctx context.Context, b *store.Batch, next head) error {
	value, err := json.Marshal(next)
	if err != nil {
		return err
	}
	b.Put(k.key(kindHead), value)
	if _, err := k.kv.Commit(ctx, b); err != nil {
		return err
	}
	k.written = next
	return nil
}

// writeAll stores the whole set beside the one before, which counts until this
// one is complete.
func (k *keeper) writeAll(ctx context.Context, set *index.Set, next head) error {
	next.Version++
	b, octets := store.NewBatch(), 0
	b.DeleteRange(k.versionKey(next.Version), k.versionKey(next.Version+1)) // of an attempt that ended early
	next.Entries = 0
	for id, e := range set.All() {
		data := appendEntry(nil, e)
		for i := 0; i == 0 || i*chunkOctets < len(data); i++ {
			if len(b.Ops) >= batchOps || octets > batchOctets {
				if _, err := k.kv.Commit(ctx, b); err != nil {
					return err
				}
				b, octets = store.NewBatch(), 0
			}
			octets += putChunk(b, k.entryKey(next.Version, id), data, i)
		}
		next.Entries++
	}
	if err := k.seal(ctx, b, next); err != nil {
		return err
	}
	clean := store.NewBatch()
	clean.DeleteRange(k.versionKey(0), k.versionKey(next.Version))
	_, err := k.kv.Commit(ctx, clean)
	return err
}

func putEntry(b *store.Batch, key, data []byte) (octets int) {
	for i := 0; i == 0 || i*chunkOctets < len(data); i++ {
		octets += putChunk(b, key, data, i)
	}
	return octets
}

// putChunk puts one of the parts of an entry.
func putChunk(b *store.Batch, key, data []byte, i int) (octets int) {
	part := data[i*chunkOctets : min((i+1)*chunkOctets, len(data))]
	b.Put(binary.BigEndian.AppendUint16(bytes.Clone(key), uint16(i)), part)
	return len(part)
}
