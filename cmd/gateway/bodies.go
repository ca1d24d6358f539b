package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-mail/postern/store/pack"
)

var (
	metricPacks = newMetric(prometheus.GaugeValue, "gateway_store_packs", "Files of message bodies.", "store")
	metricLive  = newMetric(prometheus.GaugeValue, "gateway_store_live_octets", "Octets in packs that bodies need.", "store")
	metricDead  = newMetric(prometheus.GaugeValue, "gateway_store_dead_octets", "Octets in packs that nobody needs and that are not given back yet.", "store")
	metricMoved = newMetric(prometheus.CounterValue, "gateway_store_moved_octets_total", "Octets moved to other packs to give room back or to be compressed.", "store")
	metricSaved = newMetric(prometheus.CounterValue, "gateway_store_saved_octets_total", "Octets saved by compression of what was moved.", "store")
	metricFreed = newMetric(prometheus.CounterValue, "gateway_store_freed_octets_total", "Octets of packs that were deleted.", "store")
)

// bodyMetrics are those of message bodies.
var bodyMetrics = []metric{metricPacks, metricLive, metricDead, metricMoved, metricSaved, metricFreed}

// usageTimeout bounds the reading of counters, one for each pack.
const usageTimeout = 2 * time.Second

// bodiesOf asks how the packs of a store are filled.
func bodiesOf(e *engine) (pack.Usage, error) {
	ctx, cancel := context.WithTimeout(context.Background(), usageTimeout)
	defer cancel()
	return e.pack.Usage(ctx)
}

// putBodies puts the metrics of message bodies.
func putBodies(e *engine, put func(m metric, value float64, labels ...string)) {
	if e.pack == nil {
		return
	}
	u, err := bodiesOf(e)
	if err != nil {
		return // gateway_store_up tells
	}
	for m, octets := range map[metric]int64{
		metricPacks: int64(u.Packs), metricLive: u.LiveOctets, metricDead: u.DeadOctets,
		metricMoved: u.MovedOctets, metricSaved: u.SavedOctets, metricFreed: u.FreedOctets,
	} {
		put(m, float64(octets), e.name)
	}
}

// tellBodies tells how the packs of the stores are filled.
func (s *server) tellBodies(out io.Writer) {
	fmt.Fprintln(out, "\nBODIES\tPACKS\tLIVE\tDEAD")
	for _, e := range s.stores {
		if e.pack == nil {
			continue
		}
		u, err := bodiesOf(e)
		if err != nil {
			fmt.Fprintf(out, "%s\t%v\n", e.name, err)
			continue
		}
		uncounted := ""
		if u.Uncounted > 0 {
			uncounted = fmt.Sprintf("; %d pack(s) not counted yet", u.Uncounted)
		}
		fmt.Fprintf(out, "%s\t%d\t%d MiB\t%d MiB%s\n", e.name, u.Packs, u.LiveOctets>>20, u.DeadOctets>>20, uncounted)
	}
}
