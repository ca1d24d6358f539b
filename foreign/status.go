package foreign

import (
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// State is what an account is about.
type State string

// The states of an account.
const (
	StateWaiting    State = "waiting"    // for its turn
	StateConnecting State = "connecting" // to both servers
	StatePairing    State = "pairing"    // comparing mailboxes as wholes
	StateSyncing    State = "syncing"
	StateInStep     State = "in step"
	StateHeld       State = "held"     // in step, but for removals that wait for a word
	StateRetrying   State = "retrying" // after a failure
	StateRefused    State = "refused"  // a server that cannot be mirrored
)

// States lists them all.
var States = []State{StateWaiting, StateConnecting, StatePairing, StateSyncing, StateInStep, StateHeld, StateRetrying, StateRefused}

// AccountStatus is how an account does.
type AccountStatus struct {
	Mirror  string    `json:"mirror"`
	Account string    `json:"account"`
	State   State     `json:"state"`
	Watch   [2]string `json:"watch"` // notify, idle or poll; left and right
	// InStep is when both sides were last found equal; Behind is how long the
	// oldest change that was heard of waits, 0 for none.
	InStep    time.Time       `json:"in_step,omitzero"`
	Behind    time.Duration   `json:"behind_ns"`
	Held      int             `json:"held"` // messages whose removal waits to be confirmed
	Messages  int64           `json:"messages"`
	Waiting   [2]int          `json:"waiting"` // to be copied from left and right
	Error     string          `json:"error,omitempty"`
	ErrorAt   time.Time       `json:"error_at,omitzero"`
	NextTry   time.Time       `json:"next_try,omitzero"`
	Mailboxes []MailboxStatus `json:"mailboxes"`
}

// MailboxStatus is how a mailbox does.
type MailboxStatus struct {
	Name     string    `json:"name"`
	Messages int64     `json:"messages"` // on both sides
	Waiting  [2]int    `json:"waiting"`
	Pairings int       `json:"pairings"` // how often it was compared as a whole
	InStep   time.Time `json:"in_step,omitzero"`
	Trouble  string    `json:"trouble,omitempty"`
	Since    time.Time `json:"since,omitzero"` // of the trouble
}

// report is what others may read of a worker. It is safe for concurrent use.
type report struct {
	mu        sync.Mutex
	state     State
	watch     [2]string
	inStep    time.Time
	heardAt   time.Time // of the first change that is not brought over; zero for none
	heldBack  int
	err       string
	errAt     time.Time
	nextTry   time.Time
	mailboxes []MailboxStatus
	refusals  map[string]string // mailboxes that cannot be made
	lag       prometheus.Observer
}

func (r *report) phase(s State) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.state = s
}

func (r *report) watching(left, right watch) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.watch = [2]string{left.String(), right.String()}
	r.refusals = nil
}

// heard notes that something happened.
func (r *report) heard() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.heardAt.IsZero() {
		r.heardAt = time.Now()
	}
}

// told notes that a pass left both sides in step.
func (r *report) told(rows []MailboxStatus) {
	slices.SortFunc(rows, func(a, b MailboxStatus) int { return strings.Compare(a.Name, b.Name) })
	r.mu.Lock()
	defer r.mu.Unlock()
	for name, why := range r.refusals {
		rows = append(rows, MailboxStatus{Name: name, Trouble: why})
	}
	r.mailboxes, r.inStep, r.err = rows, time.Now(), ""
	if r.state = StateInStep; r.heldBack > 0 {
		r.state = StateHeld
	}
	if !r.heardAt.IsZero() && r.lag != nil {
		r.lag.Observe(time.Since(r.heardAt).Seconds())
	}
	r.heardAt = time.Time{}
}

// holds notes how many messages may not be removed; true when that is news.
func (r *report) holds(n int) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	news := n != r.heldBack
	r.heldBack = n
	return news
}

func (r *report) held() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.heldBack
}

func (r *report) uncreated(name, why string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.refusals == nil {
		r.refusals = make(map[string]string)
	}
	r.refusals[name] = why
}

