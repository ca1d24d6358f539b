package main

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-mail/postern/directory"
)

var (
	metricQuestions = newMetric(prometheus.CounterValue, "gateway_directory_questions_total", "Questions to a directory, by kind and by what became of them.", "directory", "kind", "result")
	metricLookup    = newMetric(prometheus.UntypedValue, "gateway_directory_lookup_seconds", "Lookups that memory did not answer, searches and waiting for a connection included.", "directory")
	metricServerUp  = newMetric(prometheus.GaugeValue, "gateway_directory_server_up", "1 while a server of a directory is asked, 0.5 while it is slow and asked last, 0 while it is left alone.", "directory", "server")
	metricServerOps = newMetric(prometheus.CounterValue, "gateway_directory_server_operations_total", "Operations sent to a server of a directory: asked, and of these failed, and hedged because another took long.", "directory", "server", "result")
	metricServerP99 = newMetric(prometheus.GaugeValue, "gateway_directory_server_latency_seconds", "How long recent answers of a server took.", "directory", "server", "quantile")
)

var directoryMetrics = []metric{metricQuestions, metricLookup, metricServerUp, metricServerOps, metricServerP99}

// putDirectories tells what became of questions to the directories and how
// their servers do. The counters begin anew when the configuration is loaded.
func (g *generation) putDirectories(out chan<- prometheus.Metric, put func(metric, float64, ...string)) {
	for name, source := range g.sources {
		counts, latency := source.Stats()
		for kind, c := range counts {
			for result, n := range map[string]uint64{
				"hit": c.Hit, "negative": c.Negative, "shared": c.Shared, "miss": c.Miss, "renewed": c.Renewed, "stale": c.Stale, "failed": c.Failed,
			} {
				put(metricQuestions, float64(n), name, kind, result)
			}
		}
		buckets := make(map[float64]uint64, len(directory.LatencyBounds))
		for i, bound := range directory.LatencyBounds {
			buckets[bound.Seconds()] = latency.Within[i]
		}
		out <- prometheus.MustNewConstHistogram(metricLookup.Desc, latency.Count, latency.Sum.Seconds(), buckets, name)
		if source.client == nil {
			continue
		}
		seen := make(map[string]bool) // a server may be listed twice, for referrals too
		for _, s := range source.client.States() {
			if seen[s.URI] {
				continue
			}
			seen[s.URI] = true
			up := map[string]float64{"well": 1, "slow": 0.5}[s.State]
			put(metricServerUp, up, name, s.URI)
			put(metricServerOps, float64(s.Asked), name, s.URI, "asked")
			put(metricServerOps, float64(s.Failed), name, s.URI, "failed")
			put(metricServerOps, float64(s.Hedged), name, s.URI, "hedged")
			put(metricServerP99, s.Median.Seconds(), name, s.URI, "0.5")
			put(metricServerP99, s.P99.Seconds(), name, s.URI, "0.99")
		}
	}
}
