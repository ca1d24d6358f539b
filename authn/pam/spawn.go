package pam

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"github.com/hashicorp/go-hclog"
)

// helper is a helper process the daemon runs itself. The daemon keeps the
// listening socket: questions asked while the helper is started anew wait in
// its queue.
type helper struct {
	cfg   Config
	log   hclog.Logger
	ready chan struct{} // closed when the rest is there

	dir      string
	path     string
	listener *net.UnixListener
}

// Restarts are spaced so that a helper that cannot start costs nothing.
const (
	minRestartDelay = 100 * time.Millisecond
	maxRestartDelay = 30 * time.Second
)

func newHelper(cfg Config, log hclog.Logger) *helper {
	if len(cfg.Command) == 0 {
		cfg.Command = []string{"/proc/self/exe", "pam-helper"}
	}
	return &helper{cfg: cfg, log: log, ready: make(chan struct{})}
}

// listen makes the socket, in a directory that is ours alone (0700), so that
// nobody else reaches it.
func (h *helper) listen() (err error) {
	if h.dir, err = os.MkdirTemp("", "pam"); err != nil {
		return err
	}
	h.path = filepath.Join(h.dir, "s")
	h.listener, err = net.ListenUnix("unixpacket", &net.UnixAddr{Name: h.path, Net: "unixpacket"})
	if err != nil {
		_ = os.RemoveAll(h.dir)
	}
	return err
}

// socket returns the path of the socket once there is one.
func (h *helper) socket(ctx context.Context) (string, error) {
	select {
	case <-h.ready:
		return h.path, nil
	case <-ctx.Done():
		return "", fmt.Errorf("PAM helper is not running: %w", ctx.Err())
	}
}

// run starts the helper again whenever it ends, until ctx does.
func (h *helper) run(ctx context.Context) error {
	delay := minRestartDelay
	for {
		began := time.Now()
		err := h.attempt(ctx)
		if ctx.Err() != nil {
			break
		}
		h.log.Error("PAM helper ended and is started again", "verifier", h.cfg.Name, "err", err, "after", delay)
		if time.Since(began) > maxRestartDelay {
			delay = minRestartDelay
		}
		timer := time.NewTimer(delay)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
		}
		delay = min(2*delay, maxRestartDelay)
	}
	if h.listener != nil {
		_ = h.listener.Close()
		_ = os.RemoveAll(h.dir)
	}
	return nil
}

// attempt makes the socket if there is none yet and runs the helper to its end.
func (h *helper) attempt(ctx context.Context) error {
	if h.listener == nil {
		if err := h.listen(); err != nil {
			h.listener = nil
			return err
		}
		close(h.ready)
	}
	return h.once(ctx)
}

// once runs the helper to its end. Its standard input is a pipe from us: when
// we are gone, however that came, it reads the end of file and goes too.
func (h *helper) once(ctx context.Context) error {
	socket, err := h.listener.File()
	if err != nil {
		return err
	}
	defer socket.Close()
	args := append(h.cfg.Command[1:len(h.cfg.Command):len(h.cfg.Command)],
		"--listen-fd=3", "--exit-with-stdin", "--service="+h.cfg.Service)
	if h.cfg.ServiceDir != "" {
		args = append(args, "--service-dir="+h.cfg.ServiceDir)
	}
	if h.cfg.Workers > 0 {
		args = append(args, "--workers="+strconv.Itoa(h.cfg.Workers))
	}
	cmd := exec.CommandContext(ctx, h.cfg.Command[0], args...)
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
	h.log.Info("PAM helper started", "verifier", h.cfg.Name, "pid", cmd.Process.Pid)
	return cmd.Wait()
}
