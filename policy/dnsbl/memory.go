package dnsbl

import (
	"container/list"
	"net/netip"
	"sync"
	"time"
)

// How long an answer is believed, whatever the list says itself.
const (
	minTTL = time.Minute
	maxTTL = time.Hour
)

// maxAnswers bounds the answers that are remembered.
const maxAnswers = 50000

// Memory is what is known of lists: their answers and how they do. It outlives
// configurations, and may be used concurrently.
type Memory struct {
	mu      sync.Mutex
	answers map[question]*list.Element
	recent  *list.List // of *remembered, the last used first
	lists   map[string]*health
}

// question is one that was asked.
type question struct{ zone, label string }

// Answer is what a list says; no Codes is that it has no entry.
type Answer struct {
	Codes []netip.Addr
	Text  string // what its entry says in TXT
}

type remembered struct {
	question question
	answer   Answer
	expires  time.Time
}

// NewMemory returns an empty Memory.
func NewMemory() *Memory {
	return &Memory{answers: make(map[question]*list.Element), recent: list.New(), lists: make(map[string]*health)}
}

// health returns how a list does. Lists are those of configurations, and few.
func (m *Memory) health(zone string) *health {
	m.mu.Lock()
	defer m.mu.Unlock()
	h := m.lists[zone]
	if h == nil {
		h = &health{since: time.Now()}
		m.lists[zone] = h
	}
	return h
}

func (m *Memory) get(q question, now time.Time) (Answer, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.answers[q]
	if e == nil {
		return Answer{}, false
	}
	known := e.Value.(*remembered)
	if !now.Before(known.expires) {
		m.dropLocked(e)
		return Answer{}, false
	}
	m.recent.MoveToFront(e)
	return known.answer, true
}

func (m *Memory) put(q question, a Answer, expires, now time.Time) {
	expires = clamp(expires, now.Add(minTTL), now.Add(maxTTL))
	m.mu.Lock()
	defer m.mu.Unlock()
	if e := m.answers[q]; e != nil {
		m.dropLocked(e)
	}
	m.answers[q] = m.recent.PushFront(&remembered{q, a, expires})
	for len(m.answers) > maxAnswers {
		m.dropLocked(m.recent.Back())
	}
}

func (m *Memory) dropLocked(e *list.Element) {
	delete(m.answers, m.recent.Remove(e).(*remembered).question)
}

// forget drops the answers of a list that turned out to lie.
func (m *Memory) forget(zone string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for q, e := range m.answers {
		if q.zone == zone {
			m.dropLocked(e)
		}
	}
}

func clamp(t, earliest, latest time.Time) time.Time {
	if t.Before(earliest) {
		return earliest
	}
	if t.After(latest) {
		return latest
	}
	return t
}
