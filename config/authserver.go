package config

import (
	"io/fs"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/postern-mail/postern/authn/dovecot"
	authserver "github.com/postern-mail/postern/authn/dovecot/server"
	"github.com/postern-mail/postern/authn/sasl"
	"github.com/postern-mail/postern/authn/saslauthd"
)

// AuthServer is where other programs ask about logins.
type AuthServer struct {
	block
	Name string `conf:"name,label"`

	Bind           []string       `conf:"bind" required:"where to listen, such as [\"unix:/var/spool/postfix/postern/auth\"]" doc:"unix:PATH or host:port to listen on. Over host:port passwords pass in the clear: keep it on this host or on a network of its own."`
	SocketMode     string         `conf:"socket_mode" default:"0660" oneof:"0666 0660 0600" doc:"Who may connect to the sockets: every user, only their owner and group, or their owner. A socket gets the group of its folder where that has the set-group-ID bit."`
	Networks       []netip.Prefix `conf:"networks" doc:"Networks that connections to host:port may come from, beside this host."`
	Mechanisms     []string       `conf:"mechanisms" doc:"SASL mechanisms on offer, such as [\"PLAIN\", \"LOGIN\"]. Empty: all that are possible."`
	InsecureAuth   bool           `conf:"allow_plaintext_auth" default:"false" doc:"Offer them for clients, too, that the asking program says have no TLS."`
	MaxConnections int            `conf:"max_connections" default:"1000" doc:"Connections at a time. Each smtpd process of Postfix that offers logins holds one."`
	IdleTimeout    time.Duration  `conf:"idle_timeout" default:"4h" doc:"Longest silence on a connection."`
}

// Room returns the limits of an auth_server.
func (l *AuthServer) Room(f *File) authserver.Config {
	return authserver.Config{Name: l.Name, Networks: l.Networks, MaxConnections: l.MaxConnections, IdleTimeout: l.IdleTimeout, Grace: f.Grace}
}

// SASL returns what an auth_server offers.
func (l *AuthServer) SASL() sasl.Config {
	return sasl.Config{Mechanisms: l.Mechanisms, AllowWithoutTLS: l.InsecureAuth}
}

// SocketPermissions returns who may connect to the sockets.
func (l *AuthServer) SocketPermissions() fs.FileMode { return permissions(l.SocketMode) }

func (c checker) authServers() {
	seen := make(map[string]bool)
	for _, l := range c.file.AuthServers {
		if seen[l.Name] {
			c.errorf(l.at, "Repeated name", "There is an auth_server %q already.", l.Name)
		}
		seen[l.Name] = true
		if len(c.file.Authn) == 0 {
			c.errorf(l.at, "No verifier", `An auth_server answers by the authn blocks, of which there is none, such as authn "ldap" { directory = directory.NAME }.`)
		}
		for _, bind := range l.Bind {
			c.address(l.rangeOf("bind"), bind, true)
			if host, _, err := net.SplitHostPort(bind); err == nil && !strings.HasPrefix(bind, "unix:") && !onThisHost(host) && len(l.Networks) == 0 {
				c.errorf(l.rangeOf("bind"), "Nobody can come", "%q listens for other hosts, but only this one may connect: name theirs in networks, or listen on 127.0.0.1.", bind)
			}
		}
		for _, name := range l.Mechanisms {
			if known := sasl.Known(); !slices.Contains(known, strings.ToUpper(name)) {
				c.errorf(l.rangeOf("mechanisms"), "Unknown mechanism", "%q is no mechanism; they are %s.%s", name, quoteList(known), didYouMean(strings.ToUpper(name), known))
			}
		}
		if l.MaxConnections < 1 {
			c.errorf(l.rangeOf("max_connections"), "Wrong value", "max_connections is at least 1.")
		}
		if l.IdleTimeout < time.Minute {
			c.errorf(l.rangeOf("idle_timeout"), "Too short", "idle_timeout is %s; it is at least a minute, since programs keep connections until the next login.", formatDuration(l.IdleTimeout))
		}
	}
}

func onThisHost(host string) bool {
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.IsLoopback()
}

// askedOverSocket checks a verifier that asks another program over a socket.
func (c checker) askedOverSocket(a *Authn) {
	if a.Socket != "" && !filepath.IsAbs(a.Socket) {
		c.errorf(a.rangeOf("socket"), "Wrong value", "%q: the path of a socket is absolute.", a.Socket)
	}
	if a.Timeout <= 0 {
		c.errorf(a.rangeOf("timeout"), "Too short", "timeout must be a time above 0.")
	}
	if a.Kind == "dovecot" {
		c.forbid(&a.block, a.Kind, "realm")
	}
	c.forbid(&a.block, a.Kind, "file", "dn_template", "service_dir", "services", "workers", "keytab")
}

// toldService is the service that another program is told; "" for what the
// login is for.
func (a *Authn) toldService() string {
	if !a.wrote("service") {
		return ""
	}
	return a.Service
}

// Dovecot returns the configuration of a verifier of kind dovecot.
func (a *Authn) Dovecot() dovecot.Config {
	return dovecot.Config{Socket: a.Socket, Service: a.toldService(), Timeout: a.Timeout}
}

// Saslauthd returns the configuration of a verifier of kind saslauthd.
func (a *Authn) Saslauthd() saslauthd.Config {
	return saslauthd.Config{Socket: a.Socket, Service: a.toldService(), Realm: a.Realm, Timeout: a.Timeout}
}
