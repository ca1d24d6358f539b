// Package replica keeps a copy of what a mail server needs of a directory, so
// that mail does not depend on the directory's servers.
//
// What goes in: a Feed, which brings entries and their changes, and a Store,
// which keeps them over a restart. What comes out: a directory.Searcher that
// answers from memory. What it guarantees: a refresh counts as a whole or not at
// all; one that would lose many entries waits for an operator and the old
// content is served meanwhile; what it does not hold it never answers for, but
// hands to the servers; and the older it is, the less its "no" is believed. What
// it leaves to others: what entries mean, and checking passwords.
package replica

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/directory"
	"github.com/postern-mail/postern/directory/index"
	"github.com/postern-mail/postern/status"
)

// Config says what is replicated and how far it is trusted.
type Config struct {
	// Name is the directory's, in logs and in the store. Required.
	Name string
	// Needs is what is held: below Needs.Base, matching Needs.Filter, with
	// Needs.Attributes. Required.
	Needs directory.Coverage
	// Source tells apart servers and ways to see them: a store written with
	// another one is thrown away.
	Source string
	// MaxAge is up to when a "no" is believed without asking the servers; 0
	// means 60 s.
	MaxAge time.Duration
	// MaxStale is up to when it is believed where the servers do not answer;
	// 0 means 15 min. After it nobody knows who does not exist.
	MaxStale time.Duration
	// ShrinkPercent and ShrinkEntries: a refresh in which more than so many
	// percent, and at least so many, of the entries are gone waits for an
	// operator; 0 means 20 and 50. A refresh that leaves nothing always does.
	ShrinkPercent int
	ShrinkEntries int
	// MaxEntries bounds what is held; 0 means 5 million.
	MaxEntries int
	// MinPause and MaxPause bound the pauses between attempts to reach the
	// servers; 0 means 1 s and 1 min.
	MinPause, MaxPause time.Duration
}

func (cfg Config) withDefaults() Config {
	set := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	count := func(n *int, v int) {
		if *n <= 0 {
			*n = v
		}
	}
	set(&cfg.MaxAge, time.Minute)
	set(&cfg.MaxStale, 15*time.Minute)
	set(&cfg.MinPause, time.Second)
	set(&cfg.MaxPause, time.Minute)
	count(&cfg.ShrinkPercent, 20)
	count(&cfg.ShrinkEntries, 50)
	count(&cfg.MaxEntries, 5_000_000)
	return cfg
}

var errTooMany = errors.New("the directory has more entries than a replica may hold")

// notOfferedPause is after how long servers that offer nothing are asked again.
const notOfferedPause = 5 * time.Minute

// Replica is the copy. It may be used concurrently; View makes a Searcher of
// it.
type Replica struct {
	cfg   Config
	feed  Feed
	keep  *keeper // nil without a store
	log   hclog.Logger
	names map[string]bool // of the attributes held
	base  string          // key of the base

	// live is what answers; nil before there is anything.
	live       atomic.Pointer[index.Set]
	generation atomic.Uint64
	approved   approvals

	mu       sync.Mutex
	position Position
	// pending is a refresh that waits for an operator; what comes after it
	// changes it and not what is served.
	pending         *index.Set
	pendingPosition Position
	synced          time.Time // when what is served was all there is; zero for never
	changed         chan struct{}
	status          Status
}

// New returns a replica of what feed brings. What store holds of it is in use
// at once; a nil store keeps nothing.
func New(ctx context.Context, cfg Config, feed Feed, store *Store, log hclog.Logger) (*Replica, error) {
	cfg = cfg.withDefaults()
	r := &Replica{cfg: cfg, feed: feed, log: log, names: make(map[string]bool), base: cfg.Needs.Base().Key()}
	for _, name := range cfg.Needs.Attributes {
		if !directory.IsSecret(name) {
			r.names[directory.AttributeKey(name)] = true
		}
	}
	r.status.Mode = modeConnecting
	if store == nil {
		return r, nil
	}
	r.keep = newKeeper(store, cfg, log)
	held, err := r.keep.load(ctx)
	if err != nil {
		return nil, fmt.Errorf("replica of directory %s: %w", cfg.Name, err)
	}
	if held.set != nil {
		r.position, r.synced = held.position, held.synced
		r.generation.Store(held.generation)
		r.status.LastRefresh = held.refreshed
		r.live.Store(held.set)
		log.Info("the replica is served as it was stored", "entries", held.set.Len(), "age", time.Since(held.synced).Round(time.Second))
	}
	return r, nil
}

