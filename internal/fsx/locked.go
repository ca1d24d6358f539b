package fsx

import (
	"errors"
	"fmt"
	"io"

	"golang.org/x/sys/unix"
)

// Locked is a file that holds a lock of flock(2); *os.File is one.
type Locked interface {
	io.Closer
	Fd() uintptr
}

// CloseLocked gives the lock of f back and closes it. To close it alone would
// leave the lock held for a moment whenever this process is just starting a
// program: that has a copy of every open file until its exec, and the lock
// goes with the last copy.
func CloseLocked(f Locked) error {
	err := unix.Flock(int(f.Fd()), unix.LOCK_UN)
	if err != nil {
		err = fmt.Errorf("unlock: %w", err)
	}
	return errors.Join(err, f.Close())
}
