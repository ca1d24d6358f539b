package fsx_test

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/postern-mail/postern/internal/fsx"
	"github.com/postern-mail/postern/internal/fsx/fsxtest"
)

// eachFS runs a test on the real file system and on the one that stands in for
// it, in a directory that exists.
func eachFS(t *testing.T, test func(t *testing.T, fsys fsx.FS, dir string)) {
	t.Parallel()
	for name, fsys := range map[string]fsx.FS{"operating system": fsx.OS(), "fake": fsxtest.New(1)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			if err := fsys.MkdirAll(dir); err != nil {
				t.Fatal(err)
			}
			test(t, fsys, dir)
		})
	}
}

func create(t *testing.T, fsys fsx.FS, name, content string) fsx.File {
	t.Helper()
	f, err := fsys.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := f.WriteAt([]byte(content), 0); n != len(content) || err != nil {
		t.Fatalf("wrote %d octets, %v", n, err)
	}
	return f
}

func content(t *testing.T, fsys fsx.FS, name string) string {
	t.Helper()
	f, err := fsys.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		t.Fatal(err)
	}
	octets := make([]byte, size)
	if _, err := f.ReadAt(octets, 0); err != nil && (err != io.EOF || size > 0) {
		t.Fatal(err)
	}
	return string(octets)
}

