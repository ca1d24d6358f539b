package tlsrpt

import (
	"context"
	"crypto/x509"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-mail/postern/delivery/tlspolicy"
	"github.com/postern-mail/postern/internal/dailyreport"
	"github.com/postern-mail/postern/internal/dns"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/store"
)

// Config says who reports.
type Config struct {
	dailyreport.Submitter
	// Roots are trusted by HTTPS receivers' certificates; nil means the
	// system's.
	Roots *x509.CertPool
	// PrivateReceivers lets HTTPS receivers be at addresses that are not
	// public. Whoever we send mail to names them.
	PrivateReceivers bool
}

// Resolver asks the DNS; *dns.Resolver is one.
type Resolver interface {
	TXT(ctx context.Context, name string) (dns.Answer[string], error)
	Addresses(ctx context.Context, name string) (dns.Answer[netip.Addr], error)
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
	Store    store.Store
	Resolver Resolver
	Mailer   Mailer
	Audit    Auditor
	Metrics  prometheus.Registerer
	Log      hclog.Logger
}

const (
	// flushTime bounds the lookups of one flush.
	flushTime = 30 * time.Second
	// maxOpen bounds the domains counted between two flushes, maxDomains those
	// of a day, maxAsked the memory of who wants reports.
	maxOpen    = 2000
	maxDomains = 10000
	maxAsked   = 20000
	// maxLookups bounds the lookups, and reports, that are under way at once.
	maxLookups = 16
)

// Reporter counts sessions and reports on them. Its methods may be called
// concurrently.
type Reporter struct {
	cfg    Config
	deps   Deps
	log    hclog.Logger
	poster *poster
	counts counters
	loop   *dailyreport.Loop

	mu   sync.Mutex
	open map[subject]*count // since the last flush

	// The following belong to Run's goroutine.
	wants map[string]wish  // by domain
	kept  dailyreport.Kept // domains in the store
	wake  dailyreport.Wake // nothing is due before
}

// wish is whether a domain wants reports, as its DNS said on a day.
type wish struct {
	day   day
	wants bool
}

var _ tlspolicy.Sessions = (*Reporter)(nil)

// New returns a Reporter over what the store holds.
func New(cfg Config, deps Deps) (*Reporter, error) {
	if err := cfg.Check(); err != nil {
		return nil, fmt.Errorf("TLS reports: %w", err)
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
		poster: newPoster(deps.Resolver, cfg.Roots, cfg.PrivateReceivers),
		loop:   dailyreport.NewLoop("TLS reports"),
		open:   make(map[subject]*count), wants: make(map[string]wish), kept: make(dailyreport.Kept),
	}, nil
}

// Note implements tlspolicy.Sessions. It counts the session, in memory.
func (r *Reporter) Note(s tlspolicy.Session) {
	r.counts.session(s)
	about := subject{dailyreport.DayOf(time.Now()), s.Published.Domain}
	if !isDomain(about.domain) {
		r.counts.dropped.Inc()
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.open[about]
	if c == nil && len(r.open) >= maxOpen {
		r.counts.dropped.Inc()
		return
	}
	if c == nil {
		c = new(count)
		r.open[about] = c
	}
	if !c.add(s) {
		r.counts.dropped.Inc()
	}
}

// isDomain reports whether a name can be asked about and written into a header.
func isDomain(s string) bool {
	_, err := mail.ParseDomain(s)
	return err == nil && strings.Contains(s, ".") && !strings.HasPrefix(s, "[") && dailyreport.Plain(s, 255) == s
}

// Run writes what is counted, and sends reports when their time has come, until
// ctx ends. It then writes once more. It may be called once.
func (r *Reporter) Run(ctx context.Context) error {
	return r.loop.Run(ctx, r.flush, r.sendDue, func(ctx context.Context) error { return r.write(ctx, r.take()) })
}

// take empties what was counted since the last flush.
func (r *Reporter) take() map[subject]*count {
	r.mu.Lock()
	defer r.mu.Unlock()
	taken := r.open
	r.open = make(map[subject]*count)
	return taken
}

// giveBack counts what could not be written once more, as far as there is room.
func (r *Reporter) giveBack(unwritten map[subject]*count) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for s, c := range unwritten {
		switch open := r.open[s]; {
		case open != nil:
			r.counts.dropped.Add(float64(open.merge(c)))
		case len(r.open) < maxOpen:
			r.open[s] = c
		default:
			r.counts.dropped.Inc()
		}
	}
}
