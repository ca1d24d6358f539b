package process

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

	"github.com/postern-mail/postern/authn/gssapi"
	"github.com/postern-mail/postern/authn/helper"
	"github.com/postern-mail/postern/authn/nss"
	"github.com/postern-mail/postern/authn/pam"
)

// Config of a Server.
type Config struct {
	// Services are the PAM services that may be asked for; none serve no PAM.
	Services []string
	// ServiceDir holds the PAM services in the place of /etc/pam.d.
	ServiceDir string
	// Keytab is the file with the keys of our service principals; "" takes no
	// tickets.
	Keytab string
	// Krb5Config is the file to use in the place of /etc/krb5.conf.
	Krb5Config string
	// ReplayDir is where it is kept which tickets were seen; default the
	// system's choice, /var/tmp.
	ReplayDir string
	// Users serves who the machine's own users are.
	Users bool
	// UserSources are the sources of the name service switch that are asked for
	// users; default those of /etc/nsswitch.conf.
	UserSources []string
	// Workers bounds transactions, and so processes, of each kind at one time;
	// default 8.
	Workers int
	// Reuse is after how many transactions a worker is replaced; default 1000.
	Reuse int
	// Timeout bounds one transaction and, separately, the wait for a free
	// worker; default 25 s, which is below the daemon's own.
	Timeout time.Duration
	// AllowUIDs may ask, beside root and the helper's own uid.
	AllowUIDs []int
	// WorkerCommand starts a worker; default "/proc/self/exe auth-helper".
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
	uids     []int

	pool      *pool  // PAM's workers
	tickets   *pool  // nil without a keytab
	users     *users // nil where none are served
	exchanges chan struct{}
}

// New returns a server on listener, whose owner stays the caller.
func New(cfg Config, listener *net.UnixListener, log hclog.Logger) (*Server, error) {
	if cfg.Workers < 0 || cfg.Reuse < 0 || cfg.Timeout < 0 {
		return nil, errors.New("auth-helper: workers, requests and timeout must not be negative")
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
		cfg.WorkerCommand = []string{"/proc/self/exe", "auth-helper"}
	}
	s := &Server{
		cfg: cfg, listener: listener, log: log, uids: append([]int{0, os.Geteuid()}, cfg.AllowUIDs...),
		exchanges: make(chan struct{}, maxExchanges),
	}
	s.pool = newPool(cfg, cfg.pamWork(), log)
	if cfg.Keytab != "" {
		s.tickets = newPool(cfg, cfg.ticketWork(), log)
	}
	if cfg.Users {
		s.users = newUsers(cfg, log)
	}
	return s, nil
}

func (cfg Config) pamWork() work {
	w := work{kind: workPAM, most: pam.MaxMessageOctets}
	if cfg.ServiceDir != "" {
		w.args = []string{"--service-dir=" + cfg.ServiceDir}
	}
	return w
}

func (cfg Config) ticketWork() work {
	w := work{kind: workTickets, args: []string{"--keytab=" + cfg.Keytab}, most: maxMessageOctets}
	if cfg.Krb5Config != "" {
		w.env = append(w.env, "KRB5_CONFIG="+cfg.Krb5Config)
	}
	if cfg.ReplayDir != "" {
		w.env = append(w.env, "KRB5RCACHEDIR="+cfg.ReplayDir)
	}
	return w
}

// Run serves until ctx ends, then ends every worker and waits for them.
func (s *Server) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = s.listener.SetDeadline(time.Now()) })
	defer stop()
	s.log.Info("auth helper serves", "socket", s.listener.Addr().String(), "services", s.cfg.Services,
		"keytab", s.cfg.Keytab, "users", s.cfg.Users, "workers", s.cfg.Workers)
	var connections sync.WaitGroup
	defer s.close()
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
			return fmt.Errorf("auth-helper: accept: %w", err)
		}
		release := sync.OnceFunc(func() { <-slots })
		connections.Go(func() {
			defer release()
			defer conn.Close()
			if err := s.serve(ctx, conn, release); err != nil {
				s.log.Warn("request failed", "err", err)
			}
		})
	}
}

// close ends the idle workers.
func (s *Server) close() {
	s.pool.close()
	if s.tickets != nil {
		s.tickets.close()
	}
	if s.users != nil {
		s.users.close()
	}
}

// serve answers the request of a connection, which for tickets are two. A peer
// that may not ask gets no answer. release gives the connection's place among
// those at work to another.
func (s *Server) serve(ctx context.Context, conn *net.UnixConn, release func()) error {
	if err := helper.CheckPeer(conn, s.uids); err != nil {
		return err
	}
	if err := conn.SetDeadline(time.Now().Add(requestTimeout)); err != nil {
		return err
	}
	buf := make([]byte, gssapi.MaxMessageOctets+1)
	defer clear(buf)
	n, err := conn.Read(buf)
	if err != nil {
		return fmt.Errorf("read request: %w", err)
	}
	message := buf[:n]
	switch {
	case n > 0 && message[0] == gssapi.KindBegin:
		return s.exchange(ctx, conn, message, release)
	case n > 0 && message[0] == nss.KindQuestion:
		return s.user(ctx, conn, message)
	}
	reply, err := s.answer(ctx, message).AppendBinary(nil)
	if err != nil {
		return fmt.Errorf("response: %w", err)
	}
	return write(conn, reply)
}

func write(conn *net.UnixConn, message []byte) error {
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
	answer, err := s.pool.ask(ctx, message)
	var response pam.Response
	if err == nil {
		err = response.UnmarshalBinary(answer)
	}
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
