package ldif

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/directory"
	"github.com/postern-mail/postern/internal/reload"
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
type Source struct{ file *reload.File[*Tree] }

// Open reads the file. A broken file is an error that lists every mistake with
// its line.
func Open(cfg Config, log hclog.Logger) (*Source, error) {
	file, err := reload.Open(reload.Config(cfg), func(name string, r io.Reader) (*Tree, error) {
		entries, err := Parse(name, r)
		if err != nil {
			return nil, err
		}
		return NewTree(entries), nil
	}, log)
	if err != nil {
		return nil, err
	}
	return &Source{file: file}, nil
}

// NewSource returns a source over entries that never change, for directories
// that are part of a program.
func NewSource(tree *Tree) *Source { return &Source{file: reload.Fixed(tree)} }

// Run watches the file until ctx ends and takes over new versions. A version
// that cannot be read or has mistakes is logged once and not taken over.
func (s *Source) Run(ctx context.Context) error { return s.file.Run(ctx) }

// Reload reads the file if it changed and reports whether a new version is in
// use. On error the version read before stays.
func (s *Source) Reload() (changed bool, err error) { return s.file.Reload() }

// Tree returns the version in use.
func (s *Source) Tree() *Tree { return s.file.Value() }

// Generation implements directory.Generational.
func (s *Source) Generation() uint64 { return s.file.Generation() }

// Changed implements directory.Notifier.
func (s *Source) Changed() <-chan struct{} { return s.file.Changed() }

// Where implements directory.Explainer.
func (s *Source) Where() string {
	return fmt.Sprintf("%s, version %d", cmp.Or(s.file.Name(), "built in"), s.file.Generation())
}

// Search implements directory.Searcher.
func (s *Source) Search(ctx context.Context, req directory.Request) ([]directory.Entry, error) {
	return s.Tree().Search(ctx, req)
}
