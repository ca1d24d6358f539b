package tlsrpt

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-mail/postern/delivery/tlspolicy"
)

// counters are the room's metrics. All labels come from closed sets.
type counters struct {
	sessions *prometheus.CounterVec
	reports  *prometheus.CounterVec
	dropped  prometheus.Counter
	givenUp  prometheus.Counter
}

func newCounters(registry prometheus.Registerer) (counters, error) {
	c := counters{
		sessions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "gateway_tlsrpt_sessions_total", Help: "Sessions with MX hosts, by policy and how TLS went.",
		}, []string{"policy", "result"}),
		reports: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "gateway_tlsrpt_reports_total", Help: "TLS reports brought to a receiver, by method and result.",
		}, []string{"method", "result"}),
		dropped: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "gateway_tlsrpt_dropped_total", Help: "Sessions and domains that had no room in the counts for TLS reports.",
		}),
		givenUp: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "gateway_tlsrpt_given_up_total", Help: "TLS reports given up after the last attempt.",
		}),
	}
	if registry == nil {
		return c, nil
	}
	for _, metric := range []prometheus.Collector{c.sessions, c.reports, c.dropped, c.givenUp} {
		if err := registry.Register(metric); err != nil {
			return c, err
		}
	}
	return c, nil
}

func (c counters) session(s tlspolicy.Session) {
	result := string(s.Failure)
	if result == "" {
		result = "success"
	}
	c.sessions.WithLabelValues(string(s.Published.Type), result).Inc()
}
