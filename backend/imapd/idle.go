package imapd

import (
	"context"
	"errors"
	"os"
	"strings"
	"time"
)

// idle is IDLE (RFC 2177). One goroutine waits for DONE; this one tells what
// changes. It looks at the mailbox before each wait, with the channel taken
// before the look, so that no change falls between.
func (s *session) idle(context.Context) (result, error) {
	s.continuation("idling")
	done := make(chan error, 1)
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
		if err := s.sync(syncMode{}); err != nil {
			return end(err)
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
		case <-s.draining:
			return end(errShutdown)
		case <-changed:
		}
	}
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
