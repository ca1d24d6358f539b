package imapd

import (
	"context"
	"errors"
	"os"
	"strings"
	"time"

	"github.com/postern-mail/postern/backend/mailstore"
	"github.com/postern-mail/postern/backend/sessions"
)

// idle is IDLE (RFC 2177). One goroutine waits for DONE; this one tells what
// changes. It looks at the mailbox before each wait, with the channel taken
// before the look, so that no change falls between.
func (s *session) idle(ctx context.Context) (result, error) {
	s.continuation("idling")
	s.enter(sessions.Idle)
	defer s.enterNow()
	done := make(chan error, 1)
	alive, rest := s.aliveInIdle()
	defer rest()
	regrouped := make(chan struct{}, 1)
	if s.box != nil && !s.box.own() {
		defer s.whenRegrouped(func() {
			select {
			case regrouped <- struct{}{}:
			default:
			}
		})()
	}
	started := false
	wait := func() {
		started = true
		go func() { done <- s.readDone() }()
	}
	// end unblocks the reader and waits for it: from then on the connection
	// has one user again.
	end := func(reason error) (result, error) {
		if started {
			_ = s.socket.SetReadDeadline(time.Unix(1, 0))
			<-done
		}
		return result{}, reason
	}
	for {
		var changed <-chan struct{}
		if s.box != nil {
			changed = s.box.mailbox.Changed()
		}
		var notified <-chan struct{}
		if s.notify != nil {
			notified = s.notify.wake
		}
		if err := s.tellIdle(ctx); err != nil {
			return end(err)
		}
		var rested <-chan time.Time
		if rest := s.notify.rest(s.cfg.notifyPause); rest > 0 {
			changed, notified, rested = nil, nil, time.After(rest)
		}
		if err := s.w.flush(); err != nil {
			return end(&connError{err})
		}
		if !started {
			if err := s.beginIdle(); err != nil {
				return end(err)
			}
			wait()
		}
		s.w.park()
		select {
		case err := <-done:
			started = false
			return end(err)
		case <-s.handle.Ending():
			return end(s.whyEnd())
		case <-changed:
		case <-notified:
		case <-rested:
		case <-regrouped:
		case <-alive:
			s.w.line("* OK Still here")
		}
	}
}

// aliveInIdle returns when to say so, nil for never, and what ends it.
func (s *session) aliveInIdle() (<-chan time.Time, func()) {
	if !s.quirks.idleAlive {
		return nil, func() {}
	}
	tick := time.NewTicker(s.cfg.aliveEvery)
	return tick.C, tick.Stop
}

// tellIdle tells what changed. To a client that keeps a state it says how far
// that goes: no tagged response does, for as long as IDLE lasts.
func (s *session) tellIdle(ctx context.Context) error {
	if s.notify != nil {
		return s.tellNotified(ctx, false)
	}
	s.refreshGroups(ctx)
	var before mailstore.View
	if s.box != nil {
		before = s.box.told
	}
	if err := s.sync(syncMode{}); err != nil {
		return err
	}
	if err := s.contextsFollow(ctx); err != nil {
		return err
	}
	if s.qresync && s.box != nil && s.box.told != before {
		s.box.vanished = false
		s.highestModSeq()
	}
	return nil
}

// beginIdle sets the deadline of the whole IDLE.
func (s *session) beginIdle() error {
	return s.r.conn.SetReadDeadline(time.Now().Add(s.cfg.IdleTimeout))
}

// readDone reads the line that ends IDLE. It uses the reader alone; the writer
// belongs to the session's goroutine meanwhile.
func (s *session) readDone() error {
	line, err := s.r.readIdleLine()
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return errIdleTimeout
	case errors.Is(err, errLineTooLong):
		return errBigLine
	case err != nil:
		return &connError{err}
	case hasLiteral(line):
		return errStrayLiteral
	case !strings.EqualFold(string(line), "DONE"):
		return syntax("expected DONE")
	}
	return nil
}
