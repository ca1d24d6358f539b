package ldif

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/directory"
)

// Config says which file is the directory.
type Config struct {
	// File is the LDIF file's path. Required.
	File string
	// CheckInterval is how often Run looks whether the file changed; 0 means
	// 2 s.
	CheckInterval time.Duration
	// MaxOctets bounds the file; 0 means 256 MiB.
	MaxOctets int64
}

// Source is a directory.Searcher over a file that may change. It may be used
// concurrently.
type Source struct {
	cfg     Config
	log     hclog.Logger
	current atomic.Pointer[snapshot]
}

// snapshot is one version of the file.
type snapshot struct {
	tree       *Tree
	generation uint64
	stamp      stamp
	digest     [sha256.Size]byte
}

// stamp tells cheaply that a file has probably not changed.
type stamp struct {
	modified time.Time
	octets   int64
}

// Open reads the file. A broken file is an error that lists every mistake with
// its line.
func Open(cfg Config, log hclog.Logger) (*Source, error) {
	if cfg.CheckInterval <= 0 {
		cfg.CheckInterval = 2 * time.Second
	}
	if cfg.MaxOctets <= 0 {
		cfg.MaxOctets = 256 << 20
	}
	s := &Source{cfg: cfg, log: log}
	if _, err := s.Reload(); err != nil {
		return nil, err
	}
	return s, nil
}

// NewSource returns a source over entries that never change, for directories
// that are part of a program.
func NewSource(tree *Tree) *Source {
	s := &Source{log: hclog.NewNullLogger()}
	s.current.Store(&snapshot{tree: tree, generation: 1})
	return s
}

// Run watches the file until ctx ends and takes over new versions. A version
// that cannot be read or has mistakes is logged once and not taken over.
func (s *Source) Run(ctx context.Context) error {
	if s.cfg.File == "" {
		<-ctx.Done()
		return nil
	}
	tick := time.NewTicker(s.cfg.CheckInterval)
	defer tick.Stop()
	refused := ""
	var seen stamp
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		// A file that is being written is read when it has come to rest, lest
		// half a directory be taken for a whole one.
		if now, err := stampOf(s.cfg.File); err == nil && now != seen {
			seen = now
			continue
		}
		changed, err := s.Reload()
		switch {
		case err != nil && err.Error() != refused:
			refused = err.Error()
			s.log.Error("directory file is broken; the version read before stays in use", "file", s.cfg.File, "error", err)
		case err == nil:
			refused = ""
			if changed {
				s.log.Info("directory file read", "file", s.cfg.File, "entries", s.Tree().Len())
			}
		}
	}
}

// Reload reads the file if it changed and reports whether a new version is in
// use. On error the version read before stays.
func (s *Source) Reload() (changed bool, err error) {
	before := s.current.Load()
	now, err := stampOf(s.cfg.File)
	if err != nil {
		return false, fmt.Errorf("directory file: %w", err)
	}
	if before != nil && before.stamp == now {
		return false, nil
	}
	f, err := os.Open(s.cfg.File)
	if err != nil {
		return false, fmt.Errorf("directory file: %w", err)
	}
	defer f.Close()
	digest := sha256.New()
	counted := &countingReader{r: io.TeeReader(io.LimitReader(f, s.cfg.MaxOctets+1), digest)}
	entries, err := Parse(s.cfg.File, counted)
	if err != nil {
		return false, err
	}
	if counted.octets > s.cfg.MaxOctets {
		return false, fmt.Errorf("%s: larger than %d octets", s.cfg.File, s.cfg.MaxOctets)
	}
	next := &snapshot{tree: NewTree(entries), generation: 1, stamp: now, digest: [sha256.Size]byte(digest.Sum(nil))}
	if before != nil {
		if next.digest == before.digest { // touched, not changed
			before = &snapshot{tree: before.tree, generation: before.generation, stamp: now, digest: before.digest}
			s.current.Store(before)
			return false, nil
		}
		next.generation = before.generation + 1
	}
	s.current.Store(next)
	return true, nil
}

func stampOf(file string) (stamp, error) {
	info, err := os.Stat(file)
	if err != nil {
		return stamp{}, err
	}
	return stamp{modified: info.ModTime(), octets: info.Size()}, nil
}

type countingReader struct {
	r      io.Reader
	octets int64
}

// Read implements io.Reader.
func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.octets += int64(n)
	return n, err
}

// Tree returns the version in use.
func (s *Source) Tree() *Tree { return s.current.Load().tree }

// Generation implements directory.Generational.
func (s *Source) Generation() uint64 { return s.current.Load().generation }

// Search implements directory.Searcher.
func (s *Source) Search(ctx context.Context, req directory.Request) ([]directory.Entry, error) {
	return s.Tree().Search(ctx, req)
}
