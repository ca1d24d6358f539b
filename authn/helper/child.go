package helper

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
)

// child is a helper process the daemon runs itself. The daemon keeps the
// listening socket: questions asked while the helper is started anew wait in
// its queue.
type child struct {
	cfg   Config
	log   hclog.Logger
	ready chan struct{} // closed when the rest is there

	// failures are the ends of helpers that came soon, one after the other.
	failures atomic.Int32

	dir      string
	path     string
	listener *net.UnixListener
}

// Restarts are spaced so that a helper that cannot start costs nothing.
const (
	minRestartDelay = 100 * time.Millisecond
	maxRestartDelay = 30 * time.Second
)

func newChild(cfg Config, log hclog.Logger) *child {
	if len(cfg.Command) == 0 {
		cfg.Command = []string{"/proc/self/exe", "auth-helper"}
	}
	return &child{cfg: cfg, log: log, ready: make(chan struct{})}
}

// listen makes the socket, in a directory that is ours alone (0700), so that
// nobody else reaches it.
func (c *child) listen() (err error) {
	if c.dir, err = os.MkdirTemp("", "auth"); err != nil {
		return err
	}
	c.path = filepath.Join(c.dir, "s")
	c.listener, err = net.ListenUnix("unixpacket", &net.UnixAddr{Name: c.path, Net: "unixpacket"})
	if err != nil {
		_ = os.RemoveAll(c.dir)
	}
	return err
}

// socket returns the path of the socket once there is one.
func (c *child) socket(ctx context.Context) (string, error) {
	select {
	case <-c.ready:
		return c.path, nil
	case <-ctx.Done():
		return "", fmt.Errorf("the helper is not running: %w", ctx.Err())
	}
}

// run starts the helper again whenever it ends, until ctx does.
func (c *child) run(ctx context.Context) error {
	delay := minRestartDelay
	for {
		began := time.Now()
		err := c.attempt(ctx)
		if ctx.Err() != nil {
			break
		}
		c.log.Error("auth helper ended and is started again", "verifier", c.cfg.Name, "err", err, "after", delay)
		if time.Since(began) > maxRestartDelay {
			delay = minRestartDelay
			c.failures.Store(0)
		}
		c.failures.Add(1)
		timer := time.NewTimer(delay)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
		}
		delay = min(2*delay, maxRestartDelay)
	}
	if c.listener != nil {
		_ = c.listener.Close()
		_ = os.RemoveAll(c.dir)
	}
	return nil
}

// attempt makes the socket if there is none yet and runs the helper to its end.
func (c *child) attempt(ctx context.Context) error {
	if c.listener == nil {
		if err := c.listen(); err != nil {
			c.listener = nil
			return err
		}
		close(c.ready)
	}
	return c.once(ctx)
}

// once runs the helper to its end. Its standard input is a pipe from us: when
// we are gone, however that came, it reads the end of file and goes too.
func (c *child) once(ctx context.Context) error {
	socket, err := c.listener.File()
	if err != nil {
		return err
	}
	defer socket.Close()
	args := slices.Concat(c.cfg.Command[1:], []string{"--listen-fd=3", "--exit-with-stdin"}, c.cfg.Args)
	cmd := exec.CommandContext(ctx, c.cfg.Command[0], args...)
	cmd.ExtraFiles = []*os.File{socket}
	cmd.Stderr = os.Stderr // it logs for itself
	cmd.WaitDelay = 5 * time.Second
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	cmd.Cancel = stdin.Close
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start: %w", err)
	}
	c.log.Info("auth helper started", "verifier", c.cfg.Name, "pid", cmd.Process.Pid)
	return cmd.Wait()
}
