package milter

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// counters are one filter's metrics. A nil *counters counts nothing.
type counters struct {
	replies     *prometheus.CounterVec
	seconds     prometheus.Observer
	connections prometheus.Gauge
	running     prometheus.Gauge
	name        string
}

// newCounters registers the metrics, which all filters, and configurations that
// follow each other, share.
func newCounters(registry prometheus.Registerer, name string) (*counters, error) {
	if registry == nil {
		return nil, nil
	}
	label := []string{"milter"}
	replies, err := register(registry, prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "gateway_milter_replies_total",
		Help: "Decisions of milters by what they said, and failures to get one (error).",
	}, []string{"milter", "reply"}))
	seconds, err2 := register(registry, prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "gateway_milter_message_seconds", Help: "Time a milter took for a message, from its first header field to the decision.",
		Buckets: prometheus.ExponentialBuckets(0.001, 4, 10),
	}, label))
	connections, err3 := register(registry, prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "gateway_milter_connections", Help: "Open connections to milters, idle ones included.",
	}, label))
	running, err4 := register(registry, prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "gateway_milter_up", Help: "1 while a milter is asked, 0 while it is left alone because it failed.",
	}, label))
	if err := errors.Join(err, err2, err3, err4); err != nil {
		return nil, err
	}
	c := &counters{replies, seconds.WithLabelValues(name), connections.WithLabelValues(name), running.WithLabelValues(name), name}
	c.up(true)
	return c, nil
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

func (c *counters) reply(what string) {
	if c != nil {
		c.replies.WithLabelValues(c.name, what).Inc()
	}
}

func (c *counters) took(d time.Duration) {
	if c != nil {
		c.seconds.Observe(d.Seconds())
	}
}

func (c *counters) connection(change float64) {
	if c != nil {
		c.connections.Add(change)
	}
}

func (c *counters) up(yes bool) {
	if c == nil {
		return
	}
	if yes {
		c.running.Set(1)
	} else {
		c.running.Set(0)
	}
}

// replyWords are the replies in metrics and logs.
var replyWords = map[byte]string{
	replyContinue: "continue", replyAccept: "accept", replySkip: "continue", replyReject: "reject", replyTempFail: "tempfail",
	replyDiscard: "discard", replyCode: "reply", replyShutdown: "shutdown", replyConnFail: "shutdown",
}
