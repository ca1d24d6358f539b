package ldap

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/postern-mail/postern/directory"
)

// Config says which servers hold the directory and how to speak to them.
type Config struct {
	// URIs are the servers in order of preference: ldap://host[:port],
	// ldaps://host[:port] or ldapi://%2Fpath%2Fto%2Fsocket. "srv:example.com",
	// "ldap:///dc=example,dc=com" and "ldaps:///dc=example,dc=com" stand for the
	// servers that the DNS names for the domain (RFC 2782), which is asked again
	// when its answer expires; their certificates must hold the name of the
	// server or the domain's. Required.
	URIs []string
	// Site is the site of Active Directory whose servers come first of those
	// that the DNS names.
	Site string
	// Resolver finds the servers of a domain; nil when no URI names one.
	Resolver Resolver
	// StartTLS protects ldap:// connections. Without it they are refused
	// unless the host is a loopback address or AllowPlaintext is set.
	StartTLS       bool
	AllowPlaintext bool
	// CAFile holds the authorities that server certificates must be signed
	// by; "" means the system's. It is read again for every connection.
	CAFile string
	// ServerName is the name certificates must carry; "" means the URI's host.
	ServerName string
	// InsecureSkipVerify accepts any certificate: anybody on the way can then
	// read every password. For finding faults only.
	InsecureSkipVerify bool
	// CertFile and KeyFile are shown to servers that ask for a certificate.
	CertFile, KeyFile string
	// BindDN and BindPasswordFile are the service account that searches; ""
	// searches anonymously. The file is read again for every connection.
	BindDN           string
	BindPasswordFile string
	// BindPasswordParameter tells that BindPasswordFile is in the notation of
	// Postfix's tables, and which of its parameters holds the password; "" means
	// that the file holds nothing else.
	BindPasswordParameter string
	// SASLExternal binds by the client certificate, or over ldapi by the
	// process's own user, instead of BindDN.
	SASLExternal bool
	// Kerberos, when it holds a keytab, binds by SASL GSSAPI instead of BindDN.
	Kerberos Kerberos
	// IgnoreReferences takes parts of the tree that a server refers to other
	// servers for as empty. Without this a search that finds nothing and was
	// referred elsewhere is no answer.
	IgnoreReferences bool
	// ChaseReferrals are the servers, in the notation of URIs, to which
	// referrals and references are followed, with the same login and TLS
	// settings. None are followed to other servers.
	ChaseReferrals []string
	// Dereference says when alias entries (RFC 4512 section 2.6) are followed:
	// "" or never, searching (below the base), finding (the base) or always.
	Dereference string
	// Hedge is after which time without an answer the same search goes to the
	// next server too; 0 means the time within which 99 of 100 recent answers
	// came, a negative value never. At most every 20th search is sent twice.
	Hedge time.Duration
	// Timeout bounds one operation on one server, connecting included; 0
	// means 3 s.
	Timeout time.Duration
	// MaxConnections and MaxBindConnections bound the connections per server
	// for searches and for password checks; 0 means 8 each. Whoever comes
	// when all are busy waits within its deadline.
	MaxConnections     int
	MaxBindConnections int
	// IdleTimeout is after how long an unused connection is closed; 0 means
	// 5 min. Firewalls and servers forget connections silently.
	IdleTimeout time.Duration
	// MaxFailures in a row make a server be left alone, first for a second,
	// then for longer, up to MaxPause; 0 means 3 and 10 s.
	MaxFailures int
	MaxPause    time.Duration

	// cheapFailure, unless 0, replaces the constant: for tests only.
	cheapFailure time.Duration
}

func (cfg Config) withDefaults() Config {
	set := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	count := func(n *int, v int) {
		if *n <= 0 {
			*n = v
		}
	}
	set(&cfg.Timeout, 3*time.Second)
	set(&cfg.IdleTimeout, 5*time.Minute)
	set(&cfg.MaxPause, 10*time.Second)
	count(&cfg.MaxConnections, 8)
	count(&cfg.MaxBindConnections, 8)
	count(&cfg.MaxFailures, 3)
	return cfg
}

// endpoint is where and how one server is reached.
type endpoint struct {
	uri      string
	network  string // "tcp" or "unix"
	address  string
	host     string
	names    []string // of which the certificate must carry one
	tls      bool     // from the first octet
	startTLS bool
}

var errURI = errors.New("not an ldap, ldaps or ldapi URI")

