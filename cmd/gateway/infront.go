package main

import (
	"net"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-mail/postern/internal/proxyproto"
)

// behindProxies returns l with what the proxies in front of a listener tell of
// their clients; a reload may change who these are.
func (s *server) behindProxies(l net.Listener, at place) net.Listener {
	if at.proxies == nil || l.Addr().Network() != "tcp" {
		return l
	}
	inFront := func() *proxyproto.Config { return at.proxies(s.current.Load().file).Room() }
	return proxyproto.Listen(l, inFront, s.log.Named("proxyproto").With("listener", at.name))
}

var metricNotProxied = newMetric(prometheus.CounterValue, "gateway_listener_proxy_header_refused_total", "Connections closed for want of a PROXY header, by why.", "listener", "reason")

// putInFront puts the figures of the PROXY protocol, of listeners that had any.
func (s *server) putInFront(put func(metric, float64, ...string)) {
	all := make(map[string]proxyproto.Stats) // a listener may have several addresses
	for _, l := range s.listeners {
		if behind, ok := l.Listener.(*proxyproto.Listener); ok {
			sum, more := all[l.name], behind.Stats()
			all[l.name] = proxyproto.Stats{Foreign: sum.Foreign + more.Foreign, Malformed: sum.Malformed + more.Malformed, Crowded: sum.Crowded + more.Crowded}
		}
	}
	for name, stats := range all {
		if stats == (proxyproto.Stats{}) {
			continue
		}
		put(metricNotProxied, float64(stats.Foreign), name, "foreign")
		put(metricNotProxied, float64(stats.Malformed), name, "malformed")
		put(metricNotProxied, float64(stats.Crowded), name, "crowded")
	}
}
