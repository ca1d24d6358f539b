// Package verify finds out whether addresses can be delivered to, by asking
// their next hop with MAIL and RCPT and no message: Postfix's
// reject_unverified_sender and reject_unverified_recipient.
//
// What comes in: an address. What goes out: a verdict by what is remembered of
// it, or by what the next hop says within the time a client may wait. Each
// address is asked about by one probe at a time, all probes are bounded, and
// who is remembered as deliverable stays so while his host is out of reach.
// A next hop that does not answer never refuses anybody for good.
package verify

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-mail/postern/internal/background"
	"github.com/postern-mail/postern/mail"
)

// Memory keeps what was found out; *shared.Table is one.
type Memory interface {
	Get(key string) (value []byte, found bool)
	Put(key string, value []byte, expires time.Time)
}

// Probe asks the next hop of an address whether it takes mail for it. It blocks
// until ctx ends at most.
type Probe func(ctx context.Context, to mail.Address) mail.Outcome

// Config says how long answers hold. Zero fields mean Postfix's defaults.
type Config struct {
	// PollCount and PollDelay are how often and at what distance a client's
	// command looks for the answer to a probe; 0 means 3 and 3 s.
	PollCount int
	PollDelay time.Duration
	// Who can be delivered to is asked about again, behind the client's back,
	// after PositiveRefresh, and forgotten after PositiveExpire; 0 means 7 and
	// 31 days.
	PositiveRefresh, PositiveExpire time.Duration
	// The same for who cannot; 0 means 3 hours and 3 days.
	NegativeRefresh, NegativeExpire time.Duration
	// MaxProbes bounds probes at a time; 0 means 50.
	MaxProbes int
}

func (c Config) withDefaults() Config {
	set := func(d *time.Duration, standard time.Duration) {
		if *d == 0 {
			*d = standard
		}
	}
	set(&c.PollDelay, 3*time.Second)
	set(&c.PositiveRefresh, 7*24*time.Hour)
	set(&c.PositiveExpire, 31*24*time.Hour)
	set(&c.NegativeRefresh, 3*time.Hour)
	set(&c.NegativeExpire, 3*24*time.Hour)
	if c.PollCount == 0 {
		c.PollCount = 3
	}
	if c.MaxProbes == 0 {
		c.MaxProbes = 50
	}
	return c
}

const (
	// probeTimeout bounds one probe.
	probeTimeout = 2 * time.Minute
	// transientRefresh is after how long who could not be asked is asked again:
	// hosts that put off who is new to them let him pass soon.
	transientRefresh = 5 * time.Minute
	// maxReason bounds the text that is kept of a reply.
	maxReason = 250
)

// inProgress is what clients read while it is not known.
const inProgress = "Address verification in progress"

// state is what is known of an address.
type state int

const (
	pending       state = iota // asked, and not answered yet
	deliverable                // its next hop takes its mail
	undeliverable              // its next hop refuses it for good
	doubtful                   // nobody could be asked, or he put us off
)

// record is what is remembered of an address.
type record struct {
	State  state  `json:"state"`
	At     int64  `json:"at"` // when the state was found out, Unix time
	Tried  int64  `json:"tried"`
	Reason string `json:"reason,omitempty"`
}

// Verifier answers whether addresses can be delivered to. It may be used
// concurrently.
type Verifier struct {
	cfg    Config
	memory Memory
	probe  Probe
	slots  chan struct{}
	work   *background.Work       // the flights
	probes *prometheus.CounterVec // nil counts nothing

	mu      sync.Mutex
	flights map[string]*flight
}

// flight is a probe under way.
type flight struct {
	done   chan struct{}
	result record
}

// New returns a Verifier. A nil registry counts nowhere.
func New(cfg Config, memory Memory, probe Probe, registry prometheus.Registerer) (*Verifier, error) {
	cfg = cfg.withDefaults()
	v := &Verifier{cfg: cfg, memory: memory, probe: probe, slots: make(chan struct{}, cfg.MaxProbes), work: background.New(), flights: make(map[string]*flight)}
	if registry == nil {
		return v, nil
	}
	v.probes = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "gateway_verify_probes_total", Help: "Probes whether an address can be delivered to, by result.",
	}, []string{"result"})
	if err := registry.Register(v.probes); err != nil {
		known, ok := err.(prometheus.AlreadyRegisteredError)
		if !ok {
			return nil, err
		}
		v.probes = known.ExistingCollector.(*prometheus.CounterVec)
	}
	return v, nil
}

// Run ends the probes when ctx does, and waits for them.
func (v *Verifier) Run(ctx context.Context) error {
	<-ctx.Done()
	v.work.End()
	return nil
}

