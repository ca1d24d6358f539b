package content

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"golang.org/x/sys/unix"

	"github.com/postern-mail/postern/internal/fsx"
	"github.com/postern-mail/postern/internal/fsx/fsxtest"
	"github.com/postern-mail/postern/status"
)

// openSpool opens a spool on the test's own folder.
func openSpool(t testing.TB, cfg SpoolConfig) *Spool {
	t.Helper()
	cfg.Dir = filepath.Join(t.TempDir(), "tmp")
	s, err := OpenSpool(cfg, fsx.OS())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func noise(octets int) []byte {
	r := rand.New(rand.NewPCG(1, uint64(octets)))
	b := make([]byte, octets)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// empty reports what is left in a spool that nobody uses.
func empty(t *testing.T, s *Spool) {
	t.Helper()
	if all, memory := s.Octets(); all != 0 || memory != 0 {
		t.Errorf("the spool still holds %d octets, %d in memory", all, memory)
	}
	if names, err := os.ReadDir(s.cfg.Dir); err == nil && len(names) > 0 {
		t.Errorf("files are left: %v", names)
	}
}

func TestBuffersHoldWhatWasRead(t *testing.T) {
	t.Parallel()
	s := openSpool(t, SpoolConfig{MaxMessageMemory: 2 * chunkOctets})
	for _, n := range []int{0, 1, chunkOctets - 1, chunkOctets, chunkOctets + 1, 2 * chunkOctets, 2*chunkOctets + 1, 5*chunkOctets + 7} {
		want := noise(n)
		b, err := s.Keep(iotest.OneByteReader(bytes.NewReader(want)))
		if n > 2*chunkOctets {
			b.Free()
			b, err = s.Keep(bytes.NewReader(want))
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := iotest.TestReader(b.NewReader(), want); err != nil && n < 3*chunkOctets {
			t.Errorf("%d octets: %v", n, err)
		}
		if got, err := io.ReadAll(b.NewReader()); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d octets: %d came back, %v", n, len(got), err)
		}
		late := b.NewReader()
		b.Free()
		b.Free()
		if _, err := late.Read(make([]byte, 1)); n > 0 && !errors.Is(err, fs.ErrClosed) {
			t.Errorf("a freed buffer is read: %v", err)
		}
	}
	empty(t, s)
}

func TestSpoolIsBounded(t *testing.T) {
	t.Parallel()
	s := openSpool(t, SpoolConfig{MaxMemory: chunkOctets, MaxOctets: 10 * chunkOctets})
	first, err := s.Keep(bytes.NewReader(noise(4 * chunkOctets)))
	if err != nil {
		t.Fatal(err)
	}
	if _, memory := s.Octets(); memory != chunkOctets {
		t.Errorf("%d octets in memory", memory)
	}
	second, err := s.Keep(bytes.NewReader(noise(5 * chunkOctets))) // all in a file
	if err != nil {
		t.Fatal(err)
	}
	if len(second.chunks) != 0 {
		t.Error("more in memory than may be")
	}
	if _, err := s.Keep(bytes.NewReader(noise(2 * chunkOctets))); status.Of(err) != status.MailSystemFull {
		t.Errorf("beyond the limit: %v", err)
	}
	want := Usage{Octets: 9 * chunkOctets, Memory: chunkOctets, Limit: 10 * chunkOctets, Files: 2, Refused: 1}
	if got := s.Usage(); got != want {
		t.Errorf("it holds %+v, want %+v", got, want)
	}
	first.Free()
	third, err := s.Keep(bytes.NewReader(noise(2 * chunkOctets)))
	if err != nil {
		t.Errorf("after another one went: %v", err)
	}
	second.Free()
	third.Free()
	if got := s.Usage(); got != (Usage{Limit: 10 * chunkOctets, Refused: 1}) {
		t.Errorf("it holds %+v", got)
	}
	empty(t, s)
}

func TestSpoolFaults(t *testing.T) {
	t.Parallel()
	broken := errors.New("connection reset")
	for _, at := range []int{10, chunkOctets + 10, 3*chunkOctets + 1} {
		s := openSpool(t, SpoolConfig{MaxMessageMemory: chunkOctets})
		if _, err := s.Keep(io.MultiReader(bytes.NewReader(noise(at)), iotest.ErrReader(broken))); !errors.Is(err, broken) {
			t.Errorf("after %d octets: %v", at, err)
		}
		empty(t, s)
	}
	for _, tt := range []struct {
		fault error
		kind  fsxtest.Kind
		want  status.Reason
	}{
		{unix.ENOSPC, fsxtest.OpWrite, status.MailSystemFull},
		{unix.EDQUOT, fsxtest.OpCreate, status.MailSystemFull},
		{unix.EIO, fsxtest.OpWrite, status.StoreDown},
		{unix.EIO, fsxtest.OpRemove, status.StoreDown},
	} {
		disk := fsxtest.New(1)
		s, err := OpenSpool(SpoolConfig{Dir: "/spool", MaxMessageMemory: 1}, disk)
		if err != nil {
			t.Fatal(err)
		}
		writes := 0
		disk.SetFault(func(op fsxtest.Op) error {
			if op.Kind == fsxtest.OpWrite {
				writes++
			}
			if op.Kind == tt.kind && (op.Kind != fsxtest.OpWrite || writes > 3) {
				return tt.fault
			}
			return nil
		})
		if _, err := s.Keep(bytes.NewReader(noise(9 * chunkOctets))); status.Of(err) != tt.want {
			t.Errorf("%v at %s: %v", tt.fault, tt.kind, err)
		}
		empty(t, s)
	}
}

func TestSpoolCleansUp(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, name := range []string{"content-17-1", "other"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := OpenSpool(SpoolConfig{Dir: dir}, fsx.OS()); err != nil {
		t.Fatal(err)
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 1 || left[0].Name() != "other" {
		t.Errorf("left are %v, %v", left, err)
	}
}

// TestSmallMessagesTakeLittle: memory of small messages is used again.
func TestSmallMessagesTakeLittle(t *testing.T) {
	s := openSpool(t, SpoolConfig{})
	text := strings.NewReader(strings.Repeat("x", 5000))
	allocs := testing.AllocsPerRun(100, func() {
		text.Reset(strings.Repeat("x", 5000))
		b, err := s.Keep(text)
		if err != nil {
			t.Fatal(err)
		}
		b.Free()
	})
	if allocs > 6 {
		t.Errorf("%.0f allocations", allocs)
	}
}
