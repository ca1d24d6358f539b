package link

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
)

// Peer is what the partner said of itself.
type Peer struct {
	Node     uint16
	Origin   uint64
	Pair     string
	Software string
	Features uint64 // all it has
	Settings []Setting
	Remote   string // its address
	Dialed   bool   // by us
	Pin      Pin
	// ClockOffset is how far its clock was ahead when the session began.
	ClockOffset time.Duration

	minVersion, version uint16
}

// Class is the class of the partner's node.
func (p Peer) Class() uint8 { return uint8(p.Node & 1) }

// Differences tells in words which of our settings the partner has otherwise.
func (p Peer) Differences(ours []Setting) []string {
	var all []string
	for _, s := range ours {
		i := slices.IndexFunc(p.Settings, func(theirs Setting) bool { return theirs.Name == s.Name })
		switch {
		case i < 0: // an older or newer release
		case p.Settings[i].Value != s.Value:
			all = append(all, fmt.Sprintf("%s is %q here and %q there", s.Name, s.Value, p.Settings[i].Value))
		}
	}
	return all
}

// Stats counts what a session did.
type Stats struct {
	Classes        [classes]ClassStats
	SentOctets     uint64 // on the wire, before TLS
	ReceivedOctets uint64
	RTT            time.Duration // the last
	ClockOffset    time.Duration // how far the partner's clock is ahead
}

// ClassStats counts frames of one class.
type ClassStats struct {
	SentFrames, SentOctets, ReceivedFrames, ReceivedOctets uint64
	Queued, Outstanding, Held                              int    // octets: waiting here, not taken there, not taken here
	Stalls                                                 uint64 // times the partner took no more
}

// Session is a connection with the partner, from Up to Down.
type Session struct {
	conn net.Conn // TLS
	raw  net.Conn // under it
	cfg  Config
	log  hclog.Logger
	peer Peer

	level    uint16
	features uint64

	out *outbox
	in  *inbox
	dec *decoder

	ctx    context.Context
	cancel context.CancelCauseFunc

	mu      sync.Mutex
	control [][]byte  // pings and pongs to be sent
	closing string    // why we go; "" while we stay
	goodbye bool      // asked for
	alive   time.Time // of the last answer
	pings   [maxPings]time.Time
	pinged  uint64
	rtt     time.Duration
	offset  time.Duration
	bestRTT time.Duration
	alarmed bool
	said    string // the partner's goodbye

	readEnded chan struct{}
	sent      atomic.Uint64
	received  atomic.Uint64
}

// maxPings is how many pings may be on their way.
const maxPings = 16

func newSession(cfg Config, e *established, log hclog.Logger) *Session {
	s := &Session{
		conn: e.conn, raw: e.raw, cfg: cfg, log: log, peer: e.peer,
		level: min(cfg.Version, e.peer.version), features: cfg.Features & e.peer.Features,
		out: newOutbox(), alive: time.Now(), offset: e.peer.ClockOffset, readEnded: make(chan struct{}),
	}
	s.in = newInbox(s.out.signal)
	s.ctx, s.cancel = context.WithCancelCause(context.Background())
	return s
}

// Peer tells who the partner is.
func (s *Session) Peer() Peer { return s.peer }

// Level is the version that both sides speak.
func (s *Session) Level() uint16 { return s.level }

// Features are those both sides have.
func (s *Session) Features() uint64 { return s.features }

// Done is closed when the session ends.
func (s *Session) Done() <-chan struct{} { return s.ctx.Done() }

