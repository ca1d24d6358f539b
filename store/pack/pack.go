// Package pack keeps message bodies: small ones inside the store's batches,
// larger ones in pack files beside it.
//
// A pack file is a row of records, each a header with lengths and a CRC-32C
// and a piece of one body. A body of one small piece stays in memory until it
// is linked, the pieces of a larger one are appended while it is being read, in
// bounded memory; the commit of the batch that links the body waits for one
// sync of the pack, which serves everybody who waits at that time. What a body
// is and where it lies stands in the store under its SHA-256, with its count of
// references, and changes only there: a body exists from the commit of its
// first link to that of its last unlink. Octets of a pack that no key names
// are dead space. A counter in the store tells for each pack how many octets
// are not. A pack without any is deleted; what lives in one that is mostly dead
// is moved to a new one in the background, and so is, compressed where that
// pays, what has lived for a while.
//
// After a crash the packs that were being written are cut behind the last
// record a key names, and those records are read and checked.
package pack

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/internal/fsx"
	"github.com/postern-mail/postern/store"
)

// Config says where the packs are and how they are cut.
type Config struct {
	// Dir is the directory of the pack files; it is created when absent.
	Dir string
	// Tag is the first octet of the keys used in the store. 0 means 'b'.
	Tag byte
	// InlineOctets is the size up to which a body travels in the batch and
	// lives in the store. 0 means 16 KiB; negative means none; at most 63 KiB.
	InlineOctets int
	// PackOctets is the size at which a pack is closed and a new one begun. 0
	// means 64 MiB.
	PackOctets int64
	// ReserveOctets is the free space below which bodies are refused with
	// store.ErrFull. 0 means 256 MiB; negative means none.
	ReserveOctets int64
	// DeadPercent is the part of a pack that is dead from which on the rest is
	// moved. 0 means 50; above 99 means never.
	DeadPercent int
	// CompressAfter is how long a pack is full before what still lives in it is
	// moved and compressed, however little is dead. 0 means an hour; negative
	// means never. What is moved for another reason is compressed all the same.
	CompressAfter time.Duration
	// MoveOctets is how much Run moves in a second at most, read and written. 0
	// means 8 MiB; negative means any.
	MoveOctets int64
	// Copied says that bodies are likely to get more references than their
	// first, as those of mail that is copied do: they are marked for it when they
	// are stored, rather than written once more with the second, and get a counter
	// at once, which tells that they are there.
	Copied bool
}

// The defaults of Config.
const (
	defaultInlineOctets  = 16 << 10
	maxInlineOctets      = 63 << 10
	defaultPackOctets    = 64 << 20
	defaultReserveOctets = 256 << 20
	defaultDeadPercent   = 50
	defaultCompressAfter = time.Hour
	defaultMoveOctets    = 8 << 20
)

// collectEvery is how often Run looks for packs to delete, or to move out of.
const collectEvery = time.Minute

// Blobs implements store.Blobs.
type Blobs struct {
	cfg   Config
	kv    store.Store
	fs    fsx.FS
	log   hclog.Logger
	keys  keys
	codec *codec

	filled chan struct{} // a token: a pack became full, or soon will be
	// moving is held by who moves bodies. Before tidying.
	moving sync.Mutex
	// tidying is held by who seals or deletes packs. Before mu.
	tidying sync.Mutex
	// beginning is held by who makes packs. Before mu.
	beginning sync.Mutex

	mu      sync.Mutex
	filling [streams]filling
	packs   map[uint64]*packFile // every pack that exists, by number
	next    uint64               // number of the next pack
	closed  bool

	writing sync.WaitGroup // records that were reserved and are not written; added to under mu, unless closed

	total struct{ moved, saved, freed atomic.Int64 } // octets, for Usage
}

// Open opens the packs in cfg.Dir, whose keys are in kv, and repairs what a
// crash left. It must be the only user of the directory, which is so when kv
// is an embedded store beside it. Damage is logged and the rest served.
func Open(ctx context.Context, cfg Config, kv store.Store, log hclog.Logger) (*Blobs, error) {
	return OpenOn(ctx, cfg, kv, log, fsx.OS())
}

