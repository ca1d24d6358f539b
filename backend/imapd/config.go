package imapd

import (
	"cmp"
	"crypto/tls"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Config is what a server is told. The zero value of every field but Hostname
// means its default.
type Config struct {
	// Listener is the name of the listener in logs, audit and mail.Client.
	Listener string
	// Hostname stands in the greeting.
	Hostname string
	// TLS holds the certificates; nil offers no TLS. Certificates that change
	// come through its GetCertificate or through Reconfigure.
	TLS *tls.Config
	// ImplicitTLS begins every connection with the TLS handshake (port 993).
	ImplicitTLS bool
	// AllowInsecureAuth lets clients log in without TLS.
	AllowInsecureAuth bool

	// MaxSessions bounds the connections at one time. Default 10000.
	MaxSessions int
	// MaxSessionsPerClient bounds them per remote address, and
	// MaxSessionsPerAccount those that are logged in to one account. Default
	// 100 each; negative for no bound.
	MaxSessionsPerClient  int
	MaxSessionsPerAccount int
	// MaxAuthFailures is how many failed logins end the connection. Default 5.
	MaxAuthFailures int
	// MaxBadCommands is how many syntax errors in a row end the connection.
	// Default 20.
	MaxBadCommands int
	// AppendLimitOctets is the largest message APPEND takes. Default 64 MiB.
	AppendLimitOctets int64

	// AuthTimeout is how long a client may take to log in. Default 1 minute.
	AuthTimeout time.Duration
	// IdleTimeout ends a session that sends no command, IDLE included; RFC
	// 3501 section 5.4 asks for 30 minutes at least, the default.
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

// withDefaults returns the configuration with every default filled in.
func (c Config) withDefaults() (Config, error) {
	c.Listener = cmp.Or(c.Listener, "imap")
	c.MaxSessions = cmp.Or(c.MaxSessions, 10000)
	c.MaxSessionsPerClient = cmp.Or(c.MaxSessionsPerClient, 100)
	c.MaxSessionsPerAccount = cmp.Or(c.MaxSessionsPerAccount, 100)
	c.MaxAuthFailures = cmp.Or(c.MaxAuthFailures, 5)
	c.MaxBadCommands = cmp.Or(c.MaxBadCommands, 20)
	c.AppendLimitOctets = cmp.Or(c.AppendLimitOctets, 64<<20)
	c.AuthTimeout = cmp.Or(c.AuthTimeout, time.Minute)
	c.IdleTimeout = cmp.Or(c.IdleTimeout, 30*time.Minute)
	c.CommandTimeout = cmp.Or(c.CommandTimeout, time.Minute)
	c.WriteTimeout = cmp.Or(c.WriteTimeout, 2*time.Minute)
	c.AuthDelay = max(0, cmp.Or(c.AuthDelay, time.Second))
	c.Grace = cmp.Or(c.Grace, 20*time.Second)
	return c, c.check()
}

func (c Config) check() error {
	var errs []error
	if c.Hostname == "" || strings.ContainsAny(c.Hostname, " \r\n[]") {
		errs = append(errs, fmt.Errorf("hostname %q cannot stand in a greeting", c.Hostname))
	}
	if c.ImplicitTLS && c.TLS == nil {
		errs = append(errs, errors.New("implicit TLS needs a certificate"))
	}
	for name, n := range map[string]int64{
		"max sessions":                int64(c.MaxSessions),
		"max authentication failures": int64(c.MaxAuthFailures), "max bad commands": int64(c.MaxBadCommands),
		"append limit": c.AppendLimitOctets, "authentication timeout": int64(c.AuthTimeout),
		"idle timeout": int64(c.IdleTimeout), "command timeout": int64(c.CommandTimeout),
		"write timeout": int64(c.WriteTimeout), "grace": int64(c.Grace),
	} {
		if n < 0 {
			errs = append(errs, fmt.Errorf("%s is negative", name))
		}
	}
	return errors.Join(errs...)
}
