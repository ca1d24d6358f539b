package fsx_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/postern-mail/postern/internal/fsx"
)

// TestCloseLocked: the lock is free although another descriptor of the file is
// open, as one is in a program that is about to begin.
func TestCloseLocked(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "lock")
	lock := func() (*os.File, error) {
		f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		return f, unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	}
	first, err := lock()
	if err != nil {
		t.Fatal(err)
	}
	copied, err := unix.FcntlInt(first.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(copied)
	if _, err := lock(); !errors.Is(err, unix.EWOULDBLOCK) {
		t.Errorf("a second lock beside the first: %v", err)
	}
	if err := fsx.CloseLocked(first); err != nil {
		t.Error(err)
	}
	second, err := lock()
	if err != nil {
		t.Errorf("a lock after the first: %v", err)
	}
	if err := fsx.CloseLocked(second); err != nil {
		t.Error(err)
	}
	if err := fsx.CloseLocked(second); err == nil {
		t.Error("what is closed was closed again")
	}
}
