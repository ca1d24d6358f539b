package process

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
)

// pool holds workers of one kind. At most Config.Workers exist at one time.
type pool struct {
	cfg   Config
	work  work
	log   hclog.Logger
	slots chan struct{}
	idle  chan *worker
}

// work is what the workers of a pool do.
type work struct {
	kind string   // what they are started for
	args []string // with this
	env  []string
	most int // octets of an answer
}

// worker is one process, used by one request at a time.
type worker struct {
	conn *net.UnixConn
	cmd  *exec.Cmd
	used int
}

var (
	errWorkersBusy = errors.New("every worker of the auth helper is busy")
	errWorkerDied  = errors.New("worker of the auth helper ended in mid-transaction")
	errWorkerHung  = errors.New("transaction took too long and was killed")
)

func newPool(cfg Config, work work, log hclog.Logger) *pool {
	return &pool{cfg: cfg, work: work, log: log, slots: make(chan struct{}, cfg.Workers), idle: make(chan *worker, cfg.Workers)}
}

// ask has a worker answer message. A worker that failed in any way is killed
// and gone before the next may take its place.
func (p *pool) ask(ctx context.Context, message []byte) ([]byte, error) {
	wait := time.NewTimer(p.cfg.Timeout)
	defer wait.Stop()
	select {
	case p.slots <- struct{}{}:
		defer func() { <-p.slots }()
	case <-wait.C:
		return nil, errWorkersBusy
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	w, err := p.send(message)
	if err != nil {
		return nil, err
	}
	// A shutdown ends the wait for the answer, too.
	stop := context.AfterFunc(ctx, func() { _ = w.conn.SetReadDeadline(time.Now()) })
	response, err := w.receive(p.cfg.Timeout, p.work.most)
	if stop(); err != nil {
		w.kill()
		return nil, err
	}
	if w.used++; w.used >= p.cfg.Reuse || ctx.Err() != nil {
		w.kill()
		return response, nil
	}
	p.idle <- w
	return response, nil
}

// send gives message to an idle worker or a new one. A worker that ended while
// it was idle is passed over: it has not seen the message.
func (p *pool) send(message []byte) (*worker, error) {
	for {
		w, fresh, err := p.take()
		if err != nil {
			return nil, err
		}
		if err = w.send(message); err == nil {
			return w, nil
		}
		w.kill()
		if fresh {
			return nil, fmt.Errorf("give request to worker: %w", err)
		}
	}
}

func (p *pool) take() (w *worker, fresh bool, err error) {
	select {
	case w = <-p.idle:
		return w, false, nil
	default:
		w, err = p.start()
		return w, true, err
	}
}

// start starts a worker, which finds its end of a socket pair as descriptor 3
// and leads a process group, so that what its modules start dies with it.
func (p *pool) start() (*worker, error) {
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_SEQPACKET|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("start worker: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "worker"), os.NewFile(uintptr(pair[1]), "helper")
	defer ours.Close()
	defer theirs.Close()
	conn, err := net.FileConn(ours)
	if err != nil {
		return nil, fmt.Errorf("start worker: %w", err)
	}
	command := p.cfg.WorkerCommand
	args := slices.Concat(command[1:], []string{"--worker=" + p.work.kind, "--timeout=" + p.cfg.Timeout.String()}, p.work.args)
	cmd := exec.Command(command[0], args...)
	cmd.Args[0] = "postern" // the name under which modules write to the system log
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.Stderr = os.Stderr // for what modules print
	// Modules run as root in our place, not with whatever the daemon was
	// started with.
	cmd.Env = append([]string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8"}, p.work.env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		conn.Close()
		return nil, fmt.Errorf("start worker: %w", err)
	}
	p.log.Debug("worker started", "kind", p.work.kind, "pid", cmd.Process.Pid)
	return &worker{conn: conn.(*net.UnixConn), cmd: cmd}, nil
}

// close ends the idle workers; nobody may ask any more.
func (p *pool) close() {
	var ending sync.WaitGroup
	for {
		select {
		case w := <-p.idle:
			ending.Go(w.kill)
		default:
			ending.Wait()
			return
		}
	}
}

func (w *worker) send(message []byte) error {
	if err := w.conn.SetWriteDeadline(time.Now().Add(requestTimeout)); err != nil {
		return err
	}
	_, err := w.conn.Write(message)
	return err
}

func (w *worker) receive(timeout time.Duration, most int) ([]byte, error) {
	if err := w.conn.SetReadDeadline(time.Now().Add(timeout)); err != nil {
		return nil, err
	}
	buf := make([]byte, most+1)
	n, err := w.conn.Read(buf)
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, errWorkerHung
	case err != nil || n == 0:
		return nil, errWorkerDied
	}
	return buf[:n], nil
}

// kill ends the worker and what it started, and returns when it is gone.
func (w *worker) kill() {
	_ = w.conn.Close()
	// The group exists until we have waited for its leader.
	_ = syscall.Kill(-w.cmd.Process.Pid, syscall.SIGKILL)
	_ = w.cmd.Wait() // killed is how it should end
}
