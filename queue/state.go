package queue

import (
	"encoding/binary"
	"math/rand/v2"
	"time"

	"github.com/postern-mail/postern/mail"
)

// progress is how far a recipient is.
type progress uint8

const (
	pending progress = iota
	delivered
	failed
)

// recipientState is what became of one recipient so far.
type recipientState struct {
	progress progress
	// moved says that an operator sent the message elsewhere instead; progress
	// is delivered then.
	moved bool
	// owed is true while the sender has a right to a report on the progress.
	owed bool
	// last is the outcome of the last attempt; its zero time means none.
	last mail.Outcome
}

// groupState is the state of one group of recipients.
type groupState struct {
	attempts   int
	due        time.Time
	warned     bool // the sender was told of the delay
	recipients []recipientState
}

// newGroupState is the state of a group that was not tried.
func newGroupState(recipients int) groupState {
	return groupState{recipients: make([]recipientState, recipients)}
}

// pending counts those still to be delivered.
func (s *groupState) pending() (n int) {
	for i := range s.recipients {
		if s.recipients[i].progress == pending {
			n++
		}
	}
	return n
}

// owed reports whether a report is owed.
func (s *groupState) owed() bool {
	for i := range s.recipients {
		if s.recipients[i].owed {
			return true
		}
	}
	return false
}

// finished reports whether there is nothing left to do.
func (s *groupState) finished() bool { return s.pending() == 0 && !s.owed() }

// rules are what the schedule depends on.
type rules struct {
	minimalBackoff, maximalBackoff time.Duration
	lifetime                       time.Duration // of this message; not above 0 for one attempt
	delayWarning                   time.Duration
	doubleBounces                  bool // of this message, to the postmaster
}

// settle applies the outcomes of one attempt, which are for the recipients
// that were pending, in order. jitter is in [0, 1).
func (s *groupState) settle(m *record, recipients []mail.Recipient, outcomes []mail.Outcome, r rules, now time.Time, jitter float64) {
	if !s.onlyKept() {
		s.attempts++
	}
	expired := nextAttempt(m.arrived, now, s.attempts, r, jitter).IsZero()
	at := 0
	for i := range s.recipients {
		rcpt := &s.recipients[i]
		if rcpt.progress != pending || at >= len(outcomes) {
			continue
		}
		rcpt.learn(outcomes[at])
		at++
		switch rcpt.last.Class {
		case mail.Delivered:
			rcpt.progress = delivered
			rcpt.owed = m.wantsSuccess(recipients[i].Notify, rcpt.last)
		case mail.Bounced:
			rcpt.progress = failed
		case mail.Deferred:
			if expired {
				rcpt.expire(m, recipients[i].Notify)
			}
		}
		if rcpt.progress == failed {
			rcpt.owed = r.owesFailure(m, recipients[i].Notify)
		}
	}
	switch {
	case expired || s.pending() == 0:
		s.due = now // a report, if one is owed
	case s.onlyKept():
		s.due = s.nextQuestion(m.arrived.Add(r.lifetime), now, jitter)
	default:
		s.due = nextAttempt(m.arrived, now, s.attempts, r, jitter)
	}
}

// nextAttempt returns when to try again after the attempt-th failure, or the
// zero time when the message is too old. The last attempt falls on the end of
// the lifetime.
func nextAttempt(arrived, now time.Time, attempt int, r rules, jitter float64) time.Time {
	end := arrived.Add(r.lifetime)
	if r.lifetime <= 0 || !now.Before(end) {
		return time.Time{}
	}
	next := now.Add(backoff(attempt, r.minimalBackoff, r.maximalBackoff, jitter))
	if r.delayWarning > 0 {
		// An attempt that comes just after the warning is due carries it.
		if warn := arrived.Add(r.delayWarning); now.Before(warn) && next.After(warn) {
			next = warn
		}
	}
	if next.After(end) {
		next = end
	}
	return next
}

// backoff doubles from minimal to maximal with each attempt, give or take a
// fifth so that what failed together is not tried together, within the bounds.
func backoff(attempt int, minimal, maximal time.Duration, jitter float64) time.Duration {
	d := minimal
	for ; attempt > 1 && d < maximal; attempt-- {
		d *= 2
	}
	d = min(d, maximal)
	d += time.Duration((jitter*2 - 1) * float64(d) / 5)
	return min(max(d, minimal), maximal)
}

