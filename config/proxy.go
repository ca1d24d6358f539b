package config

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/postern-mail/postern/backend/sessions"
	"github.com/postern-mail/postern/internal/nearest"
	"github.com/postern-mail/postern/proxy"
)

// Proxy is the proxy role.
type Proxy struct {
	block
	Directory string           `conf:"directory" doc:"The directory that knows which account a login is and where it lives, as directory.NAME. Empty: the first one."`
	Listeners []*ProxyListener `conf:"listener,block" example:"listener \"imap\" { bind = [\":143\"] }" doc:"Where mail programs connect to. Label: imap, imaps, pop3 or pop3s."`
	Cells     []*Cell          `conf:"cell,block" example:"cell \"main\" { address = [\"mail1.example.com:143\", \"mail2.example.com:143\"] }" doc:"Where mailboxes are: a server, or the two of a pair. Label: a name. The first cell has the accounts for which the directory names no host."`
}

// ProxyListener is where mail programs connect to.
type ProxyListener struct {
	block
	Kind string `conf:"kind,label"`

	Bind          []string       `conf:"bind" required:"where to listen, such as [\":143\"]" doc:"Addresses host:port or unix:PATH to listen on."`
	TLS           *TLS           `conf:"tls,block" doc:"Certificate of this listener."`
	InsecureAuth  bool           `conf:"allow_plaintext_auth" default:"false" doc:"Offer logins without TLS."`
	SASL          *SASL          `conf:"sasl,block" doc:"How clients may log in."`
	ProxyProtocol *ProxyProtocol `conf:"proxy_protocol,block" doc:"Proxies in front, such as HAProxy, that tell of their clients by the PROXY protocol."`
	MaxSessions   int            `conf:"max_sessions" default:"20000" doc:"Connections at a time."`
	MaxPerClient  int            `conf:"max_sessions_per_client" default:"100" doc:"Connections at a time from one address; 0 for no limit, such as where a webmail server is the client."`
	IdleTimeout   time.Duration  `conf:"idle_timeout" default:"35m" doc:"Longest silence of both sides of a logged-in connection; longer than the servers' own, who end it with a word."`
}

// Cell is where the mailboxes of some accounts are.
type Cell struct {
	block
	Name string `conf:"name,label"`

	Address      []string      `conf:"address" example:"address = [\"mail1.example.com:143\", \"mail2.example.com:143\"]" doc:"host:port or unix:PATH by which the server speaks IMAP, or both servers of a pair, node 0 first. Needed where the proxy has a listener imap or imaps."`
	POP3Address  []string      `conf:"pop3_address" example:"pop3_address = [\"mail1.example.com:110\", \"mail2.example.com:110\"]" doc:"The same for POP3. Needed where the proxy has a listener pop3 or pop3s."`
	Hosts        []string      `conf:"hosts" doc:"Values of the directory's host_attribute that mean this cell, beside its name and the hosts in address; the latter also say on which server of a pair the account is at home."`
	TLS          string        `conf:"tls" oneof:"none verify implicit" doc:"none: in the clear, passwords of the proxy included. verify: STARTTLS, or STLS of POP3. implicit: TLS from the start. The certificate has to be trusted. Empty: none over unix sockets, else verify."`
	CAFile       string        `conf:"ca_file" doc:"CA certificates to trust, PEM. Empty: the system's."`
	ServerName   string        `conf:"server_name" doc:"Name the certificate must hold. Empty: the host of the address."`
	CertFile     string        `conf:"cert_file" doc:"Certificate to show a server that asks for one, PEM; without user it is what the proxy logs in by (EXTERNAL)."`
	KeyFile      string        `conf:"key_file" doc:"Its private key, PEM."`
	User         string        `conf:"user" doc:"Name under which the proxy logs in as anybody: that of the backend's proxy block, or a master user of Dovecot."`
	PasswordFile string        `conf:"password_file" doc:"File that holds its password in the first line."`
	Failover     time.Duration `conf:"failover_time" default:"1s" doc:"How long a server of a pair may take to greet before the other one is asked."`
}

// ProxyAccess says who may log in to the backend for others.
type ProxyAccess struct {
	block
	Networks     []netip.Prefix `conf:"networks" required:"where the proxies are, such as [\"10.0.0.5/32\"]" doc:"Addresses of the proxies. What they say of a client, its address above all, is believed in logs, audit and limits."`
	User         string         `conf:"user" default:"proxy" doc:"Name the proxies log in by; nobody in the directory may have it."`
	PasswordFile string         `conf:"password_file" required:"a file with the proxies' password" doc:"File that holds their password in its first line. Read again on reload."`
}