// look returns what is known of an address, asking its next hop when it has
// to, and waiting as long as a client may.
func (v *Verifier) look(ctx context.Context, address mail.Address) record {
	key := address.Fold().String()
	now := time.Now()
	known, found := v.remembered(key, now)
	if found {
		if v.refreshDue(known, now) {
			v.begin(key, address)
		}
		return known
	}
	f := v.begin(key, address)
	if f == nil {
		return record{Reason: inProgress}
	}
	patience := time.NewTimer(time.Duration(v.cfg.PollCount-1) * v.cfg.PollDelay)
	defer patience.Stop()
	select {
	case <-f.done:
		return f.result
	case <-ctx.Done():
	case <-patience.C:
	}
	return record{Reason: inProgress}
}

// remembered returns what is in the memory and has not expired.
func (v *Verifier) remembered(key string, now time.Time) (record, bool) {
	var r record
	value, found := v.memory.Get(key)
	if !found || json.Unmarshal(value, &r) != nil || r.State <= pending || r.State > doubtful {
		return record{}, false
	}
	return r, now.Before(v.expires(r))
}

func (v *Verifier) expires(r record) time.Time {
	life := v.cfg.NegativeExpire
	if r.State == deliverable {
		life = v.cfg.PositiveExpire
	}
	return time.Unix(r.At, 0).Add(life)
}

func (v *Verifier) refreshDue(r record, now time.Time) bool {
	wait := v.cfg.NegativeRefresh
	switch r.State {
	case deliverable:
		if wait = v.cfg.PositiveRefresh; r.Tried != r.At { // a refresh failed: not again at each message
			return !now.Before(time.Unix(r.Tried, 0).Add(v.cfg.NegativeRefresh))
		}
	case doubtful:
		wait = min(wait, transientRefresh)
	}
	return !now.Before(time.Unix(r.Tried, 0).Add(wait))
}

// begin starts a probe, or joins the one under way; nil when there are too
// many, or the server stops.
func (v *Verifier) begin(key string, address mail.Address) *flight {
	v.mu.Lock()
	defer v.mu.Unlock()
	if f := v.flights[key]; f != nil {
		return f
	}
	select {
	case v.slots <- struct{}{}:
	default:
		return nil
	}
	f := &flight{done: make(chan struct{})}
	if !v.work.Go(func(ctx context.Context) { v.fly(ctx, key, address, f) }) {
		<-v.slots
		return nil
	}
	v.flights[key] = f
	return f
}

// fly asks, and remembers the answer. It belongs to no session: who began it may
// be gone by the time there is an answer. It ends within probeTimeout.
func (v *Verifier) fly(ctx context.Context, key string, address mail.Address, f *flight) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	if found := recordOf(v.probe(ctx, address)); !errors.Is(ctx.Err(), context.Canceled) {
		f.result = v.keep(key, found)
	} else { // ended by us: nothing was found out
		f.result = record{Reason: inProgress}
	}
	v.mu.Lock()
	delete(v.flights, key)
	v.mu.Unlock()
	<-v.slots
	close(f.done)
}

var results = map[state]string{deliverable: "deliverable", undeliverable: "undeliverable", doubtful: "deferred"}

// keep remembers the outcome of a probe. Who was deliverable and has not
// expired stays so, whatever befell the probe: only a success takes the place
// of a success.
func (v *Verifier) keep(key string, fresh record) record {
	if v.probes != nil {
		v.probes.WithLabelValues(results[fresh.State]).Inc()
	}
	now := time.Now()
	fresh.At, fresh.Tried = now.Unix(), now.Unix()
	if known, found := v.remembered(key, now); found && known.State == deliverable && fresh.State != deliverable {
		known.Tried = now.Unix()
		fresh = known
	}
	if value, err := json.Marshal(fresh); err == nil {
		v.memory.Put(key, value, v.expires(fresh))
	}
	return fresh
}

// recordOf reads the outcome of a probe.
func recordOf(o mail.Outcome) record {
	r := record{State: doubtful}
	switch o.Class {
	case mail.Delivered:
		r.State = deliverable
	case mail.Bounced:
		r.State = undeliverable
	}
	if o.FromPeer {
		r.Reason = fmt.Sprintf("the next hop said: %s (in reply to RCPT TO command)", oneLine(o.Reply.String()))
	} else {
		r.Reason = oneLine(o.Reply.Text)
	}
	r.Reason = r.Reason[:min(len(r.Reason), maxReason)]
	return r
}

// oneLine keeps a reply of several lines from breaking ours.
func oneLine(text string) string { return strings.Join(strings.Fields(text), " ") }
