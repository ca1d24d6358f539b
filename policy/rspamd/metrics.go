package rspamd

import (
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// counters are the room's metrics. A nil *counters counts nothing.
type counters struct {
	answers *prometheus.CounterVec
	seconds prometheus.Histogram
	running *prometheus.GaugeVec
}

// newCounters registers the metrics, which steps of several listeners, and
// configurations that follow each other, share.
func newCounters(registry prometheus.Registerer) (*counters, error) {
	if registry == nil {
		return nil, nil
	}
	answers, err := register(registry, prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "gateway_rspamd_answers_total",
		Help: "Messages by rspamd's action, too large ones (too_large), and failures to get an answer (error).",
	}, []string{"action"}))
	seconds, err2 := register(registry, prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "gateway_rspamd_message_seconds", Help: "Time rspamd took for a message.",
		Buckets: prometheus.ExponentialBuckets(0.001, 4, 10),
	}))
	running, err3 := register(registry, prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "gateway_rspamd_up", Help: "1 while a server is asked, 0 while it is left alone because it failed.",
	}, []string{"server"}))
	if err := errors.Join(err, err2, err3); err != nil {
		return nil, err
	}
	return &counters{answers, seconds, running}, nil
}

// register returns what is registered under the name, c or one before it.
func register[T prometheus.Collector](registry prometheus.Registerer, c T) (T, error) {
	err := registry.Register(c)
	var known prometheus.AlreadyRegisteredError
	if errors.As(err, &known) {
		return known.ExistingCollector.(T), nil
	}
	return c, err
}

// actions are those that have a label of their own.
var actions = []string{
	"no action", "greylist", "add header", "rewrite subject", "soft reject", "reject", "discard", "quarantine", "too_large", "error",
}

func (c *counters) answer(action string) {
	if c == nil {
		return
	}
	if !slices.Contains(actions, action) {
		action = "other"
	}
	c.answers.WithLabelValues(strings.ReplaceAll(action, " ", "_")).Inc()
}

func (c *counters) took(d time.Duration) {
	if c != nil {
		c.seconds.Observe(d.Seconds())
	}
}

func (c *counters) up(server string, yes bool) {
	if c == nil {
		return
	}
	value := 0.0
	if yes {
		value = 1
	}
	c.running.WithLabelValues(server).Set(value)
}
