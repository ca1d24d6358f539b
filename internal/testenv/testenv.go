// Package testenv gives tests real programs to talk to: it finds them, starts
// them in private directories, waits until they answer and ends them by
// process id. Whatever a failed test leaves behind is kept and named.
//
// Only this package may skip a test, and only because a program is missing:
// with CI=true in the environment a missing program fails the test.
package testenv

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// systemPaths are searched after $PATH: daemons live where users do not look.
var systemPaths = []string{"/usr/sbin", "/usr/local/sbin", "/sbin", "/usr/libexec", "/usr/lib/dovecot", "/usr/libexec/dovecot", cyrusPrograms}

// Program returns the path of the first of names that is installed. When none
// is, the test is skipped, or fails when CI=true.
func Program(t testing.TB, names ...string) string {
	t.Helper()
	for _, name := range names {
		if path, ok := find(name); ok {
			return path
		}
	}
	Missing(t, "program "+strings.Join(names, " or "))
	return ""
}

// Missing ends the test because something it needs is not on this machine:
// a skip on a laptop, a failure when CI=true. What was skipped is also written
// to the file that POSTERN_MISSING names, one line each, because go test keeps
// the skips of a package that passes to itself.
func Missing(t testing.TB, what string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf("%s is not installed, and CI may not skip", what)
	}
	if path := os.Getenv("POSTERN_MISSING"); path != "" {
		if err := appendLine(path, what); err != nil {
			t.Fatalf("note that %s is missing: %v", what, err)
		}
	}
	t.Skipf("%s is not installed", what)
}

// appendLine is one write, so that the lines of several tests do not mix.
func appendLine(path, line string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(line + "\n")
	return errors.Join(err, f.Close())
}

func find(name string) (string, bool) {
	if path, err := exec.LookPath(name); err == nil {
		if abs, err := filepath.Abs(path); err == nil {
			return abs, true
		}
	}
	for _, dir := range systemPaths {
		path := filepath.Join(dir, name)
		if info, err := os.Stat(path); err == nil && !info.IsDir() && info.Mode()&0o111 != 0 {
			return path, true
		}
	}
	return "", false
}

// TempDir returns a new directory with a short path, so that sockets in it
// stay below the 108 octets sockaddr_un allows. It is removed when the test
// ends, but kept and named when the test failed.
func TempDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "p")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("kept %s", dir)
			return
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Logf("remove %s: %v", dir, err)
		}
	})
	return dir
}

// Command says how to start a program in the foreground.
type Command struct {
	Path string
	Args []string
	Dir  string   // working directory; "" for the test's
	Env  []string // added to the test's environment
	// Ready is polled until it returns nil; nil means ready at once. It must
	// return soon: its context ends with the time allowed for the start.
	Ready func(ctx context.Context) error
	// StartTimeout bounds the wait for Ready; 0 means two minutes, of a machine
	// that does much else.
	StartTimeout time.Duration
	// StopSignal asks the program to end; 0 means SIGTERM.
	StopSignal syscall.Signal
	// OwnGroup gives it a process group of its own, for programs that signal
	// all of theirs, and for those with children that outlive them: Kill ends
	// the whole group.
	OwnGroup bool
	// Expendable programs are killed when the test ends, not asked to end: they
	// take seconds for that, and have nothing to bring to an end.
	Expendable bool
}

// Process is a running program. Its methods may be called concurrently.
type Process struct {
	t     testing.TB
	name  string
	cmd   *exec.Cmd
	log   *logBuffer
	stop  syscall.Signal
	group bool          // it leads a process group of its own
	done  chan struct{} // closed when the program has ended
	err   error         // how it ended; valid once done is closed
}

// Start runs c and waits until it is ready. The program is ended when the
// test ends, and its output is shown when the test failed. A program that
// does not become ready fails the test.
func Start(t testing.TB, c Command) *Process {
	t.Helper()
	p, err := TryStart(t, c)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TryStart is Start for callers that can try again, or expect that it fails: a
// program that does not become ready is ended and is an error.
func TryStart(t testing.TB, c Command) (*Process, error) {
	t.Helper()
	p := &Process{t: t, name: filepath.Base(c.Path), log: &logBuffer{}, stop: c.StopSignal, group: c.OwnGroup, done: make(chan struct{})}
	if p.stop == 0 {
		p.stop = syscall.SIGTERM
	}
	p.cmd = exec.Command(c.Path, c.Args...)
	p.cmd.Dir = c.Dir
	p.cmd.Env = append(os.Environ(), c.Env...)
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
	// Children that hold our pipe must not keep Wait, and so the test, alive.
	p.cmd.WaitDelay = 2 * time.Second
	dieWithParent(p.cmd)
	if c.OwnGroup {
		if p.cmd.SysProcAttr == nil {
			p.cmd.SysProcAttr = &syscall.SysProcAttr{}
		}
		p.cmd.SysProcAttr.Setpgid = true
	}
	started := make(chan error)
	go p.run(started)
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", p.name, err)
	}
	if err := p.awaitReady(c); err != nil {
		p.Kill()
		return nil, fmt.Errorf("%s did not become ready: %w\n%s", p.name, err, p.Log())
	}
	t.Cleanup(func() {
		if c.Expendable {
			p.Kill()
		} else {
			p.Stop()
		}
		if t.Failed() {
			t.Logf("output of %s (pid %d):\n%s", p.name, p.PID(), p.Log())
		}
	})
	return p, nil
}

