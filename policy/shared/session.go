package shared

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Frames: four octets of length, one of kind, the content.
const (
	frameRecords = 'R' // any number of: table, key, record
	frameWhole   = 'W' // everything the sender holds was sent since the session began
	frameAlive   = 'A' // nothing to say

	// maxFrame bounds what is read, frameFill is where a sender stops filling.
	maxFrame  = 64 << 10
	frameFill = 32 << 10
)

const (
	// gatherTime is how long changes gather before they are sent.
	gatherTime = 100 * time.Millisecond
	// heartbeat is how often something is sent, deadAfter how long a peer may
	// be silent or take nothing.
	heartbeat = 5 * time.Second
	deadAfter = 20 * time.Second
	// maxNoted bounds the changes that wait for a peer. Beyond it they are
	// forgotten, and everything is sent again instead.
	maxNoted = 50_000
)

var (
	errNewTable  = errors.New("a new table is shared: all of it is exchanged in a new session")
	errReplaced  = errors.New("another connection with the same gateway took its place")
	errGone      = errors.New("stopped")
	errMalformed = errors.New("the peer broke the protocol")
)

// session is one connection with a peer that proved who it is.
type session struct {
	store  *Store
	conn   net.Conn
	peer   uint64
	remote string
	dialed string // the configured address, when we dialed
	offset time.Duration
	since  time.Time

	ended chan struct{} // closed by end
	wake  chan struct{} // a token: there is something to send

	sent, received, refused atomic.Uint64 // records
	whole                   atomic.Bool   // everything the peer holds has arrived

	mu     sync.Mutex
	reason error
	noted  map[place]struct{}
	again  bool // too much was noted: everything is to be sent
}

// place is a key of a table.
type place struct {
	table *Table
	key   string
}

func newSession(s *Store, conn net.Conn, h hello, dialed string) *session {
	return &session{
		store: s, conn: conn, peer: h.node, remote: conn.RemoteAddr().String(), dialed: dialed,
		offset: time.Until(h.clock).Round(time.Millisecond), since: time.Now(),
		ended: make(chan struct{}), wake: make(chan struct{}, 1), noted: make(map[place]struct{}), again: true,
	}
}

// note marks a key as changed. It never waits.
func (s *session) note(t *Table, key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.again {
		s.noted[place{t, key}] = struct{}{}
		if len(s.noted) > maxNoted {
			clear(s.noted)
			s.again = true
		}
	}
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// end ends the session; the first reason counts.
func (s *session) end(reason error) {
	s.mu.Lock()
	first := s.reason == nil
	if first {
		s.reason = reason
		close(s.ended)
	}
	s.mu.Unlock()
	if !first {
		return
	}
	if over, ok := s.conn.(*tls.Conn); ok {
		_ = over.NetConn().Close() // without a farewell, which could wait for the peer
		return
	}
	_ = s.conn.Close()
}

// run carries the session until it ends, and returns why.
func (s *session) run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { s.end(errGone) })
	defer stop()
	var both sync.WaitGroup
	both.Go(func() { s.end(s.receive()) })
	both.Go(func() { s.end(s.send()) })
	both.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reason
}

// send tells the peer everything, and then what changes.
func (s *session) send() error {
	tick := time.NewTicker(heartbeat)
	defer tick.Stop()
	for {
		if err := s.sendNoted(); err != nil {
			return err
		}
		select {
		case <-s.ended:
			return errGone
		case <-tick.C:
			if err := s.write(frame(frameAlive)); err != nil {
				return err
			}
		case <-s.wake:
			if !s.gather() {
				return errGone
			}
		}
	}
}

// gather lets changes come together, those of one key among them.
func (s *session) gather() bool {
	timer := time.NewTimer(gatherTime)
	defer timer.Stop()
	select {
	case <-s.ended:
		return false
	case <-timer.C:
		return true
	}
}

func (s *session) sendNoted() error {
	s.mu.Lock()
	noted, again := s.noted, s.again
	s.noted, s.again = make(map[place]struct{}), false
	s.mu.Unlock()
	if again {
		if err := s.sendAll(); err != nil {
			return err
		}
	}
	out := s.fill()
	for at := range noted {
		if err := out.add(at.table, at.key); err != nil {
			return err
		}
	}
	return out.flush()
}

