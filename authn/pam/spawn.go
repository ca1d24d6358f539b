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
	cfg      Config
	log      hclog.Logger
	dir      string
	path     string
	listener *net.UnixListener
}

// Restarts are spaced so that a helper that cannot start costs nothing.
const (
	minRestartDelay = 100 * time.Millisecond
	maxRestartDelay = 30 * time.Second
)

func newHelper(cfg Config, log hclog.Logger) (*helper, error) {
	if len(cfg.Command) == 0 {
		cfg.Command = []string{"/proc/self/exe", "pam-helper"}
	}
	// The directory is ours alone (0700), so nobody else reaches the socket.
	dir, err := os.MkdirTemp("", "pam")
	if err != nil {
		return nil, err
	}
	path := filepath.Join(dir, "s")
	listener, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		_ = os.RemoveAll(dir)
		return nil, err
	}
	return &helper{cfg: cfg, log: log, dir: dir, path: path, listener: listener}, nil
}

// run starts the helper again whenever it ends, until ctx does.
func (h *helper) run(ctx context.Context) error {
	defer os.RemoveAll(h.dir)
	defer h.listener.Close()
	delay := minRestartDelay
	for {
		began := time.Now()
		err := h.once(ctx)
		if ctx.Err() != nil {
			return nil
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
			return nil
		}
		delay = min(2*delay, maxRestartDelay)
	}
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
