package admin

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/internal/testenv"
)

// start runs a server on a short path and returns the path and its stop.
func start(t *testing.T, commands Commands, ready func() error) (*Server, string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "p")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket := filepath.Join(dir, "c.sock")
	s, err := New(Config{Socket: socket, Listen: "127.0.0.1:0"}, commands, nil, ready, Pages{"/teapot": teapot}, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return s, socket
}

// teapot is a page of somebody else's.
var teapot = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) })

// TestOperator: a command learns from the kernel who asks for it.
func TestOperator(t *testing.T) {
	t.Parallel()
	_, socket := start(t, Commands{"who": func(ctx context.Context, _ url.Values, out io.Writer) error {
		_, err := io.WriteString(out, Operator(ctx))
		return err
	}}, nil)
	var out bytes.Buffer
	if err := Call(t.Context(), socket, "who", nil, &out); err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf("uid %d", os.Getuid()); !strings.HasPrefix(out.String(), want) {
		t.Errorf("got %q, want %q", out.String(), want)
	}
	if who := Operator(t.Context()); who != "" {
		t.Errorf("outside a command: %q", who)
	}
}

func TestCommands(t *testing.T) {
	t.Parallel()
	_, socket := start(t, Commands{
		"queue/show": func(_ context.Context, args url.Values, out io.Writer) error {
			fmt.Fprintf(out, "message %s\n", args.Get("id"))
			return nil
		},
		"queue/retry": func(_ context.Context, _ url.Values, out io.Writer) error {
			fmt.Fprintln(out, "first half")
			return errors.New("disk:\nfull")
		},
	}, nil)
	var out bytes.Buffer
	if err := Call(t.Context(), socket, "queue/show", url.Values{"id": {"4A&B"}}, &out); err != nil || out.String() != "message 4A&B\n" {
		t.Errorf("got %q, %v", out.String(), err)
	}
	out.Reset()
	if err := Call(t.Context(), socket, "queue/retry", nil, &out); err == nil || err.Error() != "disk:\nfull" || out.String() != "first half\n" {
		t.Errorf("got %q, %v", out.String(), err)
	}
	if err := Call(t.Context(), socket, "no/such", nil, &out); err == nil || !strings.Contains(err.Error(), `no command "no/such"`) {
		t.Errorf("got %v", err)
	}
}

func TestNobodyThere(t *testing.T) {
	t.Parallel()
	err := Call(t.Context(), filepath.Join(t.TempDir(), "absent"), "status", nil, io.Discard)
	if !errors.Is(err, ErrNotRunning) {
		t.Errorf("got %v", err)
	}
}

// TestMayNotAsk: who may not open the socket is not told that nobody is there.
func TestMayNotAsk(t *testing.T) {
	t.Parallel()
	err := unanswered("/run/s", &url.Error{Err: &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.EACCES)}})
	if !errors.Is(err, os.ErrPermission) || errors.Is(err, ErrNotRunning) || !strings.Contains(err.Error(), "run this as root") {
		t.Errorf("got %v", err)
	}
}

func TestALiveServersSocketIsNotTaken(t *testing.T) {
	t.Parallel()
	_, socket := start(t, nil, nil)
	if _, err := New(Config{Socket: socket}, nil, nil, nil, nil, hclog.NewNullLogger()); err == nil || !strings.Contains(err.Error(), "another server") {
		t.Errorf("got %v", err)
	}
}

func TestADeadServersSocketIsReplaced(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "p")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket := filepath.Join(dir, "c.sock")
	testenv.DeadSocket(t, socket)
	s, err := New(Config{Socket: socket}, nil, nil, nil, nil, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Run(ctx); err != nil {
		t.Error(err)
	}
}

func TestHealth(t *testing.T) {
	t.Parallel()
	s, _ := start(t, nil, func() error { return errors.New("queue is starting") })
	for path, want := range map[string]int{"/healthz": 200, "/readyz": 503, "/teapot": 418, "/command/status": 404} {
		response, err := http.Get("http://" + s.MetricsAddr().String() + path)
		if err != nil {
			t.Fatal(err)
		}
		_ = response.Body.Close()
		if response.StatusCode != want {
			t.Errorf("%s: %d, want %d", path, response.StatusCode, want)
		}
	}
}
