package dnsbl

import (
	"fmt"
	"sync"
	"time"
)

// When a list is left out, and for how long.
const (
	windowSize    = 20 // lookups that are looked back on
	windowFails   = 10 // of them, from which on a list is down
	inARow        = 5  // failures from which on it is, however few were asked
	firstPause    = time.Minute
	longestPause  = 30 * time.Minute
	testInterval  = 10 * time.Minute
	maxReasonSize = 200
)

// health is how a list does. It outlives configurations.
type health struct {
	mu     sync.Mutex
	down   bool
	reason string    // why it is down
	since  time.Time // of the last change
	next   time.Time // when it is tried again, or tested
	pause  time.Duration
	window [windowSize]bool // true for failures
	at     int
	row    int // failures since the last answer
}

// change is what a call did to the state.
type change int

const (
	unchanged change = iota
	wentDown
	cameUp
)

// usable reports whether the list may be asked at all. While it is down one
// question is let through after each pause where nothing else tests it.
func (h *health) usable(now time.Time, tested bool) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.down {
		return true
	}
	if tested || now.Before(h.next) {
		return false
	}
	h.next = now.Add(h.pause)
	return true
}

// answered notes an answer that makes sense.
func (h *health) answered(now time.Time, tested bool) change {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.noteLocked(false)
	if h.down && !tested {
		return h.upLocked(now)
	}
	return unchanged
}

// failed notes that there was no answer.
func (h *health) failed(now time.Time, err error) change {
	h.mu.Lock()
	defer h.mu.Unlock()
	fails := h.noteLocked(true)
	switch {
	case h.row >= inARow:
		return h.downLocked(now, fmt.Sprintf("no answer %d times in a row: %v", h.row, err))
	case fails >= windowFails:
		return h.downLocked(now, fmt.Sprintf("no answer %d times of the last %d: %v", fails, windowSize, err))
	case h.down:
		return h.downLocked(now, h.reason)
	}
	return unchanged
}

// lies notes an answer, or the lack of one, that makes the list useless.
func (h *health) lies(now time.Time, reason string) change {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.downLocked(now, reason)
}

// passed notes that the list answers its test entries as it has to.
func (h *health) passed(now time.Time) change {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.next = now.Add(testInterval)
	if h.down {
		return h.upLocked(now)
	}
	return unchanged
}

// testDue reports whether the list is to be tested now.
func (h *health) testDue(now time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return !now.Before(h.next)
}

// postpone has the next test wait, that of a list which failed but is not down.
func (h *health) postpone(now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.down {
		h.next = now.Add(firstPause)
	}
}

func (h *health) noteLocked(fail bool) (fails int) {
	h.window[h.at] = fail
	h.at = (h.at + 1) % windowSize
	if h.row++; !fail {
		h.row = 0
	}
	for _, f := range h.window {
		if f {
			fails++
		}
	}
	return fails
}

func (h *health) downLocked(now time.Time, reason string) change {
	if len(reason) > maxReasonSize {
		reason = reason[:maxReasonSize]
	}
	h.reason = reason
	if h.down {
		if !now.Before(h.next) {
			h.pause = min(2*h.pause, longestPause)
			h.next = now.Add(h.pause)
		}
		return unchanged
	}
	h.down, h.since, h.pause = true, now, firstPause
	h.next = now.Add(h.pause)
	return wentDown
}

func (h *health) upLocked(now time.Time) change {
	h.down, h.reason, h.since, h.window, h.row = false, "", now, [windowSize]bool{}, 0
	return cameUp
}

// State is how a list does, for the operator.
type State struct {
	List   string
	Down   bool
	Reason string // why it is down
	Since  time.Time
	Retry  time.Time // when it is tried again
}

func (h *health) state(list string) State {
	h.mu.Lock()
	defer h.mu.Unlock()
	return State{List: list, Down: h.down, Reason: h.reason, Since: h.since, Retry: h.next}
}
