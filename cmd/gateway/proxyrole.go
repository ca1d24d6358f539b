package main

import (
	"context"
	"crypto/subtle"
	"net"
	"net/netip"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-mail/postern/authn"
	"github.com/postern-mail/postern/authn/sasl"
	"github.com/postern-mail/postern/backend/sessions"
	"github.com/postern-mail/postern/config"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/proxy"
	"github.com/postern-mail/postern/status"
)

// cellKey names a cell as one protocol reaches it: a server may answer by one
// and not by the other.
type cellKey struct{ name, protocol string }

// dialects are what the proxy speaks.
var dialects = map[string]proxy.Dialect{config.KindIMAP: proxy.IMAP(), config.KindPOP3: proxy.POP3()}

// cells builds where the proxy brings its clients, in a generation.
func (b *builder) cells() {
	for _, c := range b.file.Proxy.Cells {
		for protocol, dialect := range dialects {
			if len(c.Addresses(protocol)) > 0 {
				b.cell(c, protocol, dialect)
			}
		}
	}
}

func (b *builder) cell(c *config.Cell, protocol string, dialect proxy.Dialect) {
	what := "cell " + c.Name + ", " + protocol
	room, err := c.Room(protocol)
	if b.failed(what, err) {
		return
	}
	cell, err := proxy.NewCell(room, dialect, b.log.Named("proxy").With("protocol", protocol))
	if b.failed(what, err) {
		return
	}
	b.proxied[cellKey{c.Name, protocol}] = cell
	b.task(what, cell.Run)
}

// openProxy opens the listeners of the proxy.
func (s *server) openProxy(f *config.File) error {
	for i, l := range f.Proxy.Listeners {
		if err := s.openProxyListener(i, l); err != nil {
			return err
		}
	}
	return nil
}

func (s *server) openProxyListener(i int, l *config.ProxyListener) error {
	of := func(g *generation) (sessions.Terms, error) {
		own := g.file.Proxy.Listeners[i]
		cfg := own.Room(g.file)
		var err error
		cfg.TLS, err = certificate(g.file.Certificate(own.TLS))
		return cfg, err
	}
	cfg, err := of(s.current.Load())
	if err != nil {
		return err
	}
	protocol := l.Protocol()
	engine, err := proxy.New(cfg, dialects[protocol], proxy.Deps{
		Auth: proxyLogins{&s.current, i, protocol}, Places: places{&s.current, protocol}, Audit: s.audit, Sessions: s.sessions,
	}, s.log.Named("proxy"))
	if err != nil {
		return err
	}
	s.proxies = append(s.proxies, engine)
	s.drain.add(engine)
	s.members = append(s.members, mailMembers{engine, &s.current, proxyDirectory})
	reconfigure := func(g *generation) error {
		cfg, err := of(g)
		if err != nil {
			return err
		}
		return engine.Reconfigure(cfg)
	}
	inFront := func(f *config.File) *config.ProxyProtocol { return f.Proxy.Listeners[i].ProxyProtocol }
	return s.listen(place{cfg.Listener, l.Bind, proxySocket, inFront}, func(ctx context.Context, ln net.Listener) error { return engine.Serve(ctx, ln) }, reconfigure, engine.Sessions)
}

// proxySocket lets everybody connect: they log in.
const proxySocket = 0o666

// proxyLogins verifies logins of the proxy's clients.
type proxyLogins struct {
	*current
	listener int    // whose setting says whether passwords are offered without TLS
	protocol string // to verifiers and in the audit
}

func (l proxyLogins) mechanisms() (*sasl.Mechanisms, error) {
	g := l.Load()
	listener := g.file.Proxy.Listeners[l.listener]
	return g.mechanisms(listener.SASL.Room(listener.InsecureAuth, g.file.Hostname), proxyOwn(g), listener.TLS)
}

func (l proxyLogins) own() own { return proxyOwn(l.Load()) }

func proxyOwn(g *generation) own {
	return own{verifiers: g.verifiers, directory: g.file.Proxy.Directory}
}

// Mechanisms implements sessions.Authenticator.
func (l proxyLogins) Mechanisms(client *mail.Client) []string {
	m, err := l.mechanisms()
	if err != nil {
		return nil
	}
	return m.List(client)
}

// Start implements sessions.Authenticator.
func (l proxyLogins) Start(ctx context.Context, mechanism string, client mail.Client) (sessions.Authentication, error) {
	m, err := l.mechanisms()
	if err != nil {
		return nil, status.New(status.ConfigurationError, err)
	}
	return m.Start(ctx, mechanism, l.protocol, client)
}

// Login implements sessions.Authenticator.
func (l proxyLogins) Login(ctx context.Context, login, password string, client mail.Client) (mail.Identity, error) {
	return l.own().Verify(ctx, authn.Attempt{
		Login: login, Password: password, Mechanism: ownLogin[l.protocol], Service: l.protocol,
		Session: client.Session, Remote: client.Remote,
	})
}

// ownLogin is what the audit calls a protocol's own login command.
var ownLogin = map[string]string{config.KindIMAP: "LOGIN", config.KindPOP3: "USER"}