// Send queues a frame; its body is the session's from then on. It waits for
// room, until ctx or the session ends: the error is then what ended them.
func (s *Session) Send(ctx context.Context, c Class, f Frame) error {
	for {
		wait, err := s.put(c, f)
		if wait == nil || err != nil {
			return err
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// TrySend is Send for who cannot wait: it reports whether there was room. After
// the session's end there is always room, and the frame is lost like any other
// that was under way.
func (s *Session) TrySend(c Class, f Frame) bool {
	wait, _ := s.put(c, f) // Down tells of the end
	return wait == nil
}

// Push is Send for who asks Room first: it queues the frame whether there is
// room or not.
func (s *Session) Push(c Class, f Frame) {
	check(c, f)
	s.out.push(c, f)
}

// Room reports whether a class has room for more. When it has not, Writable is
// called once it has.
func (s *Session) Room(c Class) bool { return s.out.hasRoom(c) }

func check(c Class, f Frame) {
	if len(f.Body) > MaxFrame || c >= classes {
		panic(fmt.Sprintf("link: frame of %d octets in %s", len(f.Body), c))
	}
}

func (s *Session) put(c Class, f Frame) (<-chan struct{}, error) {
	check(c, f)
	return s.out.put(c, f)
}

// Close sends what is queued, says goodbye and ends the session. It does not
// wait for it.
func (s *Session) Close(reason string) {
	s.mu.Lock()
	if !s.goodbye {
		s.goodbye, s.closing = true, reason
	}
	s.mu.Unlock()
	s.out.signal()
}

// Stats counts what the session did.
func (s *Session) Stats() Stats {
	st := Stats{SentOctets: s.sent.Load(), ReceivedOctets: s.received.Load()}
	s.out.stats(&st.Classes)
	s.in.stats(&st.Classes)
	s.mu.Lock()
	defer s.mu.Unlock()
	st.RTT, st.ClockOffset = s.rtt, s.offset
	return st
}

// fail ends the session. The first reason stays.
func (s *Session) fail(err error) {
	s.cancel(err)
	s.out.end(fmt.Errorf("the session with the partner ended: %w", err))
	_ = s.raw.Close() // ends what waits in it; TLS's own goodbye might wait itself
}

func (s *Session) consumed(c Class, id Stream, octets uint32) { s.in.done(c, id, octets) }

// run works until the session ends, and returns why.
func (s *Session) run(h Handler) error {
	h.Up(s)
	var workers, receivers sync.WaitGroup
	for c := range Class(classes) {
		receivers.Go(func() { s.receive(h, c) })
	}
	workers.Go(func() { s.fail(s.write(h)) })
	workers.Go(s.heartbeats)
	err := s.read()
	close(s.readEnded)
	s.fail(err)
	workers.Wait()
	receivers.Wait()
	err = context.Cause(s.ctx)
	s.dec.close()
	h.Down(s, err)
	return err
}

// receive hands over the frames of a class. What came before a goodbye counts.
func (s *Session) receive(h Handler, c Class) {
	for {
		ended := s.ctx.Err() != nil
		waiting := s.in.take(c)
		for _, r := range waiting {
			if s.ctx.Err() != nil && !errors.Is(context.Cause(s.ctx), ErrGoodbye) {
				return
			}
			h.Receive(s, r)
		}
		if len(waiting) > 0 {
			continue
		}
		if ended {
			return
		}
		select {
		case <-s.ctx.Done():
		case <-s.in.classes[c].arrived:
		}
	}
}

// countedConn counts, and has each read and write end in time.
type countedConn struct{ s *Session }

// Read implements io.Reader.
func (c countedConn) Read(p []byte) (int, error) {
	if err := c.s.conn.SetReadDeadline(time.Now().Add(c.s.cfg.DeadAfter)); err != nil {
		return 0, err
	}
	n, err := c.s.conn.Read(p)
	c.s.received.Add(uint64(n))
	return n, err
}

// reason makes of what a connection says what the session's user should read.
func (s *Session) reason(err error) error {
	s.mu.Lock()
	said := s.said
	s.mu.Unlock()
	var timeout net.Error
	switch {
	case said != "":
		return fmt.Errorf("%w: %s", ErrGoodbye, said)
	case errors.As(err, &timeout) && timeout.Timeout():
		return fmt.Errorf("%w for %s", ErrDead, s.cfg.DeadAfter)
	case errors.Is(err, io.EOF):
		return errors.New("the partner closed the connection")
	}
	return err
}

func (s *Session) read() error {
	s.dec = newDecoder(bufio.NewReaderSize(countedConn{s}, 2*writeBuffer))
	for {
		m, err := s.dec.next()
		if err != nil {
			return s.reason(err)
		}
		if m.control != nil {
			err = s.controlled(m.control)
		} else {
			err = s.in.put(Received{Frame: m.frame, Class: m.class, session: s, octets: costOf(len(m.frame.Body))})
		}
		if err != nil {
			return err
		}
	}
}

// The link's own messages.
const (
	controlPing    = 1 // number
	controlPong    = 2 // number of the ping, our clock
	controlCredit  = 3 // class, stream, octets; repeated
	controlGoodbye = 4 // text
)

const maxGoodbye = 512

func (s *Session) controlled(m []byte) error {
	kind, body := m[0], m[1:]
	switch {
	case kind == controlPing && len(body) == 8:
		s.answer(body)
	case kind == controlPong && len(body) == 16:
		s.pong(binary.BigEndian.Uint64(body), time.UnixMicro(int64(binary.BigEndian.Uint64(body[8:]))))
	case kind == controlCredit:
		return eachCredit(body, s.out.credit)
	case kind == controlGoodbye && len(body) <= maxGoodbye:
		s.mu.Lock()
		s.said = printable(string(body))
		said := s.said
		s.mu.Unlock()
		return fmt.Errorf("%w: %s", ErrGoodbye, said)
	case kind < controlPing || kind > controlGoodbye:
		// A newer release's; what must be understood raises the version.
	default:
		return fmt.Errorf("%w: control message %d of %d octets", ErrProtocol, kind, len(m))
	}
	return nil
}

// answer queues a pong. A partner that pings faster than we write gets one for
// the last.
func (s *Session) answer(ping []byte) {
	m := append([]byte{controlPong}, ping...)
	m = binary.BigEndian.AppendUint64(m, uint64(s.cfg.Now().UnixMicro()))
	s.queueControl(m)
}

func (s *Session) queueControl(m []byte) {
	s.mu.Lock()
	s.control = append(slices.DeleteFunc(s.control, func(other []byte) bool { return other[0] == m[0] }), m)
	s.mu.Unlock()
	s.out.signal()
}

// pong notes that the partner heard us, and what its clock said.
func (s *Session) pong(number uint64, theirs time.Time) {
	now := time.Now()
	s.mu.Lock()
	if number > s.pinged || number+maxPings <= s.pinged {
		s.mu.Unlock()
		return // an answer to what was not asked, or long ago
	}
	rtt := now.Sub(s.pings[number%maxPings])
	s.alive, s.rtt = now, rtt
	if s.bestRTT == 0 || rtt <= 2*s.bestRTT { // the others say less of the clock
		s.offset = theirs.Round(0).Sub(s.cfg.Now().Round(0).Add(-rtt / 2))
	}
	if s.bestRTT == 0 || rtt < s.bestRTT {
		s.bestRTT = max(rtt, time.Microsecond)
	}
	offset := s.offset
	far := offset.Abs() > s.cfg.MaxClockOffset
	alarm := far && !s.alarmed
	s.alarmed = far
	s.mu.Unlock()
	if alarm {
		tellClock(s.log, offset)
	}
}

func tellClock(log hclog.Logger, offset time.Duration) {
	log.Error("the clocks of the pair are apart: set them by NTP; until then the later clock wins where both changed one thing", "offset", offset.Round(time.Millisecond))
}

func (s *Session) ping() {
	s.mu.Lock()
	s.pinged++
	number := s.pinged
	s.pings[number%maxPings] = time.Now()
	s.mu.Unlock()
	s.queueControl(binary.BigEndian.AppendUint64([]byte{controlPing}, number))
}

// heartbeats pings, and ends the session when no answer comes.
func (s *Session) heartbeats() {
	ping := time.NewTicker(s.cfg.Heartbeat)
	defer ping.Stop()
	watch := time.NewTicker(max(s.cfg.DeadAfter/12, time.Millisecond))
	defer watch.Stop()
	for {
		s.ping()
	wait:
		for {
			select {
			case <-s.ctx.Done():
				return
			case <-ping.C:
				break wait
			case <-watch.C:
				s.mu.Lock()
				silent := time.Since(s.alive)
				s.mu.Unlock()
				if silent > s.cfg.DeadAfter {
					s.fail(fmt.Errorf("%w for %s", ErrDead, s.cfg.DeadAfter))
					return
				}
			}
		}
	}
}

// writeBuffer is how much is handed to TLS at once.
const writeBuffer = recordHeader + maxRecord

// write sends until the session ends.
func (s *Session) write(h Handler) error {
	enc, fair := newEncoder(), new(shares)
	credits := time.NewTicker(s.cfg.Heartbeat)
	defer credits.Stop()
	var buf []byte
	all := false
	for {
		buf = s.controls(buf[:0], all)
		all = false
		goodbye := s.going()
		for len(buf) < writeBuffer/2 {
			c, ok := s.choose(enc, fair)
			if !ok {
				break
			}
			before := len(buf)
			buf = enc.record(buf, c)
			fair.served(c, len(buf)-before)
		}
		for c, writable := range s.out.nowWritable() {
			if writable {
				h.Writable(s, Class(c))
			}
		}
		if len(buf) == 0 && goodbye != "" {
			return s.sayGoodbye(goodbye)
		}
		if len(buf) > 0 {
			if err := s.flush(buf); err != nil {
				return s.reason(err)
			}
			continue
		}
		select {
		case <-s.ctx.Done():
			return context.Cause(s.ctx)
		case <-s.out.wake:
		case <-credits.C:
			all = true
		}
	}
}

// choose returns the class whose record goes next, with a frame begun.
func (s *Session) choose(enc *encoder, fair *shares) (Class, bool) {
	has := s.out.sendable()
	for c := range Class(classes) {
		has[c] = has[c] || enc.open(c)
	}
	c, ok := fair.next(has)
	if !ok || enc.open(c) {
		return c, ok
	}
	f, ok := s.out.take(c)
	if ok {
		enc.begin(c, f)
	}
	return c, ok
}

func (s *Session) flush(buf []byte) error {
	if err := s.conn.SetWriteDeadline(time.Now().Add(s.cfg.DeadAfter)); err != nil {
		return err
	}
	n, err := s.conn.Write(buf)
	s.sent.Add(uint64(n))
	return err
}

// controls appends the link's own messages that wait.
func (s *Session) controls(buf []byte, allCredits bool) []byte {
	s.mu.Lock()
	waiting := s.control
	s.control = nil
	s.mu.Unlock()
	for _, m := range s.in.credits(waiting, allCredits) {
		buf = appendRecord(buf, control|firstRecord|lastRecord, len(m))
		buf = append(buf, m...)
	}
	return buf
}

func (s *Session) going() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.goodbye && s.closing == "" {
		return "no reason given"
	}
	return s.closing
}

// partingTime is how long a goodbye waits for the partner to hang up: a
// connection that is closed before may take it along.
const partingTime = time.Second

func (s *Session) sayGoodbye(reason string) error {
	m := append([]byte{controlGoodbye}, reason[:min(len(reason), maxGoodbye)]...)
	buf := appendRecord(nil, control|firstRecord|lastRecord, len(m))
	err := fmt.Errorf("%w: %s", ErrClosed, reason)
	if s.flush(append(buf, m...)) != nil {
		return err
	}
	s.cancel(err)
	s.out.end(err)
	parting := time.NewTimer(partingTime)
	defer parting.Stop()
	select {
	case <-s.readEnded:
	case <-parting.C:
	}
	return err
}

// printable makes what a partner wrote fit for a line of a log.
func printable(text string) string {
	text = strings.ToValidUTF8(text, "?")
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, text)
}
