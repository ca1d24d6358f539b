package queue

import (
	"slices"
	"time"

	"github.com/postern-mail/postern/mail"
)

// schedule decides which group is tried next. It does no input or output and
// reads no clock; its owner guards it.
//
// Each destination has a line in which senders take turns, a window of how many
// deliveries may run at once, and a pause after failed connections: a second at
// first, doubling. What fails meanwhile stays at the head of the line and
// counts as no attempt, so that a restart of the next hop costs seconds. When
// the pauses reach a minute the destination is down: what is in its line is
// deferred with the last reply, as Postfix does, and one delivery tries again
// after the minimal backoff.
//
// Workers are shared between the mail of those who have little waiting and of
// those who have much, turn about: a newsletter to everybody, at however many
// destinations, leaves half of them to the rest. Within each half, and within
// each line, the higher priority has more of the turns, and none has all: see
// ladder.
type schedule struct {
	cfg     Config
	limiter Limiter // may be nil
	lines   map[string]*destination
	// runnable holds, in turn, the destinations that may have work to give: of
	// senders with little waiting, and of those with much.
	runnable [2]ladder[[]*destination]
	favour   int                  // which of them is next
	senders  map[mail.Address]int // groups in all lines
	// condemned holds the destinations that are down and have a line.
	condemned []*destination
	nextWake  time.Time // when the first pause ends; zero for none
	groups    int       // in all lines and in flight
	inFlight  int
}

// item is a group in a line.
type item struct {
	m     *message
	group int
	to    *destination
}

// destination is one next hop.
type destination struct {
	name        string
	lines       [2]ranks // of senders with little waiting, and of those with much
	inFlight    int
	window      int
	initial     int
	limit       int
	failures    int // failed connections in a row
	pausedUntil time.Time
	down        bool
	condemned   bool         // in schedule.condemned
	last        mail.Outcome // of the last failed connection
	listed      [2]uint32    // in runnable, a bit for each priority from the lowest
	// skipped holds, by shard, the lowest due entry that was left in the store
	// because the line was long enough; nil for none.
	skipped map[uint16][]byte
}

const (
	firstPause = time.Second
	longPause  = time.Minute
	maxLimit   = 1000
)

// The kinds of senders: who has more than aLot groups in line is one of many.
const (
	little = 0
	much   = 1
	aLot   = 20
)

func (s *schedule) init(cfg Config, transport Transport) {
	s.cfg = cfg
	s.limiter, _ = transport.(Limiter)
	s.lines = make(map[string]*destination)
	s.senders = make(map[mail.Address]int)
}

func (s *schedule) destination(name string) *destination {
	d := s.lines[name]
	if d == nil {
		d = &destination{name: name, initial: s.cfg.InitialConcurrency, limit: s.cfg.MaximalConcurrency}
		if s.limiter != nil {
			initial, limit := s.limiter.Concurrency(name)
			if limit > 0 {
				d.limit = min(limit, maxLimit)
				d.initial = min(d.initial, d.limit)
			}
			if initial > 0 {
				d.initial = min(initial, d.limit)
			}
		}
		d.window = d.initial
		s.lines[name] = d
	}
	return d
}

// room reports whether one more group of a sender may be in memory at all, and
// in d's line, where nobody may take more than he leaves. What was given a
// higher priority than usual has room beyond that of the rest, and counts only
// among its like.
func (s *schedule) room(d *destination, sender mail.Address, priority int8) (any, here bool) {
	limit, atLeast := s.cfg.ActiveLimit, int8(mail.LowestPriority)
	if priority > 0 {
		limit, atLeast = limit+max(limit/8, 1), 1
	}
	free := max(limit/2, 1) - d.waiting()
	return s.groups < limit, d.lines[little].count(sender, atLeast)+d.lines[much].count(sender, atLeast) < free
}

// skip remembers a due entry that is left in the store.
func (d *destination) skip(entry []byte) {
	if d.skipped == nil {
		d.skipped = make(map[uint16][]byte)
	}
	if lowest := d.skipped[shardOfDue(entry)]; lowest == nil || string(entry) < string(lowest) {
		d.skipped[shardOfDue(entry)] = entry
	}
}

// waiting is how many groups are in line.
func (d *destination) waiting() int { return d.lines[little].n + d.lines[much].n }

// push puts a group at the end of its line.
func (s *schedule) push(it item) {
	s.enter(it).push(it)
	s.condemn(it.to)
}

