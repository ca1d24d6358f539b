package sessions

import (
	"cmp"
	"crypto/tls"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"
)

// Terms are what a server of any protocol is told of its sessions. The zero
// value of every field but Hostname means its default.
type Terms struct {
	// Listener is the name of the listener in logs, audit and mail.Client.
	Listener string
	// Hostname stands in the greeting.
	Hostname string
	// TLS holds the certificates; nil offers no TLS. Certificates that change
	// come through its GetCertificate or through a new configuration.
	TLS *tls.Config
	// ImplicitTLS begins every connection with the TLS handshake.
	ImplicitTLS bool
	// AllowInsecureAuth lets clients log in without TLS.
	AllowInsecureAuth bool

	// Proxies are the networks of proxies, whose word on where a client comes
	// from is believed, and counts for limits and audit.
	Proxies []netip.Prefix

	// MaxSessions bounds the connections at one time. Default 10000.
	MaxSessions int
	// MaxSessionsPerClient bounds them per remote address, and
	// MaxSessionsPerAccount those that are logged in to one account or wait for
	// it. Default 100 each; negative for no bound.
	MaxSessionsPerClient  int
	MaxSessionsPerAccount int
	// MaxAuthFailures is how many failed logins end the connection. Default 5.
	MaxAuthFailures int
	// MaxBadCommands is how many unusable commands in a row end the connection.
	// Default 20.
	MaxBadCommands int

	// AuthTimeout is how long a client may take to log in. Default 1 minute.
	AuthTimeout time.Duration
	// IdleTimeout ends a session that sends no command. The default is the
	// protocol's.
	IdleTimeout time.Duration
	// CommandTimeout bounds each wait for more of a command under way.
	// Default 1 minute.
	CommandTimeout time.Duration
	// WriteTimeout bounds each write. Default 2 minutes.
	WriteTimeout time.Duration
	// AuthDelay is how long the first failed login is kept waiting; every
	// further one doubles it up to 8 times. Default 1 second; negative for none.
	AuthDelay time.Duration
	// Grace is how long commands under way may take when the server ends.
	// Default 20 seconds.
	Grace time.Duration
}

// WithDefaults returns the terms with every default filled in; listener and
// idle are the protocol's own.
func (t Terms) WithDefaults(listener string, idle time.Duration) Terms {
	t.Listener = cmp.Or(t.Listener, listener)
	t.MaxSessions = cmp.Or(t.MaxSessions, 10000)
	t.MaxSessionsPerClient = cmp.Or(t.MaxSessionsPerClient, 100)
	t.MaxSessionsPerAccount = cmp.Or(t.MaxSessionsPerAccount, 100)
	t.MaxAuthFailures = cmp.Or(t.MaxAuthFailures, 5)
	t.MaxBadCommands = cmp.Or(t.MaxBadCommands, 20)
	t.AuthTimeout = cmp.Or(t.AuthTimeout, time.Minute)
	t.IdleTimeout = cmp.Or(t.IdleTimeout, idle)
	t.CommandTimeout = cmp.Or(t.CommandTimeout, time.Minute)
	t.WriteTimeout = cmp.Or(t.WriteTimeout, 2*time.Minute)
	t.AuthDelay = max(0, cmp.Or(t.AuthDelay, time.Second))
	t.Grace = cmp.Or(t.Grace, 20*time.Second)
	return t
}

// Check tells what is wrong with terms that have their defaults.
func (t *Terms) Check() error {
	var errs []error
	if t.Hostname == "" || strings.ContainsAny(t.Hostname, " \r\n<>[]") { // "<" would offer APOP in POP3
		errs = append(errs, fmt.Errorf("hostname %q cannot stand in a greeting", t.Hostname))
	}
	if t.ImplicitTLS && t.TLS == nil {
		errs = append(errs, errors.New("implicit TLS needs a certificate"))
	}
	return errors.Join(append(errs, NotNegative(map[string]int64{
		"max sessions":                int64(t.MaxSessions),
		"max authentication failures": int64(t.MaxAuthFailures), "max bad commands": int64(t.MaxBadCommands),
		"authentication timeout": int64(t.AuthTimeout), "idle timeout": int64(t.IdleTimeout),
		"command timeout": int64(t.CommandTimeout), "write timeout": int64(t.WriteTimeout), "grace": int64(t.Grace),
	}))...)
}

// NotNegative tells which settings, by what they are called, are below zero.
func NotNegative(settings map[string]int64) error {
	var errs []error
	for name, n := range settings {
		if n < 0 {
			errs = append(errs, fmt.Errorf("%s is negative", name))
		}
	}
	return errors.Join(errs...)
}

// Door is what the terms say of whom a door lets in.
func (t *Terms) Door() Config {
	return Config{
		Listener: t.Listener, ImplicitTLS: t.ImplicitTLS, MaxSessions: t.MaxSessions,
		MaxPerClient: t.MaxSessionsPerClient, MaxPerAccount: t.MaxSessionsPerAccount, Proxies: t.Proxies, Grace: t.Grace,
	}
}
