package main

import (
	"context"
	"crypto/tls"
	"net"

	"github.com/postern-mail/postern/backend/imapd"
	"github.com/postern-mail/postern/backend/lmtpd"
	"github.com/postern-mail/postern/config"
	"github.com/postern-mail/postern/smtp"
)

// door is one of the backend's servers. D is what it is told of its protocol,
// which a reload may change.
type door[D any] interface {
	Serve(context.Context, net.Listener) error
	Reconfigure(D) error
	Sessions() int
}

// openDoor opens the backend's listener number i on all its addresses. dialect
// is what a configuration says of it.
func openDoor[D any](s *server, i int, dialect func(*config.File, *config.BackendListener, *tls.Config) D, open func(int, D) (door[D], error)) error {
	of := func(g *generation) (d D, err error) {
		l := g.file.Backend.Listeners[i]
		cert, err := certificate(g.file.Certificate(l.TLS))
		if err != nil {
			return d, err
		}
		return dialect(g.file, l, cert), nil
	}
	d, err := of(s.current.Load())
	if err != nil {
		return err
	}
	engine, err := open(i, d)
	if err != nil {
		return err
	}
	reconfigure := func(g *generation) error {
		d, err := of(g)
		if err != nil {
			return err
		}
		return engine.Reconfigure(d)
	}
	l := s.current.Load().file.Backend.Listeners[i]
	return s.listen(place{l.Kind, l.Bind, backendSocket, func(f *config.File) *config.ProxyProtocol { return f.Backend.Listeners[i].ProxyProtocol }}, engine.Serve, reconfigure, engine.Sessions)
}

func lmtpDialect(f *config.File, l *config.BackendListener, cert *tls.Config) smtp.ServerConfig {
	d := l.LMTP(f)
	d.TLS, d.Postern = cert, f.Backend.PairHint
	return d
}

func imapDialect(f *config.File, l *config.BackendListener, cert *tls.Config) imapd.Config {
	d := l.IMAP(f)
	d.TLS = cert
	return d
}

// lmtpDoor is the engine with the handler that outlives configurations.
type lmtpDoor struct {
	*smtp.Server
	handler *lmtpd.Handler
}

// Reconfigure implements door.
func (d lmtpDoor) Reconfigure(cfg smtp.ServerConfig) error {
	return d.Server.Reconfigure(cfg, d.handler)
}

// Sessions implements door.
func (d lmtpDoor) Sessions() int { return d.Stats().Sessions }

func (s *server) lmtpDoor(_ int, cfg smtp.ServerConfig) (door[smtp.ServerConfig], error) {
	log := s.log.Named("lmtpd")
	handler, err := lmtpd.New(s.current.Load().file.Deliveries(), lmtpd.Deps{
		Store: s.mailstore, Accounts: mailboxes{&s.current}, Audit: s.audit, Draining: s.draining, Keeper: s.keeper(),
	}, log)
	if err != nil {
		return nil, err
	}
	engine, err := smtp.NewServer(cfg, handler, log)
	return lmtpDoor{engine, handler}, err
}

func (s *server) imapDoor(i int, cfg imapd.Config) (door[imapd.Config], error) {
	engine, err := imapd.New(cfg, imapd.Deps{
		Store: s.mailstore, Auth: imapLogins{&s.current, i, s.audit}, Accounts: mailboxes{&s.current}, Audit: s.audit, Sessions: s.sessions,
	}, s.log.Named("imapd"))
	if err == nil {
		s.drain.add(engine)
		s.members = append(s.members, mailMembers{engine, &s.current, backendDirectory})
	}
	return engine, err
}
