package dns

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	wire "github.com/miekg/dns"
	"golang.org/x/net/idna"
)

// Trust says whose AD bit is believed.
type Trust string

// The kinds of trust.
const (
	// TrustLoopback believes servers on this host, and all servers when
	// resolv.conf says "options trust-ad". The default.
	TrustLoopback Trust = "loopback"
	// TrustAll believes every configured server: the way to them is safe.
	TrustAll Trust = "all"
	// TrustNone believes nobody: no answer is secure.
	TrustNone Trust = "none"
)

// Config says whom to ask and how long. The zero Config asks the servers of
// /etc/resolv.conf.
type Config struct {
	// Servers are the recursive name servers, "address" or "address:port",
	// tried in order. None means those of ResolvConf, which is read again when
	// it changes; without any there either, the one on this host.
	Servers []string
	// ResolvConf is a file like resolv.conf(5); "" means /etc/resolv.conf.
	// With Servers given only its search list is used.
	ResolvConf string
	// HostsFile holds addresses that come before the DNS, as hosts(5) does; ""
	// means /etc/hosts.
	HostsFile string
	// Trust says whose AD bit is believed; "" means TrustLoopback.
	Trust Trust
	// Timeout is how long one server may take for one answer, Attempts how
	// often the list of servers is gone through; zero means what resolv.conf
	// says, else 5 s and 2.
	Timeout  time.Duration
	Attempts int
	// CacheOctets bounds the memory of the cache; 0 means 16 MiB.
	CacheOctets int
	// MaximalTTL and MaximalNegativeTTL bound how long an answer is believed,
	// whatever it says itself; 0 means 24 hours and 1 hour.
	MaximalTTL         time.Duration
	MaximalNegativeTTL time.Duration
}

// failureTTL is how long a failure is remembered (RFC 9520 section 3.2), so
// that a busy gateway does not hammer servers that are in trouble.
const failureTTL = 5 * time.Second

// Resolver answers questions. Its methods may be called concurrently; each
// blocks until its context ends at most, and no longer than
// Servers x Attempts x Timeout for each alias on the way.
type Resolver struct {
	cfg      Config
	exchange exchanger
	system   *system

	mu      sync.Mutex
	cache   *cache
	flights map[key]*flight
}

// key is a question. The name is lower-case, A-labels, with a final dot.
type key struct {
	name  string
	qtype uint16
}

// result is what is known about a key: certain unless err is set.
type result struct {
	outcome   Outcome
	records   []wire.RR
	canonical string // with a final dot
	secure    bool
	expires   time.Time
	octets    int
	err       error
}

// flight is a question under way. Whoever asks the same waits for it.
type flight struct {
	done      chan struct{}
	result    result
	abandoned bool // its asker went away before there was an answer
}

// New returns a Resolver. It touches no network; a resolv.conf that is missing
// is one without entries, as it is for the C library.
func New(cfg Config) (*Resolver, error) {
	switch cfg.Trust {
	case "":
		cfg.Trust = TrustLoopback
	case TrustLoopback, TrustAll, TrustNone:
	default:
		return nil, fmt.Errorf("dns: unknown trust %q", cfg.Trust)
	}
	sys, err := newSystem(cfg)
	if err != nil {
		return nil, err
	}
	setDefault(&cfg.CacheOctets, 16<<20)
	setDefault(&cfg.MaximalTTL, 24*time.Hour)
	setDefault(&cfg.MaximalNegativeTTL, time.Hour)
	return &Resolver{
		cfg: cfg, exchange: network{}, system: sys,
		cache: newCache(cfg.CacheOctets), flights: make(map[key]*flight),
	}, nil
}

func setDefault[T int | time.Duration](value *T, standard T) {
	if *value <= 0 {
		*value = standard
	}
}

// absolute returns name as a key holds it; false for one that cannot stand in
// the DNS, and so does not.
func absolute(name string) (string, bool) {
	name = strings.ToLower(strings.TrimSuffix(name, ".")) + "."
	if strings.ContainsFunc(name, func(r rune) bool { return r >= 0x80 }) {
		ascii, err := idna.Lookup.ToASCII(name)
		if err != nil {
			return "", false
		}
		name = ascii
	}
	// Beside host names there are those that SPF makes of local-parts. What
	// would need an escape in presentation format has no place in mail.
	if len(name) < 2 || len(name) > 254 {
		return "", false
	}
	for label := range strings.SplitSeq(name[:len(name)-1], ".") {
		if label == "" || len(label) > 63 || strings.ContainsFunc(label, notInName) {
			return "", false
		}
	}
	return name, true
}

