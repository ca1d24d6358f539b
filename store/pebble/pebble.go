// Package pebble is the embedded engine of the store: Pebble with a synced
// write-ahead log.
//
// One goroutine applies batches, in the order of their arrival: it takes what
// came in while the last group was being synced, checks preconditions and
// computes counters against everything before it, and writes the group as one
// record. A second goroutine waits for the sync, then makes the group visible
// and answers its callers. So concurrent commits share a sync, an idle store
// adds no delay, no lock is held across a sync, and readers, who read the
// snapshot of the last durable group, never wait and never see what a power
// cut could take back.
//
// One process may have a directory open. A write that fails leaves the engine
// failed: what was under way is ErrUnknown, nothing is accepted any more, and
// the process should end and open the directory again.
package pebble

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/sstable/block"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/internal/fsx"
)

// Config says where the store is and what it may use.
type Config struct {
	// Dir is the directory of the database; it is created when absent.
	Dir string
	// CacheOctets is the memory for blocks read from disk, beside that of the
	// memtables. It may take what two of these do not take yet. 0 means 64 MiB.
	CacheOctets int64
	// MemTableOctets is the memory that collects writes before they go to a
	// table; up to four are in use while the disk is behind. 0 means 64 MiB.
	MemTableOctets int64
	// ReserveOctets is the free space below which batches are refused with
	// store.ErrFull, but for those that may use the reserve; these are refused
	// below an eighth of it. 0 means 256 MiB; negative means none.
	ReserveOctets int64
	// Private lets nobody but the owner read the files.
	Private bool
	// Unticked leaves out the engine's looks, ten a second, for compactions that
	// may begin by now; they begin when a flush or another compaction ends. It is
	// for tests in synthetic time, where an hour would be 36,000 looks.
	Unticked bool
}

// The defaults of Config.
const (
	defaultCacheOctets    = 64 << 20
	defaultMemTableOctets = 64 << 20
	defaultReserveOctets  = 256 << 20
)

// formatVersion is the layout of the engine's own keys. A store with a higher
// one was written by a newer program and is not opened.
const formatVersion = 1

// The engine's own keys have the owner tag 0.
var (
	keyVersion = []byte{0, 'v'}
	// keyTxIDs and a group's number name the transaction ids of that group.
	keyTxIDs    = []byte{0, 't'}
	keyTxIDsEnd = []byte{0, 'u'}
	firstKey    = []byte{1}
)

// Store implements store.Store and store.Space.
type Store struct {
	cfg  Config
	log  hclog.Logger
	db   *pebble.DB
	fs   fsx.FS
	lock *dirLock

	space spaceCheck
	// requests are used again. They are the store's, not the process's: a
	// channel made inside a synctest bubble must not leave it.
	requests sync.Pool
	wake     chan struct{} // a token: the queue has something, or the store closes
	applied  chan *group   // from the applier to the syncer, in order
	stopped  chan struct{} // closed when both goroutines have ended
	failed   chan struct{} // closed when a write failed

	// The applier's own.
	groupNumber uint64
	txIDs       txIDWindow
	counters    counters

	mu      sync.Mutex
	queue   []*request
	closed  bool
	failure error
	visible *view // what readers get; nil once closed
	views   sync.WaitGroup
}

// Open opens the database in cfg.Dir, or makes a new one. It fails when another
// process has it open or when a newer program wrote it. Close ends it.
func Open(ctx context.Context, cfg Config, log hclog.Logger) (*Store, error) {
	return OpenOn(ctx, cfg, log, vfs.Default, fsx.OS())
}

