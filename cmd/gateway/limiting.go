package main

import (
	"fmt"
	"io"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-mail/postern/config"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/policy/limits"
	"github.com/postern-mail/postern/policy/shared"
	"github.com/postern-mail/postern/smtp"
)

// greetedEntries bounds the clients that are known to have waited for their
// greeting.
const greetedEntries = 65536

// limiting is what is counted of clients while the process lives, and the
// servers whose clients these are.
type limiting struct {
	clients *limits.Clients
	ledger  *limits.Ledger
	greeted *limits.Greeted
	servers []limited
}

// limited is a listener with its server.
type limited struct {
	name   string
	engine *smtp.Server
}

// openLimits begins to count; nil without a gateway. What is shared, and what
// outlives the process, is kept by facts.
func openLimits(f *config.File, facts *shared.Store, audit auditor, log hclog.Logger) *limiting {
	cfg := f.Clients()
	cfg.Shared = func(unit time.Duration) limits.Counters {
		return facts.Counters("rates "+unit.String(), unit, 5*cfg.Entries)
	}
	return &limiting{clients: limits.NewClients(cfg), greeted: limits.NewGreeted(facts.Table("pregreet", shared.TableConfig{Entries: greetedEntries})), ledger: newLedger(facts, audit, log.Named("policy"))}
}

// watch has the figures of a listener told. It is called before anything runs.
func (l *limiting) watch(name string, engine *smtp.Server) {
	l.servers = append(l.servers, limited{name, engine})
}

// ratesOf returns what a listener asks about its clients; nil for nothing.
func (l *limiting) ratesOf(f *config.File, listener *config.SMTPListener) smtp.RateLimiter {
	if limiter := l.clients.For(listener.Rates(f)); limiter != nil {
		return limiter
	}
	return nil
}

// Metrics of limits.
var (
	metricRefused  = newMetric(prometheus.CounterValue, "gateway_listener_connections_refused_total", "Connections turned away for their number or rate.", "listener")
	metricPregreet = newMetric(prometheus.CounterValue, "gateway_listener_pregreet_total", "Clients that talked before the greeting.", "listener")
	metricStressed = newMetric(prometheus.GaugeValue, "gateway_listener_stress", "1 while the listener is nearly full and hurries its clients.", "listener")
	metricOver     = newMetric(prometheus.CounterValue, "gateway_limits_refused_total", "Events of clients that were refused as too many, by what was counted.", "event")
	metricTracked  = newMetric(prometheus.GaugeValue, "gateway_limits_clients", "Clients whose events are remembered.")
	metricEvicted  = newMetric(prometheus.CounterValue, "gateway_limits_clients_evicted_total", "Clients forgotten for want of room (clients_tracked) while what they did still counted.")

	metricQuota = newMetric(prometheus.CounterValue, "gateway_limits_quota_exceeded_total", "Recipients that were put off, or held, for the sender's quota.")

	limitMetrics = []metric{metricRefused, metricPregreet, metricStressed, metricOver, metricTracked, metricEvicted, metricQuota, metricNotProxied}
)

// collect puts the figures of limits.
func (l *limiting) collect(put func(metric, float64, ...string)) {
	if l == nil {
		return
	}
	refused, early, stressed := make(map[string]uint64), make(map[string]uint64), make(map[string]bool) // two listeners may have one name
	for _, s := range l.servers {
		stats := s.engine.Stats()
		refused[s.name] += stats.Refused
		early[s.name] += stats.Early
		stressed[s.name] = stressed[s.name] || stats.Stressed
	}
	for name, n := range refused {
		put(metricRefused, float64(n), name)
		put(metricPregreet, float64(early[name]), name)
		put(metricStressed, truth(stressed[name]), name)
	}
	clients := l.clients.Stats()
	for event := range mail.ClientEvents {
		put(metricOver, float64(clients.Over[event]), event.String())
	}
	put(metricTracked, float64(clients.Clients))
	put(metricEvicted, float64(clients.Evicted))
	put(metricQuota, float64(l.ledger.Over()))
}

// tell says in the status what is out of the ordinary.
func (l *limiting) tell(out io.Writer) {
	if l == nil {
		return
	}
	for _, s := range l.servers {
		if stats := s.engine.Stats(); stats.Stressed {
			fmt.Fprintf(out, "\nSTRESS\t%s has %d sessions, near to max_sessions: clients are hurried\n", s.name, stats.Sessions)
		}
	}
}
