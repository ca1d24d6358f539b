package tlsrpt

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-mail/postern/delivery/tlspolicy"
	"github.com/postern-mail/postern/internal/dailyreport"
	"github.com/postern-mail/postern/internal/dns"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
	"github.com/postern-mail/postern/store"
	"github.com/postern-mail/postern/store/storetest"
)

var config = Config{
	Submitter: dailyreport.Submitter{
		Organization: "Example Ltd", Contact: "postmaster@example.net", From: mail.MustAddress("tlsrpt@example.net"),
		Hostname: "gateway.example.net",
	},
	PrivateReceivers: true,
}

// site is what a Reporter stands in, with DNS and queue in memory.
type site struct {
	t     *testing.T
	kv    *fullStore
	audit recorder
	cfg   Config
	*Reporter
	resolver Resolver // nil for the site's own

	mu      sync.Mutex
	records map[string]string // TXT at _smtp._tls, by domain
	silent  bool              // the DNS does not answer
	asked   int
	refuse  error // the queue's
	letters []letter
	end     func()
}

type letter struct {
	envelope mail.Envelope
	text     string
	at       time.Time
}

// inBubble runs a test on a site in synthetic time, which begins on 2000-01-01.
func inBubble(t *testing.T, test func(t *testing.T, s *site)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := &site{t: t, kv: &fullStore{Store: storetest.NewModel().Open()}, cfg: config, records: map[string]string{
			"example.com": "v=TLSRPTv1; rua=mailto:reports@example.com",
		}}
		s.start()
		defer func() { s.end() }()
		test(t, s)
	})
}

func (s *site) start() {
	s.t.Helper()
	resolver := s.resolver
	if resolver == nil {
		resolver = s
	}
	r, err := New(s.cfg, Deps{Store: s.kv, Resolver: resolver, Mailer: s, Audit: &s.audit})
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := r.Run(ctx); err != nil {
			s.t.Errorf("Run: %v", err)
		}
	})
	s.Reporter, s.end = r, func() { cancel(); running.Wait() }
}

// restart ends the reporter and starts another on what the store holds.
func (s *site) restart() {
	s.t.Helper()
	s.end()
	s.start()
}

// TXT implements Resolver.
func (s *site) TXT(_ context.Context, name string) (dns.Answer[string], error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked++
	if s.silent {
		return dns.Answer[string]{}, errors.New("timeout")
	}
	for domain, text := range s.records {
		if name == "_smtp._tls."+domain+"." {
			return dns.Answer[string]{Outcome: dns.Found, Records: []string{text}}, nil
		}
	}
	return dns.Answer[string]{Outcome: dns.NXDomain}, nil
}

// Addresses implements Resolver.
func (*site) Addresses(context.Context, string) (dns.Answer[netip.Addr], error) {
	return dns.Answer[netip.Addr]{Outcome: dns.Found, Records: []netip.Addr{netip.MustParseAddr("127.0.0.1")}}, nil
}

// Send implements Mailer.
func (s *site) Send(_ context.Context, e mail.Envelope, message []byte) (mail.QueueID, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refuse != nil {
		return "", s.refuse
	}
	s.letters = append(s.letters, letter{e, string(message), time.Now()})
	return "Q1", nil
}

func (s *site) sent() []letter {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.letters
}

func (s *site) set(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
}

// entries lists what is kept.
func (s *site) entries() (all []Entry) {
	s.t.Helper()
	if err := s.List(s.t.Context(), func(e Entry) error { all = append(all, e); return nil }); err != nil {
		s.t.Fatal(err)
	}
	return all
}

// fullStore is a store in memory whose disk may be full.
type fullStore struct {
	store.Store
	mu   sync.Mutex
	full bool
}

func (f *fullStore) Commit(ctx context.Context, b *store.Batch) (store.Result, error) {
	f.mu.Lock()
	full := f.full
	f.mu.Unlock()
	if full {
		return store.Result{}, store.ErrFull
	}
	return f.Store.Commit(ctx, b)
}

func (f *fullStore) fill(full bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.full = full
}

type recorder struct {
	mu     sync.Mutex
	events []mail.Event
}

func (r *recorder) Record(e mail.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, e)
}

func (r *recorder) results() (all []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.events {
		all = append(all, string(e.Kind)+" "+e.Result)
	}
	return all
}

// session is one with a domain that has an MTA-STS policy.
func session(domain string, failure tlspolicy.Failure) tlspolicy.Session {
	s := tlspolicy.Session{
		Published: &tlspolicy.Published{
			Type: tlspolicy.TypeSTS, Domain: domain, MX: []string{"*.mx." + domain},
			Text: []string{"version: STSv1", "mode: testing", "mx: *.mx." + domain, "max_age: 86400"},
		},
		Failure: failure, Host: "a.mx." + domain, Helo: "mail." + domain,
		Remote: netip.MustParseAddr("192.0.2.1"), Local: netip.MustParseAddr("2001:db8::1"),
	}
	if failure != "" {
		s.Detail = "what went wrong:\n\"quoted\" <" + string(failure) + ">"
	}
	return s
}

// tlsaSession is one with a domain that has TLSA records.
func tlsaSession(domain string, failure tlspolicy.Failure) tlspolicy.Session {
	s := session(domain, failure)
	s.Published = &tlspolicy.Published{Type: tlspolicy.TypeTLSA, Domain: domain, Text: []string{"3 1 1 abcdef"}}
	return s
}

var errBusy = status.Errorf(status.StoreDown, "the disk is away")
