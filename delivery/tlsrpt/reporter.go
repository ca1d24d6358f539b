package tlsrpt

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-mail/postern/delivery/tlspolicy"
	"github.com/postern-mail/postern/internal/dns"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/store"
)

// Config says who reports.
type Config struct {
	// Organization and Contact say who we are and how to reach us; required.
	Organization string
	Contact      string
	// From is the address reports are sent from; required.
	From mail.Address
	// Hostname is the name of the submitter and the domain of report ids;
	// required.
	Hostname string
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
	// flushEvery is how long a count may be in memory alone.
	flushEvery = time.Minute
	// flushTime bounds the lookups of one flush.
	flushTime = 30 * time.Second
	// stopTime bounds the last flush.
	stopTime = 5 * time.Second
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
	asked  chan request
	ended  chan struct{} // closed when Run has ended

	mu   sync.Mutex
	open map[subject]*count // since the last flush

	// The following belong to Run's goroutine.
	wants map[string]wish // by domain
	kept  map[day]int     // domains in the store
	wake  time.Time       // nothing is due before
}

// wish is whether a domain wants reports, as its DNS said on a day.
type wish struct {
	day   day
	wants bool
}

var _ tlspolicy.Sessions = (*Reporter)(nil)

// New returns a Reporter over what the store holds.
func New(cfg Config, deps Deps) (*Reporter, error) {
	switch {
	case cfg.Organization == "" || cfg.Contact == "" || cfg.Hostname == "":
		return nil, errors.New("TLS reports: organization, contact and hostname are required")
	case cfg.From.IsNull():
		return nil, errors.New("TLS reports: an address to send from is required")
	}
	for _, text := range []string{cfg.Organization, cfg.Contact, cfg.Hostname} {
		if strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			return nil, fmt.Errorf("TLS reports: %q holds control characters", text)
		}
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
		asked:  make(chan request), ended: make(chan struct{}),
		open: make(map[subject]*count), wants: make(map[string]wish), kept: make(map[day]int),
	}, nil
}

// Note implements tlspolicy.Sessions. It counts the session, in memory.
func (r *Reporter) Note(s tlspolicy.Session) {
	r.counts.session(s)
	about := subject{dayOf(time.Now()), s.Published.Domain}
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
	return err == nil && strings.Contains(s, ".") && !strings.HasPrefix(s, "[") && plain(s, 255) == s
}

// Run writes what is counted, and sends reports when their time has come, until
// ctx ends. It then writes once more. It may be called once.
func (r *Reporter) Run(ctx context.Context) error {
	defer close(r.ended)
	tick := time.NewTicker(flushEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTime)
			defer cancel()
			return r.write(last, r.take())
		case <-tick.C:
			r.flush(ctx)
			r.sendDue(ctx)
		case q := <-r.asked:
			r.flush(ctx)
			q.done <- q.do(ctx)
		}
	}
}

// request is work that only Run's goroutine may do.
type request struct {
	do   func(ctx context.Context) error
	done chan error
}

// inRun has Run do something, after a flush.
func (r *Reporter) inRun(ctx context.Context, do func(ctx context.Context) error) error {
	q := request{do, make(chan error, 1)}
	select {
	case r.asked <- q:
	case <-r.ended:
		return errors.New("TLS reports: the server is stopping")
	case <-ctx.Done():
		return fmt.Errorf("TLS reports are busy: %w", ctx.Err())
	}
	select {
	case err := <-q.done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("TLS reports go on without waiting: %w", ctx.Err())
	}
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
