package smtp

import (
	"time"

	"github.com/postern-mail/postern/status"
)

// answer queues a reply. It leaves with the next flush, at the latest when
// the session waits for input.
func (s *serverSession) answer(r status.Reply) {
	r = s.set.worded(r, &s.client)
	s.tally.refused = s.tally.refused || r.Transient() || r.Permanent()
	if s.tracing {
		s.log.Trace("reply", "sid", s.client.Session, "reply", r.String())
	}
	out := s.wire.pending()
	*out = appendReply(*out, r)
	if len(*out) >= flushAt {
		// A failed write leaves a connection whose next read fails too.
		_ = s.wire.flush()
	}
}

// say queues a reason's own reply.
func (s *serverSession) say(r status.Reason) { s.answer(r.Reply()) }

// refuse answers an error. It returns an error itself, to end the session,
// when the reply announces that or when the client has made its last mistake.
func (s *serverSession) refuse(err error) error { return s.settle(status.ReplyOf(err), err) }

// settle answers with a reply that may be a refusal caused by err.
func (s *serverSession) settle(r status.Reply, err error) error {
	if status.Of(err) == status.HungUp {
		return errClosing{err}
	}
	if !r.Positive() && !r.Closes() {
		if over := s.countError(); over != nil {
			return over
		}
	}
	s.answer(r)
	if r.Closes() {
		return errClosing{err}
	}
	return nil
}

// closeWith answers an error and ends the session, whatever the reply is.
func (s *serverSession) closeWith(err error) error {
	s.answer(status.ReplyOf(err))
	return errClosing{err}
}

// countError counts one mistake of the client or refusal of ours, holds the
// session back once there were many, and ends it when there were too many.
func (s *serverSession) countError() error {
	s.errors++
	if s.errors > s.set.HardErrors || s.errors > stressErrors && s.hurry.Load() {
		return s.closeWith(status.Errorf(status.TooManyErrors, "%d errors", s.errors))
	}
	if s.errors > s.set.SoftErrors {
		return s.pause(s.set.ErrorDelay)
	}
	return nil
}

// countJunk counts a command that brings no message forward; too many are
// mistakes.
func (s *serverSession) countJunk() error {
	if s.junk++; s.junk > s.set.MaxJunkCommands || s.junk > stressErrors && s.hurry.Load() {
		return s.countError()
	}
	return nil
}

// pause waits without reading. What was answered before goes out first, and
// buffers that hold nothing are given to others meanwhile: whoever makes many
// clients wait here does not make the server pay for it.
func (s *serverSession) pause(d time.Duration) error {
	if err := s.wire.flush(); err != nil {
		return wireFault(err)
	}
	if d <= 0 {
		return nil
	}
	s.wire.rest()
	defer s.wire.wake()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-s.ctx.Done():
		return errStopping
	}
}

// traceCommand logs a command, but never what AUTH carries.
func (s *serverSession) traceCommand(cmd *command, arg string) {
	if cmd.secret {
		arg = "***"
	}
	s.log.Trace("command", "sid", s.client.Session, "verb", cmd.verb, "arg", arg)
}