// condemn has the line of d deferred if d is down.
func (s *schedule) condemn(d *destination) {
	if d.down && !d.condemned && d.waiting() > 0 {
		d.condemned = true
		s.condemned = append(s.condemned, d)
	}
}

// pushBack puts a group that was in flight at the head of its line.
func (s *schedule) pushBack(it item) {
	s.enter(it).pushFront(it)
}

// enter counts a group that comes into line and returns that line.
func (s *schedule) enter(it item) *ranks {
	s.groups++
	s.senders[it.sender()]++
	kind := s.kindOf(it.sender())
	s.listKind(it.to, kind, it.priority())
	return &it.to.lines[kind]
}

// pop takes the next group out of a line.
func (s *schedule) pop(l *ranks) item {
	it := l.pop()
	s.leave(it)
	return it
}

// remove takes a group out of the line it is in.
func (s *schedule) remove(it item) {
	for kind := range it.to.lines {
		if it.to.lines[kind].remove(it) {
			s.groups--
			s.leave(it)
			return
		}
	}
}

// leave counts a group that left its line.
func (s *schedule) leave(it item) {
	if s.senders[it.sender()]--; s.senders[it.sender()] == 0 {
		delete(s.senders, it.sender())
	}
}

func (s *schedule) kindOf(sender mail.Address) int {
	if s.senders[sender] > aLot {
		return much
	}
	return little
}

// list makes d runnable for whoever waits there.
func (s *schedule) list(d *destination) {
	for kind := range d.lines {
		if d.lines[kind].n > 0 {
			s.listKind(d, kind, d.lines[kind].top())
		}
	}
}

// listKind has d take turns with the destinations where mail of a priority
// waits.
func (s *schedule) listKind(d *destination, kind int, priority int8) {
	if bit := listedBit(priority); d.listed[kind]&bit == 0 {
		d.listed[kind] |= bit
		r := s.runnable[kind].at(priority, nobody)
		r.waiting = append(r.waiting, d)
	}
}

func listedBit(priority int8) uint32 { return 1 << (int(priority) - mail.LowestPriority) }

func nobody(list *[]*destination) bool { return len(*list) == 0 }

// turn takes the next destination that may have work to give, and says for
// which kind of sender, and in whose turn.
func (s *schedule) turn() (d *destination, kind int, of *rung[[]*destination]) {
	kind = s.favour
	if of = s.runnable[kind].next(nobody); of == nil {
		kind = 1 - kind
		of = s.runnable[kind].next(nobody)
	}
	if of == nil {
		return nil, kind, nil
	}
	d = of.waiting[0]
	of.waiting[0] = nil
	of.waiting = of.waiting[1:]
	d.listed[kind] &^= listedBit(of.priority)
	return d, kind, of
}

// regroup moves those who came with little and have much by now.
func (s *schedule) regroup(d *destination) {
	for d.lines[little].n > 0 && s.kindOf(d.lines[little].next()) == much {
		d.lines[much].precede(d.lines[little].takeAll())
		s.listKind(d, much, d.lines[much].top())
	}
}

// next takes the group to be tried now out of its line, going round the
// destinations; ok is false when there is none, or no worker is free. It asks
// dead about groups that nobody wants any more and drops those.
func (s *schedule) next(now time.Time, dead func(item) bool) (it item, ok bool) {
	for s.inFlight < s.cfg.Workers {
		d, kind, of := s.turn()
		if d == nil {
			break
		}
		if now.Before(d.pausedUntil) || d.inFlight >= d.allowed() {
			continue // listed again when that ends
		}
		if kind == little {
			s.regroup(d)
		}
		for d.lines[kind].n > 0 && !ok {
			it = s.pop(&d.lines[kind])
			ok = !dead(it)
			if !ok {
				s.groups--
			}
		}
		if ok {
			s.runnable[kind].served(of)
			d.inFlight++
			s.inFlight++
			s.favour = 1 - kind
			s.list(d)
			return it, true
		}
		s.dropIfUnused(d, now)
	}
	return item{}, false
}

// begin counts a delivery that does not come out of a line, to be taken back
// by done. It returns nil when the destination has no room for it now, or may
// be out of reach.
func (s *schedule) begin(name string, now time.Time) *destination {
	d := s.destination(name)
	if d.failures > 0 || d.inFlight >= d.limit || s.inFlight >= s.cfg.Workers {
		s.dropIfUnused(d, now)
		return nil
	}
	d.inFlight++
	s.inFlight++
	s.groups++
	return d
}

// allowed is how many deliveries may run at once: one after a failure.
func (d *destination) allowed() int {
	if d.failures > 0 {
		return 1
	}
	return d.window
}

