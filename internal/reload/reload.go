// Package reload serves the last good version of a file that may change.
//
// A new version is taken over when it has come to rest and has no mistakes;
// otherwise the one read before stays and the mistakes are logged once.
package reload

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
)

// Config says which file is read.
type Config struct {
	// File is the path. Required.
	File string
	// CheckInterval is how often Run looks whether the file changed; 0 means
	// 2 s.
	CheckInterval time.Duration
	// MaxOctets bounds the file; 0 means 256 MiB.
	MaxOctets int64
}

// Multifile is a T that was read from further files, which are watched as well.
type Multifile interface {
	Files() []string
}

// File is a file whose content was parsed to a T. It may be used concurrently.
type File[T any] struct {
	cfg     Config
	parse   func(name string, r io.Reader) (T, error)
	log     hclog.Logger
	current atomic.Pointer[version[T]]
	reading sync.Mutex // one Reload at a time

	mu      sync.Mutex
	changed chan struct{} // closed by the next version; nil when nobody waits
}

type version[T any] struct {
	value      T
	generation uint64
	stamp      stamp
	digest     [sha256.Size]byte
}

// stamp tells cheaply that a file, and those read with it, have probably not
// changed.
type stamp struct {
	modified time.Time
	octets   int64
	inode    uint64
	others   string
}

// Open reads the file with parse, whose mistakes are returned.
func Open[T any](cfg Config, parse func(name string, r io.Reader) (T, error), log hclog.Logger) (*File[T], error) {
	if cfg.CheckInterval <= 0 {
		cfg.CheckInterval = 2 * time.Second
	}
	if cfg.MaxOctets <= 0 {
		cfg.MaxOctets = 256 << 20
	}
	f := &File[T]{cfg: cfg, parse: parse, log: log}
	if _, err := f.Reload(); err != nil {
		return nil, err
	}
	return f, nil
}

// Fixed returns a value that never changes.
func Fixed[T any](value T) *File[T] {
	f := &File[T]{log: hclog.NewNullLogger()}
	f.current.Store(&version[T]{value: value, generation: 1})
	return f
}

// Value returns the version in use.
func (f *File[T]) Value() T { return f.current.Load().value }

// Generation counts the versions.
func (f *File[T]) Generation() uint64 { return f.current.Load().generation }

// Name returns the file's path; "" for a value that never changes.
func (f *File[T]) Name() string { return f.cfg.File }

// Changed returns a channel that is closed when the next version after the call
// is in use.
func (f *File[T]) Changed() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.changed == nil {
		f.changed = make(chan struct{})
	}
	return f.changed
}

// tell ends the wait of those who asked for the next version.
func (f *File[T]) tell() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.changed != nil {
		close(f.changed)
		f.changed = nil
	}
}

// Run watches the file until ctx ends.
func (f *File[T]) Run(ctx context.Context) error {
	if f.cfg.File == "" {
		<-ctx.Done()
		return nil
	}
	tick := time.NewTicker(f.cfg.CheckInterval)
	defer tick.Stop()
	var seen stamp
	refused := ""
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		// A file that is being written is read when it has come to rest, lest
		// half a directory be taken for a whole one.
		if now, err := f.stamp(); err == nil && now != seen {
			seen = now
			continue
		}
		changed, err := f.Reload()
		switch {
		case err != nil && err.Error() != refused:
			refused = err.Error()
			f.log.Error("file is broken; the version read before stays in use", "file", f.cfg.File, "error", err)
		case err == nil:
			refused = ""
			if changed {
				f.log.Info("file read again", "file", f.cfg.File)
			}
		}
	}
}

// Reload reads the file if it changed and reports whether a new version is in
// use. On error the version read before stays.
func (f *File[T]) Reload() (changed bool, err error) {
	f.reading.Lock()
	defer f.reading.Unlock()
	before := f.current.Load()
	now, err := f.stamp()
	if err != nil {
		return false, err
	}
	if before != nil && before.stamp == now {
		return false, nil
	}
	next, err := f.read()
	if err != nil {
		return false, err
	}
	next.stamp, next.generation = now, 1
	if fresh := others(next.value); len(fresh) > 0 || now.others != "" {
		next.stamp.others = stampsOf(fresh)
	}
	if before != nil {
		next.generation = before.generation + 1
		if next.digest == before.digest && len(others(next.value)) == 0 && len(others(before.value)) == 0 { // touched, not changed
			next.value, next.generation = before.value, before.generation
		}
	}
	f.current.Store(next)
	changed = before == nil || next.generation != before.generation
	if changed {
		f.tell()
	}
	return changed, nil
}

func (f *File[T]) read() (*version[T], error) {
	file, err := os.Open(f.cfg.File)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	digest := sha256.New()
	rest := &io.LimitedReader{R: file, N: f.cfg.MaxOctets + 1}
	value, err := f.parse(f.cfg.File, io.TeeReader(rest, digest))
	if err != nil {
		return nil, err
	}
	if rest.N <= 0 {
		return nil, fmt.Errorf("%s: larger than %d octets", f.cfg.File, f.cfg.MaxOctets)
	}
	return &version[T]{value: value, digest: [sha256.Size]byte(digest.Sum(nil))}, nil
}

// stamp tells the file as it is now, with the further files of the version in
// use.
func (f *File[T]) stamp() (stamp, error) {
	info, err := os.Stat(f.cfg.File)
	if err != nil {
		return stamp{}, err
	}
	s := stamp{modified: info.ModTime(), octets: info.Size(), inode: inode(info)}
	if before := f.current.Load(); before != nil {
		s.others = stampsOf(others(before.value))
	}
	return s, nil
}

func inode(info os.FileInfo) uint64 {
	if s, ok := info.Sys().(*syscall.Stat_t); ok {
		return s.Ino
	}
	return 0
}

func others[T any](value T) []string {
	if m, ok := any(value).(Multifile); ok {
		return m.Files()
	}
	return nil
}

// stampsOf tells further files as they are now. One that is gone has a stamp of
// its own.
func stampsOf(files []string) string {
	var b strings.Builder
	for _, name := range files {
		info, err := os.Stat(name)
		if err != nil {
			fmt.Fprintf(&b, "%q gone;", name)
			continue
		}
		fmt.Fprintf(&b, "%q %d %d %d;", name, info.ModTime().UnixNano(), info.Size(), inode(info))
	}
	return b.String()
}
