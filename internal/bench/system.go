package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/postern-mail/postern/policy/mailauth/dkim"
)

// The people every system knows.
const (
	domain = "bench.example"
	users  = 32
)

func userAddress(n int) string  { return fmt.Sprintf("user%05d@%s", n, domain) }
func userPassword(n int) string { return fmt.Sprintf("pw%05d", n) }

// system is one mail system under measurement.
type system struct {
	name string
	dir  string // all it has
	smtp door   // for strangers
	lmtp door   // into the mailboxes
	imap string // host:port that takes logins in the clear
	pop3 string // the same; of the systems of the cases of one large mailbox
	out  *receiver
	// submission is host:port that takes logins in the clear, directory what
	// the system reads: of the systems of the directory's cases.
	submission string
	directory  *slapd
	// submits is a door whose mail is signed, key who signs: of the systems of
	// the cases of DKIM.
	submits door
	key     *dkim.Key
	// copied tells of the system's own copy of the directory, if it has one.
	copied func(context.Context) (replicaState, error)
	// roots are the processes that, with all below them, are the system.
	roots func() []int
	// start starts a stopped system, and returns when it takes mail.
	start func(context.Context) error
	stop  func()
	list  func(context.Context) error // the queue
	// another returns a new system of the kind, without anything in it.
	another func(ctx context.Context, dir string) (*system, error)
}

// end stops the system and what belongs to it.
func (s *system) end() {
	s.stop()
	if s.out != nil {
		s.out.close()
	}
}

// run runs a command whose output is of no interest, unless it fails.
func run(ctx context.Context, name string, args ...string) error {
	var said bytes.Buffer
	c := exec.CommandContext(ctx, name, args...)
	c.Stderr = &said
	if err := c.Run(); err != nil {
		return fmt.Errorf("%s: %w\n%s", strings.Join(c.Args, " "), err, said.String())
	}
	return nil
}

// untilGreeted waits until the system greets.
func (s *system) untilGreeted(ctx context.Context) error {
	for {
		c, err := s.smtp.dial()
		if err == nil {
			return c.close()
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s does not greet: %w", s.name, err)
		case <-time.After(time.Millisecond):
		}
	}
}

// freePort returns a port of 127.0.0.1 that was free a moment ago, for
// programs that cannot tell which one they got.
func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// program is a server in the foreground, its output in a file.
type program struct {
	command *exec.Cmd
	log     string
	ended   chan struct{} // closed when it has ended
}

func startProgram(logFile, path string, args ...string) (*program, error) {
	out, err := os.Create(logFile)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	p := &program{command: exec.Command(path, args...), log: logFile, ended: make(chan struct{})}
	p.command.Stdout, p.command.Stderr = out, out
	// A group of its own: Ctrl-C reaches the driver, which stops it in order.
	// Should the driver be killed, the program ends too.
	p.command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	if err := p.command.Start(); err != nil {
		return nil, err
	}
	go func() {
		_ = p.command.Wait() // whoever waits for ended reads the log
		close(p.ended)
	}()
	return p, nil
}

// stop asks the program to end, and kills it when it does not.
func (p *program) stop() {
	_ = p.command.Process.Signal(syscall.SIGTERM) // it may have ended
	select {
	case <-p.ended:
	case <-time.After(15 * time.Second):
		_ = p.command.Process.Kill()
		<-p.ended
	}
}

// untilListening waits until all addresses take connections. A program that
// ends before they do is an error with the end of its log.
func untilListening(ctx context.Context, p *program, addresses ...string) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for _, a := range addresses {
		if err := untilDialedBy(ctx, p, "tcp", a); err != nil {
			return fmt.Errorf("%s: %w\n%s", a, err, logTail(p.log))
		}
	}
	return nil
}

func untilDialedBy(ctx context.Context, p *program, network, address string) error {
	for {
		c, err := net.Dial(network, address)
		if err == nil {
			return c.Close()
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("does not listen: %w", err)
		case <-p.ended:
			return errors.New("the program ended")
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// logTail returns the end of a log, to show why a program did not start.
func logTail(file string) string {
	b, err := os.ReadFile(file)
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-2000):])
}
