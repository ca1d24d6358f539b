package mailstore

import (
	"container/list"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/postern-mail/postern/backend/mailstore/fulltext"
	"github.com/postern-mail/postern/store"
)

// wish is how much there is to be done for an account's index, and how soon.
type wish uint8

const (
	wantSoon wish = iota // messages came in
	wantNow              // a search had to read messages
	wantAll              // a search met one that was passed over
	wantAnew             // the index is damaged, or an operator asks
)

const (
	// maxWishes bounds the accounts that wait. Those beyond are found by their
	// next search.
	maxWishes = 10_000
	// settle is how long messages gather before they are indexed together.
	settle = 10 * time.Second
	// restAfter is how long the indexer works at a stretch, and rests as long.
	restAfter = 20 * time.Millisecond
	// failureRest is how long it waits after the store failed.
	failureRest = time.Minute
)

// indexer builds indexes in the background.
type indexer struct {
	counts indexCounts
	wake   chan struct{}

	mu      sync.Mutex
	waiting map[GUID]*list.Element // of queue
	queue   *list.List             // of *wanted, the longest waiting first
	busy    []GUID                 // accounts somebody works on
	changed chan struct{}          // closed when busy has less
}

type wanted struct {
	account GUID
	wish    wish
	since   time.Time
}

func newIndexer() *indexer {
	return &indexer{wake: make(chan struct{}, 1), waiting: make(map[GUID]*list.Element), queue: list.New(), changed: make(chan struct{})}
}

// want asks for an account's index to be brought up to date. It does not wait.
func (x *indexer) want(account GUID, w wish) {
	if x == nil {
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	e := x.waiting[account]
	switch {
	case e == nil && x.queue.Len() >= maxWishes && w == wantSoon:
		return
	case e == nil:
		e = x.queue.PushBack(&wanted{account: account, wish: w, since: time.Now()})
		x.waiting[account] = e
	}
	one := e.Value.(*wanted)
	one.wish = max(one.wish, w)
	if one.wish > wantSoon {
		x.queue.MoveToFront(e)
	}
	select {
	case x.wake <- struct{}{}:
	default:
	}
}

// next takes the account whose turn it is, or says how long it is until then; 0
// when nothing waits.
func (x *indexer) next() (one *wanted, wait time.Duration) {
	x.mu.Lock()
	defer x.mu.Unlock()
	e := x.queue.Front()
	if e == nil {
		return nil, 0
	}
	first := e.Value.(*wanted)
	if wait = time.Until(first.since.Add(settle)); first.wish == wantSoon && wait > 0 {
		return nil, wait
	}
	x.queue.Remove(e)
	delete(x.waiting, first.account)
	return first, 0
}

// RunIndex builds the indexes of messages' text in the background until ctx ends:
// of accounts that were left behind at the last stop first, then as messages come
// in. Nothing depends on it but the speed of searches. It returns at once when
// there is no index.
func (s *Store) RunIndex(ctx context.Context) error {
	if s.index == nil {
		return nil
	}
	if err := s.findBehind(ctx); err != nil && ctx.Err() == nil {
		s.log.Warn("cannot tell which search indexes are behind; searches find out", "err", err)
	}
	for ctx.Err() == nil {
		one, wait := s.index.next()
		if one == nil {
			s.index.sleep(ctx, wait)
			continue
		}
		if err := s.bringUpToDate(ctx, one.account, one.wish, (&pacer{}).pace); err != nil && ctx.Err() == nil {
			s.log.Warn("search index stays behind", "account", one.account, "err", err)
			s.index.want(one.account, wantSoon)
			s.index.sleepFor(ctx, failureRest)
		}
	}
	return nil
}

// sleep waits until something is wanted, or for the time given unless it is 0.
func (x *indexer) sleep(ctx context.Context, most time.Duration) {
	var late <-chan time.Time
	if most > 0 {
		timer := time.NewTimer(most)
		defer timer.Stop()
		late = timer.C
	}
	select {
	case <-ctx.Done():
	case <-x.wake:
	case <-late:
	}
}

func (x *indexer) sleepFor(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// findBehind looks for accounts with messages behind their marks.
func (s *Store) findBehind(ctx context.Context) error {
	made := s.cfg.SearchIndex.made()
	return s.eachAccount(ctx, func(id GUID, _ string, _ error) error {
		behind := false
		err := s.kv.View(ctx, func(snap store.Snapshot) error {
			marksRaw, current, err := s.indexOf(id).Marks(snap, made)
			if err != nil {
				behind = fulltext.IsDamaged(err)
				return nil
			}
			marks, _ := decodeMarks(marksRaw)
			records := make(map[GUID]mailboxRecord)
			if err := readRegisters(snap, id, records, make(map[string]subscription)); err != nil {
				return nil // the sweep and fsck tell of it
			}
			for box, r := range records {
				behind = behind || !r.removed && r.messages > 0 && (!current || marks[box]+1 < r.uidNext)
			}
			return nil
		})
		if behind {
			s.index.want(id, wantSoon)
		}
		return err
	})
}

// bringUpToDate is one turn of an account. One at a time works on an account's
// index.
func (s *Store) bringUpToDate(ctx context.Context, account GUID, w wish, pace func(context.Context, int64) error) error {
	if !s.index.begin(ctx, account) {
		return ctx.Err()
	}
	defer s.index.end(account)
	if w == wantAnew {
		if err := s.indexOf(account).Drop(ctx); err != nil {
			return err
		}
	}
	return s.indexAccount(ctx, account, w >= wantAll, pace)
}

// begin waits until nobody works on an account's index, and takes it.
func (x *indexer) begin(ctx context.Context, account GUID) bool {
	for {
		x.mu.Lock()
		free := !slices.Contains(x.busy, account)
		var changed chan struct{}
		if free {
			x.busy = append(x.busy, account)
		} else {
			changed = x.changed
		}
		x.mu.Unlock()
		if free {
			return true
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return false
		}
	}
}

func (x *indexer) end(account GUID) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.busy = slices.DeleteFunc(x.busy, func(g GUID) bool { return g == account })
	close(x.changed)
	x.changed = make(chan struct{})
}

// pacer lets the indexer work half of the time at most, so that what people wait
// for goes first.
type pacer struct{ since time.Time }

func (p *pacer) pace(ctx context.Context, _ int64) error {
	now := time.Now()
	if p.since.IsZero() {
		p.since = now
	}
	worked := now.Sub(p.since)
	if worked < restAfter {
		return ctx.Err()
	}
	timer := time.NewTimer(min(worked, time.Second))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
	}
	p.since = time.Now()
	return nil
}

