package fsxtest_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/postern-mail/postern/internal/fsx"
	"github.com/postern-mail/postern/internal/fsx/fsxtest"
)

func newDisk(t *testing.T, seed uint64) *fsxtest.Disk {
	t.Helper()
	disk := fsxtest.New(seed)
	if err := disk.MkdirAll("/d"); err != nil {
		t.Fatal(err)
	}
	return disk
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func create(t *testing.T, disk *fsxtest.Disk, name string) fsx.File {
	t.Helper()
	f, err := disk.Create(name)
	must(t, err)
	return f
}

func write(t *testing.T, f fsx.File, offset int64, data []byte) {
	t.Helper()
	_, err := f.WriteAt(data, offset)
	must(t, err)
}

// content returns a file's octets; nil when it is not there.
func content(t *testing.T, disk *fsxtest.Disk, name string) []byte {
	t.Helper()
	f, err := disk.Open(name)
	if err != nil {
		return nil
	}
	size, err := f.Size()
	must(t, err)
	octets := make([]byte, size)
	if n, err := f.ReadAt(octets, 0); int64(n) != size || err != nil && err != io.EOF {
		t.Fatalf("read %d of %d octets: %v", n, size, err)
	}
	return octets
}

// TestSyncedStays does random things to some files and cuts the power at
// random times: what was synced and not touched since is there, octet by octet.
func TestSyncedStays(t *testing.T) {
	t.Parallel()
	for seed := range uint64(15) {
		rnd := rand.New(rand.NewPCG(seed, 7))
		disk := newDisk(t, seed)
		f := create(t, disk, "/d/a")
		must(t, f.Preallocate(40_000))
		must(t, f.Sync())
		must(t, disk.SyncDir("/d"))
		now := make([]byte, 40_000)
		safe := bytes.Repeat([]byte{1}, len(now)) // 1 where nothing was written since the sync
		for step := range 100 {
			switch rnd.IntN(6) {
			case 0:
				must(t, f.Sync())
				safe = bytes.Repeat([]byte{1}, len(now))
			case 1:
				left := content(t, disk.Cut(uint64(step)), "/d/a")
				if len(left) != len(now) {
					t.Fatalf("seed %d, step %d: %d octets", seed, step, len(left))
				}
				for i := range left {
					if safe[i] == 1 && left[i] != now[i] {
						t.Fatalf("seed %d, step %d: octet %d was synced as %d and is %d", seed, step, i, now[i], left[i])
					}
				}
			default:
				at := rnd.IntN(len(now) - 5000)
				data := bytes.Repeat([]byte{byte(1 + rnd.IntN(255))}, 1+rnd.IntN(5000))
				write(t, f, int64(at), data)
				copy(now[at:], data)
				clear(safe[at : at+len(data)])
			}
			if got := content(t, disk, "/d/a"); !bytes.Equal(got, now) {
				t.Fatalf("seed %d, step %d: reads do not show the writes", seed, step)
			}
		}
	}
}

// TestUnsynced: a write that was not synced is found in each way it may be.
func TestUnsynced(t *testing.T) {
	t.Parallel()
	disk := newDisk(t, 1)
	f := create(t, disk, "/d/a")
	write(t, f, 0, bytes.Repeat([]byte("o"), 4096))
	must(t, f.Sync())
	must(t, disk.SyncDir("/d"))
	write(t, f, 0, bytes.Repeat([]byte("n"), 4096))
	write(t, f, 4096, bytes.Repeat([]byte("n"), 4096))
	seen := map[string]int{}
	for seed := range uint64(150) {
		left := content(t, disk.Cut(seed), "/d/a")
		again := content(t, disk.Cut(seed), "/d/a")
		if !bytes.Equal(left, again) {
			t.Fatalf("seed %d: two cuts differ", seed)
		}
		first := left[:4096]
		fresh := bytes.Count(first, []byte("n"))
		switch stale := bytes.Count(first, []byte("o")); {
		case fresh == 4096:
			seen["new"]++
		case stale == 4096:
			seen["old"]++
		case fresh+stale < 4096-100:
			seen["garbage"]++
		case bytes.Equal(first, append(bytes.Repeat([]byte("n"), fresh), bytes.Repeat([]byte("o"), stale)...)):
			seen["torn"]++
		default:
			seen["scattered"]++
		}
		switch {
		case len(left) == 4096:
			seen["short"]++
		case len(left) == 8192 && bytes.Count(left[4096:], []byte{0}) >= 512:
			seen["zeros"]++
		}
	}
	for _, kind := range []string{"new", "old", "garbage", "torn", "scattered", "short", "zeros"} {
		if seen[kind] == 0 {
			t.Errorf("never %s; %v", kind, seen)
		}
	}
}

// TestNamesWithoutSync: names that were not synced come, go and stay.
func TestNamesWithoutSync(t *testing.T) {
	t.Parallel()
	disk := newDisk(t, 1)
	for _, name := range []string{"/d/kept", "/d/removed", "/d/from"} {
		f := create(t, disk, name)
		write(t, f, 0, []byte(name))
		must(t, f.Sync())
	}
	must(t, disk.SyncDir("/d"))
	must(t, disk.Remove("/d/removed"))
	must(t, disk.Rename("/d/from", "/d/to"))
	create(t, disk, "/d/new")
	seen := map[string]bool{}
	for seed := range uint64(200) {
		left := disk.Cut(seed)
		names, err := left.ReadDir("/d")
		must(t, err)
		seen[fmt.Sprint(names)] = true
		if !slices.Contains(names, "kept") || slices.Contains(names, "from") == slices.Contains(names, "to") {
			t.Fatalf("seed %d: %q", seed, names)
		}
		for _, name := range []string{"/d/from", "/d/to"} {
			if got := content(t, left, name); got != nil && string(got) != "/d/from" {
				t.Fatalf("seed %d: %s holds %q", seed, name, got)
			}
		}
	}
	if len(seen) != 8 {
		t.Errorf("found only %v", seen)
	}
	must(t, disk.SyncDir("/d"))
	for seed := range uint64(20) {
		if names, _ := disk.Cut(seed).ReadDir("/d"); !slices.Equal(names, []string{"kept", "new", "to"}) {
			t.Errorf("synced, and yet %q", names)
		}
	}
}

// TestFailedSync: what a failed sync should have written never gets to the
// disk by a later one, though reads show it.
func TestFailedSync(t *testing.T) {
	t.Parallel()
	lost := 0
	for seed := range uint64(20) {
		disk := newDisk(t, seed)
		f := create(t, disk, "/d/a")
		must(t, disk.SyncDir("/d"))
		write(t, f, 0, bytes.Repeat([]byte("x"), 4096))
		disk.SetFault(func(op fsxtest.Op) error {
			if op.Kind == fsxtest.OpSync {
				return unix.EIO
			}
			return nil
		})
		if err := f.Sync(); !errors.Is(err, unix.EIO) {
			t.Fatalf("sync: %v", err)
		}
		disk.SetFault(nil)
		write(t, f, 4096, []byte("y"))
		must(t, f.Sync())
		if got := content(t, disk, "/d/a"); bytes.Count(got, []byte("x")) != 4096 || got[4096] != 'y' {
			t.Fatalf("seed %d: reads do not show what was written", seed)
		}
		left := content(t, disk.Cut(seed), "/d/a")
		if len(left) != 4097 || left[4096] != 'y' {
			t.Fatalf("seed %d: what the second sync wrote is not there", seed)
		}
		if bytes.Count(left, []byte("x")) < 4096 {
			lost++
		}
	}
	if lost == 0 {
		t.Error("a failed sync never lost anything")
	}
}

func TestCapacity(t *testing.T) {
	t.Parallel()
	disk := newDisk(t, 1)
	disk.SetCapacity(100)
	a := create(t, disk, "/d/a")
	if err := a.Preallocate(101); !fsx.IsFull(err) {
		t.Errorf("preallocated more than there is: %v", err)
	}
	must(t, a.Preallocate(60))
	write(t, a, 0, make([]byte, 60))
	b := create(t, disk, "/d/b")
	if n, err := b.WriteAt(make([]byte, 50), 0); n != 40 || !fsx.IsFull(err) {
		t.Errorf("wrote %d octets into 40, %v", n, err)
	}
	if free, _ := disk.Free("/d"); free != 0 {
		t.Errorf("%d free", free)
	}
	must(t, disk.Remove("/d/a"))
	if free, _ := disk.Free("/d"); free != 60 {
		t.Errorf("%d free after the removal", free)
	}
	must(t, b.Truncate(10))
	if free, _ := disk.Cut(1).Free("/d"); free > 100 || free < 0 {
		t.Errorf("%d free after a power cut", free)
	}
}

func TestFaults(t *testing.T) {
	t.Parallel()
	disk := newDisk(t, 1)
	f := create(t, disk, "/d/a")
	write(t, f, 0, []byte("before"))
	broken := errors.New("broken")
	var hit []fsxtest.Kind
	disk.SetFault(func(op fsxtest.Op) error {
		hit = append(hit, op.Kind)
		if op.Kind == fsxtest.OpWrite {
			return &fsxtest.Short{Octets: 3, Err: broken}
		}
		return broken
	})
	if n, err := f.WriteAt([]byte("behind"), 0); n != 3 || err != broken {
		t.Errorf("short write: %d, %v", n, err)
	}
	_, createErr := disk.Create("/d/b")
	_, readErr := f.ReadAt(make([]byte, 1), 0)
	for what, err := range map[string]error{
		"create": createErr, "read": readErr, "sync": f.Sync(), "truncate": f.Truncate(1), "preallocate": f.Preallocate(9),
		"rename": disk.Rename("/d/a", "/d/c"), "remove": disk.Remove("/d/a"), "sync directory": disk.SyncDir("/d"),
		"mkdir": disk.MkdirAll("/e"),
	} {
		if err != broken {
			t.Errorf("%s: %v", what, err)
		}
	}
	disk.SetFault(nil)
	if got := content(t, disk, "/d/a"); string(got) != "behore" || len(hit) != 10 {
		t.Errorf("content %q after %q", got, hit)
	}
	if names, _ := disk.ReadDir("/d"); !slices.Equal(names, []string{"a"}) {
		t.Errorf("names %q", names)
	}
}

func TestFlip(t *testing.T) {
	t.Parallel()
	disk := newDisk(t, 1)
	f := create(t, disk, "/d/a")
	write(t, f, 0, []byte("aaa"))
	must(t, f.Sync())
	must(t, disk.SyncDir("/d"))
	must(t, disk.Flip("/d/a", 1, 1))
	if got := string(content(t, disk, "/d/a")) + string(content(t, disk.Cut(1), "/d/a")); got != "acaaca" {
		t.Errorf("got %q", got)
	}
	if disk.Flip("/d/a", 3, 1) == nil || disk.Flip("/d/b", 0, 1) == nil {
		t.Error("flipped what is not there")
	}
}

// TestCutGoesOn: the disk that a cut is taken from, and the one it gives, have
// nothing in common.
func TestCutGoesOn(t *testing.T) {
	t.Parallel()
	disk := newDisk(t, 1)
	f := create(t, disk, "/d/a")
	write(t, f, 0, []byte("one"))
	must(t, f.Sync())
	must(t, disk.SyncDir("/d"))
	left := disk.Cut(1)
	write(t, f, 0, []byte("two"))
	must(t, f.Sync())
	g, err := left.Open("/d/a")
	must(t, err)
	write(t, g, 0, []byte("six"))
	if a, b := content(t, disk, "/d/a"), content(t, left, "/d/a"); string(a) != "two" || string(b) != "six" {
		t.Errorf("%q and %q", a, b)
	}
}
