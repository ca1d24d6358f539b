package delivery

import (
	"crypto/tls"
	"errors"
	"net"
	"net/netip"

	"github.com/postern-mail/postern/delivery/tlspolicy"
	"github.com/postern-mail/postern/smtp"
)

// tellSession tells how a new connection met what its destination publishes.
func (p *Pool) tellSession(c *Conn) {
	if p.cfg.sessions == nil || c.endpoint.plan == nil {
		return
	}
	var protection *tls.ConnectionState
	if state, encrypted := c.Client.TLS(); encrypted {
		protection = &state
	}
	_, startTLS := c.Client.Extension("STARTTLS")
	for _, f := range c.endpoint.plan.Findings(protection, startTLS) {
		s := sessionOf(c.endpoint, f)
		s.Helo, s.Local = c.Client.PeerName(), addressOf(c.Client.LocalAddr())
		p.cfg.sessions.Note(s)
	}
}

// tellFailed tells of a session that ended because its TLS was not as planned.
// One that did not come to that says nothing about TLS.
func (p *Pool) tellFailed(e Endpoint, err error) {
	if p.cfg.sessions == nil || e.plan == nil || !protectionFailed(err) && !smtp.TLSFailed(err) {
		return
	}
	for _, f := range e.plan.Failed(err) {
		p.cfg.sessions.Note(sessionOf(e, f))
	}
}

// tellRefused tells of a host that was passed over by policy.
func (p *Pool) tellRefused(e Endpoint, err error) {
	var refusal *tlspolicy.Refusal
	if p.cfg.sessions == nil || !errors.As(err, &refusal) {
		return
	}
	p.cfg.sessions.Note(sessionOf(e, tlspolicy.Finding{
		Published: refusal.Published, Failure: tlspolicy.FailureOf(err), Detail: err.Error(),
	}))
}

func sessionOf(e Endpoint, f tlspolicy.Finding) tlspolicy.Session {
	s := tlspolicy.Session{Published: f.Published, Failure: f.Failure, Detail: f.Detail, Host: e.Host}
	if remote, err := netip.ParseAddrPort(e.Address); err == nil {
		s.Remote = remote.Addr()
	}
	return s
}

func addressOf(a net.Addr) netip.Addr {
	if tcp, ok := a.(*net.TCPAddr); ok {
		return tcp.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}