// IndexStats are figures of the search index since the start.
type IndexStats struct {
	Enabled  bool
	Waiting  int   // accounts
	Messages int64 // indexed
	Octets   int64 // of those messages
	Failed   int64 // messages that could not be read
	Removed  int64 // documents whose messages are gone
}

// IndexStats returns the figures of the search index.
func (s *Store) IndexStats() IndexStats {
	x := s.index
	if x == nil {
		return IndexStats{}
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	c := &x.counts
	return IndexStats{true, x.queue.Len(), c.messages.Load(), c.octets.Load(), c.failed.Load(), c.removed.Load()}
}

// AccountIndex is how the index of one account stands.
type AccountIndex struct {
	Name string
	// Current: it was made as the configuration says.
	Current bool
	fulltext.Usage
	// Messages is how many the account has, and Octets what they have. Copies
	// share a document.
	Messages int64
	MailSize int64
}

// AccountIndex reads how the index of an account stands.
func (s *Store) AccountIndex(ctx context.Context, name string) (a AccountIndex, err error) {
	id := accountGUID(name)
	a.Name = name
	made := (&SearchIndex{}).made()
	if s.cfg.SearchIndex != nil {
		made = s.cfg.SearchIndex.made()
	}
	err = s.kv.View(ctx, func(snap store.Snapshot) error {
		if _, err := readAccountName(snap, id); err != nil {
			return fmt.Errorf("there is no account %q", name)
		}
		records := make(map[GUID]mailboxRecord)
		if err := readRegisters(snap, id, records, make(map[string]subscription)); err != nil {
			return err
		}
		for _, r := range records {
			if !r.removed {
				a.Messages += r.messages
				a.MailSize += r.octets
			}
		}
		var err error
		a.Usage, a.Current, err = s.indexOf(id).Usage(snap, made)
		return err
	})
	return a, err
}

// RebuildIndex builds the index of an account anew, and returns when it is whole.
// Searches go on meanwhile and read what is not in it yet. progress, unless nil,
// is called after each message with the octets it has.
func (s *Store) RebuildIndex(ctx context.Context, name string, progress func(octets int64)) error {
	if s.index == nil {
		return fmt.Errorf("there is no search index: the configuration switches it off")
	}
	id := accountGUID(name)
	err := s.bringUpToDate(ctx, id, wantAnew, func(ctx context.Context, octets int64) error {
		if progress != nil && octets > 0 {
			progress(octets)
		}
		return ctx.Err()
	})
	if err != nil { // the rest is for the background
		s.index.want(id, wantSoon)
	}
	return err
}
