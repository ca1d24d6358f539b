package policy

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"
)

// tableKind is the syntax of a table file's keys.
type tableKind uint8

const (
	tableText tableKind = iota
	tableCIDR
)

// source is a table file and its present content, swapped whole when the
// file changes.
type source struct {
	kind    tableKind
	file    string
	compile compiler
	present atomic.Pointer[table]
	// Only used by the one who loads: the version read last, good or bad, and
	// the one Run saw last.
	seen, met stamp
}

// stamp tells whether a file was changed.
type stamp struct {
	modified time.Time
	octets   int64
	inode    os.FileInfo
}

func (s stamp) same(info os.FileInfo) bool {
	return s.inode != nil && os.SameFile(s.inode, info) && s.modified.Equal(info.ModTime()) && s.octets == info.Size()
}

// newSource reads "texthash:FILE", "cidr:FILE" and their like, or a file name
// alone, which is a text table.
func newSource(spec, dir string) (*source, error) {
	kind, file, typed := strings.Cut(spec, ":")
	s := &source{kind: tableText, file: file}
	switch {
	case !typed:
		s.file = spec
	case kind == "cidr":
		s.kind = tableCIDR
	case kind == "text" || kind == "texthash" || kind == "hash":
	default:
		return nil, fmt.Errorf("unknown type of table %q", kind)
	}
	if s.file == "" {
		return nil, fmt.Errorf("table %q names no file", spec)
	}
	if !filepath.IsAbs(s.file) {
		s.file = filepath.Join(dir, s.file)
	}
	return s, nil
}

func (s *source) table() *table { return s.present.Load() }

// load reads the file if it changed since the last time, good or bad, and
// reports whether it did. After an error the former content stays.
func (s *source) load() (changed bool, err error) {
	f, err := os.Open(s.file)
	if err != nil {
		changed = s.seen.inode != nil || s.present.Load() == nil
		s.seen = stamp{}
		return changed, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return true, err
	}
	if s.seen.same(info) {
		return false, nil
	}
	content, err := io.ReadAll(io.LimitReader(f, maxTableOctets+1))
	if err != nil {
		return true, err // to be read again
	}
	s.seen = stamp{info.ModTime(), info.Size(), info}
	t, err := parseTable(s.kind, s.file, content, s.compile)
	if err != nil {
		return true, err
	}
	s.present.Store(t)
	return true, nil
}

// atRest reports whether the file is as it was at the last call: one that is
// being written would be taken for whole, and what it does not hold yet for
// not there.
func (s *source) atRest() bool {
	info, err := os.Stat(s.file)
	if err != nil {
		return true // load tells why
	}
	before := s.met
	s.met = stamp{info.ModTime(), info.Size(), info}
	return before.same(info)
}

// Reload reads the tables that changed since they were last read. A table
// with mistakes keeps its former content; the mistakes are returned. Not safe
// for concurrent use, nor beside Run.
func (c *Chain) Reload() error { return c.reload(c.tables) }

func (c *Chain) reload(tables []*source) error {
	var mistakes Mistakes
	for _, s := range tables {
		changed, err := s.load()
		switch {
		case err != nil && changed:
			mistakes = append(mistakes, asMistakes(s.file, err)...)
		case changed:
			c.deps.Logger.Info("table loaded", "table", s.file)
			for _, w := range s.table().warnings {
				c.deps.Logger.Warn("table", "position", w.Pos.String(), "problem", w.Problem)
			}
		}
	}
	return mistakes.orNil()
}

// Run looks for changed tables until ctx ends. A changed one is read when it
// has not changed again for Config.TableCheck.
func (c *Chain) Run(ctx context.Context) error {
	if len(c.tables) == 0 {
		<-ctx.Done()
		return nil
	}
	tick := time.NewTicker(c.cfg.TableCheck)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			var resting []*source
			for _, s := range c.tables {
				if s.atRest() {
					resting = append(resting, s)
				}
			}
			if err := c.reload(resting); err != nil {
				c.deps.Logger.Error("a table has mistakes, its former content stays", "error", err)
			}
		}
	}
}
