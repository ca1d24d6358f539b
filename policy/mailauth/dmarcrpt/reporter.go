package dmarcrpt

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-mail/postern/internal/dailyreport"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/policy/mailauth"
	"github.com/postern-mail/postern/policy/mailauth/dmarc"
	"github.com/postern-mail/postern/store"
)

// Config says who reports.
type Config struct {
	dailyreport.Submitter
	// Exclude are domains that get no reports, in canonical form: those that
	// publish a policy, or those of the addresses for reports.
	Exclude []string
}

// Records looks up what domains publish. Implemented by *dmarc.Checker.
type Records interface {
	Lookup(ctx context.Context, policyDomain string) (*dmarc.Record, error)
	Authorized(ctx context.Context, policyDomain string, to dmarc.ReportURI) (bool, error)
}

// Mailer sends a report. Implemented by the queue.
type Mailer interface {
	// Send returns when the message is on stable storage.
	Send(ctx context.Context, e mail.Envelope, message []byte) (mail.QueueID, error)
}

// Auditor keeps the record of decisions.
type Auditor interface{ Record(mail.Event) }

// Deps are what a Reporter works with. Audit, Metrics and Log may be nil.
type Deps struct {
	Store   store.Store
	Records Records
	Mailer  Mailer
	Audit   Auditor
	Metrics prometheus.Registerer
	Log     hclog.Logger
}

const (
	// maxOpen bounds the rows counted between two flushes, maxDomains the
	// domains of a day.
	maxOpen    = 20000
	maxDomains = 10000
	// maxSenders bounds the reports that are under way at once.
	maxSenders = 8
)

// Reporter counts what DMARC found and reports on it. Its methods may be called
// concurrently.
type Reporter struct {
	cfg    Config
	deps   Deps
	log    hclog.Logger
	counts counters
	loop   *dailyreport.Loop

	mu       sync.Mutex
	open     map[subject]*fresh // since the last flush
	openRows int

	// The following belong to Run's goroutine.
	kept dailyreport.Kept // domains in the store
	wake dailyreport.Wake // nothing is due before
}

// fresh is what was counted about a subject and is not written yet.
type fresh struct {
	published published
	shards    map[byte]*rows
}

var _ mailauth.Counter = (*Reporter)(nil)

// New returns a Reporter over what the store holds.
func New(cfg Config, deps Deps) (*Reporter, error) {
	if err := cfg.Check(); err != nil {
		return nil, fmt.Errorf("DMARC reports: %w", err)
	}
	if deps.Log == nil {
		deps.Log = hclog.NewNullLogger()
	}
	counts, err := newCounters(deps.Metrics)
	if err != nil {
		return nil, err
	}
	return &Reporter{
		cfg: cfg, deps: deps, log: deps.Log, counts: counts,
		loop: dailyreport.NewLoop("DMARC reports"),
		open: make(map[subject]*fresh), kept: make(dailyreport.Kept),
	}, nil
}

// Note implements mailauth.Counter. It counts the message, in memory, when its
// domain wants reports.
func (r *Reporter) Note(e mailauth.Evaluation) {
	a := e.Answer
	if a.Record == nil || len(a.Record.Aggregate) == 0 || !e.Client.IsValid() || slices.Contains(r.cfg.Exclude, a.Domain) {
		return
	}
	one := rowOf(e)
	about := subject{dailyreport.DayOf(e.Time), a.Domain}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.openRows >= maxOpen {
		r.counts.dropped.Inc()
		return
	}
	f := r.open[about]
	if f == nil {
		f = &fresh{shards: make(map[byte]*rows)}
		r.open[about] = f
	}
	f.published = publishedBy(a.Record)
	r.openRows += f.add(one.shard(), []*row{one})
	r.counts.messages.Inc()
}

// add counts rows, and returns how many are new.
func (f *fresh) add(shard byte, more []*row) int {
	c := f.shards[shard]
	if c == nil {
		c = &rows{}
		f.shards[shard] = c
	}
	before := len(c.Rows)
	c.merge(more)
	return len(c.Rows) - before
}

// Run writes what is counted, and sends reports when their time has come, until
// ctx ends. It then writes once more. It may be called once.
func (r *Reporter) Run(ctx context.Context) error {
	return r.loop.Run(ctx, r.flush, r.sendDue, func(ctx context.Context) error { return r.write(ctx, r.take()) })
}

// take empties what was counted since the last flush.
func (r *Reporter) take() map[subject]*fresh {
	r.mu.Lock()
	defer r.mu.Unlock()
	taken := r.open
	r.open, r.openRows = make(map[subject]*fresh), 0
	return taken
}

// giveBack counts what could not be written once more, as far as there is room.
func (r *Reporter) giveBack(s subject, shard byte, c *rows, p published) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.openRows >= maxOpen {
		r.counts.dropped.Add(float64(c.messages()))
		return
	}
	f := r.open[s]
	if f == nil {
		f = &fresh{published: p, shards: make(map[byte]*rows)}
		r.open[s] = f
	}
	r.openRows += f.add(shard, c.Rows)
}
