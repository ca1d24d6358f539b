package testenv

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
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
