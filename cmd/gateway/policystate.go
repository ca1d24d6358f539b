package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-mail/postern/config"
	"github.com/postern-mail/postern/policy/dnsbl"
	"github.com/postern-mail/postern/policy/rspamd"
	"github.com/postern-mail/postern/policy/shared"
	"github.com/postern-mail/postern/store/pebble"
)

// policyState is what policy remembers, and shares with other gateways. It
// outlives generations.
type policyState struct {
	kv        *pebble.Store // nil when it cannot be opened
	facts     *shared.Store
	peers     *shared.Peers  // nil without peers
	lists     *dnsbl.Memory  // of lists in the DNS; in memory alone
	rspamds   *rspamd.Memory // likewise of the servers of rspamd
	listeners []net.Listener
}

// policyDir holds what policy remembers.
func policyDir(f *config.File) string { return filepath.Join(f.DataDir, "policy") }

// openPolicyState opens what policy remembers. It holds no mail and nothing that
// refuses mail, so that one which cannot be opened stops nothing.
func openPolicyState(ctx context.Context, f *config.File, log hclog.Logger) (*policyState, error) {
	if f.Gateway == nil {
		return nil, nil
	}
	p := &policyState{lists: dnsbl.NewMemory(), rspamds: rspamd.NewMemory()}
	kv, err := pebble.Open(ctx, pebble.Config{
		Dir: policyDir(f), ReserveOctets: reserveOf(f, "policy"), CacheOctets: 4 << 20, MemTableOctets: 4 << 20, Private: true,
	}, log.Named("store").With("store", "policy"))
	log = log.Named("policy")
	if err != nil {
		err = fmt.Errorf("%w; with the server stopped, the folder %s may be removed, and what it held is learned anew", err, policyDir(f))
		log.Error("the store of policy cannot be opened: what is learned is kept in memory alone, and nobody is greylisted", "error", err)
		p.facts = shared.Open(ctx, nil, err, log)
	} else {
		p.kv = kv
		p.facts = shared.Open(ctx, kv, nil, log)
	}
	if f.Gateway.Peers != nil {
		err = p.openPeers(f.Gateway.Peers, log)
	} else {
		err = nil
	}
	if err != nil {
		return nil, errors.Join(err, p.close())
	}
	return p, nil
}

func (p *policyState) openPeers(cfg *config.Peers, log hclog.Logger) error {
	room, err := cfg.Room()
	if err != nil {
		return fmt.Errorf("peers: %w", err)
	}
	for _, bind := range cfg.Listen {
		l, err := net.Listen("tcp", bind)
		if err != nil {
			return fmt.Errorf("peers: %w", err)
		}
		p.listeners = append(p.listeners, l)
	}
	p.peers, err = shared.NewPeers(room, p.facts, log.Named("peers"))
	return err
}

// tasks are what has to run.
func (p *policyState) tasks() []task {
	if p == nil {
		return nil
	}
	all := []task{{"what policy remembers", func(ctx context.Context) error {
		_ = p.facts.Run(ctx) // what cannot be written is told of, and ends nothing
		return nil
	}}}
	if p.peers != nil {
		all = append(all, task{"peers of policy", func(ctx context.Context) error { return p.peers.Run(ctx, p.listeners...) }})
	}
	return all
}

func (p *policyState) close() error {
	if p == nil {
		return nil
	}
	var err error
	for _, l := range p.listeners {
		if e := l.Close(); e != nil && !errors.Is(e, net.ErrClosed) {
			err = errors.Join(err, e)
		}
	}
	if p.kv != nil {
		err = errors.Join(err, p.kv.Close())
	}
	return err
}

// facts returns what policy remembers; commands that only ask have it in memory.
func (b *builder) facts() *shared.Store {
	if b.policyState == nil {
		b.policyState = &policyState{facts: shared.Open(context.Background(), nil, nil, hclog.NewNullLogger())}
	}
	return b.policyState.facts
}

// tell writes how what policy remembers does.
func (p *policyState) tell(out io.Writer) {
	if p == nil {
		return
	}
	fmt.Fprintln(out, "\nPOLICY\tSTATE")
	if err := p.facts.Failure(); err != nil {
		fmt.Fprintf(out, "memory\tNOT KEPT over a restart: %v\n", err)
	}
	for _, t := range p.facts.Tables() {
		text := fmt.Sprintf("%d entries", t.Entries)
		if t.Evicted > 0 {
			text += fmt.Sprintf("; %d dropped before their time, since there is room for %d", t.Evicted, t.Limit)
		}
		fmt.Fprintf(out, "%s\t%s\n", t.Name, text)
	}
	if p.peers == nil {
		return
	}
	for _, st := range p.peers.Status() {
		fmt.Fprintf(out, "peer %s\t%s\n", nameOf(st), stateOf(st))
	}
}

func nameOf(st shared.PeerStatus) string {
	if st.Address == "" {
		return st.Remote
	}
	return st.Address
}

func stateOf(st shared.PeerStatus) string {
	if !st.Connected {
		return "NOT CONNECTED: " + st.Failure
	}
	text := fmt.Sprintf("connected for %s, %d facts sent, %d heard", time.Since(st.Since).Round(time.Second), st.Sent, st.Received)
	if !st.Complete {
		text += ", still catching up"
	}
	if st.ClockOffset.Abs() > time.Second {
		text += fmt.Sprintf(", its clock is %s ahead", st.ClockOffset)
	}
	if st.Refused > 0 {
		text += fmt.Sprintf(", %d facts of the future refused", st.Refused)
	}
	return text
}

// Metrics of what policy remembers.
var (
	metricFactsKept    = newMetric(prometheus.GaugeValue, "gateway_policy_memory_up", "1 while what policy remembers survives a restart.")
	metricFacts        = newMetric(prometheus.GaugeValue, "gateway_policy_memory_entries", "What policy remembers, by table.", "table")
	metricFactsEvicted = newMetric(prometheus.CounterValue, "gateway_policy_memory_evicted_total", "Entries that went before their time, because their table was full.", "table")
	metricPeers        = newMetric(prometheus.GaugeValue, "gateway_policy_peers_connected", "Gateways that share policy and are connected.")
	metricPeersMissing = newMetric(prometheus.GaugeValue, "gateway_policy_peers_missing", "Configured gateways that are not connected.")

	policyMetrics = []metric{metricFactsKept, metricFacts, metricFactsEvicted, metricPeers, metricPeersMissing}
)

func (p *policyState) collect(put func(metric, float64, ...string)) {
	if p == nil {
		return
	}
	put(metricFactsKept, truth(p.facts.Failure() == nil))
	for _, t := range p.facts.Tables() {
		put(metricFacts, float64(t.Entries), t.Name)
		put(metricFactsEvicted, float64(t.Evicted), t.Name)
	}
	if p.peers == nil {
		return
	}
	connected, missing := 0, 0
	for _, st := range p.peers.Status() {
		if st.Connected {
			connected++
		} else {
			missing++
		}
	}
	put(metricPeers, float64(connected))
	put(metricPeersMissing, float64(missing))
}
