package main

import (
	"slices"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-mail/postern/audit"
	"github.com/postern-mail/postern/authn/sasl"
	"github.com/postern-mail/postern/mail"
)

// countedAudit counts what it records. Everything that is decided is an event,
// so one counter tells of authentications, refusals, deliveries, logins and
// reloads alike; both labels come from closed sets.
type countedAudit struct {
	*audit.Log
	events *prometheus.CounterVec
	logins *prometheus.CounterVec
	lines  *postfixLines // nil writes none
}

func newCountedAudit(log *audit.Log, registry prometheus.Registerer) countedAudit {
	events := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "gateway_audit_events_total", Help: "Audited events, by kind and result.",
	}, []string{"event", "result"})
	logins := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "gateway_authn_logins_total", Help: "Logins that were decided, by SASL mechanism and result: ok, refused, unknown.",
	}, []string{"mechanism", "result"})
	registry.MustRegister(events, logins)
	return countedAudit{Log: log, events: events, logins: logins}
}

// Record counts e and records it.
func (a countedAudit) Record(e mail.Event) {
	a.events.WithLabelValues(string(e.Kind), e.Result).Inc()
	if e.Kind == mail.EventAuth {
		mechanism := e.Mechanism
		if !slices.Contains(sasl.Known(), mechanism) {
			mechanism = "other"
		}
		a.logins.WithLabelValues(mechanism, e.Result).Inc()
	}
	a.Log.Record(e)
	if a.lines != nil {
		a.lines.Record(e)
	}
}

// metric is a figure that rooms keep anyway and that is read when somebody
// asks.
type metric struct {
	*prometheus.Desc
	kind prometheus.ValueType
}

func newMetric(kind prometheus.ValueType, name, help string, labels ...string) metric {
	return metric{prometheus.NewDesc(name, help, labels, nil), kind}
}

var (
	metricBuild      = newMetric(prometheus.GaugeValue, "gateway_build_info", "1; the labels say which program this is.", "version")
	metricLoaded     = newMetric(prometheus.GaugeValue, "gateway_configuration_loaded_seconds", "Unix time at which the configuration in force was taken over.")
	metricSessions   = newMetric(prometheus.GaugeValue, "gateway_listener_sessions_open", "Sessions open now.", "listener")
	metricDirectory  = newMetric(prometheus.GaugeValue, "gateway_directory_up", "1 while the directory answers, 0 while it does not.", "directory")
	metricFree       = newMetric(prometheus.GaugeValue, "gateway_store_free_octets", "Free space of the store's file system.", "store")
	metricStoreUp    = newMetric(prometheus.GaugeValue, "gateway_store_up", "1 while the store takes writes, 0 once a write failed and a restart is needed.", "store")
	metricQueued     = newMetric(prometheus.GaugeValue, "gateway_queue_messages", "Messages queued, held ones included.")
	metricHeld       = newMetric(prometheus.GaugeValue, "gateway_queue_held_messages", "Messages on hold.")
	metricInFlight   = newMetric(prometheus.GaugeValue, "gateway_queue_deliveries_in_flight", "Deliveries under way.")
	metricQueueFull  = newMetric(prometheus.GaugeValue, "gateway_queue_full", "1 while mail is put off for want of room (disk) or places (messages).", "reason")
	metricPressed    = newMetric(prometheus.GaugeValue, "gateway_queue_intake_slowed", "1 while mail comes in faster than it goes out, and in_flow_delay holds.")
	metricUnreached  = newMetric(prometheus.GaugeValue, "gateway_queue_destinations_unreachable", "Destinations whose last connection failed.")
	metricAccepted   = newMetric(prometheus.CounterValue, "gateway_queue_accepted_total", "Messages accepted into the queue, reports included.")
	metricRecipients = newMetric(prometheus.CounterValue, "gateway_queue_recipients_total", "Outcomes of attempts, by recipient.", "outcome")
)

// Describe implements prometheus.Collector.
func (s *server) Describe(out chan<- *prometheus.Desc) {
	for _, m := range slices.Concat(bodyMetrics, replicaMetrics, proxyMetrics, drainMetrics, directoryMetrics, loginMetrics, authServerMetrics, limitMetrics, policyMetrics, spoolMetrics, sessionMetrics, indexMetrics, backupMetrics) {
		out <- m.Desc
	}
	for _, m := range []metric{
		metricBuild, metricLoaded, metricSessions, metricDirectory, metricFree, metricStoreUp, metricQueued,
		metricHeld, metricInFlight, metricQueueFull, metricPressed, metricUnreached, metricAccepted, metricRecipients,
	} {
		out <- m.Desc
	}
}

// Collect implements prometheus.Collector. It asks no network, and the
// stores for a counter for each pack, no more.
func (s *server) Collect(out chan<- prometheus.Metric) {
	put := func(m metric, value float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(m.Desc, m.kind, value, labels...)
	}
	g := s.current.Load()
	put(metricBuild, 1, versionText())
	put(metricLoaded, float64(g.made.Unix()))
	sessions := make(map[string]int) // two listeners may have one name
	for _, l := range s.listeners {
		if l.sessions != nil {
			sessions[l.name] += l.sessions()
		}
	}
	for name, n := range sessions {
		put(metricSessions, float64(n), name)
	}
	for name, d := range g.sources {
		put(metricDirectory, truth(!d.Down()), name)
	}
	g.putDirectories(out, put)
	g.putReplicas(put)
	for _, e := range s.stores {
		put(metricStoreUp, truth(e.kv.Err() == nil), e.name)
		if free, err := e.kv.Free(); err == nil {
			put(metricFree, float64(free), e.name)
		}
		putBodies(e, put)
	}
	s.putProxy(put)
	s.putAuthServers(put)
	s.logins.collect(put)
	s.limits.collect(put)
	s.putInFront(put)
	s.policyState.collect(put)
	putSpool(s.spool, put)
	s.putSessions(put)
	s.putIndex(put)
	s.backup.collect(put)
	put(metricDraining, truth(s.drain.isOn()))
	if s.queue != nil {
		q := s.queue.Stats()
		put(metricQueued, float64(q.Messages))
		put(metricHeld, float64(q.Held))
		put(metricInFlight, float64(q.InFlight))
		put(metricQueueFull, truth(q.NoSpace), "disk")
		put(metricQueueFull, truth(q.Full), "messages")
		put(metricPressed, truth(q.Pressed))
		put(metricUnreached, float64(len(q.Down)))
		put(metricAccepted, float64(q.Accepted))
		put(metricRecipients, float64(q.Delivered), mail.Delivered.String())
		put(metricRecipients, float64(q.Deferred), mail.Deferred.String())
		put(metricRecipients, float64(q.Bounced), mail.Bounced.String())
		put(metricRecipients, float64(q.Kept), "kept")
		put(metricRecipients, float64(q.Unconfirmed), "unconfirmed")
	}
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
