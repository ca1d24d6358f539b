package proxy

import (
	"cmp"
	"crypto/tls"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/postern-mail/postern/backend/sessions"
)

// withDefaults completes what a listener is told. An account may have any number
// of sessions: its node has a limit. IdleTimeout is the silence of both sides,
// and longer than that of the servers behind, who say so in their protocol.
func withDefaults(t sessions.Terms) (sessions.Terms, error) {
	t.MaxSessions = cmp.Or(t.MaxSessions, 20000)
	t.MaxSessionsPerAccount = -1
	t = t.WithDefaults("imap", 35*time.Minute)
	return t, t.Check()
}

// CellTLS is how the way to a cell is protected.
type CellTLS string

// The levels.
const (
	CellNone     CellTLS = "none"     // in the clear
	CellStartTLS CellTLS = "verify"   // STARTTLS, with a trusted certificate
	CellImplicit CellTLS = "implicit" // TLS from the start, with a trusted certificate
)

// CellConfig describes a mailbox server or a pair.
type CellConfig struct {
	// Name is what logs, metrics and placements call the cell.
	Name string
	// Addresses are host:port or unix:PATH of one server, or of the two nodes
	// of a pair, that of class 0 first.
	Addresses []string
	// TLS protects the connections; "" means CellStartTLS, and CellNone for
	// unix sockets. TLSConfig holds trusted roots and a client certificate; it
	// is cloned, and its ServerName "" means the host of the address.
	TLS       CellTLS
	TLSConfig *tls.Config
	// User and Secret are the proxy's identity at the servers, which lets it
	// log in as anybody (RFC 4616: authcid and passwd). Without User it is that
	// of the client certificate (EXTERNAL).
	User, Secret string
	// Failover is how long a node may take to greet before its partner is
	// asked; 0 means 1 second. A cell of one server has ten times as much.
	Failover time.Duration
	// LoginTimeout bounds the login at a node that greeted; 0 means 10 seconds.
	LoginTimeout time.Duration
}

func (c CellConfig) withDefaults() (CellConfig, error) {
	c.Failover = cmp.Or(c.Failover, time.Second)
	c.LoginTimeout = cmp.Or(c.LoginTimeout, 10*time.Second)
	switch {
	case c.Name == "":
		return c, errors.New("a cell without a name")
	case len(c.Addresses) == 0 || len(c.Addresses) > 2:
		return c, fmt.Errorf("cell %q has %d addresses: one server has one, a pair has two", c.Name, len(c.Addresses))
	case c.TLS != "" && c.TLS != CellNone && c.TLS != CellStartTLS && c.TLS != CellImplicit:
		return c, fmt.Errorf("cell %q: TLS %q is none of none, verify, implicit", c.Name, c.TLS)
	case strings.ContainsRune(c.User+c.Secret, 0):
		return c, fmt.Errorf("cell %q: NUL in user or secret", c.Name)
	}
	return c, nil
}
