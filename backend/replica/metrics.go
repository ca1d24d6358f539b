package replica

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-mail/postern/backend/mailstore"
)

// counts are what a node counts.
type counts struct {
	octetsSent, octetsReceived [Classes]prometheus.Counter

	conflicts                             *prometheus.CounterVec
	waits                                 [2]prometheus.Observer // semi-sync, strict
	records, merges, mismatches, degraded prometheus.Counter
	quarantined, failures, stalls, stale  prometheus.Counter
	scrubbed, damaged, mended             prometheus.Counter
}

var classNames = [Classes]string{"operations", "bodies", "bulk"}

func newCounts(registry prometheus.Registerer, n *Node) (*counts, error) {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	c := &counts{
		conflicts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "gateway_replica_conflicts_total", Help: "Conflicts of the two servers' changes that were resolved, by kind.",
		}, []string{"kind"}),
		records:     counter("gateway_replica_records_total", "Journal records of the partner that were applied."),
		merges:      counter("gateway_replica_merges_total", "State merges that ended."),
		mismatches:  counter("gateway_replica_mismatches_total", "Accounts that were not the same though both sides knew the same. Must stay 0."),
		degraded:    counter("gateway_replica_degraded_total", "Answers that were given without the partner, in semi-sync mode."),
		quarantined: counter("gateway_replica_quarantined_total", "Accounts that a record of the partner stopped."),
		failures:    counter("gateway_replica_failures_total", "What was tried again later."),
		stalls:      counter("gateway_replica_stalls_total", "Times an account waited for room on the link."),
		stale:       counter("gateway_replica_stale_total", "Times this server was found to be from a backup."),
		scrubbed:    counter("gateway_replica_scrubbed_octets_total", "Octets of bodies that were read to see whether they are whole."),
		damaged:     counter("gateway_replica_damaged_total", "Bodies that were found to be damaged or missing."),
		mended:      counter("gateway_replica_mended_total", "Of these, those that came back from the partner."),
	}
	octets := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "gateway_replica_octets_total", Help: "Octets of frames, by direction and class.",
	}, []string{"direction", "class"})
	for class := range Classes {
		c.octetsSent[class] = octets.WithLabelValues("sent", classNames[class])
		c.octetsReceived[class] = octets.WithLabelValues("received", classNames[class])
	}
	waits := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "gateway_replica_wait_seconds", Help: "How long answers waited for the partner.",
		Buckets: prometheus.ExponentialBuckets(0.0005, 2, 15),
	}, []string{"mode"})
	c.waits[0], c.waits[1] = waits.WithLabelValues("semi-sync"), waits.WithLabelValues("strict")
	if registry == nil {
		return c, nil
	}
	gauge := func(name, help string, value func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value)
	}
	for _, collector := range []prometheus.Collector{
		c.conflicts, c.records, c.merges, c.mismatches, c.degraded, c.quarantined, c.failures, c.stalls, c.stale,
		c.scrubbed, c.damaged, c.mended, octets, waits,
		gauge("gateway_replica_connected", "1 while there is a link to the partner.", func() float64 { return float64(boolByte(n.Linked())) }),
		gauge("gateway_replica_lag_operations", "Operations that the partner has not confirmed, of accounts in exchange.", func() float64 { return float64(n.lag().Operations) }),
		gauge("gateway_replica_lag_octets", "Octets of them that are under way.", func() float64 { return float64(n.lag().Octets) }),
		gauge("gateway_replica_lag_seconds", "Age of the oldest of them.", func() float64 { return n.lag().Age.Seconds() }),
		gauge("gateway_replica_attached", "Accounts that are attached.", func() float64 { return float64(n.lag().Attached) }),
	} {
		if err := registry.Register(collector); err != nil {
			return nil, err
		}
	}
	return c, nil
}

func (c *counts) sent(class Class, octets int) { c.octetsSent[class%Classes].Add(float64(octets)) }

func (c *counts) received(class Class, octets int) {
	c.octetsReceived[class%Classes].Add(float64(octets))
}

func (c *counts) waited(mode Durability, d time.Duration) {
	if mode == mailstore.DurabilityStrict {
		c.waits[1].Observe(d.Seconds())
		return
	}
	c.waits[0].Observe(d.Seconds())
}
