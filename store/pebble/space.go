package pebble

import (
	"fmt"
	"sync"
	"time"

	"github.com/postern-mail/postern/internal/fsx"
	"github.com/postern-mail/postern/store"
)

// spaceEvery is how old the known free space may be.
const spaceEvery = time.Second

// spaceCheck knows the free space of a directory's file system, asking at most
// once in spaceEvery.
type spaceCheck struct {
	fs      fsx.FS
	dir     string
	reserve int64

	mu    sync.Mutex
	free  int64
	asked time.Time
	err   error
}

// CheckSpace implements store.Space.
func (s *Store) CheckSpace(octets int64) error { return s.space.check(octets, false) }

// Free returns the free octets of the file system; the answer may be a second
// old.
func (s *Store) Free() (int64, error) { return s.space.known() }

// check returns ErrFull when octets more would leave less than the reserve, or
// less than an eighth of it for who may use the reserve.
func (c *spaceCheck) check(octets int64, useReserve bool) error {
	if c.reserve == 0 {
		return nil
	}
	free, err := c.known()
	if err != nil {
		return err
	}
	keep := c.reserve
	if useReserve {
		keep /= 8
	}
	if free-octets < keep {
		return fmt.Errorf("%w: %d octets free, %d kept in reserve", store.ErrFull, free, keep)
	}
	return nil
}

// known returns the free space.
func (c *spaceCheck) known() (int64, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := time.Now(); c.asked.IsZero() || now.Sub(c.asked) >= spaceEvery {
		c.free, c.err = c.fs.Free(c.dir)
		c.asked = now
	}
	if c.err != nil {
		return 0, fmt.Errorf("ask for free space: %w", c.err)
	}
	return c.free, nil
}