// parseURI reads one of Config.URIs.
func (cfg Config) parseURI(uri string) (endpoint, error) {
	e := endpoint{uri: uri, network: "tcp"}
	scheme, rest, _ := strings.Cut(uri, "://")
	rest = strings.TrimSuffix(rest, "/")
	if strings.EqualFold(scheme, "ldapi") {
		path, err := url.PathUnescape(rest)
		if err != nil || !strings.HasPrefix(path, "/") {
			return e, fmt.Errorf("%w: %q: write the socket's path with %%2F for each slash", errURI, uri)
		}
		e.network, e.address, e.startTLS = "unix", path, cfg.StartTLS
		e.host = "localhost"
		e.names = []string{e.host}
		return e, nil
	}
	port := "389"
	switch strings.ToLower(scheme) {
	case "ldap":
		e.startTLS = cfg.StartTLS
	case "ldaps":
		e.tls, port = true, "636"
	default:
		return e, fmt.Errorf("%w: %q", errURI, uri)
	}
	u, err := url.Parse("ldap://" + rest)
	if err != nil || u.Hostname() == "" || u.Path != "" || u.RawQuery != "" || u.User != nil {
		return e, fmt.Errorf("%w: %q", errURI, uri)
	}
	if u.Port() != "" {
		port = u.Port()
	}
	e.host = u.Hostname()
	e.names = []string{e.host}
	e.address = net.JoinHostPort(e.host, port)
	if cfg.Kerberos.used() {
		if _, err := cfg.service(e); err != nil {
			return e, err
		}
	}
	if !e.tls && !e.startTLS && !cfg.AllowPlaintext && !isLoopback(e.host) {
		return e, fmt.Errorf("%q would send passwords in the clear: write ldaps://, or set starttls = true; allow_plaintext = true permits it where the network is your own", uri)
	}
	return e, nil
}

func isLoopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback()
}

// tlsConfig reads the files it names, so that renewed ones count at once.
func (cfg Config) tlsConfig(e endpoint) (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: e.host, InsecureSkipVerify: cfg.InsecureSkipVerify}
	names := e.names
	if cfg.ServerName != "" {
		c.ServerName, names = cfg.ServerName, []string{cfg.ServerName}
	}
	if cfg.CAFile != "" {
		content, err := os.ReadFile(cfg.CAFile)
		if err != nil {
			return nil, fmt.Errorf("certification authorities: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(content) {
			return nil, fmt.Errorf("certification authorities: %s holds no certificate in PEM", cfg.CAFile)
		}
	}
	if cfg.CertFile != "" {
		pair, err := tls.LoadX509KeyPair(cfg.CertFile, cfg.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("client certificate: %w", err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	if len(names) != 1 || names[0] != c.ServerName {
		anyName(c, names)
	}
	return c, nil
}

// anyName makes c accept a certificate that holds one of several names; the
// library verifies against a single one.
func anyName(c *tls.Config, names []string) {
	if c.InsecureSkipVerify {
		return
	}
	c.InsecureSkipVerify = true // for VerifyConnection does all of it
	roots := c.RootCAs
	c.VerifyConnection = func(state tls.ConnectionState) error {
		leaf := state.PeerCertificates[0]
		intermediates := x509.NewCertPool()
		for _, certificate := range state.PeerCertificates[1:] {
			intermediates.AddCert(certificate)
		}
		if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: intermediates}); err != nil {
			return &tls.CertificateVerificationError{UnverifiedCertificates: state.PeerCertificates, Err: err}
		}
		var refused error
		for _, name := range names {
			err := leaf.VerifyHostname(name)
			if err == nil {
				return nil
			}
			refused = errors.Join(refused, err)
		}
		return &tls.CertificateVerificationError{UnverifiedCertificates: state.PeerCertificates, Err: refused}
	}
}

// bindPassword reads the service account's password.
func (cfg Config) bindPassword() (string, error) {
	content, err := os.ReadFile(cfg.BindPasswordFile)
	if err != nil {
		return "", fmt.Errorf("service account's password: %w", err)
	}
	password := strings.TrimRight(string(content), "\r\n")
	if cfg.BindPasswordParameter != "" {
		if password, err = parameterOf(content, cfg.BindPasswordParameter); err != nil {
			return "", fmt.Errorf("service account's password: %s: %w", cfg.BindPasswordFile, err)
		}
	}
	if password == "" {
		return "", fmt.Errorf("service account's password: %s is empty", cfg.BindPasswordFile)
	}
	return password, nil
}

// parameterOf returns the value of a parameter, "" without it. Its errors show
// no values.
func parameterOf(content []byte, name string) (value string, err error) {
	parameters, err := directory.ParsePostfixFile(bytes.NewReader(content))
	if err != nil {
		return "", errors.New("not a file of Postfix parameters")
	}
	for _, p := range parameters {
		if p.Name == name {
			value = p.Value
		}
	}
	return value, nil
}

// Key tells connections apart: clients of configurations with the same key are
// the same in all but who finds servers by the DNS.
func (cfg Config) Key() string {
	cfg.Resolver = nil
	return fmt.Sprintf("%+v", cfg)
}

func (cfg Config) check() error {
	if len(cfg.URIs) == 0 {
		return errors.New("no URI")
	}
	if cfg.BindDN != "" && cfg.SASLExternal {
		return errors.New("a bind DN and SASL EXTERNAL exclude each other")
	}
	if cfg.Kerberos.used() {
		if cfg.BindDN != "" || cfg.SASLExternal {
			return errors.New("a login by Kerberos excludes every other")
		}
		if _, err := cfg.Kerberos.client(); err != nil {
			return err
		}
	}
	if _, ok := dereferences[cfg.Dereference]; !ok {
		return fmt.Errorf("dereference %q: must be never, searching, finding or always", cfg.Dereference)
	}
	if _, err := cfg.tlsConfig(endpoint{}); err != nil {
		return err
	}
	if cfg.BindDN != "" {
		if _, err := cfg.bindPassword(); err != nil {
			return err
		}
	}
	return nil
}
