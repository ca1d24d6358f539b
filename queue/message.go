package queue

import (
	"time"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/store"
)

// message is a queued message in memory. All but the record is guarded by
// Queue.mu; only the keeper changes what is also in the store.
type message struct {
	id    mail.QueueID
	shard uint16
	home  *shard // the shard as it was served when m came into memory
	*record
	parts   int // records of further groups
	work    []group
	held    bool
	removed bool

	// untriedEntry is true while the due index has the entry for the first
	// attempt, at the time of arrival.
	untriedEntry bool

	busy      bool // its acceptance is not durable yet
	graspedBy int  // operations of operators
	reporting bool
	moving    int // groups that are not idle
	ended     bool
	expired   bool   // an operator gave up what is being delivered
	grown     bool   // groups were added that nobody has put in line yet
	result    string // of the whole, for the audit
}

// place is where a group is.
type place uint8

const (
	idle     place = iota // waits in the store for its time
	ready                 // in its destination's line
	inFlight              // being delivered
	settling              // with the keeper, who does not know the outcomes yet
	settled               // the outcomes are in a commit that is not durable yet
)

// isUnderWay reports whether what becomes of the group's recipients is not
// known yet: they are being delivered, or the keeper has still to hear of it.
func (w *group) isUnderWay() bool { return w.place == inFlight || w.place == settling }

// group is one group of recipients in memory.
type group struct {
	place    place
	finished bool
	// state is nil for a group that was not tried, and for one whose
	// recipients were all delivered at once.
	state *groupState
	// entry is the time of the group's own due entry; zero for none.
	entry time.Time
	to    *destination // whose line it is in, while it is ready
	// after is what operators want of those whom the delivery under way does
	// not reach.
	after []*redirection
}

func (m *message) untriedKey() []byte {
	return dueKey(dueEntry{shard: m.shard, due: m.arrived, id: m.id, group: firstAttempt})
}

// firstEntry is the due entry that a message is accepted with.
func (m *message) firstEntry() []byte {
	if m.work[0].state != nil {
		return m.entryKey(0)
	}
	return m.untriedKey()
}

// firstDue is the time of firstEntry.
func (m *message) firstDue() time.Time {
	if m.work[0].state != nil {
		return m.work[0].entry
	}
	return m.arrived
}

func (m *message) entryKey(g int) []byte {
	return dueKey(dueEntry{shard: m.shard, due: m.work[g].entry, id: m.id, group: g})
}

// untried reports whether group g is still to be tried for the first time.
func (m *message) untried(g int) bool { return m.work[g].state == nil && !m.work[g].finished }

// finished reports whether nothing is left to do for any group.
func (m *message) finished() bool {
	for i := range m.work {
		if !m.work[i].finished {
			return false
		}
	}
	return true
}

// owesReports reports whether the sender is to be told something now.
func (m *message) owesReports(r rules, now time.Time) bool {
	for i := range m.work {
		if s := m.work[i].state; s != nil && (s.owed() || m.owesWarning(i, r, now)) {
			return true
		}
	}
	return false
}

// owesWarning reports whether group g is late enough for a warning.
func (m *message) owesWarning(g int, r rules, now time.Time) bool {
	s := m.work[g].state
	if r.delayWarning <= 0 || s == nil || s.warned || m.envelope.ReversePath.IsNull() ||
		now.Before(m.arrived.Add(r.delayWarning)) {
		return false
	}
	for i := range s.recipients {
		if s.recipients[i].isLate() && wantsDelay(m.groups[g][i].Notify) {
			return true
		}
	}
	return false
}

// rules returns the schedule of m.
func (q *Queue) rules(m *message) rules {
	r := rules{
		minimalBackoff: q.cfg.MinimalBackoff, maximalBackoff: q.cfg.MaximalBackoff,
		lifetime: q.cfg.Lifetime, delayWarning: q.cfg.DelayWarning,
	}
	if m.envelope.ReversePath.IsNull() {
		r.lifetime = q.cfg.BounceLifetime
		r.doubleBounces = q.doubleBounces(m)
	}
	if m.expired {
		r.lifetime = 0
	}
	return r
}

