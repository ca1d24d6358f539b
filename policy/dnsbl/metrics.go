package dnsbl

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

// The results of lookups in metrics.
const (
	resultListed  = "listed"
	resultMissing = "not listed"
	resultFailed  = "failed"
	resultUseless = "useless"
)

// metrics are those of the lists; they are named in the configuration, so that
// there are few. A nil *metrics counts nothing.
type metrics struct {
	state   *prometheus.GaugeVec
	lookups *prometheus.CounterVec
}

// newMetrics registers the metrics, which configurations that follow each
// other share.
func newMetrics(registry prometheus.Registerer) (*metrics, error) {
	if registry == nil {
		return nil, nil
	}
	m := &metrics{
		state: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "gateway_dnsbl_list_up", Help: "Whether a DNS list is asked (1) or left out because it is out of order (0).",
		}, []string{"list"}),
		lookups: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "gateway_dnsbl_lookups_total", Help: "Questions to DNS lists, by list and result; what is remembered is not asked.",
		}, []string{"list", "result"}),
	}
	var err error
	if m.state, err = registered(registry, m.state); err != nil {
		return nil, err
	}
	m.lookups, err = registered(registry, m.lookups)
	return m, err
}

func registered[C prometheus.Collector](registry prometheus.Registerer, c C) (C, error) {
	err := registry.Register(c)
	var known prometheus.AlreadyRegisteredError
	if errors.As(err, &known) {
		if same, ok := known.ExistingCollector.(C); ok {
			return same, nil
		}
	}
	return c, err
}

func (m *metrics) up(list string, up bool) {
	if m == nil {
		return
	}
	value := 0.0
	if up {
		value = 1
	}
	m.state.WithLabelValues(list).Set(value)
}

func (m *metrics) asked(list, result string) {
	if m != nil {
		m.lookups.WithLabelValues(list, result).Inc()
	}
}