// places finds the cells of accounts by the directory in force.
type places struct {
	*current
	protocol string
}

// Place implements proxy.Places.
func (p places) Place(ctx context.Context, identity mail.Identity) (proxy.Place, error) {
	g := p.Load()
	account, err := g.sources[g.file.Proxy.Directory].AccountNamed(ctx, identity.Authorization)
	if err != nil {
		return proxy.Place{}, err
	}
	if account.Disabled {
		return proxy.Place{}, status.New(status.AccountDisabled, nil)
	}
	cell, pinned, err := g.file.Proxy.CellOf(account.Host, g.file.Hostname)
	if err != nil {
		return proxy.Place{}, status.New(status.ConfigurationError, err)
	}
	home := mail.HomeOf(account.HomeClass())
	if pinned {
		home = mail.Home(account.Host)
	}
	return proxy.Place{Login: account.Name, Home: home, Cell: g.proxied[cellKey{cell.Name, p.protocol}]}, nil
}

// proxyPassword is what the proxies in front of a backend log in by.
type proxyPassword struct {
	access   *config.ProxyAccess // nil for nobody
	password string
}

func (b *builder) proxyAccess() {
	access := b.file.Backend.Proxy
	if access == nil {
		return
	}
	password, err := access.Password()
	if !b.failed("proxy of the backend", err) {
		b.fronts = proxyPassword{access, password}
	}
}

// knows reports whether an attempt is a proxy's own login, for somebody else or
// not: nobody else has its name.
func (p proxyPassword) knows(a authn.Attempt) bool {
	return p.access != nil && a.Login == p.access.User
}

// verify lets a proxy in as whom it names. It has judged that one's password.
func (p proxyPassword) verify(a authn.Attempt, peer netip.Addr) (mail.Identity, error) {
	within := false
	for _, network := range p.access.Networks {
		within = within || peer.IsValid() && network.Contains(peer.Unmap())
	}
	same := subtle.ConstantTimeCompare([]byte(a.Password), []byte(p.password)) == 1
	switch {
	case !within || !same:
		return mail.Identity{}, status.Errorf(status.AuthFailed, "not a proxy of ours")
	case a.Authorization == "" || a.Authorization == a.Login:
		return mail.Identity{}, status.Errorf(status.AuthorizationDenied, "a proxy logs in for others, and has no mailbox")
	}
	return mail.Identity{Authentication: a.Login, Authorization: a.Authorization, Mechanism: a.Mechanism, Verifier: "proxy"}, nil
}

// proxyVerifier puts the proxies' own login before the verifiers.
type proxyVerifier struct {
	own
	fronts proxyPassword
	client mail.Client
	audit  auditor
}

// Verify implements sasl.Verifier.
func (v proxyVerifier) Verify(ctx context.Context, a authn.Attempt) (mail.Identity, error) {
	if !v.fronts.knows(a) {
		return v.own.Verify(ctx, a)
	}
	began := time.Now()
	peer := v.client.Remote
	if v.client.Via.IsValid() {
		peer = v.client.Via
	}
	identity, err := v.fronts.verify(a, peer.Addr())
	event := mail.Event{
		Kind: mail.EventAuth, Result: "ok", Reason: status.AuthOK.String(), Service: a.Service, Session: a.Session, Remote: a.Remote,
		Login: a.Authorization, Mechanism: a.Mechanism, Verifier: "proxy", Duration: time.Since(began), Detail: "by " + peer.String(),
	}
	if err != nil {
		event.Result, event.Reason, event.Login, event.Detail = "refused", status.Of(err).String(), a.Login, err.Error()
	}
	v.audit.Record(event)
	return identity, err
}

var (
	metricProxyUp       = newMetric(prometheus.GaugeValue, "gateway_proxy_node_up", "1 while a server behind the proxy answers.", "cell", "node", "protocol")
	metricProxySessions = newMetric(prometheus.GaugeValue, "gateway_proxy_node_sessions", "Clients connected to a server behind the proxy.", "cell", "node", "protocol")
	metricProxyLogins   = newMetric(prometheus.CounterValue, "gateway_proxy_logins_total", "Logins that were verified, by who took them: home, partner or nobody.", "result")
	proxyMetrics        = []metric{metricProxyUp, metricProxySessions, metricProxyLogins}
)

// putProxy collects the figures of the proxy role.
func (s *server) putProxy(put func(m metric, value float64, labels ...string)) {
	if len(s.proxies) == 0 {
		return
	}
	for key, cell := range s.current.Load().proxied {
		for i, n := range cell.Stats() {
			node := string(mail.HomeOf(uint8(i)))
			put(metricProxyUp, truth(n.Up), key.name, node, key.protocol)
			put(metricProxySessions, float64(n.Sessions), key.name, node, key.protocol)
		}
	}
	for _, result := range []proxy.LoginResult{proxy.LoginHome, proxy.LoginPartner, proxy.LoginNobody} {
		total := uint64(0)
		for _, p := range s.proxies {
			total += p.Logins()[result]
		}
		put(metricProxyLogins, float64(total), result.String())
	}
}
