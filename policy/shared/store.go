package shared

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/store"
)

// Store holds the tables of one gateway. It lives as long as the process and is
// safe for concurrent use.
type Store struct {
	kv    store.Store // nil keeps nothing over a restart
	node  uint64      // this gateway's number among its peers
	clock clock
	log   hclog.Logger

	sessions atomic.Pointer[[]*session] // replaced, never changed; under mu

	mu      sync.Mutex
	tables  map[string]*Table
	failure error                // why the last read or write of the store failed; nil after one that did not
	told    map[string]time.Time // when it was last logged that a table is full
	pending error                // why there is no store
}

// Open returns the tables kept in kv, in which it owns the keys that begin with
// 'P'. Without kv, which down then explains, everything is in memory alone and
// Failure says so.
func Open(ctx context.Context, kv store.Store, down error, log hclog.Logger) *Store {
	s := &Store{kv: kv, log: log, tables: make(map[string]*Table), told: make(map[string]time.Time), failure: down, pending: down}
	s.sessions.Store(&[]*session{})
	s.node = newNode()
	if kv == nil {
		return s
	}
	node, err := loadNode(ctx, kv, s.node)
	if err != nil {
		s.failed(err)
		return s
	}
	s.node = node
	return s
}

// Node returns this gateway's number among its peers, which lasts as long as
// its data.
func (s *Store) Node() uint64 { return s.node }

// Table returns the table of that name. The first call reads it from the disk;
// later ones, as after a reload, change how it behaves. Names are shared by all
// gateways and must have neither NUL nor more than 64 octets.
func (s *Store) Table(name string, cfg TableConfig) *Table {
	if cfg.Entries <= 0 {
		cfg.Entries = DefaultEntries
	}
	s.mu.Lock()
	t := s.tables[name]
	s.mu.Unlock()
	if t != nil {
		t.configure(cfg)
		return t
	}
	t = &Table{store: s, name: name, cfg: cfg, entries: make(map[string]*entry), dirty: make(map[string]struct{})}
	if s.kv != nil {
		if err := t.load(context.Background()); err != nil {
			s.failed(err)
		}
	}
	s.mu.Lock()
	if made := s.tables[name]; made != nil { // at the same time
		s.mu.Unlock()
		return made
	}
	s.tables[name] = t
	s.mu.Unlock()
	for _, peer := range *s.sessions.Load() {
		peer.end(errNewTable) // what peers have of it comes with the next session
	}
	return t
}

func (t *Table) configure(cfg TableConfig) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.cfg = cfg
	for len(t.entries) > cfg.Entries {
		t.evictLocked()
	}
}

// table returns a table that is there already, or nil.
func (s *Store) table(name string) *Table {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tables[name]
}

// all returns the tables in order of name.
func (s *Store) all() []*Table {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.SortedFunc(maps.Values(s.tables), func(a, b *Table) int { return strings.Compare(a.name, b.name) })
}

// Tables tells how the tables do, in order of name.
func (s *Store) Tables() []TableStatus {
	var all []TableStatus
	for _, t := range s.all() {
		all = append(all, t.Status())
	}
	return all
}

// Failure returns why what is known here would not survive a restart, or nil.
func (s *Store) Failure() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failure
}

// failed notes what the last read or write came to; a change of state is logged.
func (s *Store) failed(err error) {
	s.mu.Lock()
	before := s.failure
	s.failure = err
	s.mu.Unlock()
	switch {
	case err != nil && before == nil:
		s.log.Error("what policy remembers cannot be kept: a restart will forget it", "error", err)
	case err == nil && before != nil:
		s.log.Info("what policy remembers is kept again")
	}
}

// changed tells the peers of a change.
func (s *Store) changed(t *Table, key string, from *session) {
	for _, peer := range *s.sessions.Load() {
		if peer != from {
			peer.note(t, key)
		}
	}
}

// fullInterval is how often a full table is logged.
const fullInterval = 10 * time.Minute

// full tells of a table that had to drop something.
func (s *Store) full(table string, limit int) {
	now := time.Now()
	s.mu.Lock()
	fresh := now.Sub(s.told[table]) >= fullInterval
	if fresh {
		s.told[table] = now
	}
	s.mu.Unlock()
	if fresh {
		s.log.Warn("a table of policy is full: entries go before their time, those first that would end soonest", "table", table, "entries", limit)
	}
}

// flushEvery is how long a change waits until it is written.
const flushEvery = time.Second

// Run writes what changes until ctx ends, and then the rest.
func (s *Store) Run(ctx context.Context) error {
	if s.kv != nil {
		if err := s.sweep(ctx); err != nil && ctx.Err() == nil {
			s.failed(err)
		}
	}
	tick := time.NewTicker(flushEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return s.Flush(context.WithoutCancel(ctx))
		case <-tick.C:
		}
		// An error is told of, and what was not written is tried again.
		_ = s.Flush(ctx)
	}
}