func notInName(r rune) bool {
	return r <= ' ' || r > '~' || strings.ContainsRune(`"'$();@\`, r)
}

// lookup answers one question from the cache, from a flight or by asking.
func (r *Resolver) lookup(ctx context.Context, name string, qtype uint16) (result, error) {
	full, ok := absolute(name)
	if !ok {
		return result{outcome: NXDomain, canonical: name}, nil
	}
	k := key{full, qtype}
	for {
		f, leader, known := r.join(k)
		if f == nil {
			return known, known.err
		}
		if leader {
			r.lead(ctx, k, f)
			return f.result, f.result.err
		}
		select {
		case <-f.done:
		case <-ctx.Done():
			return result{}, k.failed(context.Cause(ctx))
		}
		if !f.abandoned {
			return f.result, f.result.err
		}
	}
}

// join returns what the cache knows, or else the flight for k, and whether it
// is the caller's to lead.
func (r *Resolver) join(k key) (f *flight, leader bool, known result) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if known, ok := r.cache.get(k, time.Now()); ok {
		return nil, false, known
	}
	if f := r.flights[k]; f != nil {
		return f, false, result{}
	}
	f = &flight{done: make(chan struct{})}
	r.flights[k] = f
	return f, true, result{}
}

// lead asks and lands the flight.
func (r *Resolver) lead(ctx context.Context, k key, f *flight) {
	f.abandoned = true // unless what follows comes to its end
	defer func() {
		r.mu.Lock()
		delete(r.flights, k)
		if !f.abandoned {
			r.cache.put(k, f.result, time.Now())
		}
		r.mu.Unlock()
		close(f.done)
	}()
	res, err := r.resolve(ctx, k)
	if err != nil {
		res = result{expires: time.Now().Add(failureTTL), err: k.failed(err)}
	}
	f.result, f.abandoned = res, err != nil && ctx.Err() != nil
}

// maxAliases bounds the aliases followed for one question.
const maxAliases = 12

// resolve asks until the aliases have come to an end.
func (r *Resolver) resolve(ctx context.Context, k key) (result, error) {
	whole := result{secure: true, canonical: k.name}
	ttl := r.cfg.MaximalTTL
	for aliases := 0; ; {
		msg, trusted, err := r.ask(ctx, key{whole.canonical, k.qtype})
		if err != nil {
			return result{}, err
		}
		part, err := read(msg, whole.canonical, k.qtype)
		if err != nil {
			return result{}, err
		}
		whole.secure = whole.secure && trusted && msg.AuthenticatedData
		whole.canonical = part.canonical
		whole.octets += part.octets
		ttl = min(ttl, part.ttl)
		if aliases += part.aliases; aliases > maxAliases {
			return result{}, ErrAliasLoop
		}
		if part.unfinished {
			continue
		}
		if part.outcome != Found {
			ttl = min(ttl, r.cfg.MaximalNegativeTTL)
		}
		whole.outcome, whole.records, whole.expires = part.outcome, part.records, time.Now().Add(ttl)
		return whole, nil
	}
}

// ask puts a question to the servers until one answers. A server that did not
// answer is asked again in the next round, one that answered uselessly is not.
// The failure of a trusted server may be its verdict on a forged answer: those
// that are not trusted are not asked after it.
func (r *Resolver) ask(ctx context.Context, k key) (msg *wire.Msg, trusted bool, err error) {
	servers, conf := r.system.servers()
	useless := make(map[string]bool)
	doubted := false
	err = ErrNoAnswer
	for range conf.attempts {
		for _, server := range servers {
			trusted := r.trusts(server, conf)
			if useless[server] || doubted && !trusted {
				continue
			}
			msg, failed := r.askOne(ctx, server, k, trusted, conf.timeout)
			if failed == nil {
				r.system.markUp(server)
				return msg, trusted, nil
			}
			if ctx.Err() != nil {
				return nil, false, context.Cause(ctx)
			}
			doubted = doubted || trusted && errors.Is(failed, ErrServerFailure)
			err = fmt.Errorf("server %s: %w", server, failed)
			if useless[server] = !errors.Is(failed, ErrNoAnswer); !useless[server] {
				r.system.markDown(server)
			}
		}
	}
	return nil, false, err
}