// Run keeps the replica up to date until ctx ends. Without it the replica
// answers and grows old.
func (r *Replica) Run(ctx context.Context) error {
	var running sync.WaitGroup
	defer running.Wait()
	if r.keep != nil {
		running.Go(func() { r.keep.run(ctx) })
	}
	pause := r.cfg.MinPause
	for {
		s := &Session{r: r}
		err := r.feed.Follow(ctx, s)
		r.refreshing(false)
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, ErrUnknownEntry) {
			s.StartOver()
		}
		if s.refreshed.Load() {
			pause = r.cfg.MinPause
		}
		wait := pause/2 + rand.N(pause/2+1)
		pause = min(2*pause, r.cfg.MaxPause)
		if errors.Is(err, ErrNotOffered) {
			wait = notOfferedPause + rand.N(notOfferedPause/5)
		}
		r.lost(err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
}

// lost notes that a session ended, and logs what was not logged before.
func (r *Replica) lost(err error) {
	text := "the servers ended the conversation"
	if err != nil {
		text = err.Error()
	}
	r.mu.Lock()
	again := r.status.Error == text
	r.status.Error, r.status.ErrorAt, r.status.Connected = text, time.Now(), false
	r.status.Reconnects++
	if errors.Is(err, ErrNotOffered) {
		r.dropLocked()
	}
	r.mu.Unlock()
	switch {
	case again:
	case errors.Is(err, ErrNotOffered):
		r.log.Info("no replica: every question is the servers' to answer", "cause", text)
	case r.live.Load() == nil:
		r.log.Warn("there is no replica yet, and every question is the servers' to answer", "error", text)
	default:
		r.log.Warn("the replica is not told of changes for now; what it holds is served", "error", text)
	}
}

// dropLocked ends the replica: servers that answer and tell nobody of changes
// know better than what was held before.
func (r *Replica) dropLocked() {
	r.status.Mode = modeQuery
	if r.live.Swap(nil) == nil {
		return
	}
	r.pending, r.status.Quarantine, r.position = nil, nil, Position{}
	r.visibleLocked()
	if r.keep != nil {
		r.keep.forget()
	}
}

// basis is what the next change changes: what waits for an operator, else what
// is served, else nothing yet.
func (r *Replica) basis() *index.Set {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.basisLocked()
}

func (r *Replica) basisLocked() *index.Set {
	if r.pending != nil {
		return r.pending
	}
	if set := r.live.Load(); set != nil {
		return set
	}
	return index.New()
}

// change applies one change outside of refreshes; a nil entry is a deletion.
func (r *Replica) change(id index.ID, e *directory.Entry) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	set := r.basisLocked()
	if e != nil {
		if set.Len() >= r.cfg.MaxEntries && !set.Has(id) {
			return errTooMany
		}
		if other, gone := set.Put(id, *e); gone && r.keep != nil && r.pending == nil {
			r.keep.note(other)
		}
	} else if !set.Delete(id) {
		return nil
	}
	if r.pending != nil {
		return nil
	}
	r.status.Changes++
	if r.keep != nil {
		r.keep.note(id)
	}
	r.visibleLocked()
	return nil
}

// visibleLocked tells everybody that what is served changed.
func (r *Replica) visibleLocked() {
	r.generation.Add(1)
	if r.changed != nil {
		close(r.changed)
		r.changed = nil
	}
}

// reached notes a position that everything told of so far leads to.
func (r *Replica) reached(p Position) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.pending != nil {
		r.pendingPosition = p
		return
	}
	r.position = p
	if r.keep != nil {
		r.keep.at(p, r.synced, r.generation.Load())
	}
}

// alive notes that what is served is all there is.
func (r *Replica) alive() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.pending != nil || r.live.Load() == nil {
		return
	}
	r.synced = time.Now()
	if r.keep != nil {
		r.keep.at(r.position, r.synced, r.generation.Load())
	}
}

func (r *Replica) refreshing(on bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.status.Refreshing = on
}

