package link

import (
	"github.com/prometheus/client_golang/prometheus"
)

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, labels, nil)
}

var (
	descConnected   = desc("gateway_replica_link_connected", "1 while there is a session with the partner.")
	descRefused     = desc("gateway_replica_link_refused", "1 while the partner is refused, or refuses, and an operator must act.")
	descSessions    = desc("gateway_replica_link_sessions_total", "Sessions with the partner.")
	descRTT         = desc("gateway_replica_link_round_trip_seconds", "The last heartbeat's way there and back.")
	descClock       = desc("gateway_replica_link_clock_offset_seconds", "How far the partner's clock is ahead.")
	descSent        = desc("gateway_replica_link_sent_octets_total", "Octets sent in the present session, as compressed.")
	descReceived    = desc("gateway_replica_link_received_octets_total", "Octets received in the present session, as compressed.")
	descQueued      = desc("gateway_replica_link_queued_octets", "Octets waiting to be sent.", "class")
	descOutstanding = desc("gateway_replica_link_outstanding_octets", "Octets sent that the partner has not taken in.", "class")
	descStalls      = desc("gateway_replica_link_stalls_total", "Times in the present session that the partner took no more.", "class")
)

// Describe implements prometheus.Collector.
func (l *Link) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		descConnected, descRefused, descSessions, descRTT, descClock, descSent, descReceived, descQueued, descOutstanding, descStalls,
	} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (l *Link) Collect(out chan<- prometheus.Metric) {
	st := l.Status()
	tell := func(d *prometheus.Desc, kind prometheus.ValueType, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, kind, v, labels...)
	}
	claim := func(d *prometheus.Desc, is bool) {
		v := 0.0
		if is {
			v = 1
		}
		tell(d, prometheus.GaugeValue, v)
	}
	claim(descConnected, st.Connected)
	claim(descRefused, st.Refused)
	tell(descSessions, prometheus.CounterValue, float64(st.Sessions))
	tell(descRTT, prometheus.GaugeValue, st.Stats.RTT.Seconds())
	tell(descClock, prometheus.GaugeValue, st.Stats.ClockOffset.Seconds())
	tell(descSent, prometheus.CounterValue, float64(st.Stats.SentOctets))
	tell(descReceived, prometheus.CounterValue, float64(st.Stats.ReceivedOctets))
	for c := range Class(classes) {
		s := st.Stats.Classes[c]
		tell(descQueued, prometheus.GaugeValue, float64(s.Queued), c.String())
		tell(descOutstanding, prometheus.GaugeValue, float64(s.Outstanding), c.String())
		tell(descStalls, prometheus.CounterValue, float64(s.Stalls), c.String())
	}
}