// OpenOn is Open on other file systems than the operating system's: dbFS for
// the database, where nothing keeps other processes out, and fsys for the
// directory it is in and the free space.
func OpenOn(ctx context.Context, cfg Config, log hclog.Logger, dbFS vfs.FS, fsys fsx.FS) (*Store, error) {
	if cfg.Dir == "" {
		return nil, errors.New("store: no directory given")
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	s := &Store{
		counters: counters{},
		cfg:      cfg, log: log, fs: fsys,
		space:   spaceCheck{fs: fsys, dir: cfg.Dir, reserve: cfg.ReserveOctets},
		wake:    make(chan struct{}, 1),
		applied: make(chan *group, 1),
		stopped: make(chan struct{}),
		failed:  make(chan struct{}),
	}
	s.requests.New = func() any { return &request{done: make(chan struct{}, 1)} }
	if err := fsys.MkdirAll(cfg.Dir); err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	var err error
	if dbFS == vfs.Default {
		if s.lock, err = lockDir(cfg.Dir); err != nil {
			return nil, err
		}
	}
	err = guarded(func() (err error) {
		s.db, err = pebble.Open(filepath.Join(cfg.Dir, "db"), s.options(dbFS))
		return err
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open store %s: %w", cfg.Dir, err), s.lock.release())
	}
	if err := guarded(s.start); err != nil {
		err = fmt.Errorf("open store %s: %w", cfg.Dir, err)
		if !errors.As(err, new(fatal)) {
			err = errors.Join(err, guarded(s.db.Close))
		}
		return nil, errors.Join(err, s.lock.release())
	}
	return s, nil
}

func (cfg Config) withDefaults() Config {
	if cfg.CacheOctets == 0 {
		cfg.CacheOctets = defaultCacheOctets
	}
	if cfg.MemTableOctets == 0 {
		cfg.MemTableOctets = defaultMemTableOctets
	}
	// A group must fit in half a memtable.
	cfg.MemTableOctets = max(cfg.MemTableOctets, 4*maxGroupOctets)
	switch {
	case cfg.ReserveOctets == 0:
		cfg.ReserveOctets = defaultReserveOctets
	case cfg.ReserveOctets < 0:
		cfg.ReserveOctets = 0
	}
	return cfg
}

// cacheSize is what the engine calls the size of its cache: memtables count into
// it, the one in use and the one that is kept for the next. Without them in the
// sum nothing would be left for blocks as soon as the memtables are full grown.
func (cfg Config) cacheSize() int64 { return cfg.CacheOctets + 2*cfg.MemTableOctets }

func (s *Store) options(dbFS vfs.FS) *pebble.Options {
	if s.cfg.Private && dbFS == vfs.Default {
		dbFS = private{dbFS}
	}
	o := &pebble.Options{
		FS:     dbFS,
		Logger: pebbleLogger{s.log},
		// Chosen, not the newest there is: raising it is one-way. This one has
		// WAL records that tell a torn end from damage in the middle.
		FormatMajorVersion:          pebble.FormatWALSyncChunks,
		CacheSize:                   s.cfg.cacheSize(),
		MemTableSize:                uint64(s.cfg.MemTableOctets),
		MemTableStopWritesThreshold: 4,
		LBaseMaxBytes:               64 << 20,
		L0CompactionThreshold:       4,
		L0StopWritesThreshold:       64,
		MaxOpenFiles:                1000,
		CompactionConcurrencyRange:  func() (int, int) { return 1, 2 },
		EventListener:               events(s.log),
	}
	for i := range o.Levels {
		o.Levels[i].FilterPolicy = bloom.FilterPolicy(10)
	}
	if s.cfg.Unticked {
		o.Experimental.CompactionScheduler = pebble.NewConcurrencyLimitSchedulerWithNoPeriodicGrantingForTest()
	}
	// What is written first is soon written again, further down.
	o.Levels[0].Compression = func() *block.CompressionProfile { return block.NoCompression }
	for i := range o.Levels[1:] {
		o.Levels[1+i].Compression = func() *block.CompressionProfile { return block.FastestCompression }
	}
	return o
}

// start reads the engine's own keys and starts the two goroutines.
func (s *Store) start() error {
	if err := s.checkVersion(); err != nil {
		return err
	}
	last, err := s.lastGroup()
	if err != nil {
		return err
	}
	s.groupNumber = last
	s.txIDs.start(time.Now(), last)
	s.visible = &view{store: s, snapshot: s.db.NewSnapshot(), refs: 1}
	var running sync.WaitGroup
	running.Go(s.applyGroups)
	running.Go(s.syncGroups)
	go func() {
		running.Wait()
		close(s.stopped)
	}()
	return nil
}

func (s *Store) checkVersion() error {
	value, closer, err := s.db.Get(keyVersion)
	if errors.Is(err, pebble.ErrNotFound) {
		return s.db.Set(keyVersion, binary.AppendUvarint(nil, formatVersion), pebble.Sync)
	}
	if err != nil {
		return err
	}
	defer closer.Close()
	version, n := binary.Uvarint(value)
	if n <= 0 {
		return errors.New("the format version is unreadable")
	}
	if version > formatVersion {
		return fmt.Errorf("written by a newer program (format %d, this one knows %d): start that program again, or restore a backup", version, formatVersion)
	}
	return nil
}

// Failed returns a channel that is closed when a write failed and the process
// should end; Err then tells why.
func (s *Store) Failed() <-chan struct{} { return s.failed }

// Err returns why the store failed, or nil.
func (s *Store) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failure
}

// Close waits for commits and views under way and closes the database.
func (s *Store) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		<-s.stopped
		return nil
	}
	s.closed = true
	s.mu.Unlock()
	s.signal()
	<-s.stopped

	s.mu.Lock()
	last := s.visible
	s.visible = nil
	s.mu.Unlock()
	last.release()
	s.views.Wait()
	return errors.Join(guarded(s.db.Close), s.lock.release())
}

// signal wakes the applier.
func (s *Store) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// fail records the first failed write.
func (s *Store) fail(err error) {
	s.mu.Lock()
	first := s.failure == nil
	if first {
		s.failure = err
	}
	s.mu.Unlock()
	if first {
		s.log.Error("store cannot write, restart after repairing the cause", "dir", s.cfg.Dir, "err", err)
		close(s.failed)
	}
}
