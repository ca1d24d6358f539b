package imapd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime/debug"
	"sync/atomic"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/backend/mailstore"
	"github.com/postern-mail/postern/backend/sessions"
	"github.com/postern-mail/postern/status"
)

// Deps are the other rooms a server needs, all of them.
type Deps struct {
	Store    *mailstore.Store
	Auth     sessions.Authenticator
	Accounts sessions.Accounts
	Audit    sessions.Auditor
	// Sessions is where those of all servers are listed and counted.
	Sessions *sessions.Registry
}

// Server serves IMAP. Its methods may be called concurrently; those of the Door
// take part: Serve, Sessions, Drain, Dismiss, Accounts and Disconnect.
type Server struct {
	*sessions.Door
	deps Deps
	log  hclog.Logger
	cfg  atomic.Pointer[Config] // with defaults; sessions keep what they began with

	accountsAge  atomic.Uint64 // see AccountsChanged
	accountsNews accountsNews

	scanners scanners  // processors that searches of text share
	keys     *keyCache // what was sorted by last
	sorting  sorting   // memory for sorting now
}

// New returns a server for cfg.
func New(cfg Config, deps Deps, log hclog.Logger) (*Server, error) {
	if deps.Store == nil || deps.Auth == nil || deps.Accounts == nil || deps.Audit == nil || deps.Sessions == nil {
		return nil, errors.New("imap server: store, authenticator, accounts, auditor and sessions are needed")
	}
	s := &Server{deps: deps, log: log, scanners: newScanners(), keys: newKeyCache(maxKeptKeys), sorting: sorting{limit: maxSorting}}
	s.Door = sessions.NewDoor(deps.Sessions, sessions.Protocol{Name: "imap", Serve: s.serve, TurnAway: turnAway}, deps.Audit, log)
	return s, s.Reconfigure(cfg)
}

// Reconfigure replaces the configuration for new sessions; those under way
// keep theirs. An invalid one changes nothing.
func (s *Server) Reconfigure(cfg Config) error {
	full, err := cfg.withDefaults()
	if err != nil {
		return fmt.Errorf("imap server: %w", err)
	}
	s.cfg.Store(&full)
	s.Configure(full.Door())
	return nil
}

// serve is one session, from the greeting to its end.
func (s *Server) serve(ctx context.Context, handle *sessions.Session) (cause string) {
	ses := newSession(s, s.cfg.Load(), handle)
	defer ses.close()
	return ses.protect(ctx)
}

// turnAway tells a client that there are too many.
func turnAway(conn net.Conn) {
	_, _ = io.WriteString(conn, "* BYE ["+status.TooManyConnections.IMAPCode()+"] Too many connections\r\n")
}

// protect runs the session; a panic in it ends it, and nothing else.
func (ses *session) protect(ctx context.Context) (cause string) {
	defer func() {
		fault := recover()
		if fault == nil {
			return
		}
		ses.log.Error("session panicked", "sid", ses.client.Session, "command", ses.running, "panic", fault, "stack", string(debug.Stack()))
		ses.w.buf = ses.w.buf[:0]
		ses.w.line("* BYE [SERVERBUG] Internal error")
		_ = ses.w.flush()
		cause = "internal error"
	}()
	return ses.run(ctx)
}