// OpenOn is Open on another file system than the operating system's.
func OpenOn(ctx context.Context, cfg Config, kv store.Store, log hclog.Logger, fsys fsx.FS) (*Blobs, error) {
	if cfg.Dir == "" {
		return nil, errors.New("bodies: no directory given")
	}
	cfg = cfg.withDefaults()
	b := &Blobs{
		cfg: cfg, kv: kv, fs: fsys, log: log, keys: keys{tag: cfg.Tag},
		packs: make(map[uint64]*packFile), next: 1, filled: make(chan struct{}, 1), codec: new(codec),
	}
	if err := fsys.MkdirAll(cfg.Dir); err != nil {
		return nil, fmt.Errorf("bodies: %w", err)
	}
	if err := b.recover(ctx); err != nil {
		return nil, fmt.Errorf("open bodies in %s: %w", cfg.Dir, errors.Join(err, b.Close()))
	}
	return b, nil
}

func (cfg Config) withDefaults() Config {
	if cfg.Tag == 0 {
		cfg.Tag = 'b'
	}
	switch {
	case cfg.InlineOctets == 0:
		cfg.InlineOctets = defaultInlineOctets
	case cfg.InlineOctets < 0:
		cfg.InlineOctets = 0
	}
	cfg.InlineOctets = min(cfg.InlineOctets, maxInlineOctets)
	if cfg.PackOctets == 0 {
		cfg.PackOctets = defaultPackOctets
	}
	// A pack holds at least some pieces of the largest kind.
	cfg.PackOctets = max(cfg.PackOctets, 4*largePiece)
	switch {
	case cfg.ReserveOctets == 0:
		cfg.ReserveOctets = defaultReserveOctets
	case cfg.ReserveOctets < 0:
		cfg.ReserveOctets = 0
	}
	cfg.DeadPercent = cmp.Or(cfg.DeadPercent, defaultDeadPercent)
	cfg.CompressAfter = cmp.Or(cfg.CompressAfter, defaultCompressAfter)
	cfg.MoveOctets = cmp.Or(cfg.MoveOctets, defaultMoveOctets)
	return cfg
}

// Run closes full packs and makes new ones ahead, deletes dead ones and moves
// what lives out of those that are mostly dead, until ctx ends.
func (b *Blobs) Run(ctx context.Context) error {
	var collecting sync.WaitGroup
	defer collecting.Wait()
	collecting.Go(func() { b.collectNowAndThen(ctx) })
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-b.filled:
			b.prepare()
			b.sealFull()
		}
	}
}

func (b *Blobs) collectNowAndThen(ctx context.Context) {
	tick := time.NewTicker(collectEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if n, err := b.Collect(ctx); err != nil && ctx.Err() == nil {
			b.log.Warn("collect dead packs", "dir", b.cfg.Dir, "err", err)
		} else if n > 0 {
			b.log.Debug("collected dead packs", "dir", b.cfg.Dir, "packs", n)
		}
		if err := b.compact(ctx, b.pace); err != nil && ctx.Err() == nil {
			b.log.Warn("move bodies out of packs", "dir", b.cfg.Dir, "err", err)
		}
	}
}

// Close closes the pack files, once the writes under way have ended. It makes
// durable what is staged; nothing more can be, and what is open cannot be read.
func (b *Blobs) Close() error {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return nil
	}
	b.closed = true
	b.mu.Unlock()
	b.writing.Wait()
	b.beginning.Lock() // what is being made is gone or there
	defer b.beginning.Unlock()

	b.tidying.Lock()
	defer b.tidying.Unlock()
	b.mu.Lock() // for the race detector's sake: nothing changes packs any more
	packs := slices.Collect(maps.Values(b.packs))
	unused := make(map[*packFile]bool)
	for _, at := range b.filling {
		unused[at.next] = true
	}
	b.mu.Unlock()
	var err error
	for _, p := range packs {
		if unused[p] {
			err = errors.Join(err, b.removePack(p))
		} else {
			err = errors.Join(err, b.sealTidying(p), p.file.Close())
		}
	}
	return err
}

func (b *Blobs) path(name string) string { return filepath.Join(b.cfg.Dir, name) }

// full gives an error of the disk its meaning.
func full(err error) error {
	if fsx.IsFull(err) {
		return fmt.Errorf("%w: %w", store.ErrFull, err)
	}
	return err
}
