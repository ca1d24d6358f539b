package process

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/authn/pam"
	"github.com/postern-mail/postern/internal/testenv"
)

// built is the program, which workers run from.
var built = testenv.NewShared(testenv.PAMHelper)

func TestMain(m *testing.M) { os.Exit(testenv.Main(m)) }

// serve runs a server of cfg in this process, its workers from the real
// binary, until the test ends.
func serve(t *testing.T, cfg Config) (path string, server *Server) {
	t.Helper()
	return serveTo(t, cfg, nil)
}

// serveTo is serve to peers of uids only; nil for those it always serves.
func serveTo(t *testing.T, cfg Config, uids []int) (path string, server *Server) {
	t.Helper()
	if len(cfg.WorkerCommand) == 0 {
		cfg.WorkerCommand = []string{built.Get(t), "auth-helper"}
	}
	path = filepath.Join(testenv.TempDir(t), "s")
	listener, err := options{socket: path, listenFD: -1, cfg: cfg}.listen()
	if err != nil {
		t.Fatal(err)
	}
	server, err = New(cfg, listener, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	if uids != nil {
		server.uids = uids
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- server.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
		listener.Close()
	})
	return path, server
}

// send puts message to the helper at path and returns what it answers.
func send(t *testing.T, path string, message []byte) (pam.Response, error) {
	t.Helper()
	conn, err := net.Dial("unixpacket", path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(2 * time.Minute)); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write(message); err != nil {
		return pam.Response{}, err
	}
	buf := make([]byte, pam.MaxMessageOctets+1)
	n, err := conn.Read(buf)
	if err != nil {
		return pam.Response{}, err
	}
	var r pam.Response
	return r, r.UnmarshalBinary(buf[:n])
}

func ask(t *testing.T, path, service, password string) pam.Response {
	t.Helper()
	message, err := pam.Request{Service: service, User: "alice", Password: password}.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	r, err := send(t, path, message)
	if err != nil {
		t.Errorf("ask %s: %v", service, err)
	}
	return r
}

// services writes a directory of services every test may use.
func services(t *testing.T) (dir string) {
	t.Helper()
	dir = testenv.TempDir(t)
	testenv.PAMService(t, dir, "permit", "auth required pam_permit.so", "account required pam_permit.so")
	// The shell writes its process id and then hangs in sleep.
	script := filepath.Join(dir, "script")
	text := fmt.Sprintf("#!/bin/sh\necho $PPID > %s/pid.new\nmv %s/pid.new %s/pid\nexec sleep 10\n", dir, dir, dir)
	if err := os.WriteFile(script, []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
	testenv.PAMService(t, dir, "hang", "auth required pam_exec.so "+script, "account required pam_permit.so")
	return dir
}

func granted(r pam.Response) bool {
	return r == pam.Response{Phase: pam.PhaseAccount, User: "alice"}
}

func TestHungModuleIsKilled(t *testing.T) {
	t.Parallel()
	dir := services(t)
	path, _ := serve(t, Config{Services: []string{"permit", "hang"}, ServiceDir: dir, Workers: 1, Timeout: 3 * time.Second})
	var text []byte
	testenv.Eventually(t, time.Minute, func() error {
		r := ask(t, path, "hang", "secret")
		if r.Phase != pam.PhaseHelper || r.Code == 0 || !strings.Contains(r.Detail, "took too long") {
			t.Fatalf("hung module answered %+v, want a failure of the helper", r)
		}
		var err error
		text, err = os.ReadFile(filepath.Join(dir, "pid")) // a busy machine may not come that far in time
		return err
	})
	var pid int
	if _, err := fmt.Sscan(string(text), &pid); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("worker %d is still there: %v", pid, err)
	}
	granting(t, path, "the only worker's place was not given back")
}

// granting waits until the helper grants: a busy machine may not start a worker
// within a short timeout.
func granting(t *testing.T, path, otherwise string) {
	t.Helper()
	testenv.Eventually(t, time.Minute, func() error {
		if r := ask(t, path, "permit", "secret"); !granted(r) {
			return fmt.Errorf("%s: %+v", otherwise, r)
		}
		return nil
	})
}