func TestFile(t *testing.T) {
	eachFS(t, func(t *testing.T, fsys fsx.FS, dir string) {
		name := filepath.Join(dir, "a")
		f := create(t, fsys, name, "hello world")
		if _, err := f.WriteAt([]byte("there"), 6); err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt([]byte("!"), 13); err != nil {
			t.Fatal(err)
		}
		if got := content(t, fsys, name); got != "hello there\x00\x00!" {
			t.Errorf("content %q", got)
		}
		if err := f.Truncate(5); err != nil {
			t.Fatal(err)
		}
		if err := f.Preallocate(8); err != nil {
			t.Fatal(err)
		}
		if got := content(t, fsys, name); got != "hello\x00\x00\x00" {
			t.Errorf("truncated and made longer: %q", got)
		}
		if err := f.Preallocate(2); err != nil {
			t.Fatal(err)
		}
		if size, err := f.Size(); size != 8 || err != nil {
			t.Errorf("preallocating made it %d octets, %v", size, err)
		}
		octets := make([]byte, 10)
		if n, err := f.ReadAt(octets, 3); n != 5 || err != io.EOF || string(octets[:n]) != "lo\x00\x00\x00" {
			t.Errorf("read past the end: %d, %v, %q", n, err, octets[:n])
		}
		if n, err := f.ReadAt(octets, 9); n != 0 || err != io.EOF {
			t.Errorf("read behind the end: %d, %v", n, err)
		}
		if err := f.Sync(); err != nil {
			t.Error(err)
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
}

func TestNames(t *testing.T) {
	eachFS(t, func(t *testing.T, fsys fsx.FS, dir string) {
		a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
		defer create(t, fsys, a, "1").Close()
		defer create(t, fsys, b, "2").Close()
		if _, err := fsys.Create(a); !errors.Is(err, fs.ErrExist) {
			t.Errorf("made twice: %v", err)
		}
		if err := fsys.Rename(a, b); err != nil {
			t.Fatal(err)
		}
		if names, err := fsys.ReadDir(dir); !slices.Equal(names, []string{"b"}) || err != nil {
			t.Errorf("names %q, %v", names, err)
		}
		if got := content(t, fsys, b); got != "1" {
			t.Errorf("renamed: %q", got)
		}
		if err := fsys.Remove(b); err != nil {
			t.Fatal(err)
		}
		if err := fsys.SyncDir(dir); err != nil {
			t.Error(err)
		}
		for what, err := range map[string]error{
			"remove":         fsys.Remove(b),
			"rename":         fsys.Rename(b, a),
			"sync directory": fsys.SyncDir(filepath.Join(dir, "none")),
			"create":         second(fsys.Create(filepath.Join(dir, "none", "a"))),
			"open":           second(fsys.Open(a)),
			"read directory": second(fsys.ReadDir(filepath.Join(dir, "none"))),
		} {
			if !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s what is not there: %v", what, err)
			}
		}
	})
}

func second[T any](_ T, err error) error { return err }

func TestMkdirAll(t *testing.T) {
	eachFS(t, func(t *testing.T, fsys fsx.FS, dir string) {
		deep := filepath.Join(dir, "x", "y", "z")
		for range 2 {
			if err := fsys.MkdirAll(deep); err != nil {
				t.Fatal(err)
			}
		}
		create(t, fsys, filepath.Join(deep, "a"), "").Close()
		if names, err := fsys.ReadDir(deep); len(names) != 1 || err != nil {
			t.Errorf("%q, %v", names, err)
		}
		if free, err := fsys.Free(deep); free <= 0 || err != nil {
			t.Errorf("free: %d, %v", free, err)
		}
	})
}

func TestDirectoryInTheWay(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "a")
	if err := os.WriteFile(name, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := fsx.OS().MkdirAll(filepath.Join(name, "b")); !errors.Is(err, unix.ENOTDIR) {
		t.Errorf("a directory below a file: %v", err)
	}
}

// TestClosed: a closed file answers so, and never with the success of another.
func TestClosed(t *testing.T) {
	eachFS(t, func(t *testing.T, fsys fsx.FS, dir string) {
		f := create(t, fsys, filepath.Join(dir, "a"), "1")
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		_, sizeErr := f.Size()
		for what, err := range map[string]error{
			"sync": f.Sync(), "truncate": f.Truncate(1), "preallocate": f.Preallocate(1), "close": f.Close(),
			"read": second(f.ReadAt(make([]byte, 1), 0)), "write": second(f.WriteAt([]byte{1}, 0)), "size": sizeErr,
		} {
			if !errors.Is(err, fs.ErrClosed) && !errors.Is(err, os.ErrClosed) {
				t.Errorf("%s of a closed file: %v", what, err)
			}
		}
	})
}

// TestConcurrentWrites is for the race detector, and Close in between.
func TestConcurrentWrites(t *testing.T) {
	eachFS(t, func(t *testing.T, fsys fsx.FS, dir string) {
		f := create(t, fsys, filepath.Join(dir, "a"), "")
		var wg sync.WaitGroup
		for w := range 4 {
			wg.Go(func() {
				for i := range 50 {
					_, err := f.WriteAt([]byte(strings.Repeat("x", 100)), int64(w*5000+i*100))
					if err == nil {
						err = f.Sync()
					}
					if err != nil && !errors.Is(err, fs.ErrClosed) {
						t.Error(err)
					}
				}
				_ = f.Close() // the first ends it for all
			})
		}
		wg.Wait()
	})
}

func TestWriteFile(t *testing.T) {
	eachFS(t, func(t *testing.T, fsys fsx.FS, dir string) {
		name := filepath.Join(dir, "a")
		for _, text := range []string{"one", "second"} {
			if err := fsx.WriteFile(fsys, name, []byte(text)); err != nil {
				t.Fatal(err)
			}
			if got := content(t, fsys, name); got != text {
				t.Errorf("got %q, want %q", got, text)
			}
		}
	})
}

// TestWriteFilePowerCut cuts the power at every step of a replacement.
func TestWriteFilePowerCut(t *testing.T) {
	t.Parallel()
	const name = "/etc/a"
	before, after := strings.Repeat("before ", 1000), strings.Repeat("behind ", 900)
	for seed := range uint64(50) {
		disk := fsxtest.New(seed)
		if err := disk.MkdirAll("/etc"); err != nil {
			t.Fatal(err)
		}
		if err := fsx.WriteFile(disk, name, []byte(before)); err != nil {
			t.Fatal(err)
		}
		steps := 0
		disk.SetFault(func(op fsxtest.Op) error {
			steps++
			left := disk.Cut(seed)
			if got := content(t, left, name); got != before && got != after {
				t.Errorf("power cut before %s, seed %d: %.20q and so on, %d octets", op.Kind, seed, got, len(got))
			}
			if err := fsx.WriteFile(left, name, []byte("again")); err != nil {
				t.Errorf("after a power cut: %v", err)
			}
			return nil
		})
		if err := fsx.WriteFile(disk, name, []byte(after)); err != nil {
			t.Fatal(err)
		}
		disk.SetFault(nil)
		if got := content(t, disk.Cut(seed), name); got != after || steps < 5 {
			t.Errorf("after %d steps, seed %d: %.20q and so on", steps, seed, got)
		}
	}
}

// TestWriteFileFaults has every step fail once: the old content stays.
func TestWriteFileFaults(t *testing.T) {
	t.Parallel()
	const name = "/etc/a"
	for fail := 1; fail < 20; fail++ {
		disk := fsxtest.New(uint64(fail))
		if err := disk.MkdirAll("/etc"); err != nil {
			t.Fatal(err)
		}
		if err := fsx.WriteFile(disk, name, []byte("before")); err != nil {
			t.Fatal(err)
		}
		first := disk.Ops()
		disk.SetFault(func(op fsxtest.Op) error {
			if op.N == first+fail {
				return unix.EIO
			}
			return nil
		})
		err := fsx.WriteFile(disk, name, []byte("after"))
		if disk.Ops() < first+fail {
			if err != nil || fail < 5 {
				t.Errorf("no fault at step %d: %v", fail, err)
			}
			return
		}
		disk.SetFault(nil)
		if got := content(t, disk, name); err == nil && got != "after" || got != "before" && got != "after" {
			t.Errorf("fault at step %d: %v, %q", fail, err, got)
		}
		if err == nil {
			continue // the failed removal of a temporary file that is not there
		}
		if err := fsx.WriteFile(disk, name, []byte("again")); err != nil || content(t, disk, name) != "again" {
			t.Errorf("after a fault at step %d: %v", fail, err)
		}
	}
	t.Error("the replacement of a file does not end")
}

func TestIsFull(t *testing.T) {
	t.Parallel()
	disk := fsxtest.New(1)
	disk.SetCapacity(10)
	if err := disk.MkdirAll("/a"); err != nil {
		t.Fatal(err)
	}
	err := fsx.WriteFile(disk, "/a/b", []byte("more than ten octets"))
	if !fsx.IsFull(err) {
		t.Errorf("full: %v", err)
	}
	if names, _ := disk.ReadDir("/a"); len(names) != 0 {
		t.Errorf("left on a full disk: %q", names)
	}
	if fsx.IsFull(unix.EIO) || fsx.IsFull(nil) {
		t.Error("another error is taken for a full disk")
	}
}

// TestSyncAll: files that were synced together are there after a power cut, and an
// error of one is that of all.
func TestSyncAll(t *testing.T) {
	eachFS(t, func(t *testing.T, fsys fsx.FS, dir string) {
		for _, n := range []int{0, 1, 3, 40} {
			var files []fsx.File
			for i := range n {
				files = append(files, create(t, fsys, filepath.Join(dir, fmt.Sprint(n, "-", i)), fmt.Sprint("content ", i)))
			}
			if err := fsx.SyncAll(fsys, files); err != nil {
				t.Fatal(err)
			}
			if err := fsys.SyncDir(dir); err != nil {
				t.Fatal(err)
			}
			left := fsys
			if disk, ok := fsys.(*fsxtest.Disk); ok {
				left = disk.Cut(uint64(n))
			}
			for i := range n {
				if got := content(t, left, filepath.Join(dir, fmt.Sprint(n, "-", i))); got != fmt.Sprint("content ", i) {
					t.Errorf("file %d of %d holds %q", i, n, got)
				}
			}
			if n == 0 {
				continue
			}
			for _, f := range files[n-1:] {
				if err := f.Close(); err != nil {
					t.Fatal(err)
				}
			}
			if err := fsx.SyncAll(fsys, files); !errors.Is(err, fs.ErrClosed) {
				t.Errorf("one of %d is closed: %v", n, err)
			}
			for _, f := range files[:n-1] {
				_ = f.Close()
			}
		}
	})
}
