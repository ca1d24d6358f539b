package tlspolicy

import (
	"cmp"
	"context"
	"crypto/x509"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/internal/dns"
)

const (
	// maxPolicies bounds the policies kept, and the failures remembered.
	maxPolicies = 10000
	// failedTime is how long a policy that could not be fetched is not tried
	// again (RFC 8461 section 3.3: not less than five minutes).
	failedTime = 5 * time.Minute
	// refreshAge is how old a policy gets before it is fetched again without
	// being asked, refreshTick how often that is looked at (RFC 8461 section
	// 10.2: an attacker can then only win by keeping us off for all of max_age).
	refreshAge  = 24 * time.Hour
	refreshTick = time.Hour
)

// STSConfig says how MTA-STS policies are fetched. The zero STSConfig is the
// one of RFC 8461.
type STSConfig struct {
	// CAFile holds the certificates trusted for policy hosts, PEM; "" means
	// the system's.
	CAFile string
	// Port is where policy hosts listen; "" means 443.
	Port string
}

// STS knows the MTA-STS policies of domains. Its methods may be called
// concurrently.
type STS struct {
	resolver Resolver
	fetcher  *fetcher
	log      hclog.Logger

	mu       sync.Mutex
	known    map[string]known         // by domain
	failed   map[string]failedFetch   // by domain
	fetching map[string]chan struct{} // by domain; closed at the end

	storing sync.Mutex // for cache
	cache   Cache      // nil when nothing is kept
}

type failedFetch struct {
	id    string
	until time.Time
	err   error
}

// NewSTS returns the STS that asks resolver and keeps policies in cache, which
// may be nil. It reads the cache: what is there holds from now on. A cache that
// cannot be read is a warning, for mail must go on without it.
func NewSTS(cfg STSConfig, resolver Resolver, cache Cache, log hclog.Logger) (*STS, error) {
	if cfg.Port == "" {
		cfg.Port = "443"
	}
	var roots *x509.CertPool
	if cfg.CAFile != "" {
		pem, err := os.ReadFile(cfg.CAFile)
		if err != nil {
			return nil, fmt.Errorf("MTA-STS: %w", err)
		}
		roots = x509.NewCertPool()
		if !roots.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("MTA-STS: no certificates in %s", cfg.CAFile)
		}
	}
	s := &STS{
		resolver: resolver, fetcher: newFetcher(cfg.Port, roots, resolver), log: log, cache: cache,
		known: make(map[string]known), failed: make(map[string]failedFetch), fetching: make(map[string]chan struct{}),
	}
	if cache == nil {
		return s, nil
	}
	stored, err := cache.Load()
	if err != nil {
		log.Warn("stored MTA-STS policies cannot be read", "err", err)
	}
	for domain, text := range stored {
		k, err := decodeKnown(text)
		if err != nil {
			log.Warn("stored MTA-STS policy is left out", "domain", domain, "err", err)
			continue
		}
		s.known[domain] = k
	}
	return s, nil
}