func TestBusyWorkersAreUnknown(t *testing.T) {
	t.Parallel()
	path, server := serve(t, Config{Services: []string{"permit"}, ServiceDir: services(t), Workers: 1, Timeout: 2 * time.Second})
	server.pool.slots <- struct{}{}
	if r := ask(t, path, "permit", "secret"); r.Phase != pam.PhaseHelper || !strings.Contains(r.Detail, "busy") {
		t.Errorf("with every worker busy: %+v", r)
	}
	<-server.pool.slots
	granting(t, path, "afterwards")
}

func TestWorkersAreReplacedAndReused(t *testing.T) {
	t.Parallel()
	path, server := serve(t, Config{Services: []string{"permit"}, ServiceDir: services(t), Workers: 1, Reuse: 3})
	idlePID := func() int {
		select {
		case w := <-server.pool.idle:
			defer func() { server.pool.idle <- w }()
			return w.cmd.Process.Pid
		default:
			return 0
		}
	}
	var pids []int
	for range 6 {
		if r := ask(t, path, "permit", "secret"); !granted(r) {
			t.Fatalf("answered %+v", r)
		}
		// The worker is put back before the answer is written.
		pids = append(pids, idlePID())
	}
	first, second := pids[0], pids[3]
	if first == 0 || second == 0 || first == second || !slices.Equal(pids, []int{first, first, 0, second, second, 0}) {
		t.Errorf("idle workers after each request: %v, want one for three requests each", pids)
	}
}

func TestWorkerThatDiedIdleIsPassedOver(t *testing.T) {
	t.Parallel()
	path, server := serve(t, Config{Services: []string{"permit"}, ServiceDir: services(t), Workers: 1})
	ask(t, path, "permit", "secret")
	w := <-server.pool.idle
	if err := w.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, time.Minute, func() error {
		if _, err := w.conn.Write(nil); err == nil {
			return errors.New("still there")
		}
		return nil
	})
	server.pool.idle <- w
	if r := ask(t, path, "permit", "secret"); !granted(r) {
		t.Errorf("after the idle worker died: %+v", r)
	}
}

func TestServerRefuses(t *testing.T) {
	t.Parallel()
	path, _ := serve(t, Config{Services: []string{"permit"}, ServiceDir: services(t), Workers: 1})
	valid, err := pam.Request{Service: "permit", User: "alice", Password: "x"}.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	nul := bytes.Replace(bytes.Clone(valid), []byte("alice"), []byte("al\x00ce"), 1)
	empty, _ := pam.Request{Service: "permit", User: "alice"}.AppendBinary(nil)
	other, _ := pam.Request{Service: "su", User: "alice", Password: "x"}.AppendBinary(nil)
	for name, message := range map[string][]byte{
		"NUL": nul, "empty password": empty, "service not served": other, "nonsense": []byte("HELO x"), "cut": valid[:7],
		"too long": make([]byte, pam.MaxMessageOctets+10),
	} {
		r, err := send(t, path, message)
		if err != nil || r.Phase != pam.PhaseHelper || r.Code == 0 {
			t.Errorf("%s answered %+v, %v; want a failure of the helper", name, r, err)
		}
	}
	if r := ask(t, path, "permit", "x"); !granted(r) {
		t.Errorf("a good request afterwards: %+v", r)
	}
}

func TestPeersOfOtherUIDsGetNoAnswer(t *testing.T) {
	t.Parallel()
	path, _ := serveTo(t, Config{Services: []string{"permit"}, WorkerCommand: []string{"/nonexistent"}}, []int{os.Geteuid() + 12345})
	message, err := pam.Request{Service: "permit", User: "alice", Password: "x"}.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	if r, err := send(t, path, message); err == nil {
		t.Errorf("a stranger was answered %+v", r)
	}
}

func TestWorkerThatCannotStartIsUnknown(t *testing.T) {
	t.Parallel()
	for _, command := range [][]string{{"/nonexistent"}, {"/bin/true"}} {
		path, _ := serve(t, Config{Services: []string{"permit"}, WorkerCommand: command})
		if r := ask(t, path, "permit", "x"); r.Phase != pam.PhaseHelper || r.Code == 0 {
			t.Errorf("%v answered %+v, want a failure of the helper", command, r)
		}
	}
}