func (r *report) failed(state State, err error, next time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.state, r.err, r.errAt, r.nextTry = state, err.Error(), time.Now(), next
	if r.heardAt.IsZero() {
		r.heardAt = time.Now()
	}
}

func (r *report) status() AccountStatus {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := AccountStatus{State: r.state, Watch: r.watch, InStep: r.inStep, Held: r.heldBack, Error: r.err, Mailboxes: slices.Clone(r.mailboxes)}
	if !r.heardAt.IsZero() {
		s.Behind = time.Since(r.heardAt)
	}
	if r.err != "" {
		s.ErrorAt, s.NextTry = r.errAt, r.nextTry
	}
	for _, m := range s.Mailboxes {
		s.Messages += m.Messages
		for i := range s.Waiting {
			s.Waiting[i] += m.Waiting[i]
		}
	}
	return s
}

// counters are a mirror's metrics.
type counters struct {
	copied, flags, expunged *prometheus.CounterVec // by the side changed
	failures                *prometheus.CounterVec // by the side that failed
	refused                 prometheus.Counter
	lag                     prometheus.Observer
}

// metrics are those of all mirrors.
type metrics struct {
	copied, flags, expunged, failures, refused *prometheus.CounterVec
	lag                                        *prometheus.HistogramVec
}

func newMetrics(r prometheus.Registerer) *metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, append([]string{"mirror"}, labels...))
	}
	m := &metrics{
		copied:   counter("gateway_foreign_copied_messages_total", "Messages copied to a side of a mirror.", "side"),
		flags:    counter("gateway_foreign_stored_flags_total", "Messages whose flags were changed on a side of a mirror.", "side"),
		expunged: counter("gateway_foreign_expunged_messages_total", "Messages removed on a side of a mirror.", "side"),
		failures: counter("gateway_foreign_failures_total", "Sessions of a mirror that ended by a failure, by the side that failed or state.", "side"),
		refused:  counter("gateway_foreign_refused_commands_total", "Commands that a server of a mirror refused."),
		lag: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "gateway_foreign_lag_seconds", Help: "From hearing of a change to having it on both sides of a mirror.",
			Buckets: []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 60, 600, 3600},
		}, []string{"mirror"}),
	}
	if r != nil {
		r.MustRegister(m.copied, m.flags, m.expunged, m.failures, m.refused, m.lag)
	}
	return m
}

func (m *metrics) of(mirror string) *counters {
	by := prometheus.Labels{"mirror": mirror}
	return &counters{
		copied: m.copied.MustCurryWith(by), flags: m.flags.MustCurryWith(by), expunged: m.expunged.MustCurryWith(by),
		failures: m.failures.MustCurryWith(by), refused: m.refused.With(by), lag: m.lag.With(by),
	}
}

var (
	descAccounts = prometheus.NewDesc("gateway_foreign_accounts", "Accounts of a mirror by what they are about.", []string{"mirror", "state"}, nil)
	descHeld     = prometheus.NewDesc("gateway_foreign_held_messages", "Messages whose removal waits to be confirmed.", []string{"mirror"}, nil)
	descWaiting  = prometheus.NewDesc("gateway_foreign_waiting_messages", "Messages that are on one side only.", []string{"mirror"}, nil)
)

// Describe implements prometheus.Collector.
func (a *Agent) Describe(out chan<- *prometheus.Desc) {
	out <- descAccounts
	out <- descHeld
	out <- descWaiting
}

// Collect implements prometheus.Collector.
func (a *Agent) Collect(out chan<- prometheus.Metric) {
	for _, m := range a.mirrors {
		by := make(map[State]int)
		held, waiting := 0, 0
		for _, s := range a.Status(m.Name, "") {
			by[s.State]++
			held += s.Held
			waiting += s.Waiting[Left] + s.Waiting[Right]
		}
		gauge := func(d *prometheus.Desc, n int, labels ...string) {
			out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(n), append([]string{m.Name}, labels...)...)
		}
		for _, state := range States {
			gauge(descAccounts, by[state], string(state))
		}
		gauge(descHeld, held)
		gauge(descWaiting, waiting)
	}
}
