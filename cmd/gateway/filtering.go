package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-mail/postern/internal/breaker"
	"github.com/postern-mail/postern/policy/content"
)

// tellFilters writes how the milters, rspamd and the spool of what they look
// into do.
func (g *generation) tellFilters(out io.Writer, spool *content.Spool) {
	if spool == nil {
		return
	}
	u := spool.Usage()
	fmt.Fprintf(out, "\nCONTENT\t%s of %s kept while it is looked into, %s of it in memory, %d file(s); %d refused for want of room\n",
		octetsText(u.Octets), octetsText(u.Limit), octetsText(u.Memory), u.Files, u.Refused)
	for _, name := range slices.Sorted(maps.Keys(g.milters)) {
		_, state := g.milters[name].State()
		fmt.Fprintf(out, "milter %s\t%s\n", name, howFilterDoes(state))
	}
	servers := make(map[string]breaker.State)
	for _, s := range g.rspamds {
		for url, state := range s.States() {
			// Of several listeners that ask one server, who knows the worst.
			if was, known := servers[url]; !known || !was.Down && (state.Down || state.Failed.After(was.Failed)) {
				servers[url] = state
			}
		}
	}
	for _, url := range slices.Sorted(maps.Keys(servers)) {
		fmt.Fprintf(out, "rspamd %s\t%s\n", url, howFilterDoes(servers[url]))
	}
}

func howFilterDoes(s breaker.State) string {
	failure := ""
	if s.Failure != nil {
		failure = oneLine(s.Failure.Error())
	}
	switch {
	case s.Down:
		return fmt.Sprintf("DOWN since %s: %s", s.Since.Format(time.DateTime), failure)
	case failure != "":
		return fmt.Sprintf("answers, or was not asked since; failed at %s: %s", s.Failed.Format(time.DateTime), failure)
	default:
		return "answers, or was not asked yet"
	}
}

var (
	metricSpool        = newMetric(prometheus.GaugeValue, "gateway_content_spool_octets", "Octets of messages that are kept while policy looks into them, by where they are: memory or disk.", "in")
	metricSpoolFiles   = newMetric(prometheus.GaugeValue, "gateway_content_spool_files", "Files without names that hold large messages while policy looks into them.")
	metricSpoolRefused = newMetric(prometheus.CounterValue, "gateway_content_spool_refused_total", "Messages, or changed copies of them, that were put off for want of room: spool_limit, spool_client_limit, or the disk.")

	spoolMetrics = []metric{metricSpool, metricSpoolFiles, metricSpoolRefused}
)

func putSpool(spool *content.Spool, put func(metric, float64, ...string)) {
	if spool == nil {
		return
	}
	u := spool.Usage()
	memory := min(u.Memory, u.Octets) // which comes in whole pieces
	put(metricSpool, float64(memory), "memory")
	put(metricSpool, float64(u.Octets-memory), "disk")
	put(metricSpoolFiles, float64(u.Files))
	put(metricSpoolRefused, float64(u.Refused))
}
