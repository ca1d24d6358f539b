package replica

import (
	"context"
	"sync"
	"time"

	"github.com/postern-mail/postern/backend/mailstore"
)

// runner runs the channel of one account: one worker at a time.
type runner struct {
	node *Node
	id   mailstore.GUID

	// Of the worker whose turn it is.
	channel *Channel
	link    Link // nil while it is down
	wakeAt  time.Time

	mu        sync.Mutex
	name      string
	events    []event
	scheduled bool
	again     bool  // something came since the turn under way began
	class     Class // of the queue it goes to
	committed uint64
	acked     uint64
	down      bool // there is no link: nobody waits for the partner
	attached  bool
	waiters   []*waiter
	changed   chan struct{} // closed when attached changes; nil when nobody waits
	timer     *time.Timer
	shown     AccountState
}

// event is something for the channel: a frame, or what do does.
type event struct {
	link    Link // of a frame
	kind    Kind
	payload []byte
	done    func()
	do      func(ctx context.Context, c *Channel)
}

func newRunner(n *Node, id mailstore.GUID, name string, link Link) *runner {
	r := &runner{node: n, id: id, name: name}
	r.events = append(r.events, r.up(link))
	return r
}

func (r *runner) up(link Link) event {
	r.down = false
	return event{do: func(_ context.Context, c *Channel) {
		r.link = link
		c.LinkUp(link.Peer())
	}}
}

// post gives the channel something to do.
func (r *runner) post(e event) {
	r.mu.Lock()
	r.events = append(r.events, e)
	push := r.scheduleLocked()
	class := r.class
	r.mu.Unlock()
	if push {
		r.node.enqueue(r, class)
	}
}

func (r *runner) do(fn func(ctx context.Context, c *Channel)) { r.post(event{do: fn}) }

// schedule has the account get a turn.
func (r *runner) schedule() {
	r.mu.Lock()
	push := r.scheduleLocked()
	class := r.class
	r.mu.Unlock()
	if push {
		r.node.enqueue(r, class)
	}
}

func (r *runner) scheduleLocked() bool {
	push := !r.scheduled
	r.scheduled, r.again = true, true
	return push
}

// Bounds of a turn, after which it is the next account's.
const (
	turnEvents = 64
	turnWorks  = 8
)

// turn lets the channel take in what happened and do what it can.
func (r *runner) turn(ctx context.Context) {
	r.mu.Lock()
	events := r.events
	if len(events) > turnEvents {
		events, r.events = events[:turnEvents:turnEvents], events[turnEvents:]
	} else {
		r.events = nil
	}
	committed, name := r.committed, r.name
	r.again = false
	r.mu.Unlock()
	if ctx.Err() != nil || !r.open(ctx, name) {
		r.failed(events)
		return
	}
	r.wakeAt = time.Time{}
	c := r.channel
	c.Tick(r.node.now())
	c.Committed(committed)
	for _, e := range events {
		switch {
		case e.do != nil:
			e.do(ctx, c)
		case e.link == r.link:
			c.Frame(ctx, e.kind, e.payload)
		}
		if e.done != nil {
			e.done()
		}
	}
	more := false
	for range turnWorks {
		if more = c.Work(ctx); !more {
			break
		}
	}
	r.settled(more)
}

// open makes the channel at its first turn.
func (r *runner) open(ctx context.Context, name string) bool {
	if r.channel != nil {
		return true
	}
	n := r.node
	account, err := n.openAccount(ctx, r.id, name)
	if err != nil {
		n.Failed(r.id, "open the account", err)
		return false
	}
	r.mu.Lock()
	r.name = account.Name()
	r.mu.Unlock()
	r.channel = NewChannel(ChannelConfig{
		ID: r.id, Name: account.Name(), Class: n.class, Account: account, Bodies: n, Out: r, Events: channelEvents{n},
		Limits: n.cfg.Limits, Drawn: n.drawn.Add(1 << 32),
	})
	if why, ok := n.memory.quarantined(r.id); ok {
		r.channel.poisoned = why
	}
	r.channel.paused = n.memory.isPaused(r.id)
	return true
}

// failed puts off a turn whose account cannot be opened. Frames are lost: the
// partner attaches anew.
func (r *runner) failed(events []event) {
	r.finish(events)
	r.mu.Lock()
	r.events = append(withoutFrames(events), r.events...)
	r.scheduled = false
	r.shown.Tries++
	gone := r.down
	if !gone {
		r.wakeLocked(r.node.now().Add(openRetry))
	}
	r.mu.Unlock()
	r.node.stopped(r.id)
	if gone {
		r.node.dispose(r)
	}
}