// settleLocked applies the outcomes of an attempt at group g and adds to b
// what records them.
func (q *Queue) settleLocked(b *store.Batch, m *message, g int, outcomes []mail.Outcome, now time.Time) {
	if m.removed {
		return
	}
	if m.arrived.After(now.Add(clockSlack)) {
		q.correctArrivalLocked(b, m, now)
	}
	w := &m.work[g]
	if m.untried(g) && m.allDone(m.groups[g], outcomes) {
		w.finished = true
	} else {
		if w.state == nil {
			s := newGroupState(len(m.groups[g]))
			w.state = &s
		}
		w.state.settle(m.record, m.groups[g], outcomes, q.rules(m), now, jitter())
		w.finished = w.state.finished()
		q.noteUnconfirmed(m, g)
	}
	w.place = settled
	q.afterLocked(b, m, g)
	q.storeLocked(b, m, g)
}

// clockSlack is by how much a message may come from the future.
const clockSlack = time.Minute

// correctArrivalLocked has a message arrive now that came while the clock was
// ahead: it would be tried until its lifetime after that.
func (q *Queue) correctArrivalLocked(b *store.Batch, m *message, now time.Time) {
	q.log.Warn("message arrived in the future", "qid", m.id, "arrived", m.arrived)
	if m.untriedEntry {
		b.Delete(m.untriedKey())
	}
	m.arrived = now.Truncate(time.Millisecond)
	if m.untriedEntry {
		b.Put(m.untriedKey(), m.dueMark())
	}
	q.writeMessageLocked(b, m)
}

// allDone reports whether everybody was delivered and nobody wants to hear.
func (m *record) allDone(recipients []mail.Recipient, outcomes []mail.Outcome) bool {
	for i := range recipients {
		if i >= len(outcomes) || outcomes[i].Class != mail.Delivered || m.wantsSuccess(recipients[i].Notify, outcomes[i]) {
			return false
		}
	}
	return true
}

// storeLocked adds to b the present state of group g, or the end of the
// message when that was the last to be done.
func (q *Queue) storeLocked(b *store.Batch, m *message, g int) {
	if m.finished() {
		q.removeLocked(b, m)
		return
	}
	w := &m.work[g]
	b.Put(stateKey(m.id, g), encodeState(w.storedState(len(m.groups[g]))))
	q.clearEntryLocked(b, m, g)
	if !w.finished && !m.held && !m.untried(g) {
		w.entry = w.state.due
		b.Put(m.entryKey(g), m.dueMark())
	}
	q.clearUntriedLocked(b, m)
}

// storedState is the state to store, also for a group that needed none.
func (w *group) storedState(recipients int) *groupState {
	if w.state != nil {
		return w.state
	}
	s := newGroupState(recipients)
	s.attempts = 1
	for i := range s.recipients {
		s.recipients[i].progress = delivered
	}
	return &s
}

func (q *Queue) clearEntryLocked(b *store.Batch, m *message, g int) {
	if w := &m.work[g]; !w.entry.IsZero() {
		b.Delete(m.entryKey(g))
		w.entry = time.Time{}
	}
}

// clearUntriedLocked removes the entry for the first attempt once every group
// had one.
func (q *Queue) clearUntriedLocked(b *store.Batch, m *message) {
	if !m.untriedEntry {
		return
	}
	for g := range m.work {
		if m.untried(g) {
			return
		}
	}
	b.Delete(m.untriedKey())
	m.untriedEntry = false
}

// removeLocked adds to b the end of everything about m.
func (q *Queue) removeLocked(b *store.Batch, m *message) {
	m.removed = true
	count(b, m.shard, -1, -m.heldCount())
	b.Delete(messageKey(m.id))
	for i := range m.parts {
		b.Delete(partKey(m.id, i))
	}
	if m.untriedEntry {
		b.Delete(m.untriedKey())
	}
	if m.held {
		b.Delete(holdKey(m.id))
	}
	if len(m.work) == 1 && m.work[0].state == nil {
		// Its state was never stored: the usual case needs no more.
		q.deps.Blobs.Unlink(b, m.ref)
		return
	}
	for g := range m.work {
		q.clearEntryLocked(b, m, g)
	}
	b.DeleteRange(stateRange(m.id))
	q.deps.Blobs.Unlink(b, m.ref)
}

// heldCount is how many messages on hold m is.
func (m *message) heldCount() int64 {
	if m.held {
		return 1
	}
	return 0
}

// forgetIfIdleLocked drops m from memory when nobody works on it.
func (q *Queue) forgetIfIdleLocked(m *message) {
	if m.moving == 0 && !m.busy && m.graspedBy == 0 && !m.reporting && q.active[m.id] == m {
		delete(q.active, m.id)
	}
}