func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	path, _ := serve(t, Config{Services: []string{"permit"}, ServiceDir: services(t), Workers: 3, Reuse: 5, Timeout: 2 * time.Minute})
	var peers sync.WaitGroup
	for range 60 {
		peers.Go(func() {
			if r := ask(t, path, "permit", "x"); !granted(r) {
				t.Errorf("answered %+v", r)
			}
		})
	}
	peers.Wait()
}

// TestBinary is the helper as systemd runs it: its own socket, killed without
// warning, started again over what it left.
func TestBinary(t *testing.T) {
	t.Parallel()
	helper, dir := built.Get(t), services(t)
	path := filepath.Join(dir, "s")
	start := func() *testenv.Process {
		return testenv.Start(t, testenv.Command{
			Path:  helper,
			Args:  []string{"auth-helper", "--socket", path, "--service", "permit", "--service-dir", dir, "--workers", "2", "--allow-uid", "4711"},
			Ready: testenv.DialReady("unixpacket", path),
		})
	}
	first := start()
	if r := ask(t, path, "permit", "x"); !granted(r) {
		t.Errorf("answered %+v", r)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o666 {
		t.Errorf("socket: %v, %v", info.Mode(), err)
	}
	if _, err := (options{socket: path, listenFD: -1}).listen(); err == nil {
		t.Error("a second helper took the socket of a living one")
	}
	first.Kill()
	second := start()
	if r := ask(t, path, "permit", "x"); !granted(r) {
		t.Errorf("after a kill: %+v", r)
	}
	second.Stop()
	if err := second.Err(); err != nil {
		t.Errorf("asked to end, it ended with %v\n%s", err, second.Log())
	}
}

func TestArgs(t *testing.T) {
	t.Parallel()
	o, err := parseArgs([]string{"--socket", "/run/s", "--service", "a", "--service", "b", "--workers", "3", "--timeout", "9s", "--requests", "7", "--allow-uid", "1", "--allow-uid", "2"}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if o.socket != "/run/s" || !slices.Equal(o.cfg.Services, []string{"a", "b"}) || o.cfg.Workers != 3 || o.cfg.Timeout != 9*time.Second ||
		o.cfg.Reuse != 7 || !slices.Equal(o.cfg.AllowUIDs, []int{1, 2}) {
		t.Errorf("parsed %+v", o)
	}
	for _, args := range [][]string{
		{}, {"--socket", "/s", "--listen-fd", "3"}, {"--socket", "/s", "extra"}, {"--allow-uid", "root", "--socket", "/s"}, {"--allow-uid", "-1", "--socket", "/s"},
	} {
		if o, err := parseArgs(args, io.Discard); err == nil {
			t.Errorf("%q was accepted as %+v", args, o)
		}
	}
}

func TestListenFDMustBeAPacketSocket(t *testing.T) {
	t.Parallel()
	stream, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	file, err := stream.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	fd, err := syscall.Dup(int(file.Fd()))
	file.Close()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := (options{listenFD: fd}).listen(); err == nil {
		t.Error("a TCP socket was accepted")
	}
}

// A file that is no socket is somebody's, and stays.
func TestListenLeavesOtherFilesAlone(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "precious")
	if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := (options{socket: path, listenFD: -1}).listen(); err == nil {
		t.Error("listens in the place of a file")
	}
	if text, err := os.ReadFile(path); err != nil || string(text) != "x" {
		t.Errorf("the file is gone: %v", err)
	}
}

// TestWhatIsMissing: a binary without the C in it says what it takes.
func TestWhatIsMissing(t *testing.T) {
	t.Parallel()
	log := hclog.New(&hclog.LoggerOptions{Output: io.Discard})
	for _, tt := range []struct {
		args      []string
		available bool
		want      error
	}{
		{nil, pamAvailable, ErrMissing},
		{[]string{"--keytab", "/nonexistent"}, gssapiAvailable, ErrMissingGSSAPI},
		{[]string{"--users"}, usersAvailable, ErrMissingUsers},
	} {
		err := Main(t.Context(), append([]string{"--listen-fd", "999999"}, tt.args...), log)
		if err == nil || errors.Is(err, tt.want) == tt.available {
			t.Errorf("%q, available: %v; Main = %v", tt.args, tt.available, err)
		}
	}
}
