package queue

import (
	"context"
	"sync"
	"time"

	"github.com/postern-mail/postern/status"
)

// initialConcurrency is what a destination starts with (Postfix's
// initial_destination_concurrency).
const initialConcurrency = 5

// firstDeadTime is how long a destination that did not answer is left alone
// the first time.
const firstDeadTime = 4 * time.Second

// maxFailureMemory is how long a dead destination is remembered afterwards.
const maxFailureMemory = time.Hour

// job is a due group in memory.
type job struct {
	ref     groupRef
	message *message // nil until a worker loads it
	group   *group
}

// destination counts what is under way to one next hop.
type destination struct {
	name    string
	waiting []job
	active  int
	// window is how many may be under way: one more after each success, one
	// less after each failure to connect.
	window int
	// failures counts attempts in a row at which nobody answered; dead says
	// until when what becomes due is deferred without an attempt.
	failures int
	dead     deadEnd
}

// deadEnd is a next hop that does not answer.
type deadEnd struct {
	until time.Time
	why   status.Reply
}

// scheduler holds the due groups and hands them to workers: destinations take
// turns, each with its window. It is pure memory; the store is the truth.
type scheduler struct {
	maxReady int
	maximum  int

	mu       sync.Mutex
	changed  *sync.Cond
	closed   bool
	present  map[groupRef]bool // waiting or under way
	waiting  int
	dests    map[string]*destination
	turn     []*destination // with something waiting, in order of their turn
	overflow time.Time      // earliest due time that found no room; zero for none
}

func newScheduler(maxReady, maximum int) *scheduler {
	s := &scheduler{maxReady: maxReady, maximum: maximum, present: make(map[groupRef]bool), dests: make(map[string]*destination)}
	s.changed = sync.NewCond(&s.mu)
	return s
}

// offer adds a due group. It returns false when memory is full; the group is
// then found again in the due index.
func (s *scheduler) offer(ref groupRef, m *message, g *group) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.present[ref] {
		return true
	}
	if s.waiting >= s.maxReady {
		if s.overflow.IsZero() || g.due.Before(s.overflow) {
			s.overflow = g.due
		}
		return false
	}
	d := s.dests[g.destination]
	if d == nil {
		d = &destination{name: g.destination, window: min(initialConcurrency, s.maximum)}
		s.dests[g.destination] = d
	}
	if len(d.waiting) == 0 {
		s.turn = append(s.turn, d)
	}
	d.waiting = append(d.waiting, job{ref, m, g})
	s.present[ref] = true
	s.waiting++
	s.changed.Signal()
	return true
}

// take waits for a job whose destination has room. dead is non-nil when the
// destination is known not to answer: the job is to be deferred with it.
// ok is false when the scheduler was closed.
func (s *scheduler) take() (j job, dead *deadEnd, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for !s.closed {
		for i, d := range s.turn {
			isDead := time.Now().Before(d.dead.until)
			if d.active >= d.window && !isDead {
				continue
			}
			j = d.waiting[0]
			d.waiting[0] = job{}
			d.waiting = d.waiting[1:]
			d.active++
			s.waiting--
			s.turn = append(s.turn[:i], s.turn[i+1:]...)
			if len(d.waiting) > 0 {
				s.turn = append(s.turn, d)
			}
			if isDead {
				end := d.dead
				dead = &end
			}
			return j, dead, true
		}
		s.changed.Wait()
	}
	return job{}, nil, false
}

// answered widens a destination's window: somebody is there.
func (s *scheduler) answered(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.dests[name]
	d.window = min(d.window+1, s.maximum)
	d.failures, d.dead = 0, deadEnd{}
}

// unreachable narrows a destination's window and declares it dead for a
// while: some seconds at first, so that a restart next door costs no more,
// doubling up to longest.
func (s *scheduler) unreachable(name string, why status.Reply, longest time.Duration) deadEnd {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.dests[name]
	now := time.Now()
	if now.Before(d.dead.until) {
		return d.dead // attempts that began together fail together
	}
	d.window = max(d.window-1, 1)
	wait := longest
	if d.failures < 10 {
		wait = min(firstDeadTime<<d.failures, longest)
	}
	d.failures++
	d.dead = deadEnd{now.Add(wait), why}
	return d.dead
}

// done gives a job's place back.
func (s *scheduler) done(j job) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.present, j.ref)
	s.dests[j.group.destination].active--
	s.changed.Broadcast()
}

// room is how many more groups offer would take, and the due time from which
// the index has to be read again because some found no room.
func (s *scheduler) room() (n int, again time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	again = s.overflow
	s.overflow = time.Time{}
	return s.maxReady - s.waiting, again
}

// revive forgets that destinations are dead, for an operator's flush.
func (s *scheduler) revive() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range s.dests {
		d.failures, d.dead = 0, deadEnd{}
	}
	s.changed.Broadcast()
}

// isPresent reports whether a group waits in memory or is under way.
func (s *scheduler) isPresent(ref groupRef) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.present[ref]
}

// remove takes a waiting group out; false when it is under way or absent.
func (s *scheduler) remove(ref groupRef) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, d := range s.turn {
		for k, j := range d.waiting {
			if j.ref != ref {
				continue
			}
			d.waiting = append(d.waiting[:k], d.waiting[k+1:]...)
			s.waiting--
			delete(s.present, ref)
			if len(d.waiting) == 0 {
				s.turn = append(s.turn[:i], s.turn[i+1:]...)
			}
			return true
		}
	}
	return false
}

// prune drops destinations that have nothing to remember, so that strangers'
// domains do not pile up.
func (s *scheduler) prune(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, d := range s.dests {
		if d.active == 0 && len(d.waiting) == 0 && now.Sub(d.dead.until) > maxFailureMemory {
			delete(s.dests, name)
		}
	}
}

// closeOn ends every take when ctx ends.
func (s *scheduler) closeOn(ctx context.Context) (stop func() bool) {
	return context.AfterFunc(ctx, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.closed = true
		s.changed.Broadcast()
	})
}

// load tells how many groups wait and are under way.
func (s *scheduler) load() (waiting, active int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range s.dests {
		active += d.active
	}
	return s.waiting, active
}
