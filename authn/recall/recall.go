// Package recall remembers which passwords a verifier said yes to, so that
// most logins need not ask it, and that those go on which come while it cannot
// answer. It never says no: a password that is not remembered is for the
// verifier to judge.
//
// There are two tiers. The first is in memory: a keyed SHA-256 of account,
// version of its password and password, under a key that only this process
// has and that ends with it. Who reads the memory of the process has the
// passwords of people who log in anyway, so a slow hash would protect nothing
// there, and it would cost what the tier is to save. The second is on disk and
// survives a restart: argon2id over a keyed hash, with a salt for each account;
// it is written only where logins without the verifier are allowed, and asked
// only when the verifier cannot answer.
//
// An account has one remembered password in each tier. One that is disabled or
// gone is not asked about here, which authn sees to; a new version of the
// account's password makes what is remembered worthless at once.
package recall

import (
	"container/list"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"hash"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/authn"
	"github.com/postern-mail/postern/store"
)

// Config of a Cache. Zero values mean the defaults named here.
type Config struct {
	// FreshFor is how long a password is right without asking; default 1 h.
	FreshFor time.Duration
	// UnversionedFor is the same for accounts whose directory does not tell
	// when a password changes: the old one goes on that long. Default 5 min;
	// it is never longer than FreshFor.
	UnversionedFor time.Duration
	// OfflineFor is how long after the verifier said yes a password is right
	// while it cannot answer; default 24 h.
	OfflineFor time.Duration
	// Entries bounds each tier, in accounts; default 100000.
	Entries int
}

func (cfg Config) withDefaults() Config {
	setDefault(&cfg.FreshFor, time.Hour)
	setDefault(&cfg.UnversionedFor, 5*time.Minute)
	setDefault(&cfg.OfflineFor, 24*time.Hour)
	setDefault(&cfg.Entries, 100_000)
	cfg.UnversionedFor = min(cfg.UnversionedFor, cfg.FreshFor)
	return cfg
}

func setDefault[T time.Duration | int](field *T, value T) {
	if *field == 0 {
		*field = value
	}
}

// Cache remembers for all verifiers of a process and outlives generations.
// Safe for concurrent use.
type Cache struct {
	key  []byte // of the disk
	macs sync.Pool
	kv   store.Store // nil: memory only
	log  hclog.Logger
	work chan job
	// hashing bounds the slow hashes that logins wait for.
	hashing chan struct{}

	mu      sync.Mutex
	cfg     Config
	entries map[string]*list.Element // by account, of *entry
	order   *list.List               // least recently right first
	disk    map[string]diskEntry     // by account: what the store has
	counts  Counts
}

// Counts are how often something happened since the start.
type Counts struct{ Fresh, Offline, Asked, Dropped uint64 }

type digest [sha256.Size]byte

type entry struct {
	account string
	digest  digest
	right   time.Time // when the verifier said so
}

// New returns an empty Cache. key keys what is on disk; with a nil store
// nothing is.
func New(cfg Config, key []byte, kv store.Store, log hclog.Logger) *Cache {
	secret := make([]byte, 32)
	rand.Read(secret)
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte("verifier cache"))
	return &Cache{
		key: mac.Sum(nil), kv: kv, log: log, cfg: cfg.withDefaults(), work: make(chan job, jobsWaiting), hashing: make(chan struct{}, hashesAtOnce),
		macs:    sync.Pool{New: func() any { return hmac.New(sha256.New, secret) }},
		entries: map[string]*list.Element{}, order: list.New(), disk: map[string]diskEntry{},
	}
}

// Configure puts other settings in force from now on.
func (c *Cache) Configure(cfg Config) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cfg = cfg.withDefaults()
}

// Counts returns what happened so far.
func (c *Cache) Counts() Counts {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.counts
}

// Len returns how many accounts are remembered in memory and on disk.
func (c *Cache) Len() (memory, disk int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.order.Len(), len(c.disk)
}

func account(k authn.Known) string {
	return k.Verifier + "\x00" + k.Source + "\x00" + k.Account
}