// take brings the outcome of a refresh into use, or puts it into quarantine.
// touched are the entries it changed, nil when it began from nothing.
func (r *Replica) take(staged *index.Set, touched map[index.ID]struct{}, p Position) error {
	old := r.live.Load()
	if staged.Len() == 0 && (old == nil || old.Len() == 0) {
		return errEmpty
	}
	gone := 0
	if old != nil {
		gone = missing(old, staged)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.status.Connected, r.status.Error = true, ""
	r.status.Refreshing = false
	if old != nil && r.cfg.tooMany(gone, old.Len(), staged.Len()) {
		r.quarantineLocked(staged, p, gone, old.Len())
		return nil
	}
	if r.pending != nil {
		r.log.Info("the servers show the missing entries again: the quarantine is over", "entries", staged.Len())
	}
	r.useLocked(staged, touched, p)
	return nil
}

// tooMany reports whether an operator must say that so many entries are meant
// to be gone.
func (cfg Config) tooMany(gone, before, after int) bool {
	return after == 0 || gone >= cfg.ShrinkEntries && gone*100 > cfg.ShrinkPercent*before
}

// missing counts the entries of old of which set has neither identity nor
// name: neither a rename nor a directory loaded anew loses an entry.
func missing(old, set *index.Set) int {
	gone := 0
	for id, e := range old.All() {
		if set.Has(id) {
			continue
		}
		if _, there := set.Find(e.DN); !there {
			gone++
		}
	}
	return gone
}

func (r *Replica) quarantineLocked(staged *index.Set, p Position, gone, before int) {
	if r.pending == nil {
		r.log.Error("so many entries are gone from the directory that it is taken for a mistake; the old ones are served until they are back, "+
			"or until postern directory accept says that they are meant to be gone", "gone", gone, "of", before, "left", staged.Len())
	}
	since := time.Now()
	if q := r.status.Quarantine; q != nil {
		since = q.Since
	}
	r.pending, r.pendingPosition = staged, p
	r.status.Quarantine = &Quarantine{Since: since, Gone: gone, Before: before, After: staged.Len()}
}

// useLocked makes a set the one that answers.
func (r *Replica) useLocked(set *index.Set, touched map[index.ID]struct{}, p Position) {
	first := r.live.Load() == nil
	if r.pending != nil {
		touched = nil // it says how the set differs from what was in quarantine
	}
	r.live.Store(set)
	r.pending, r.status.Quarantine = nil, nil
	r.position, r.synced = p, time.Now()
	r.status.LastRefresh = r.synced
	r.status.Refreshes++
	r.visibleLocked()
	if r.keep != nil {
		r.keep.replace(set, touched, p, r.synced, r.generation.Load())
	}
	if first {
		r.log.Info("the replica is complete and answers", "entries", set.Len(), "server", r.status.Server, "mode", r.status.Mode)
	}
}

// Accept brings into use what is in quarantine, and tells how many entries
// that are.
func (r *Replica) Accept() (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.pending == nil {
		return 0, fmt.Errorf("nothing of directory %s is in quarantine", r.cfg.Name)
	}
	set := r.pending
	r.useLocked(set, nil, r.pendingPosition)
	r.log.Warn("an operator accepted that entries are gone from the directory", "entries", set.Len())
	return set.Len(), nil
}

// Entries returns what is held; nil when there is nothing yet.
func (r *Replica) Entries() *index.Set { return r.live.Load() }

// search answers req. It is false when the replica does not hold what decides
// it.
func (r *Replica) search(ctx context.Context, req directory.Request) ([]directory.Entry, bool, error) {
	set := r.live.Load()
	if set == nil || !r.covers(req) {
		return nil, false, nil
	}
	entries, err := set.Search(ctx, req)
	// A part of the tree without entries that count is not held, and is no
	// mistake in the configuration either.
	if errors.Is(err, directory.ErrNoSuchBase) && req.Scope != directory.ScopeBase {
		return nil, true, nil
	}
	return entries, true, err
}

// covers reports whether the replica holds every entry that can match, with all
// that is asked of them.
func (r *Replica) covers(req directory.Request) bool {
	if !directory.KeyUnder(req.Base.Key(), r.base) || directory.UnsupportedRule(req.Filter) != "" {
		return false
	}
	if !r.approved.has(req.Attributes, r.names) {
		return false
	}
	// Whatever the name of an entry that counts: one that is not here counts
	// for nothing.
	if req.Scope == directory.ScopeBase && directory.Implies(directory.Present("objectClass"), req.Filter) {
		return true
	}
	if !directory.Implies(req.Filter, r.cfg.Needs.Filter) {
		return false
	}
	return !slices.ContainsFunc(directory.FilterAttributes(req.Filter), func(name string) bool { return !r.names[name] })
}

// approvals remembers lists of attributes of which all are held: a directory
// asks with the same few lists all its life.
type approvals struct {
	mu    sync.RWMutex
	lists map[*string][]string
}

const maxApprovals = 64

func (a *approvals) has(list []string, held map[string]bool) bool {
	if len(list) == 0 {
		return false // everything is asked for
	}
	a.mu.RLock()
	known, ok := a.lists[&list[0]]
	a.mu.RUnlock()
	if ok && len(known) == len(list) {
		return true
	}
	for _, name := range list {
		if !held[directory.AttributeKey(name)] {
			return false
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.lists == nil {
		a.lists = make(map[*string][]string)
	}
	if len(a.lists) < maxApprovals {
		a.lists[&list[0]] = list // which keeps its place from being used again
	}
	return true
}

// tooOld reports whether the servers, where they answer, know better than what
// is held. They do not while so many entries are gone that it is taken for a
// mistake.
func (r *Replica) tooOld() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.status.Quarantine == nil && time.Since(r.synced) > r.cfg.MaxStale
}

// doubt tells how far a "no" is to be believed: fresh, where the servers do not
// know better, or not.
func (r *Replica) doubt() (ask bool, err error) {
	if r.live.Load() == nil {
		return false, nil
	}
	r.mu.Lock()
	age := time.Since(r.synced)
	r.mu.Unlock()
	switch {
	case age <= r.cfg.MaxAge:
		return false, nil
	case age <= r.cfg.MaxStale:
		return true, nil
	default:
		return true, status.Errorf(status.DirectoryDown, "the replica is %s old, too old to know who does not exist", age.Round(time.Second))
	}
}
