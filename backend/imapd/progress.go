package imapd

import (
	"strings"
	"time"
)

// patience is how long a client hears nothing of a command before it is told
// that this is still under way (RFC 9585), and how often it is told again.
const patience = 15 * time.Second

// inProgress tells the client so, where it is time. It is called between
// responses.
func (s *session) inProgress() {
	since := s.began
	if s.assured.After(since) {
		since = s.assured
	}
	if time.Since(since) < patience {
		return
	}
	s.assured = time.Now()
	s.w.str(`* OK [INPROGRESS (`)
	if strings.Contains(s.tag, "]") { // section 4: it would seem to end the code
		s.w.str("NIL")
	} else {
		s.w.text(s.tag)
	}
	s.w.line(` NIL NIL)] Still working on it`)
	_ = s.w.flush() // the error sticks
}

// manyMessages are so many that work on them may take long.
const manyMessages = 1000

// patiently does work on so many messages that writes nothing to the client,
// which is told meanwhile that it goes on.
func (s *session) patiently(messages int, work func()) {
	if messages < manyMessages {
		work()
		return
	}
	done := make(chan any, 1) // work ends even where telling of it panics
	go func() {
		defer func() { done <- recover() }()
		work()
	}()
	tick := time.NewTicker(patience)
	defer tick.Stop()
	for {
		select {
		case fault := <-done:
			if fault != nil {
				panic(fault)
			}
			return
		case <-tick.C:
			s.inProgress()
		}
	}
}