// run starts the program and waits for its end, on a thread of its own that
// lives as long: the kernel ends the program with the thread that started it.
func (p *Process) run(started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err := p.cmd.Start()
	started <- err
	if err != nil {
		return
	}
	p.err = p.cmd.Wait()
	if errors.Is(p.err, exec.ErrWaitDelay) {
		p.err = nil // it ended well: a child holds the pipe still, or we are slow to read it
	}
	close(p.done)
}

func (p *Process) awaitReady(c Command) error {
	if c.Ready == nil {
		return nil
	}
	timeout := c.StartTimeout
	if timeout == 0 {
		timeout = 2 * time.Minute
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return poll(ctx, p.done, c.Ready)
}

// How long poll rests: first so long, an eighth longer each time, and no longer
// than that. What is soon so is seen at once, and waiting for what takes seconds
// does not keep the machine from it.
const (
	firstRest = 10 * time.Millisecond
	lastRest  = 100 * time.Millisecond
)

// poll calls ready again and again until it returns nil, ctx ends or ended is
// closed.
func poll(ctx context.Context, ended <-chan struct{}, ready func(context.Context) error) error {
	rest := time.NewTimer(firstRest)
	defer rest.Stop()
	for wait := firstRest; ; wait = min(wait+wait/8, lastRest) {
		err := ready(ctx)
		if err == nil {
			return nil
		}
		rest.Reset(wait)
		select {
		case <-ended:
			return errors.New("the program ended")
		case <-ctx.Done():
			return err
		case <-rest.C:
		}
	}
}

// Eventually polls condition until it returns nil and fails the test with its
// last error when that takes longer than timeout.
func Eventually(t testing.TB, timeout time.Duration, condition func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	if err := poll(ctx, nil, func(context.Context) error { return condition() }); err != nil {
		t.Fatalf("not within %v: %v", timeout, err)
	}
}

// PID returns the process id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Log returns what the program wrote so far, its last mebibyte at most.
func (p *Process) Log() string { return p.log.String() }

// Signal sends s to the program, and only to it.
func (p *Process) Signal(s syscall.Signal) error { return p.cmd.Process.Signal(s) }

// Pause stops the program where it is (SIGSTOP): its sockets accept and never
// answer. It returns when every thread stands still. Resume lets it go on.
// Both report a failure to the test.
func (p *Process) Pause() {
	p.t.Helper()
	p.mustSignal(syscall.SIGSTOP)
	Eventually(p.t, time.Minute, p.stopped)
}

// stopped returns nil when all threads are in state T; also where there is no
// /proc to tell.
func (p *Process) stopped() error {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", p.PID()))
	if err != nil {
		return err
	}
	for _, task := range tasks {
		content, err := os.ReadFile(task)
		if err != nil {
			continue // the thread has ended
		}
		// "pid (name) state ...", where the name may hold anything.
		if _, state, _ := strings.Cut(string(content[bytes.LastIndexByte(content, ')')+1:]), " "); !strings.HasPrefix(state, "T") {
			return fmt.Errorf("a thread of %s is in state %.1s", p.name, state)
		}
	}
	return nil
}

// Resume lets a paused program go on.
func (p *Process) Resume() { p.mustSignal(syscall.SIGCONT) }

func (p *Process) mustSignal(s syscall.Signal) {
	p.t.Helper()
	if err := p.Signal(s); err != nil {
		p.t.Errorf("signal %v to %s: %v", s, p.name, err)
	}
}

// Kill ends the program at once (SIGKILL), with its process group if that is
// its own, and waits until it is gone. It may be called on a program that has
// ended.
func (p *Process) Kill() {
	if p.group {
		_ = syscall.Kill(-p.PID(), syscall.SIGKILL) // its members may all have ended
	}
	_ = p.Signal(syscall.SIGKILL) // it may have ended by itself: that is what we want
	<-p.done
}

// Stop asks the program to end, and kills it when it has not within twenty
// seconds, of a machine that does much else. It may be called on a program that
// has ended.
func (p *Process) Stop() {
	_ = p.Signal(syscall.SIGCONT) // a paused program would not see the next signal
	_ = p.Signal(p.stop)
	timer := time.NewTimer(20 * time.Second)
	defer timer.Stop()
	select {
	case <-p.done:
	case <-timer.C:
		p.Kill()
	}
}

// Ended is closed when the program has ended.
func (p *Process) Ended() <-chan struct{} { return p.done }

// Err tells how the program ended: nil for exit status 0. It waits for the
// end.
func (p *Process) Err() error {
	<-p.done
	return p.err
}

// Run runs a program to its end, fails the test when it fails, and returns
// what it wrote to standard output and error.
func Run(t testing.TB, path string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, path, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", path, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// DialReady returns a Ready function that succeeds when network and address
// accept a connection.
func DialReady(network, address string) func(context.Context) error {
	return func(ctx context.Context) error {
		conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, network, address)
		if err != nil {
			return err
		}
		return conn.Close()
	}
}

// logBuffer keeps the last mebibyte written to it.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

const maxLogOctets = 1 << 20

// Write implements io.Writer.
func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.buf.Write(p)
	if over := b.buf.Len() - maxLogOctets; over > 0 {
		b.buf.Next(over)
	}
	return len(p), nil
}

// String returns what is kept.
func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
