package pack_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/store"
	"github.com/postern-mail/postern/store/pack"
	"github.com/postern-mail/postern/store/pebble"
	"github.com/postern-mail/postern/store/storetest"
)

// sizes are of a body in the batch, in memory until its link, just so, and of
// several pieces.
var sizes = []int{0, 1 << 10, 17 << 10, 64<<10 - 1, 64 << 10, 64<<10 + 1, 600 << 10}

func octets(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7 + i>>8 + n)
	}
	return b
}

func stage(t testing.TB, blobs store.Blobs, b []byte) store.Staged {
	t.Helper()
	s, err := blobs.Stage(t.Context(), bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func readAll(t testing.TB, body store.Body, err error) []byte {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	b, err := io.ReadAll(body)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestStagedReadsAsLinked: what a staged body shows before its link is what
// the store shows after, and after a start.
func TestStagedReadsAsLinked(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	kv, blobs := storetest.OpenDir(t, dir)
	for _, n := range sizes {
		want := octets(n)
		s := stage(t, blobs, want)
		before, err := s.Open()
		if got := readAll(t, before, err); !bytes.Equal(got, want) {
			t.Fatalf("%d octets: staged differs", n)
		}
		// A reader of before the link goes on after it.
		before, err = s.Open()
		if err != nil {
			t.Fatal(err)
		}
		b := store.NewBatch()
		blobs.Link(b, s)
		if _, err := kv.Commit(t.Context(), b); err != nil {
			t.Fatal(err)
		}
		for name, body := range map[string]func() (store.Body, error){
			"opened before": func() (store.Body, error) { return before, nil },
			"staged":        s.Open,
			"linked":        func() (store.Body, error) { return blobs.Open(t.Context(), s.Ref()) },
		} {
			opened, err := body()
			if got := readAll(t, opened, err); !bytes.Equal(got, want) {
				t.Errorf("%d octets: %s differs", n, name)
			}
		}
		s.Discard()
	}
}

// TestLinkedInManyBatches: several accounts link one staged body at once.
func TestLinkedInManyBatches(t *testing.T) {
	t.Parallel()
	kv, blobs := storetest.Open(t)
	want := octets(40 << 10)
	s := stage(t, blobs, want)
	var wait sync.WaitGroup
	const links = 8
	for range links {
		wait.Go(func() {
			b := store.NewBatch()
			blobs.Link(b, s)
			if _, err := kv.Commit(t.Context(), b); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	if n, err := blobs.(*pack.Blobs).References(t.Context(), s.Ref()); n != links || err != nil {
		t.Errorf("%d references, %v", n, err)
	}
	body, err := blobs.Open(t.Context(), s.Ref())
	if got := readAll(t, body, err); !bytes.Equal(got, want) {
		t.Error("the body differs")
	}
}

// TestHeldNeedsNoPack: a message of one piece that nobody links costs nothing
// on disk.
func TestHeldNeedsNoPack(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	_, blobs := storetest.OpenDir(t, dir)
	s := stage(t, blobs, octets(50<<10))
	s.Discard()
	s.Discard()
	files, err := os.ReadDir(filepath.Join(dir, "bodies"))
	if err != nil || len(files) > 0 {
		t.Errorf("files %v, %v", files, err)
	}
	if body, err := s.Open(); err == nil {
		t.Errorf("opened after it was discarded: %v", body)
	}
}

// TestHeldBuffersAreNotShared: a reader keeps its octets while others stage and
// discard, and is empty once closed.
func TestHeldBuffersAreNotShared(t *testing.T) {
	t.Parallel()
	_, blobs := storetest.Open(t)
	var wait sync.WaitGroup
	for i := range 4 {
		wait.Go(func() {
			for j := range 50 {
				want := octets(20<<10 + 1000*i + j)
				s := stage(t, blobs, want)
				body, err := s.Open()
				if err != nil {
					t.Error(err)
					return
				}
				s.Discard()
				got, err := io.ReadAll(body)
				if err != nil || !bytes.Equal(got, want) {
					t.Errorf("%d octets differ, %v", len(want), err)
				}
				if err := body.Close(); err != nil {
					t.Error(err)
				}
				if n, err := body.ReadAt(got[:1], 0); n != 0 || err == nil {
					t.Errorf("read %d after the close, %v", n, err)
				}
				if err := body.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wait.Wait()
}

// TestPackLost: a body that cannot be written fails the commit of its link,
// and nothing names it.
func TestPackLost(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	log := hclog.NewNullLogger()
	kv, err := pebble.Open(context.Background(), pebble.Config{Dir: filepath.Join(dir, "meta"), ReserveOctets: -1}, log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = kv.Close() })
	// More than any disk has free.
	blobs, err := pack.Open(t.Context(), pack.Config{Dir: filepath.Join(dir, "bodies"), ReserveOctets: 1 << 60}, kv, log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = blobs.Close() })
	s := stage(t, blobs, octets(50<<10))
	for range 2 {
		b := store.NewBatch()
		blobs.Link(b, s)
		b.Put([]byte("x"), nil)
		if _, err := kv.Commit(t.Context(), b); !errors.Is(err, store.ErrFull) {
			t.Errorf("got %v", err)
		}
	}
	if body, err := s.Open(); err == nil {
		t.Errorf("opened what is nowhere: %v", body)
	}
	if _, err := blobs.Open(t.Context(), s.Ref()); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("linked: %v", err)
	}
}

// BenchmarkStage measures a message that is staged, read and discarded, as one
// is that goes on while its client waits, and one that is linked.
func BenchmarkStage(b *testing.B) {
	for _, n := range []int{5_000, 50_000} {
		for _, link := range []bool{false, true} {
			b.Run(fmt.Sprintf("%dKB/linked=%t", n/1000, link), func(b *testing.B) {
				kv, blobs := storetest.Open(b)
				content := octets(n)
				b.SetBytes(int64(n))
				b.ReportAllocs()
				for i := range b.N {
					content[0], content[1], content[2], content[3] = byte(i), byte(i>>8), byte(i>>16), byte(i>>24)
					s := stage(b, blobs, content)
					body, err := s.Open()
					if err == nil {
						_, err = io.Copy(io.Discard, body)
						_ = body.Close()
					}
					if link && err == nil {
						batch := store.NewBatch()
						blobs.Link(batch, s)
						_, err = kv.Commit(b.Context(), batch)
					}
					if err != nil {
						b.Fatal(err)
					}
					s.Discard()
				}
			})
		}
	}
}
