package main

import (
	"errors"
	"fmt"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-mail/postern/authn"
	"github.com/postern-mail/postern/authn/dovecot"
	authserver "github.com/postern-mail/postern/authn/dovecot/server"
	"github.com/postern-mail/postern/authn/sasl"
	"github.com/postern-mail/postern/config"
)

// dovecot builds the verifier that asks a Dovecot.
func (b *builder) dovecot(cfg *config.Authn, log hclog.Logger) (authn.Verifier, error) {
	v, err := dovecot.New(cfg.Dovecot(), log)
	if err != nil {
		return nil, err
	}
	b.task("connection to Dovecot", v.Run)
	return v, nil
}

// askable is one auth_server.
type askable struct {
	name string
	*authserver.Server
}

// openAuthServers opens the listeners for programs that ask about logins.
func (s *server) openAuthServers(f *config.File) error {
	for i, l := range f.AuthServers {
		mechanisms := func() (*sasl.Mechanisms, error) {
			g := s.current.Load()
			if g.verifiers == nil || i >= len(g.file.AuthServers) {
				return nil, errors.New("nobody verifies logins")
			}
			return g.mechanisms(g.file.AuthServers[i].SASL(), g.verifiers, nil)
		}
		engine, err := authserver.New(l.Room(f), mechanisms, s.log.Named("authserver"))
		if err != nil {
			return fmt.Errorf("auth_server %s: %w", l.Name, err)
		}
		s.askable = append(s.askable, askable{l.Name, engine})
		reconfigure := func(g *generation) error { return engine.Reconfigure(g.file.AuthServers[i].Room(g.file)) }
		if err := s.listen(place{l.Name, l.Bind, l.SocketPermissions(), nil}, engine.Serve, reconfigure, engine.Sessions); err != nil {
			return fmt.Errorf("auth_server %s: %w", l.Name, err)
		}
	}
	return nil
}

var (
	metricAsked       = newMetric(prometheus.CounterValue, "gateway_auth_server_requests_total", "Logins that other programs asked about, by how they ended.", "listener", "result")
	authServerMetrics = []metric{metricAsked}
)

// putAuthServers collects the figures of the auth_server blocks.
func (s *server) putAuthServers(put func(m metric, value float64, labels ...string)) {
	for _, a := range s.askable {
		for result, n := range a.Results() {
			put(metricAsked, float64(n), a.name, result.String())
		}
	}
}
