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
// are dead space. A pack without live octets is deleted; that is all the
// collection there is.
//
// After a crash the packs that were being written are cut behind the last
// record a key names, and those records are read and checked.
package pack

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"sync"
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
}

// The defaults of Config.
const (
	defaultInlineOctets  = 16 << 10
	maxInlineOctets      = 63 << 10
	defaultPackOctets    = 64 << 20
	defaultReserveOctets = 256 << 20
)

// collectEvery is how often Run looks for packs without live octets.
const collectEvery = time.Minute

// Blobs implements store.Blobs.
type Blobs struct {
	cfg  Config
	kv   store.Store
	fs   fsx.FS
	log  hclog.Logger
	keys keys

	filled chan struct{} // a token: a pack became full
	// tidying is held by who seals or deletes packs. Before mu.
	tidying sync.Mutex

	mu     sync.Mutex
	active *packFile            // where new pieces go; nil before the first
	packs  map[uint64]*packFile // every pack that exists, by number
	next   uint64               // number of the next pack
	closed bool

	writing sync.WaitGroup // records that were reserved and are not written; added to under mu, unless closed
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
		packs: make(map[uint64]*packFile), next: 1, filled: make(chan struct{}, 1),
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
	return cfg
}

// Run seals full packs and collects dead ones until ctx ends.
func (b *Blobs) Run(ctx context.Context) error {
	tick := time.NewTicker(collectEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-b.filled:
			b.sealFull()
			continue
		case <-tick.C:
		}
		if n, err := b.Collect(ctx); err != nil && ctx.Err() == nil {
			b.log.Warn("collect dead packs", "dir", b.cfg.Dir, "err", err)
		} else if n > 0 {
			b.log.Debug("collected dead packs", "dir", b.cfg.Dir, "packs", n)
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

	b.tidying.Lock()
	defer b.tidying.Unlock()
	b.mu.Lock() // for the race detector's sake: nothing changes packs any more
	packs := slices.Collect(maps.Values(b.packs))
	b.mu.Unlock()
	var err error
	for _, p := range packs {
		err = errors.Join(err, b.sealTidying(p), p.file.Close())
	}
	return err
}

func (b *Blobs) path(name string) string { return filepath.Join(b.cfg.Dir, name) }

// checkSpace returns store.ErrFull when the disk has less than the reserve.
func (b *Blobs) checkSpace(octets int64) error {
	if b.cfg.ReserveOctets == 0 {
		return nil
	}
	free, err := b.fs.Free(b.cfg.Dir)
	if err != nil {
		return fmt.Errorf("ask for free space: %w", err)
	}
	if free-octets < b.cfg.ReserveOctets {
		return fmt.Errorf("%w: %d octets free, %d kept in reserve", store.ErrFull, free, b.cfg.ReserveOctets)
	}
	return nil
}

// full gives an error of the disk its meaning.
func full(err error) error {
	if fsx.IsFull(err) {
		return fmt.Errorf("%w: %w", store.ErrFull, err)
	}
	return err
}