func (c checker) proxy(p *Proxy) {
	if len(p.Listeners) == 0 {
		c.errorf(p.at, "No listener", `The proxy needs a listener, such as listener "imap" { bind = [":143"] }.`)
	}
	if at := slices.IndexFunc(c.file.Directories, (*Directory).withEntries); p.Directory == "" && at >= 0 {
		p.Directory = c.file.Directories[at].Name
	}
	if dir := c.file.Directory(p.Directory); dir == nil || !dir.withEntries() {
		c.errorf(p.rangeOf("directory"), "No such directory", "The proxy needs a directory that knows who may have a mailbox.")
	}
	if len(c.file.Authn) == 0 {
		c.errorf(p.at, "No verifier", `The proxy verifies logins, but there is no authn block, such as authn "ldap" { directory = directory.NAME }.`)
	}
	for _, l := range p.Listeners {
		c.proxyListener(l)
	}
	if len(p.Cells) == 0 {
		c.errorf(p.at, "No cell", `The proxy needs to know where mailboxes are: cell "main" { address = ["mail1.example.com:143"] }.`)
	}
	seen := make(map[string]string)
	for _, cell := range p.Cells {
		c.cell(p, cell)
		for _, name := range cell.names() {
			if other, taken := seen[name]; taken && other != cell.Name {
				c.errorf(cell.at, "Repeated name", "The host %q means the cell %q already.", name, other)
			}
			seen[name] = cell.Name
		}
	}
}

func (c checker) proxyListener(l *ProxyListener) {
	if !slices.Contains([]string{KindIMAP, KindIMAPS, KindPOP3, KindPOP3S}, l.Kind) {
		c.errorf(l.at, "Unknown kind", "A listener of the proxy is imap, imaps, pop3 or pop3s, not %q.", l.Kind)
	}
	for _, bind := range l.Bind {
		c.address(l.rangeOf("bind"), bind, true)
	}
	c.proxyProtocol(l.ProxyProtocol, l.Bind)
	c.tls(l.TLS)
	c.sasl(l.SASL)
	if c.file.Certificate(l.TLS) == nil && (l.implicitTLS() || !l.SASL.withoutTLS(l.InsecureAuth)) {
		c.errorf(l.at, "No certificate", "Logins are offered under TLS only, so this listener needs a tls block here or at the top level.")
	}
}

func (c checker) cell(p *Proxy, cell *Cell) {
	if len(cell.Address)+len(cell.POP3Address) == 0 {
		c.errorf(cell.at, "No address", `The cell needs to know where to connect: address = ["mail1.example.com:143"].`)
	}
	for _, way := range []struct{ key, protocol string }{{"address", KindIMAP}, {"pop3_address", KindPOP3}} {
		addresses := cell.Addresses(way.protocol)
		if len(addresses) > 2 {
			c.errorf(cell.rangeOf(way.key), "Too many", "A cell is one server or the two of a pair.")
		}
		for _, address := range addresses {
			c.address(cell.rangeOf(way.key), address, true)
		}
		at := slices.IndexFunc(p.Listeners, func(l *ProxyListener) bool { return l.Protocol() == way.protocol })
		if len(addresses) == 0 && at >= 0 && len(cell.Address)+len(cell.POP3Address) > 0 {
			c.errorf(cell.at, "No address", "The proxy listens for %s, and the cell does not say by %s where its servers speak it.", p.Listeners[at].Kind, way.key)
		}
	}
	c.readable(&cell.block, "ca_file", cell.CAFile)
	c.readable(&cell.block, "password_file", cell.PasswordFile)
	c.readable(&cell.block, "cert_file", cell.CertFile)
	c.readable(&cell.block, "key_file", cell.KeyFile)
	switch {
	case (cell.CertFile == "") != (cell.KeyFile == ""):
		c.errorf(cell.at, "Contradiction", "cert_file and key_file go together.")
	case (cell.User == "") != (cell.PasswordFile == ""):
		c.errorf(cell.at, "Half a login", "user and password_file belong together.")
	case cell.User == "" && cell.CertFile == "":
		c.errorf(cell.at, "No login", "The proxy logs in to the servers as itself: set user and password_file, or cert_file and key_file.")
	}
}

func (c checker) proxyAccess(a *ProxyAccess) {
	if a != nil {
		c.readable(&a.block, "password_file", a.PasswordFile)
	}
}

// names returns the values of a host attribute that mean the cell.
func (c *Cell) names() []string {
	names := []string{strings.ToLower(c.Name)}
	for _, h := range c.Hosts {
		names = append(names, strings.ToLower(h))
	}
	return append(names, c.addressHosts()...)
}

