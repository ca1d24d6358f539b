// Package admin is how an operator reaches the running server: commands over
// a unix socket, and health and metrics over HTTP.
//
// What comes in: a command's name and arguments from a process that may open
// the socket (its mode is the permission: owner and group). What goes out: the
// command's text, streamed, and whether it succeeded. What the commands do is
// plugged in by main; this room knows none of them. Every command that changes
// something is audited by whoever does it.
package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/internal/unixsock"
)

// Command answers one command of an operator: it writes text for a person, or
// JSON where args say so, to out. It may be called concurrently. What its
// error says is shown to the operator.
type Command func(ctx context.Context, args url.Values, out io.Writer) error

// Commands is what an operator may ask for, by name ("queue/list").
type Commands map[string]Command

const (
	commandPath  = "/command/"
	errorTrailer = "Postern-Error"
	// maxArguments bounds what a command is given.
	maxArguments = 32 << 20
)

// ErrNotRunning means that no server answers on the socket.
var ErrNotRunning = errors.New("no server is running here")

// Config says where operators are answered.
type Config struct {
	// Socket is the path of the control socket.
	Socket string
	// Listen is host:port of health and pages over HTTP; empty for none.
	Listen string
}

// Server answers operators.
type Server struct {
	cfg     Config
	control net.Listener
	http    net.Listener // nil without Listen
	log     hclog.Logger

	commands Commands
	streams  Streams
	status   http.Handler

	// conversations under way; Run waits for them.
	conversations sync.WaitGroup
}

// Pages are what is served over HTTP beside health, by path ("/metrics").
// They tell nothing of mail.
type Pages map[string]http.Handler

// New opens the sockets, so that a mistake shows before anything runs. ready
// tells whether the server does its work, nil for yes.
func New(cfg Config, commands Commands, streams Streams, ready func() error, pages Pages, log hclog.Logger) (*Server, error) {
	s := &Server{cfg: cfg, log: log, commands: commands, streams: streams, status: statusHandler(ready, pages)}
	var err error
	if s.control, err = unixsock.Listen(cfg.Socket); err != nil {
		return nil, fmt.Errorf("control: %w", err)
	}
	if cfg.Listen != "" {
		if s.http, err = net.Listen("tcp", cfg.Listen); err != nil {
			_ = s.control.Close()
			return nil, fmt.Errorf("listen for metrics: %w", err)
		}
	}
	return s, nil
}

// MetricsAddr is the address health and metrics are served on, or nil.
func (s *Server) MetricsAddr() net.Addr {
	if s.http == nil {
		return nil
	}
	return s.http.Addr()
}

// Run answers until ctx ends, then lets commands under way finish for a
// moment.
func (s *Server) Run(ctx context.Context) error {
	control := http.NewServeMux()
	control.HandleFunc(commandPath, s.serveCommand)
	control.HandleFunc(streamPath, s.serveStream)
	servers := []*http.Server{s.server(ctx, control)}
	listeners := []net.Listener{s.control}
	if s.http != nil {
		servers = append(servers, s.server(ctx, s.status))
		listeners = append(listeners, s.http)
	}
	ended := make(chan error, len(servers))
	for i, server := range servers {
		go func() { ended <- server.Serve(listeners[i]) }()
	}
	<-ctx.Done()
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	for _, server := range servers {
		if server.Shutdown(grace) != nil {
			_ = server.Close()
		}
	}
	var err error
	s.conversations.Wait()
	for range servers {
		if e := <-ended; !errors.Is(e, http.ErrServerClosed) {
			err = errors.Join(err, e)
		}
	}
	return err
}

func (s *Server) server(ctx context.Context, h http.Handler) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 10 * time.Second,
		MaxHeaderBytes:    64 << 10,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ConnContext:       withOperator,
		ErrorLog:          s.log.StandardLogger(&hclog.StandardLoggerOptions{ForceLevel: hclog.Debug}),
	}
}

func (s *Server) serveCommand(w http.ResponseWriter, r *http.Request) {
	name, ok := strings.CutPrefix(r.URL.Path, commandPath)
	command := s.commands[name]
	if !ok || command == nil {
		http.Error(w, fmt.Sprintf("this server knows no command %q; is it of another version?", name), http.StatusNotFound)
		return
	}
	var args url.Values
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxArguments)).Decode(&args); err != nil {
		http.Error(w, "malformed arguments: "+err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Trailer", errorTrailer)
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(http.StatusOK)
	if err := command(r.Context(), args, flushing{w}); err != nil {
		s.log.Info("command failed", "command", name, "err", err)
		w.Header().Set(errorTrailer, url.QueryEscape(err.Error()))
	}
}

// flushing passes each write on at once, so that progress shows.
type flushing struct{ http.ResponseWriter }

func (f flushing) Write(p []byte) (int, error) {
	n, err := f.ResponseWriter.Write(p)
	if flusher, ok := f.ResponseWriter.(http.Flusher); ok {
		flusher.Flush()
	}
	return n, err
}

// statusHandler serves what monitoring asks for; it tells nothing of mail.
func statusHandler(ready func() error, pages Pages) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "ok\n") // the monitor that hung up learns nothing
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := isReady(ready); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		_, _ = io.WriteString(w, "ok\n")
	})
	for path, page := range pages {
		mux.Handle("GET "+path, page)
	}
	return mux
}

// Call asks the server at socket for a command and copies its text to out.
// ErrNotRunning when nobody answers, fs.ErrPermission when the caller may not
// ask; otherwise the command's own error.
func Call(ctx context.Context, socket, name string, args url.Values, out io.Writer) error {
	client := http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
	}}
	defer client.CloseIdleConnections()
	body, err := json.Marshal(args)
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://postern"+commandPath+name, strings.NewReader(string(body)))
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if err != nil {
		return unanswered(socket, err)
	}
	defer func() { _ = response.Body.Close() }() // read to its end already
	if response.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(response.Body, 4<<10))
		return errors.New(strings.TrimSpace(string(text)))
	}
	if _, err := io.Copy(out, response.Body); err != nil {
		return fmt.Errorf("the server ended before its answer did: %w", err)
	}
	if text := response.Trailer.Get(errorTrailer); text != "" {
		if unescaped, err := url.QueryUnescape(text); err == nil {
			text = unescaped
		}
		return errors.New(text)
	}
	return nil
}

// unanswered says why a call did not reach the server.
func unanswered(socket string, err error) error {
	var op *net.OpError
	switch dials := errors.As(err, &op) && op.Op == "dial"; {
	case dials && errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("control socket %s: %w; run this as root or as the user the server runs as", socket, op.Err)
	case dials:
		return fmt.Errorf("%w (%s: %w)", ErrNotRunning, socket, op.Err)
	default:
		return err
	}
}

func isReady(ready func() error) error {
	if ready == nil {
		return nil
	}
	return ready()
}