func (c *Cache) digestOf(k authn.Known) (d digest) {
	mac := c.macs.Get().(hash.Hash)
	defer c.macs.Put(mac)
	mac.Reset()
	for _, part := range []string{k.Verifier, k.Source, k.Account, k.Version, k.Password} {
		mac.Write([]byte(part))
		mac.Write([]byte{0})
	}
	mac.Sum(d[:0])
	return d
}

// lookup returns when the password was right last; zero when that is unknown.
func (c *Cache) lookupLocked(k authn.Known, d digest) time.Time {
	e, found := c.entries[account(k)]
	if !found {
		return time.Time{}
	}
	known := e.Value.(*entry)
	if !hmac.Equal(known.digest[:], d[:]) {
		return time.Time{}
	}
	return known.right
}

// Online is authn.Recall for verifiers that must be asked whenever they can
// answer at all after FreshFor; Offline logins are not let in.
func (c *Cache) Online() authn.Recall { return online{c} }

// OfflineToo is authn.Recall for verifiers whose people may log in while they
// cannot answer.
func (c *Cache) OfflineToo() authn.Recall { return offlineToo{online{c}} }

type online struct{ c *Cache }

// Fresh implements authn.Recall.
func (r online) Fresh(k authn.Known, now time.Time) bool {
	c := r.c
	d := c.digestOf(k)
	c.mu.Lock()
	defer c.mu.Unlock()
	right := c.lookupLocked(k, d)
	limit := c.cfg.FreshFor
	if k.Version == "" {
		limit = c.cfg.UnversionedFor
	}
	if right.IsZero() || now.Sub(right) >= limit || now.Before(right) {
		c.counts.Asked++
		return false
	}
	c.counts.Fresh++
	return true
}

// Offline implements authn.Recall.
func (online) Offline(context.Context, authn.Known, time.Time) bool { return false }

// Right implements authn.Recall.
func (r online) Right(k authn.Known, now time.Time) { r.c.right(k, now) }

func (c *Cache) right(k authn.Known, now time.Time) {
	d, name := c.digestOf(k), account(k)
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, found := c.entries[name]; found {
		known := e.Value.(*entry)
		known.digest, known.right = d, now
		c.order.MoveToBack(e)
		return
	}
	for c.order.Len() >= c.cfg.Entries {
		oldest := c.order.Front()
		delete(c.entries, oldest.Value.(*entry).account)
		c.order.Remove(oldest)
	}
	c.entries[name] = c.order.PushBack(&entry{name, d, now})
}

// Wrong implements authn.Recall.
func (r online) Wrong(k authn.Known) {
	c := r.c
	d, name := c.digestOf(k), account(k)
	c.mu.Lock()
	defer c.mu.Unlock()
	e, found := c.entries[name]
	if !found || !hmac.Equal(e.Value.(*entry).digest[:], d[:]) {
		return // another password of the account is remembered, and may be right
	}
	delete(c.entries, name)
	c.order.Remove(e)
	c.counts.Dropped++
}

type offlineToo struct{ online }

// Offline implements authn.Recall. It may compute a slow hash, a bounded
// number at a time, and waits for its turn until ctx ends.
func (r offlineToo) Offline(ctx context.Context, k authn.Known, now time.Time) bool {
	c := r.c
	d := c.digestOf(k)
	c.mu.Lock()
	right, limit := c.lookupLocked(k, d), c.cfg.OfflineFor
	_, inMemory := c.entries[account(k)]
	c.mu.Unlock()
	ok := !right.IsZero() && now.Sub(right) < limit
	if !ok && !inMemory {
		ok = c.onDisk(ctx, k, now, limit)
	}
	if ok {
		c.mu.Lock()
		c.counts.Offline++
		c.mu.Unlock()
	}
	return ok
}

// Right implements authn.Recall. What goes to disk is written later by Run.
func (r offlineToo) Right(k authn.Known, now time.Time) {
	r.c.right(k, now)
	r.c.later(k, now)
}

// Wrong implements authn.Recall.
func (r offlineToo) Wrong(k authn.Known) {
	r.online.Wrong(k)
	r.c.laterWrong(k)
}

// errNotRemembered is why a disk entry is of no use.
var errNotRemembered = errors.New("not remembered")
