package signing

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics counts signatures. A nil *Metrics counts nothing.
type Metrics struct{ signatures, seals *prometheus.CounterVec }

// NewMetrics registers the metrics. Configurations that follow each other share
// them. A nil registry counts nowhere.
func NewMetrics(registry prometheus.Registerer) (*Metrics, error) {
	if registry == nil {
		return nil, nil
	}
	m := &Metrics{
		signatures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "gateway_dkim_messages_total", Help: "Messages that were to be signed with DKIM, by what came of it.",
		}, []string{"result"}),
		seals: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "gateway_arc_seals_total", Help: "Messages that were to be sealed with ARC, by what came of it.",
		}, []string{"result"}),
	}
	for _, metric := range []**prometheus.CounterVec{&m.signatures, &m.seals} {
		var known prometheus.AlreadyRegisteredError
		switch err := registry.Register(*metric); {
		case errors.As(err, &known):
			*metric = known.ExistingCollector.(*prometheus.CounterVec)
		case err != nil:
			return nil, err
		}
	}
	return m, nil
}

// signed counts a result: signed, no_key, no_author, error.
func (m *Metrics) signed(result string) {
	if m != nil {
		m.signatures.WithLabelValues(result).Inc()
	}
}

// sealed counts a result: sealed, no_key, broken, error.
func (m *Metrics) sealed(result string) {
	if m != nil {
		m.seals.WithLabelValues(result).Inc()
	}
}
