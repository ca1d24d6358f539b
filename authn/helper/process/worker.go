package process

import (
	"fmt"
	"net"
	"os"
	"runtime"
	"syscall"
	"time"
)

// Kinds of workers.
const (
	workPAM     = "pam"
	workTickets = "tickets"
	workUsers   = "users"
)

// maxMessageOctets bounds what a worker is given: the longest there is is a
// ticket with the state of its exchange.
const maxMessageOctets = 128 << 10

// workerGrace is how long after the helper should have killed it a worker ends
// by itself, when there is no helper any more.
const workerGrace = 2 * time.Second

// work returns what a worker of the kind in o does with a message.
func (o options) work() (func(message []byte) ([]byte, error), error) {
	switch o.worker {
	case workPAM:
		return func(message []byte) ([]byte, error) {
			return answerPAM(o.cfg.ServiceDir, message).AppendBinary(nil)
		}, nil
	case workTickets:
		return workOnTickets(o.cfg.Keytab), nil
	case workUsers:
		return workOnUsers(o.cfg.UserSources)
	}
	return nil, fmt.Errorf("auth-helper: there are no workers of kind %q", o.worker)
}

// runWorker answers requests on descriptor 3 until the helper closes it. It
// stays on one thread: some modules of PAM keep state there.
func runWorker(work func(message []byte) ([]byte, error), timeout time.Duration) error {
	runtime.LockOSThread()
	// Passwords and keys are in this memory.
	if err := syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{}); err != nil {
		return fmt.Errorf("auth-helper worker: forbid core dumps: %w", err)
	}
	file := os.NewFile(3, "helper")
	conn, err := net.FileConn(file)
	if err != nil {
		return fmt.Errorf("auth-helper worker: started by hand? %w", err)
	}
	_ = file.Close()
	buf := make([]byte, maxMessageOctets+1)
	for {
		n, err := conn.Read(buf)
		if err != nil || n == 0 {
			return nil
		}
		deadman := time.AfterFunc(timeout+workerGrace, func() { os.Exit(1) })
		answer, err := work(buf[:n])
		deadman.Stop()
		clear(buf[:n])
		if err != nil {
			return fmt.Errorf("auth-helper worker: answer: %w", err)
		}
		if _, err := conn.Write(answer); err != nil {
			return nil
		}
		clear(answer)
	}
}