// sendAll sends every record of every table that is shared.
func (s *session) sendAll() error {
	out := s.fill()
	for _, t := range s.store.all() {
		for _, key := range t.shared() {
			if err := out.add(t, key); err != nil {
				return err
			}
		}
	}
	if err := out.flush(); err != nil {
		return err
	}
	return s.write(frame(frameWhole))
}

// shared returns the keys of a table that peers are told of.
func (t *Table) shared() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.cfg.Local {
		return nil
	}
	keys := make([]string, 0, len(t.entries))
	for key := range t.entries {
		keys = append(keys, key)
	}
	return keys
}

// read returns what a key has, deleted ones too.
func (t *Table) read(key string) (record, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e := t.entries[key]; e != nil {
		return e.record, true
	}
	return record{}, false
}

// filling is a frame of records on its way.
type filling struct {
	s *session
	b []byte
	n uint64
}

func frame(kind byte) []byte { return []byte{0, 0, 0, 0, kind} }

func (s *session) fill() *filling { return &filling{s: s, b: frame(frameRecords)} }

func (f *filling) add(t *Table, key string) error {
	r, found := t.read(key)
	if !found {
		return nil
	}
	f.b = appendText(appendText(f.b, t.name), key)
	f.b = appendRecord(f.b, r)
	f.n++
	if len(f.b) < frameFill {
		return nil
	}
	return f.flush()
}

func (f *filling) flush() error {
	if f.n == 0 {
		return nil
	}
	if err := f.s.write(f.b); err != nil {
		return err
	}
	f.s.sent.Add(f.n)
	f.b, f.n = append(f.b[:0], frame(frameRecords)...), 0
	return nil
}

func appendText(b []byte, text string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(text))), text...)
}

// write sends a frame, whose first octets it fills in.
func (s *session) write(b []byte) error {
	binary.BigEndian.PutUint32(b, uint32(len(b)-4))
	if err := s.conn.SetWriteDeadline(time.Now().Add(deadAfter)); err != nil {
		return err
	}
	_, err := s.conn.Write(b)
	return err
}

// receive takes in what the peer tells.
func (s *session) receive() error {
	in := bufio.NewReaderSize(s.conn, 32<<10)
	var buffer []byte
	for {
		if err := s.conn.SetReadDeadline(time.Now().Add(deadAfter)); err != nil {
			return err
		}
		var head [5]byte
		if _, err := io.ReadFull(in, head[:]); err != nil {
			return hungUp(err)
		}
		n := binary.BigEndian.Uint32(head[:])
		if n == 0 || n > maxFrame {
			return fmt.Errorf("%w: a frame of %d octets", errMalformed, n)
		}
		if cap(buffer) < int(n-1) {
			buffer = make([]byte, maxFrame)
		}
		content := buffer[:n-1]
		if _, err := io.ReadFull(in, content); err != nil {
			return hungUp(err)
		}
		if err := s.take(head[4], content); err != nil {
			return err
		}
	}
}

func hungUp(err error) error {
	if errors.Is(err, io.EOF) {
		return errors.New("the peer closed the connection")
	}
	return err
}

func (s *session) take(kind byte, content []byte) error {
	switch kind {
	case frameRecords:
		return s.records(content)
	case frameWhole:
		s.whole.Store(true)
	}
	return nil // what is not known is a newer release's
}

func (s *session) records(content []byte) error {
	in := reader{b: content}
	for len(in.b) > 0 {
		name, key := string(in.octets(in.uvarint())), string(in.octets(in.uvarint()))
		r := in.record()
		if in.failed {
			return fmt.Errorf("%w: a malformed record", errMalformed)
		}
		s.received.Add(1)
		t := s.store.table(name)
		if t == nil || t.local() {
			continue // nothing here uses it
		}
		if !s.store.clock.see(max(r.stamp, r.epoch)) {
			s.refused.Add(1)
			continue
		}
		t.merge(key, r, s)
	}
	return nil
}

func (t *Table) local() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.cfg.Local
}
