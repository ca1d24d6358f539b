package pamhelper

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/authn/pam"
)

// Config of a Server.
type Config struct {
	// Services are the PAM services that may be asked for; default "postern".
	Services []string
	// ServiceDir holds the PAM services in the place of /etc/pam.d.
	ServiceDir string
	// Workers bounds transactions, and so processes, at one time; default 8.
	Workers int
	// Reuse is after how many transactions a worker is replaced; default 1000.
	Reuse int
	// Timeout bounds one transaction and, separately, the wait for a free
	// worker; default 25 s, which is below the daemon's own.
	Timeout time.Duration
	// AllowUIDs may ask, beside root and the helper's own uid.
	AllowUIDs []int
	// WorkerCommand starts a worker; default "/proc/self/exe pam-helper".
	// Arguments are added.
	WorkerCommand []string
}

// maxConnections bounds peers at one time; more wait in the socket's queue.
const maxConnections = 256

// requestTimeout is for a peer to say what it wants once it is connected, and
// to take the answer.
const requestTimeout = 5 * time.Second

// Server answers the daemon.
type Server struct {
	cfg      Config
	listener *net.UnixListener
	log      hclog.Logger
	pool     *pool
	uids     []int
}

// New returns a server on listener, whose owner stays the caller.
func New(cfg Config, listener *net.UnixListener, log hclog.Logger) (*Server, error) {
	if cfg.Workers < 0 || cfg.Reuse < 0 || cfg.Timeout < 0 {
		return nil, errors.New("pam-helper: workers, requests and timeout must not be negative")
	}
	if len(cfg.Services) == 0 {
		cfg.Services = []string{"postern"}
	}
	if cfg.Workers == 0 {
		cfg.Workers = 8
	}
	if cfg.Reuse == 0 {
		cfg.Reuse = 1000
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = 25 * time.Second
	}
	if len(cfg.WorkerCommand) == 0 {
		cfg.WorkerCommand = []string{"/proc/self/exe", "pam-helper"}
	}
	return &Server{
		cfg: cfg, listener: listener, log: log, pool: newPool(cfg, log),
		uids: append([]int{0, os.Geteuid()}, cfg.AllowUIDs...),
	}, nil
}

// Run serves until ctx ends, then ends every worker and waits for them.
func (s *Server) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = s.listener.SetDeadline(time.Now()) })
	defer stop()
	s.log.Info("PAM helper serves", "socket", s.listener.Addr().String(), "services", s.cfg.Services, "workers", s.cfg.Workers)
	var connections sync.WaitGroup
	defer s.pool.close()
	defer connections.Wait()
	slots := make(chan struct{}, maxConnections)
	for {
		slots <- struct{}{}
		conn, err := s.listener.AcceptUnix()
		if ctx.Err() != nil {
			if err == nil {
				conn.Close()
			}
			return nil
		}
		if err != nil {
			return fmt.Errorf("pam-helper: accept: %w", err)
		}
		connections.Go(func() {
			defer func() { <-slots }()
			defer conn.Close()
			if err := s.serve(ctx, conn); err != nil {
				s.log.Warn("PAM request failed", "err", err)
			}
		})
	}
}

// serve answers the one request of a connection. A peer that may not ask gets
// no answer.
func (s *Server) serve(ctx context.Context, conn *net.UnixConn) error {
	if err := pam.CheckPeer(conn, s.uids); err != nil {
		return err
	}
	if err := conn.SetDeadline(time.Now().Add(requestTimeout)); err != nil {
		return err
	}
	buf := make([]byte, pam.MaxMessageOctets+1)
	defer clear(buf)
	n, err := conn.Read(buf)
	if err != nil {
		return fmt.Errorf("read request: %w", err)
	}
	response := s.answer(ctx, buf[:n])
	message, err := response.AppendBinary(nil)
	if err != nil {
		return fmt.Errorf("response: %w", err)
	}
	if err := conn.SetDeadline(time.Now().Add(requestTimeout)); err != nil {
		return err
	}
	if _, err := conn.Write(message); err != nil {
		return fmt.Errorf("write response: %w", err)
	}
	return nil
}

// answer has a worker answer message.
func (s *Server) answer(ctx context.Context, message []byte) pam.Response {
	var request pam.Request
	if err := request.UnmarshalBinary(message); err != nil {
		return failure(err)
	}
	if !slices.Contains(s.cfg.Services, request.Service) {
		return failure(fmt.Errorf("PAM service %q is not served here", request.Service))
	}
	if request.User == "" || request.Password == "" {
		return failure(errors.New("user or password is empty"))
	}
	response, err := s.pool.ask(ctx, message)
	if err != nil {
		s.log.Error("PAM worker failed", "service", request.Service, "login", request.User, "err", err)
		return failure(err)
	}
	return response
}

// failure is a fault of the helper: nothing is known about the person.
func failure(err error) pam.Response {
	return pam.Response{Phase: pam.PhaseHelper, Code: pam.CodeSystemErr, Detail: clip(err.Error())}
}

func clip(s string) string { return s[:min(len(s), 512)] }
