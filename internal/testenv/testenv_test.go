package testenv

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

func TestProgramIsFoundOutsidePath(t *testing.T) {
	t.Parallel()
	if got := Program(t, "no-such-program-at-all", "sh"); !filepath.IsAbs(got) {
		t.Fatalf("Program = %q, want an absolute path", got)
	}
}

// ended is a test that notes how it was ended.
type ended struct {
	testing.TB
	how string
}

func (*ended) Helper() {}

func (e *ended) Fatalf(string, ...any) { e.how = "failed"; runtime.Goexit() }

func (e *ended) Skipf(string, ...any) { e.how = "skipped"; runtime.Goexit() }

func TestMissingFailsInCI(t *testing.T) {
	note := filepath.Join(t.TempDir(), "missing")
	if err := os.WriteFile(note, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("POSTERN_MISSING", note)
	for _, c := range []struct{ ci, want, noted string }{
		{"true", "failed", ""},
		{"", "skipped", "program no-such-program\n"},
	} {
		t.Setenv("CI", c.ci)
		e := &ended{TB: t}
		var wg sync.WaitGroup
		wg.Go(func() { Program(e, "no-such-program") })
		wg.Wait()
		if e.how != c.want {
			t.Errorf("CI=%q: a test that needs what is missing is %q, want %q", c.ci, e.how, c.want)
		}
		if noted, err := os.ReadFile(note); err != nil || string(noted) != c.noted {
			t.Errorf("CI=%q: noted %q (%v), want %q", c.ci, noted, err, c.noted)
		}
	}
}

func TestTempDirIsShort(t *testing.T) {
	t.Parallel()
	if dir := TempDir(t); len(dir) > 60 && len(os.TempDir()) < 20 {
		t.Fatalf("%q leaves no room for a socket name", dir)
	}
}

func TestProcessBecomesReadyAndEnds(t *testing.T) {
	t.Parallel()
	marker := filepath.Join(TempDir(t), "ready")
	p := Start(t, Command{
		Path: Program(t, "sh"),
		Args: []string{"-c", "echo hello; : > " + marker + "; exec sleep 60"},
		Ready: func(context.Context) error {
			_, err := os.Stat(marker)
			return err
		},
	})
	p.Pause()
	p.Resume()
	p.Stop()
	if !strings.Contains(p.Log(), "hello") {
		t.Errorf("log = %q", p.Log())
	}
	if p.Err() == nil {
		t.Error("a program ended by a signal reports success")
	}
	if err := syscall.Kill(p.PID(), 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("pid %d is still there: %v", p.PID(), err)
	}
}

func TestProcessThatEndsIsNotReady(t *testing.T) {
	t.Parallel()
	_, err := TryStart(t, Command{
		Path:  Program(t, "sh"),
		Args:  []string{"-c", "echo no licence; exit 3"},
		Ready: func(context.Context) error { return errors.New("not yet") },
	})
	if err == nil || !strings.Contains(err.Error(), "no licence") {
		t.Fatalf("TryStart = %v, want the program's output", err)
	}
}

func TestProcessThatHangsIsEnded(t *testing.T) {
	t.Parallel()
	_, err := TryStart(t, Command{
		Path:         Program(t, "sleep"),
		Args:         []string{"60"},
		Ready:        func(context.Context) error { return errors.New("silent") },
		StartTimeout: 50 * time.Millisecond,
	})
	if err == nil || !strings.Contains(err.Error(), "silent") {
		t.Fatalf("TryStart = %v", err)
	}
}