// addressHosts returns the hosts of the servers.
func (c *Cell) addressHosts() []string {
	var hosts []string
	for _, a := range slices.Concat(c.Address, c.POP3Address) {
		if host, _, err := net.SplitHostPort(a); err == nil && !strings.HasPrefix(a, "unix:") {
			hosts = append(hosts, strings.ToLower(host))
		}
	}
	return hosts
}

// CellOf returns the cell that an account's host means, and whether the host is
// that of one of its servers. An error says that the host means none.
func (p *Proxy) CellOf(host, ourselves string) (cell *Cell, pinned bool, err error) {
	host = strings.ToLower(host)
	if host == "" || len(p.Cells) == 1 || host == strings.ToLower(ourselves) {
		return p.Cells[0], slices.Contains(p.Cells[0].addressHosts(), host), nil
	}
	var all []string
	for _, c := range p.Cells {
		if slices.Contains(c.names(), host) {
			return c, slices.Contains(c.addressHosts(), host), nil
		}
		all = append(all, c.names()...)
	}
	text := fmt.Sprintf("no cell of the proxy is called %q", host)
	if like := nearest.Word(host, all); like != "" {
		text += fmt.Sprintf("; there is %q", like)
	}
	return nil, false, errors.New(text)
}

// Addresses returns where the cell's servers speak a protocol, KindIMAP or
// KindPOP3; none where nobody told.
func (c *Cell) Addresses(protocol string) []string {
	if protocol == KindPOP3 {
		return c.POP3Address
	}
	return c.Address
}

// Room returns a cell as the proxy knows it, for a protocol. It reads the files
// the cell names.
func (c *Cell) Room(protocol string) (proxy.CellConfig, error) {
	room := proxy.CellConfig{Name: c.Name, Addresses: c.Addresses(protocol), TLS: proxy.CellTLS(c.TLS), User: c.User, Failover: c.Failover,
		TLSConfig: &tls.Config{MinVersion: tls.VersionTLS12, ServerName: c.ServerName}}
	if protocol == KindPOP3 {
		room.LoginTimeout = maxInUseWait + 10*time.Second // a maildrop in use keeps the login waiting
	}
	if c.PasswordFile != "" {
		secret, err := firstLine(c.PasswordFile)
		if err != nil {
			return room, err
		}
		room.Secret = secret
	}
	if c.CAFile != "" {
		pem, err := readBounded(c.CAFile)
		if err != nil {
			return room, err
		}
		room.TLSConfig.RootCAs = x509.NewCertPool()
		if !room.TLSConfig.RootCAs.AppendCertsFromPEM(pem) {
			return room, fmt.Errorf("no certificates in %s", c.CAFile)
		}
	}
	if c.CertFile != "" {
		pair, err := tls.LoadX509KeyPair(c.CertFile, c.KeyFile)
		if err != nil {
			return room, fmt.Errorf("certificate %s: %w", c.CertFile, err)
		}
		room.TLSConfig.Certificates = []tls.Certificate{pair}
	}
	return room, nil
}

// Password returns the proxies' password.
func (a *ProxyAccess) Password() (string, error) { return firstLine(a.PasswordFile) }

// firstLine reads a secret. An empty one would let everybody in.
func firstLine(path string) (string, error) {
	content, err := readBounded(path)
	if err != nil {
		return "", err
	}
	line, _, _ := strings.Cut(string(content), "\n")
	if line = strings.TrimRight(line, "\r"); line == "" {
		return "", fmt.Errorf("%s: the first line is empty", path)
	}
	return line, nil
}

// Protocol is what the listener speaks, KindIMAP or KindPOP3.
func (l *ProxyListener) Protocol() string {
	if l.Kind == KindPOP3 || l.Kind == KindPOP3S {
		return KindPOP3
	}
	return KindIMAP
}

func (l *ProxyListener) implicitTLS() bool { return l.Kind == KindIMAPS || l.Kind == KindPOP3S }

// Room returns the dialect and limits of a listener, without certificate.
func (l *ProxyListener) Room(f *File) sessions.Terms {
	return sessions.Terms{
		Listener: "proxy " + l.Kind, Hostname: f.Hostname, ImplicitTLS: l.implicitTLS(), AllowInsecureAuth: l.SASL.withoutTLS(l.InsecureAuth),
		MaxSessions: l.MaxSessions, MaxSessionsPerClient: orNoLimit(l.MaxPerClient), IdleTimeout: l.IdleTimeout, Grace: f.Grace,
	}
}
