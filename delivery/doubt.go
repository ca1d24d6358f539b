package delivery

import (
	"sync"
	"time"
)

// maxDoubt is how long a delivery whose reply was lost is kept for the server
// that may have it. Partners are stores of their own and cannot drop what
// another has; longer than this, a second copy is the lesser evil.
const maxDoubt = 5 * time.Minute

// maxDoubts bounds the memory of such deliveries.
const maxDoubts = 10000

// doubts remembers, by delivery id, which server may hold a message although
// nobody heard it say so. It may be used concurrently. It does not outlive the
// process.
type doubts struct {
	mu   sync.Mutex
	byID map[string]doubt
}

type doubt struct {
	address string // of the endpoint
	since   time.Time
}

// note remembers that the server at an address may have a delivery. The time
// of the first doubt about it counts.
func (d *doubts) note(id, address string, now time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if known, ok := d.byID[id]; ok && known.address == address {
		return
	}
	if d.byID == nil {
		d.byID = make(map[string]doubt)
	}
	if len(d.byID) >= maxDoubts {
		d.pruneLocked(now)
	}
	d.byID[id] = doubt{address, now}
}

// pruneLocked makes room: first by what nobody would look at any more.
func (d *doubts) pruneLocked(now time.Time) {
	for id, one := range d.byID {
		if now.Sub(one.since) > maxDoubt {
			delete(d.byID, id)
		}
	}
	if len(d.byID) >= maxDoubts {
		clear(d.byID)
	}
}

// clear forgets a delivery once its server has answered.
func (d *doubts) clear(id string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.byID, id)
}

// choose returns the endpoints that a delivery may be offered to: all of them,
// or the one that may have it alone, or, after maxDoubt, all with that first.
func (d *doubts) choose(id string, endpoints []Endpoint, now time.Time) []Endpoint {
	first, others, since := d.divide(id, endpoints)
	if len(first) > 0 && now.Sub(since) < maxDoubt {
		return first
	}
	return append(first, others...)
}

// inDoubtFirst returns all endpoints, that which may have a delivery first. It
// is for the nodes of a pair, which keep a delivery once whoever has it.
func (d *doubts) inDoubtFirst(id string, endpoints []Endpoint) []Endpoint {
	first, others, _ := d.divide(id, endpoints)
	return append(first, others...)
}

// divide tells the endpoints that may have a delivery from the others.
func (d *doubts) divide(id string, endpoints []Endpoint) (first, others []Endpoint, since time.Time) {
	d.mu.Lock()
	known, ok := d.byID[id]
	d.mu.Unlock()
	if !ok || len(endpoints) < 2 {
		return nil, endpoints, since
	}
	for _, e := range endpoints {
		if e.Address == known.address {
			first = append(first, e)
		} else {
			others = append(others, e)
		}
	}
	return first, others, known.since
}
