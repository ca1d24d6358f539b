package dmarcrpt

import "github.com/prometheus/client_golang/prometheus"

// counters are the room's metrics. All labels come from closed sets.
type counters struct {
	messages prometheus.Counter
	reports  *prometheus.CounterVec
	dropped  prometheus.Counter
	givenUp  prometheus.Counter
}

func newCounters(registry prometheus.Registerer) (counters, error) {
	c := counters{
		messages: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "gateway_dmarcrpt_messages_total", Help: "Messages counted for DMARC reports.",
		}),
		reports: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "gateway_dmarcrpt_reports_total", Help: "DMARC reports brought to an address, by result.",
		}, []string{"result"}),
		dropped: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "gateway_dmarcrpt_dropped_total", Help: "Messages that had no room in the counts for DMARC reports.",
		}),
		givenUp: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "gateway_dmarcrpt_given_up_total", Help: "DMARC reports given up after the last attempt.",
		}),
	}
	if registry == nil {
		return c, nil
	}
	for _, metric := range []prometheus.Collector{c.messages, c.reports, c.dropped, c.givenUp} {
		if err := registry.Register(metric); err != nil {
			return c, err
		}
	}
	return c, nil
}