// wantsFailure tells whether NOTIFY asks for a report of failure (RFC 3461
// section 4.1): also when it was not given.
func wantsFailure(n mail.Notify) bool {
	return n&mail.NotifyNever == 0 && (n == 0 || n&mail.NotifyFailure != 0)
}

func wantsDelay(n mail.Notify) bool {
	return n&mail.NotifyNever == 0 && (n == 0 || n&mail.NotifyDelay != 0)
}

// wantsSuccess: only when it was asked for, when the next hop does not report
// itself, and when there is somebody to tell.
func (m *record) wantsSuccess(n mail.Notify, o mail.Outcome) bool {
	return n&mail.NotifySuccess != 0 && n&mail.NotifyNever == 0 && (o.Relayed || o.Final) && !m.envelope.ReversePath.IsNull()
}

// jitter draws for backoff.
func jitter() float64 { return rand.Float64() }

const (
	flagWarned = 1

	flagOwed     = 1 << 4
	maskProgress = flagOwed - 1

	flagTried    = 1
	flagFromPeer = 2
	flagRelayed  = 4
	flagFinal    = 8
	flagMoved    = 16
)

// maxReplyOctets bounds the texts kept of one recipient's last reply, and all
// of a group's together stay within a value.
const (
	maxReplyOctets      = 1000
	maxGroupReplyOctets = 40 << 10
)

func encodeState(s *groupState) []byte {
	limit := min(maxReplyOctets, maxGroupReplyOctets/max(len(s.recipients), 1))
	buf := append(make([]byte, 0, 128), formatVersion)
	buf = binary.AppendUvarint(buf, uint64(s.attempts))
	buf = binary.AppendVarint(buf, s.due.UnixMilli())
	flags := byte(0)
	if s.warned {
		flags |= flagWarned
	}
	buf = append(buf, flags)
	buf = binary.AppendUvarint(buf, uint64(len(s.recipients)))
	for i := range s.recipients {
		buf = appendRecipientState(buf, &s.recipients[i], limit)
	}
	return buf
}

func appendRecipientState(buf []byte, r *recipientState, limit int) []byte {
	b := byte(r.progress)
	if r.owed {
		b |= flagOwed
	}
	buf = append(buf, b)
	if r.last.At.IsZero() {
		return append(buf, 0)
	}
	o := &r.last
	flags := byte(flagTried)
	for _, f := range []struct {
		set bool
		bit byte
	}{{o.FromPeer, flagFromPeer}, {o.Relayed, flagRelayed}, {o.Final, flagFinal}, {r.moved, flagMoved}} {
		if f.set {
			flags |= f.bit
		}
	}
	buf = append(buf, flags, byte(o.Class))
	buf = appendReply(buf, o.Reply, limit)
	buf = appendString(buf, o.Remote[:min(len(o.Remote), limit)])
	buf = appendString(buf, o.RemoteMTA[:min(len(o.RemoteMTA), limit)])
	return binary.AppendVarint(buf, o.At.UnixMilli())
}

// decodeState reads what encodeState wrote, for the recipients of the group.
func decodeState(octets []byte, recipients []mail.Recipient) (groupState, error) {
	d := decoder{buf: octets}
	d.version(formatVersion)
	s := newGroupState(len(recipients))
	s.attempts = int(min(d.uvarint(), 1<<20))
	s.due = time.UnixMilli(d.varint())
	s.warned = d.byte()&flagWarned != 0
	if d.uvarint() != uint64(len(recipients)) {
		d.fail()
	}
	for i := range s.recipients {
		s.recipients[i] = d.recipientState()
		if !s.recipients[i].last.At.IsZero() {
			s.recipients[i].last.Recipient = recipients[i].Address
		}
	}
	return s, d.end()
}

func (d *decoder) recipientState() (r recipientState) {
	b := d.byte()
	r.owed = b&flagOwed != 0
	r.progress = progress(b & maskProgress)
	if r.progress > failed {
		d.fail()
	}
	flags := d.byte()
	if flags&flagTried == 0 {
		return r
	}
	class := mail.OutcomeClass(d.byte())
	if class > mail.Bounced {
		d.fail()
	}
	r.last = mail.Outcome{
		Class:    class,
		FromPeer: flags&flagFromPeer != 0,
		Relayed:  flags&flagRelayed != 0,
		Final:    flags&flagFinal != 0,
		Reply:    d.reply(),
		Remote:   d.string(),
	}
	r.moved = flags&flagMoved != 0
	r.last.RemoteMTA = d.string()
	r.last.At = time.UnixMilli(d.varint())
	return r
}
