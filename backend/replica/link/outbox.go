package link

import (
	"fmt"
	"sync"
)

// What may wait to be sent, in octets. Senders wait above it.
const (
	maxQueued       = 8 << 20 // of a class
	maxQueuedStream = 1 << 20
)

// What a partner may send that was not taken yet, in octets; a frame may go
// over it once. A stream has less, so that one account that is slow does not
// stop the others.
const (
	window       = 8 << 20 // of a class
	windowStream = 2 << 20
)

// quantum is what a stream may send before the next one's turn.
const quantum = 64 << 10

// outbox is what waits to be sent and what the partner still takes.
type outbox struct {
	mu      sync.Mutex
	classes [classes]outClass
	room    chan struct{} // closed when there may be room again
	waiting bool          // somebody waits for room
	ended   error

	wake chan struct{} // tells the writer, capacity 1
}

type outClass struct {
	streams     map[Stream]*outStream
	ring        []*outStream // those that may send now, the next one first
	queued      int          // octets
	outstanding int          // octets sent that the partner has not taken
	asked       bool         // for room, and there was none
	stalls      uint64
	frames      uint64
	octets      uint64
}

// outStream is one stream's frames of a class. It is forgotten when nothing
// waits and nothing is outstanding.
type outStream struct {
	id          Stream
	frames      []Frame
	queued      int
	outstanding int
	deficit     int
	inRing      bool
}

func newOutbox() *outbox {
	o := &outbox{room: make(chan struct{}), wake: make(chan struct{}, 1)}
	for c := range o.classes {
		o.classes[c].streams = make(map[Stream]*outStream)
	}
	return o
}

func (o *outbox) signal() {
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// put queues a frame. Without room it returns what is closed when that may have
// changed.
func (o *outbox) put(c Class, f Frame) (wait <-chan struct{}, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.ended != nil {
		return nil, o.ended
	}
	q := &o.classes[c]
	s := q.streams[f.Stream]
	if q.queued >= maxQueued || s != nil && s.queued >= maxQueuedStream {
		o.waiting = true
		return o.room, nil
	}
	o.pushLocked(c, f)
	return nil, nil
}

// push queues a frame whatever waits.
func (o *outbox) push(c Class, f Frame) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.ended == nil {
		o.pushLocked(c, f)
	}
}

func (o *outbox) pushLocked(c Class, f Frame) {
	q := &o.classes[c]
	s := q.streams[f.Stream]
	if s == nil {
		s = &outStream{id: f.Stream}
		q.streams[f.Stream] = s
	}
	cost := int(costOf(len(f.Body)))
	s.frames = append(s.frames, f)
	s.queued += cost
	q.queued += cost
	if len(s.frames) == 1 && s.outstanding >= windowStream {
		q.stalls++ // the window filled before this one came
	}
	q.enter(s)
	o.signal()
}

// hasRoom reports whether a class may take more, and remembers that somebody was
// told no until nowWritable told: whoever finds room meanwhile does not speak for
// those who wait.
func (o *outbox) hasRoom(c Class) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	q := &o.classes[c]
	full := q.queued >= maxQueued
	q.asked = q.asked || full
	return !full
}

// nowWritable tells in which classes somebody asked for room and there is some,
// once.
func (o *outbox) nowWritable() (writable [classes]bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for c := range o.classes {
		q := &o.classes[c]
		writable[c] = q.asked && q.queued < maxQueued/2
		q.asked = q.asked && !writable[c]
	}
	return writable
}

// enter puts a stream that may send into the ring.
func (q *outClass) enter(s *outStream) {
	if !s.inRing && len(s.frames) > 0 && s.outstanding < windowStream {
		s.inRing = true
		q.ring = append(q.ring, s)
	}
}

// sendable tells which classes have a frame that the partner takes now.
func (o *outbox) sendable() (has [classes]bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for c := range o.classes {
		q := &o.classes[c]
		has[c] = len(q.ring) > 0 && q.outstanding < window
	}
	return has
}

// take returns the next frame of a class that sendable named: the streams' in
// turn, by octets.
func (o *outbox) take(c Class) (Frame, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	q := &o.classes[c]
	if len(q.ring) == 0 || q.outstanding >= window {
		return Frame{}, false
	}
	s := q.ring[0]
	for int(costOf(len(s.frames[0].Body))) > s.deficit {
		s.deficit += quantum
		q.ring = append(q.ring[1:], s)
		s = q.ring[0]
	}
	f := s.frames[0]
	s.frames[0] = Frame{}
	s.frames = s.frames[1:]
	cost := int(costOf(len(f.Body)))
	s.deficit -= cost
	s.queued -= cost
	q.queued -= cost
	s.outstanding += cost
	q.outstanding += cost
	q.frames++
	q.octets += uint64(len(f.Body))
	if len(s.frames) == 0 || s.outstanding >= windowStream {
		if len(s.frames) > 0 {
			q.stalls++
		} else {
			s.frames = nil
		}
		s.inRing, s.deficit = false, 0
		q.ring = q.ring[1:]
	}
	if q.outstanding >= window {
		q.stalls++
	}
	o.makeRoomLocked()
	return f, true
}

func (o *outbox) makeRoomLocked() {
	if o.waiting {
		close(o.room)
		o.room, o.waiting = make(chan struct{}), false
	}
}

var errCredit = fmt.Errorf("%w: took more than was sent", ErrProtocol)

// credit notes what the partner took.
func (o *outbox) credit(c Class, id Stream, octets uint32) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	q := &o.classes[c]
	s := q.streams[id]
	if s == nil || int64(octets) > int64(s.outstanding) {
		return errCredit
	}
	s.outstanding -= int(octets)
	q.outstanding -= int(octets)
	q.enter(s)
	if s.outstanding == 0 && len(s.frames) == 0 {
		delete(q.streams, id)
	}
	o.signal()
	return nil
}

// end refuses what comes from now on; nobody waits any more.
func (o *outbox) end(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.ended == nil {
		o.ended = err
		o.waiting = true
		o.makeRoomLocked()
	}
}

func (o *outbox) stats(into *[classes]ClassStats) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for c := range o.classes {
		q := &o.classes[c]
		into[c].SentFrames, into[c].SentOctets = q.frames, q.octets
		into[c].Queued, into[c].Outstanding, into[c].Stalls = q.queued, q.outstanding, q.stalls
	}
}
