package pack_test

import (
	"bytes"
	"context"
	"io"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/internal/fsx"
	"github.com/postern-mail/postern/internal/fsx/fsxtest"
	"github.com/postern-mail/postern/store"
	"github.com/postern-mail/postern/store/pack"
	"github.com/postern-mail/postern/store/storetest"
)

// pattern is a reader without end that begins anew with each Read.
type pattern struct{}

var patternOctets = bytes.Repeat([]byte("A pattern of some octets.\r\n"), 10_000)

func (pattern) Read(p []byte) (int, error) {
	for n := 0; n < len(p); {
		n += copy(p[n:], patternOctets)
	}
	return len(p), nil
}

// thinFS keeps of long writes, which are of the pattern, only that they were
// done: what is in memory is what the bodies need.
type thinFS struct{ fsx.FS }

func (f thinFS) Create(name string) (fsx.File, error) {
	file, err := f.FS.Create(name)
	return &thinFile{File: file, headers: make(map[int64][]byte), short: make(map[int64][]byte)}, err
}

type thinFile struct {
	fsx.File
	mu      sync.Mutex
	headers map[int64][]byte // of records with the pattern, by offset
	short   map[int64][]byte // what else was written, by offset
}

// thinFrom is longer than any record that is not of the pattern.
const thinFrom = 16 << 10

func (f *thinFile) WriteAt(p []byte, offset int64) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(p) >= thinFrom {
		f.headers[offset] = bytes.Clone(p[:16])
	} else {
		f.short[offset] = bytes.Clone(p)
	}
	return len(p), nil
}

func (f *thinFile) Preallocate(int64) error { return nil }
func (f *thinFile) Truncate(int64) error    { return nil }

func (f *thinFile) ReadAt(p []byte, offset int64) (int, error) {
	f.mu.Lock()
	header, short := f.headers[offset], f.short[offset]
	f.mu.Unlock()
	if short != nil {
		return copy(p, short), nil
	}
	if header == nil {
		return 0, io.EOF
	}
	_, _ = pattern{}.Read(p[copy(p, header):]) // never fails
	return len(p), nil
}

// TestLargeBodyInLittleMemory stages, links, reads and moves a body of 200 MiB.
// It is not parallel: it counts what everybody allocates.
func TestLargeBodyInLittleMemory(t *testing.T) {
	// The race detector has pools of buffers forget some.
	const size, little = 200 << 20, 32 << 20
	disk := thinFS{fsxtest.New(1)}
	kv := storetest.NewModel().Open()
	blobs, err := pack.OpenOn(t.Context(), pack.Config{Dir: "/bodies", ReserveOctets: -1, CompressAfter: time.Nanosecond},
		kv, hclog.NewNullLogger(), disk)
	if err != nil {
		t.Fatal(err)
	}
	defer blobs.Close()
	allocated := func() uint64 {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.TotalAlloc
	}
	before := allocated()
	done := func(what string) {
		t.Helper()
		now := allocated()
		if used := now - before; used > little {
			t.Errorf("%s: allocated %d octets for a body of %d", what, used, size)
		}
		before = now
	}
	s, err := blobs.Stage(t.Context(), io.LimitReader(pattern{}, size))
	if err != nil {
		t.Fatal(err)
	}
	done("stage")
	b := store.NewBatch()
	blobs.Link(b, s)
	if _, err := kv.Commit(context.Background(), b); err != nil {
		t.Fatal(err)
	}
	done("link")
	readWhole := func(what string) {
		t.Helper()
		body, err := blobs.Open(t.Context(), s.Ref())
		if err != nil {
			t.Fatal(err)
		}
		defer body.Close()
		if n, err := io.Copy(io.Discard, body); n != size || err != nil {
			t.Errorf("%s: %d of %d octets, %v", what, n, size, err)
		}
		done(what)
	}
	readWhole("read")
	if err := blobs.Compact(t.Context()); err != nil {
		t.Fatal(err)
	}
	done("move")
	if u, err := blobs.Usage(t.Context()); err != nil || u.MovedOctets < size/2 {
		t.Errorf("moved: %+v, %v", u, err)
	}
	readWhole("read what was moved")
}
