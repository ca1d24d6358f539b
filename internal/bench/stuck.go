package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// stuck measures a queue that cannot be emptied: mail for a destination that
// refuses connections is taken, listed, and found again by the next start. The
// system is one of its own, begun from nothing.
func stuck(size, connections int) measure {
	texts := sync.OnceValue(func() [][]byte { return messages(size) })
	return func(ctx context.Context, of *system, o options) (f figures, err error) {
		dir, err := os.MkdirTemp(filepath.Dir(of.dir), "stuck")
		if err != nil {
			return f, err
		}
		if err := os.Chmod(dir, 0o755); err != nil {
			return f, err
		}
		s, err := of.another(ctx, dir)
		if err != nil {
			return f, err
		}
		defer func() {
			s.stop() // the one that start left
			s.out.close()
		}()
		time.Sleep(settle)
		before, err := memory(s.roots())
		if err != nil {
			return f, err
		}
		d := drive{
			door: s.smtp, connections: connections, each: perConnection, most: int64(o.queued),
			until: time.Now().Add(2 * time.Minute), texts: texts(),
			recipient: func(id int64) string { return fmt.Sprintf("user%d@%s", id%users, deadDomain) },
		}
		if err := f.whole(ctx, s, d, acceptedPerSecond, func(context.Context) error { return nil }); err != nil {
			return f, err
		}
		after, err := memory(s.roots())
		if err != nil {
			return f, err
		}
		f.set(kilobytesEach, float64(after-before)/1000/float64(f.messages))
		if err := f.timed(listTime, func() error { return s.list(ctx) }); err != nil {
			return f, err
		}
		s.stop()
		return f, f.timed(startTime, func() error { return s.start(ctx) })
	}
}

// timed sets a column to how long do takes, in milliseconds.
func (f *figures) timed(m metric, do func() error) error {
	start := time.Now()
	err := do()
	f.set(m, milliseconds(time.Since(start)))
	return err
}