// Policy returns the policy in force for a domain and its id, or nil when there
// is none. Err tells why none could be had where the domain says that it has
// one: it is for the report, mail goes on as if there were none (RFC 8461
// section 3.3). A policy that was fetched once holds until it expires, also
// when the DNS or the policy host is away (section 3.1).
func (s *STS) Policy(ctx context.Context, domain string) (policy *STSPolicy, id string, err error) {
	domain = strings.ToLower(domain)
	answer, failed := s.resolver.TXT(ctx, "_mta-sts."+domain)
	published := ""
	if failed == nil && answer.Outcome == dns.Found {
		published = parseSTSRecord(answer.Records)
	}
	for ctx.Err() == nil {
		wait, leader := s.begin(domain, published)
		if leader {
			k, failed := s.fetch(ctx, domain, published)
			if failed == nil {
				return k.policy, k.id, nil // be it for this once
			}
			err = failed
			break
		}
		if wait == nil {
			break
		}
		select {
		case <-wait:
		case <-ctx.Done():
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	k, found := s.known[domain]
	if found && time.Now().Before(k.expires()) {
		return k.policy, k.id, nil
	}
	if f, again := s.failed[domain]; again && err == nil && f.id == published {
		err = f.err
	}
	return nil, "", cmp.Or(err, ctx.Err())
}

// begin decides whether the policy with the published id must be fetched, and
// by whom: wait is not nil when somebody is at it.
func (s *STS) begin(domain, published string) (wait chan struct{}, leader bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	k, found := s.known[domain]
	if published == "" || found && k.id == published && now.Before(k.expires()) {
		return nil, false
	}
	if f, failed := s.failed[domain]; failed && f.id == published && now.Before(f.until) {
		return nil, false
	}
	if wait = s.fetching[domain]; wait != nil {
		return wait, false
	}
	s.fetching[domain] = make(chan struct{})
	return nil, true
}

// fetch gets the policy and remembers the outcome. The caller was made leader.
func (s *STS) fetch(ctx context.Context, domain, id string) (known, error) {
	text, policy, err := s.fetcher.fetch(ctx, domain)
	k := known{id: id, fetched: time.Now(), text: text, policy: policy}
	dropped := ""
	s.mu.Lock()
	switch {
	case err == nil:
		dropped = s.makeRoomLocked(domain)
		s.known[domain] = k
		delete(s.failed, domain)
	case ctx.Err() == nil:
		if len(s.failed) >= maxPolicies {
			clear(s.failed)
		}
		s.failed[domain] = failedFetch{id, time.Now().Add(failedTime), err}
	}
	close(s.fetching[domain])
	delete(s.fetching, domain)
	s.mu.Unlock()
	if err != nil {
		s.log.Warn("MTA-STS policy cannot be fetched", "domain", domain, "reason", FailureOf(err).Error(), "err", err)
		return k, err
	}
	s.log.Info("MTA-STS policy", "domain", domain, "id", id, "mode", string(policy.Mode), "max_age", policy.MaxAge)
	s.store(domain, k)
	if dropped != "" {
		s.unstore(dropped)
	}
	return k, nil
}

// makeRoomLocked forgets the policy that expires first when there is no room
// for that of one domain more, and returns whose it was.
func (s *STS) makeRoomLocked(domain string) (dropped string) {
	if _, known := s.known[domain]; known || len(s.known) < maxPolicies {
		return ""
	}
	for domain, k := range s.known {
		if dropped == "" || k.expires().Before(s.known[dropped].expires()) {
			dropped = domain
		}
	}
	delete(s.known, dropped)
	return dropped
}

// store keeps a policy over a restart. Where that fails it holds until then.
func (s *STS) store(domain string, k known) {
	if s.cache == nil {
		return
	}
	s.storing.Lock()
	defer s.storing.Unlock()
	if err := s.cache.Store(domain, k.encode()); err != nil {
		s.log.Error("MTA-STS policy cannot be kept", "domain", domain, "err", err)
	}
}

// Run refreshes policies before they get old and forgets those that expired,
// until ctx ends.
func (s *STS) Run(ctx context.Context) error {
	tick := time.NewTicker(refreshTick)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			s.refresh(ctx)
		}
	}
}

// refresh goes once through the policies, one after the other.
func (s *STS) refresh(ctx context.Context) {
	old, expired := s.aged(time.Now())
	for _, domain := range expired {
		s.forget(domain)
	}
	for _, domain := range old {
		if ctx.Err() != nil {
			return
		}
		answer, err := s.resolver.TXT(ctx, "_mta-sts."+domain)
		if err != nil || answer.Outcome != dns.Found {
			continue
		}
		if id := parseSTSRecord(answer.Records); id != "" && s.claim(domain) {
			_, _ = s.fetch(ctx, domain, id) // fetch has logged it; the old policy holds
		}
	}
}

// aged lists the domains whose policies want a refresh, and those whose
// policies have expired.
func (s *STS) aged(now time.Time) (old, expired []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for domain, k := range s.known {
		if !now.Before(k.expires()) {
			expired = append(expired, domain)
		} else if now.Sub(k.fetched) >= refreshAge {
			old = append(old, domain)
		}
	}
	for domain, f := range s.failed {
		if !now.Before(f.until) {
			delete(s.failed, domain)
		}
	}
	return old, expired
}

// claim makes the caller leader unless somebody else is.
func (s *STS) claim(domain string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fetching[domain] != nil {
		return false
	}
	s.fetching[domain] = make(chan struct{})
	return true
}

// forget drops an expired policy from memory and cache.
func (s *STS) forget(domain string) {
	s.mu.Lock()
	if k, found := s.known[domain]; found && !time.Now().Before(k.expires()) {
		delete(s.known, domain)
	}
	s.mu.Unlock()
	s.unstore(domain)
}

// unstore drops a policy from the cache unless it is known again.
func (s *STS) unstore(domain string) {
	if s.cache == nil {
		return
	}
	s.storing.Lock()
	defer s.storing.Unlock()
	s.mu.Lock()
	_, again := s.known[domain]
	s.mu.Unlock()
	if again {
		return
	}
	if err := s.cache.Delete(domain); err != nil {
		s.log.Warn("MTA-STS policy cannot be deleted", "domain", domain, "err", err)
	}
}
