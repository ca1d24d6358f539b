package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/backend/sessions"
	"github.com/postern-mail/postern/mail"
)

// Place is where the mailboxes of somebody are.
type Place struct {
	// Login is the name the account has at its cell.
	Login string
	// Home is the node of a pair that is asked first.
	Home mail.Home
	Cell *Cell
}

// Places finds them. Its errors are judged like Authenticator's.
type Places interface {
	Place(ctx context.Context, identity mail.Identity) (Place, error)
}

// Deps are the other rooms a server needs, all of them.
type Deps struct {
	Auth   sessions.Authenticator
	Places Places
	Audit  sessions.Auditor
	// Sessions is where those of all servers are listed and counted.
	Sessions *sessions.Registry
}

// Server is one listener of the proxy. Its methods may be called concurrently;
// those of the Door take part: Serve, Sessions, Drain, Dismiss, Accounts and
// Disconnect. Whoever is connected to a node goes when nothing is under way.
type Server struct {
	*sessions.Door
	dialect Dialect
	deps    Deps
	log     hclog.Logger
	cfg     atomic.Pointer[sessions.Terms] // with defaults; sessions keep what they began with
	logins  [numLogins]atomic.Uint64
}

// New returns a server for cfg, whose zero values mean their defaults: 20000
// sessions, 35 minutes of silence, and those of sessions.Terms.
func New(cfg sessions.Terms, dialect Dialect, deps Deps, log hclog.Logger) (*Server, error) {
	if deps.Auth == nil || deps.Places == nil || deps.Audit == nil || deps.Sessions == nil {
		return nil, errors.New("proxy: authenticator, places, auditor and sessions are needed")
	}
	s := &Server{dialect: dialect, deps: deps, log: log}
	protocol := sessions.Protocol{Name: dialect.service(), Together: "proxy " + dialect.service(), Serve: s.serve, TurnAway: s.turnAway}
	s.Door = sessions.NewDoor(deps.Sessions, protocol, deps.Audit, log)
	return s, s.Reconfigure(cfg)
}

// Reconfigure replaces the configuration for new sessions; those under way
// keep theirs. An invalid one changes nothing.
func (s *Server) Reconfigure(cfg sessions.Terms) error {
	full, err := withDefaults(cfg)
	if err != nil {
		return fmt.Errorf("proxy: %w", err)
	}
	s.cfg.Store(&full)
	s.Configure(full.Door())
	return nil
}

// turnAway tells a client that there are too many.
func (s *Server) turnAway(conn net.Conn) {
	_, _ = io.WriteString(conn, s.dialect.bye(errTooMany.text))
}

// serve is one session, from the greeting to its end.
func (s *Server) serve(ctx context.Context, handle *sessions.Session) (cause string) {
	one := newSession(s, handle)
	cause, node := one.protect(ctx)
	if node != "" {
		cause += "; node " + node
	}
	return cause
}

// LoginResult is how a login that the verifiers took fared behind the proxy.
type LoginResult int

// The results.
const (
	LoginHome    LoginResult = iota // the first node asked
	LoginPartner                    // its partner
	LoginNobody                     // no node of the cell took it
	numLogins
)

var loginResults = [...]string{"home", "partner", "nobody"}

// String names the result in metrics.
func (r LoginResult) String() string { return loginResults[r] }

// Logins tells how many logins ended in each way since the start.
func (s *Server) Logins() map[LoginResult]uint64 {
	counts := make(map[LoginResult]uint64, numLogins)
	for r := range numLogins {
		counts[r] = s.logins[r].Load()
	}
	return counts
}