// contact is what an attempt learnt of the destination itself.
type contact int

const (
	reached contact = iota
	unreachable
)

// contactOf looks at the outcomes of an attempt.
func contactOf(outcomes []mail.Outcome) contact {
	for i := range outcomes {
		if o := &outcomes[i]; o.Class != mail.Deferred || o.Uncertain || !networkFailure(o) {
			return reached
		}
	}
	return unreachable
}

// networkFailure: our own word with a subject of network and routing status
// (RFC 3463 section 3.5), or the peer closing the door.
func networkFailure(o *mail.Outcome) bool {
	const networkSubject = 4
	return !o.FromPeer && o.Reply.Enhanced[1] == networkSubject || o.FromPeer && o.Reply.Closes()
}

// done takes back a group that was in flight. It returns true when the
// destination will soon be tried again, so that the group may wait for it.
func (s *schedule) done(it item, c contact, last mail.Outcome, now time.Time, jitter float64) (again bool) {
	d := it.to
	d.inFlight--
	s.inFlight--
	s.groups--
	if c == reached {
		if d.failures > 0 {
			d.failures, d.down, d.window = 0, false, d.initial
			d.pausedUntil = time.Time{}
		} else if d.window < d.limit && d.window < d.inFlight+1+d.initial {
			d.window++
		}
	} else {
		again = s.failed(d, last, now, jitter)
	}
	if d.waiting() > 0 {
		s.list(d)
	} else {
		s.dropIfUnused(d, now)
	}
	return again
}

// failed notes a failed connection. Those that were under way together count
// once.
func (s *schedule) failed(d *destination, last mail.Outcome, now time.Time, jitter float64) (again bool) {
	d.last = last
	if now.Before(d.pausedUntil) {
		return !d.down
	}
	d.failures++
	pause := firstPause << min(d.failures-1, 16)
	if d.down = pause > longPause; d.down {
		pause = s.cfg.MinimalBackoff
	}
	d.pausedUntil = now.Add(pause + time.Duration(jitter*float64(pause)/5))
	d.window = d.initial
	if s.nextWake.IsZero() || d.pausedUntil.Before(s.nextWake) {
		s.nextWake = d.pausedUntil
	}
	s.condemn(d)
	return !d.down
}

// doomed takes up to limit groups out of the lines of destinations that are
// down. One that may be tried again by now keeps its line.
func (s *schedule) doomed(now time.Time, limit int) (taken []item) {
	for len(s.condemned) > 0 && len(taken) < limit {
		d := s.condemned[0]
		if d.down && now.Before(d.pausedUntil) {
			for kind := range d.lines {
				for d.lines[kind].n > 0 && len(taken) < limit {
					taken = append(taken, s.pop(&d.lines[kind]))
					s.groups--
				}
			}
			if d.waiting() > 0 {
				break
			}
		}
		d.condemned = false
		s.condemned = s.condemned[1:]
	}
	return taken
}

// wake lists the destinations whose pause has ended, once one has.
func (s *schedule) wake(now time.Time) {
	if s.nextWake.IsZero() || now.Before(s.nextWake) {
		return
	}
	s.nextWake = time.Time{}
	for _, d := range s.lines {
		switch {
		case now.Before(d.pausedUntil):
			if s.nextWake.IsZero() || d.pausedUntil.Before(s.nextWake) {
				s.nextWake = d.pausedUntil
			}
		case d.waiting() > 0:
			s.list(d)
		default:
			s.dropIfUnused(d, now)
		}
	}
}

// revive ends the pause of a destination, or of all for "".
func (s *schedule) revive(name string) {
	if name == "" {
		for name := range s.lines {
			s.revive(name)
		}
		return
	}
	if d := s.lines[name]; d != nil {
		d.pausedUntil, d.failures, d.down = time.Time{}, 0, false
		if d.waiting() > 0 {
			s.list(d)
		}
	}
}

// dropIfUnused forgets a destination about which nothing need be known. One
// that was down is remembered until it is tried again or a while later.
func (s *schedule) dropIfUnused(d *destination, now time.Time) {
	if d.waiting() == 0 && d.inFlight == 0 && d.skipped == nil && d.listed == [2]uint32{} &&
		(d.failures == 0 || now.After(d.pausedUntil.Add(s.cfg.MaximalBackoff))) {
		delete(s.lines, d.name)
	}
}

// unreachable lists the destinations whose last connection failed, sorted.
func (s *schedule) unreachable() (names []string) {
	for name, d := range s.lines {
		if d.failures > 0 {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}
