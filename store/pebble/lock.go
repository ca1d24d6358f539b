package pebble

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/postern-mail/postern/internal/fsx"
)

// dirLock holds a directory for this process. The lock is the kernel's and
// goes with the process; the file's content only tells others who has it.
type dirLock struct{ file *os.File }

func lockDir(dir string) (*dirLock, error) {
	name := filepath.Join(dir, "lock")
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock store: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		owner, _ := io.ReadAll(io.LimitReader(f, 256)) // best effort: it only improves the message
		_ = f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("store %s is in use by %s", dir, ownerText(owner))
		}
		return nil, fmt.Errorf("lock store %s: %w", dir, err)
	}
	owner := fmt.Sprintf("process %d (%s)\n", os.Getpid(), filepath.Base(os.Args[0]))
	err = f.Truncate(0)
	if err == nil {
		_, err = f.WriteAt([]byte(owner), 0)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock store %s: %w", dir, err), fsx.CloseLocked(f))
	}
	return &dirLock{f}, nil
}

func ownerText(content []byte) string {
	if text := strings.TrimSpace(string(content)); text != "" {
		return text
	}
	return "another process"
}

func (l *dirLock) release() error {
	if l == nil {
		return nil
	}
	return fsx.CloseLocked(l.file)
}