const openRetry = 5 * time.Second

func withoutFrames(events []event) []event {
	var kept []event
	for _, e := range events {
		if e.do != nil {
			kept = append(kept, e)
		}
	}
	return kept
}

// finish ends events that nobody takes in.
func (r *runner) finish(events []event) {
	for _, e := range events {
		if e.done != nil {
			e.done()
		}
	}
}

// settled ends a turn: shows where the account stands, and sees to its next.
func (r *runner) settled(more bool) {
	c := r.channel
	r.mu.Lock()
	if c != nil {
		before := r.shown
		if r.shown = c.show(r.name); r.shown.Tries > 0 || r.shown.Blocked {
			r.shown.Failure, r.shown.FailedAt = before.Failure, before.FailedAt
		}
		if attached := c.state == Attached; attached != r.attached {
			r.attached = attached
			if r.changed != nil {
				close(r.changed)
				r.changed = nil
			}
		}
	}
	more = more || r.again || len(r.events) > 0
	r.scheduled = more
	class := r.class
	stopped := c != nil && (c.tries > 0 || c.rx.tries > 0 && !c.rx.blocked || c.leftOut() != nil)
	idle := !more && r.disposableLocked()
	if !more && !idle && !r.wakeAt.IsZero() {
		r.wakeLocked(r.wakeAt)
	}
	r.mu.Unlock()
	if stopped {
		r.node.stopped(r.id)
	}
	switch {
	case more:
		r.node.enqueue(r, class)
	case idle:
		r.node.dispose(r)
	}
}

// disposableLocked reports whether nothing is lost when the runner is forgotten.
func (r *runner) disposableLocked() bool {
	if r.channel == nil {
		return r.down
	}
	return r.link == nil && r.channel.state == Unattached && !r.channel.leaving && len(r.waiters) == 0
}

// dispose forgets an account that has nothing to do until it changes or the link
// is back.
func (n *Node) dispose(r *runner) {
	n.mu.Lock()
	defer n.mu.Unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.scheduled || n.runners[r.id] != r || !r.disposableLocked() {
		return
	}
	if r.timer != nil {
		r.timer.Stop()
	}
	delete(n.runners, r.id)
}

// wakeLocked has the account get a turn at a time.
func (r *runner) wakeLocked(at time.Time) {
	d := max(0, at.Sub(r.node.now()))
	if r.timer == nil {
		r.timer = time.AfterFunc(d, r.schedule)
		return
	}
	r.timer.Reset(d)
}

// Wake implements Out.
func (r *runner) Wake(at time.Time) {
	if r.wakeAt.IsZero() || at.Before(r.wakeAt) {
		r.wakeAt = at
	}
}

// Room implements Out. Without it the account gets its turn when there is some.
func (r *runner) Room(class Class) bool {
	if r.link == nil || r.link.Room(class) {
		return true
	}
	r.node.park(r)
	return r.link.Room(class) // it may have come before we were noted
}

// Send implements Out.
func (r *runner) Send(class Class, kind Kind, payload []byte) {
	if r.link == nil {
		return
	}
	r.node.counts.sent(class, len(payload))
	r.link.Push(Frame{Class: class, Kind: kind, Account: r.id, Payload: payload})
}

// park notes an account that waits for room.
func (n *Node) park(r *runner) {
	n.counts.stalls.Inc()
	n.mu.Lock()
	defer n.mu.Unlock()
	n.parked[r] = true
}

// Writable tells that there is room for more over a link, of which Room said
// that there was none.
func (n *Node) Writable(link Link) {
	n.mu.Lock()
	parked := n.parked
	n.parked = make(map[*runner]bool)
	n.mu.Unlock()
	for r := range parked {
		r.schedule()
	}
}

// lost tells the channel that the link is down. What came over it and was not
// taken in is void.
func (r *runner) lost() {
	r.mu.Lock()
	events := r.events
	r.events = append(withoutFrames(events), event{do: func(ctx context.Context, c *Channel) {
		r.link = nil
		c.LinkDown(ctx)
	}})
	r.class, r.down = ClassOps, true
	push := r.scheduleLocked()
	r.mu.Unlock()
	r.finish(events)
	if push {
		r.node.enqueue(r, ClassOps)
	}
	r.release(errLinkDown)
}
