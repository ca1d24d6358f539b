package queue

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
	"github.com/postern-mail/postern/store"
)

// intake knows how hard mail presses in. Each of its states is logged when it
// begins and when it ends, not by every message it meets.
type intake struct {
	noSpace atomic.Bool // the disk has less than its reserve
	full    atomic.Bool // as many messages as may be
	pressed atomic.Bool // mail comes in faster than it goes out
	looked  atomic.Int64
}

// pressureEvery is how old the answer of Pressed may be.
const pressureEvery = 100 * time.Millisecond

// CheckSpace returns status.MailSystemFull when a message of declared octets
// would not fit: for MAIL and DATA, before anybody sends it.
func (q *Queue) CheckSpace(declared int64) error {
	space, ok := q.deps.Store.(store.Space)
	if !ok {
		return nil
	}
	err := space.CheckSpace(max(declared, 0))
	full := errors.Is(err, store.ErrFull)
	switch {
	case full && declared > 0:
		// What is too much for what is left does not make the disk full.
		q.noteSpace(space.CheckSpace(0))
	case err == nil || full:
		q.noteSpace(err)
	}
	if full {
		return status.New(status.MailSystemFull, err)
	}
	if err != nil {
		return status.New(status.StoreDown, err)
	}
	return nil
}

// Full reports whether nothing can be accepted for want of space.
func (q *Queue) Full() bool { return q.CheckSpace(0) != nil }

// noteSpace notes whether the disk is full.
func (q *Queue) noteSpace(err error) {
	full := errors.Is(err, store.ErrFull)
	if q.intake.noSpace.Swap(full) == full {
		return
	}
	if !full {
		q.log.Info("room for mail again")
		q.Notify(mail.NoticeResource, "The disk of the queue has room again; mail is taken as before.")
		return
	}
	q.log.Error("no room for mail: new mail is put off until the disk has more than queue_minfree", "err", err)
	q.Notify(mail.NoticeResource, fmt.Sprintf("New mail is put off (452) until the disk of the queue has more free space than queue_minfree: %v. What is queued goes on.", err))
}

// Admit returns status.QueueFull when the queue holds as many messages as it
// may, and the message would have to go there: one that its next hop takes
// while the client waits does not. For DATA, before anybody sends it.
func (q *Queue) Admit(e *mail.Envelope) error {
	if !q.isFull() || q.goesDirect(e) {
		return nil
	}
	return q.errFull()
}

func (q *Queue) errFull() error {
	return status.Errorf(status.QueueFull, "%d messages are queued; max_queue_messages is %d", q.counts.queued.Load(), q.cfg.MaxMessages)
}

// goesDirect reports whether Submit would bring the message to its next hop.
func (q *Queue) goesDirect(e *mail.Envelope) bool {
	direct, ok := q.deps.Transport.(Direct)
	if !ok || len(e.Recipients) == 0 || len(e.Recipients) > q.cfg.RecipientLimit {
		return false
	}
	name := q.deps.Transport.Destination(e.ReversePath, e.Recipients[0])
	for i := range e.Recipients {
		r := &e.Recipients[i]
		if r.Notify&mail.NotifySuccess != 0 || q.deps.Transport.Destination(e.ReversePath, *r) != name {
			return false
		}
	}
	return direct.Direct(name)
}

// isFull reports whether the queue holds as many messages as it may. Once it
// does, that lasts until a twentieth of them is gone.
func (q *Queue) isFull() bool {
	limit := q.cfg.MaxMessages
	if limit <= 0 {
		return false
	}
	n, was := q.counts.queued.Load(), q.intake.full.Load()
	full := n >= limit || was && n > limit-max(limit/20, 1)
	if full == was || !q.intake.full.CompareAndSwap(was, full) {
		return full
	}
	if !full {
		q.log.Info("the queue has places again", "messages", n, "max_queue_messages", limit)
		q.Notify(mail.NoticeResource, fmt.Sprintf("The queue has places again (%d of %d messages); mail is taken as before.", n, limit))
		return full
	}
	q.log.Warn("the queue is full: new mail is put off", "messages", n, "max_queue_messages", limit)
	q.Notify(mail.NoticeResource, fmt.Sprintf("New mail that has to be queued is put off (452): %d messages are queued, and max_queue_messages is %d. "+
		"See what waits, and why, with postern queue shape.", n, limit))
	return full
}

// Pressed reports whether mail comes in faster than it goes out: memory has no
// room for all that could be tried, or four fifths of max_queue_messages are
// queued. The answer may be a tenth of a second old.
func (q *Queue) Pressed() bool {
	now := time.Now().UnixNano()
	looked := q.intake.looked.Load()
	if now-looked < int64(pressureEvery) || !q.intake.looked.CompareAndSwap(looked, now) {
		return q.intake.pressed.Load()
	}
	q.mu.Lock()
	crowded, active := q.crowded, q.schedule.groups
	q.mu.Unlock()
	n, limit, was := q.counts.queued.Load(), q.cfg.MaxMessages, q.intake.pressed.Load()
	pressed := crowded || limit > 0 && (n*5 >= limit*4 || was && n*10 >= limit*7)
	if q.intake.pressed.Swap(pressed) != pressed {
		what := "mail comes in no faster than it goes out: intake is not slowed any more"
		if pressed {
			what = "mail comes in faster than it goes out: intake is slowed by in_flow_delay"
		}
		q.log.Warn(what, "messages", n, "active", active)
	}
	return pressed
}
