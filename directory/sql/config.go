package sql

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The drivers.
const (
	MySQL      = "mysql" // MariaDB, too
	PostgreSQL = "postgresql"
	SQLite     = "sqlite"
)

// The words of Config.TLS.
const (
	TLSAuto = "auto"
	TLSOn   = "on"
	TLSOff  = "off"
)

// Config says where a database is and how it is reached.
type Config struct {
	// Name stands in errors and explanations.
	Name string
	// Driver is one of the above.
	Driver string
	// Hosts are asked in order, or, with Shuffle, in any: a name or address
	// with or without a port, or unix:/path. "" means localhost. SQLite has
	// none.
	Hosts   []string
	Shuffle bool
	// Database is the database's name, or SQLite's file. Required.
	Database string
	// User and PasswordFile, whose first line is the password, log in.
	// Password stands for the content of the file where another file holds it.
	User, PasswordFile string
	Password           string
	// TLS is on, off or auto: on towards hosts other than this machine. The
	// certificate is verified by CAFile, "" meaning the system's, for
	// ServerName or else the host, unless SkipVerify.
	TLS, CAFile, ServerName string
	SkipVerify              bool
	CertFile, KeyFile       string
	// Timeout bounds each operation on one host; 0 means 5 s.
	Timeout time.Duration
	// MaxConnections bounds the connections to each host; 0 means 8.
	MaxConnections int
	// IdleTime is how long an unused connection is kept; 0 means 60 s.
	IdleTime time.Duration
	// RetryInterval is how long, at most, a host that did not answer is left
	// alone: a second at first, then longer each time. 0 means 60 s.
	RetryInterval time.Duration
}

func (cfg Config) withDefaults() (Config, error) {
	switch {
	case !slices.Contains([]string{MySQL, PostgreSQL, SQLite}, cfg.Driver):
		return cfg, fmt.Errorf("%q is none of %s, %s, %s", cfg.Driver, MySQL, PostgreSQL, SQLite)
	case cfg.Database == "":
		return cfg, errors.New("it has no name of a database")
	case cfg.Driver == SQLite && len(cfg.Hosts) > 0:
		return cfg, errors.New("SQLite is a file and has no hosts")
	case (cfg.CertFile == "") != (cfg.KeyFile == ""):
		return cfg, errors.New("certificate and key belong together")
	}
	if cfg.TLS == "" {
		cfg.TLS = TLSAuto
	}
	if !slices.Contains([]string{TLSAuto, TLSOn, TLSOff}, cfg.TLS) {
		return cfg, fmt.Errorf("TLS %q is none of auto, on, off", cfg.TLS)
	}
	if len(cfg.Hosts) == 0 {
		cfg.Hosts = []string{"localhost"}
	}
	setDefault(&cfg.Timeout, 5*time.Second)
	setDefault(&cfg.IdleTime, time.Minute)
	setDefault(&cfg.RetryInterval, time.Minute)
	setDefault(&cfg.MaxConnections, 8)
	if cfg.PasswordFile != "" {
		content, err := os.ReadFile(cfg.PasswordFile)
		if err != nil {
			return cfg, err
		}
		cfg.Password, _, _ = strings.Cut(string(content), "\n")
		cfg.Password = strings.TrimRight(cfg.Password, "\r")
	}
	return cfg, nil
}

func setDefault[T time.Duration | int](field *T, value T) {
	if *field <= 0 {
		*field = value
	}
}

// place is a host as it is connected to.
type place struct {
	text, host string
	port       int
	socket     string // a unix socket
}

func (cfg Config) parseHost(text string) (place, error) {
	p := place{text: text}
	for _, prefix := range []string{"unix:", "inet:"} {
		if rest, ok := strings.CutPrefix(text, prefix); ok && prefix == "unix:" {
			p.socket = rest
		} else if ok {
			text = rest
		}
	}
	if strings.HasPrefix(text, "/") {
		p.socket = text
	}
	p.port = map[string]int{MySQL: 3306, PostgreSQL: 5432}[cfg.Driver]
	if p.socket != "" {
		return p, nil
	}
	p.host = strings.Trim(text, "[]")
	if host, port, err := net.SplitHostPort(text); err == nil {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil {
			return p, fmt.Errorf("host %q: wrong port", text)
		}
		p.host, p.port = host, int(n)
	}
	if p.host == "" || strings.ContainsAny(p.host, " /") {
		return p, fmt.Errorf("host %q: write name, name:port, or unix:/path", p.text)
	}
	return p, nil
}

// here reports whether the host is this machine.
func (p place) here() bool {
	ip := net.ParseIP(p.host)
	return p.socket != "" || p.host == "localhost" || ip != nil && ip.IsLoopback()
}
