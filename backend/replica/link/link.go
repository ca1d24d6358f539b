package link

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
)

// Class says how urgent a frame is.
type Class uint8

// The classes, the most urgent first.
const (
	// Interactive is what clients wait for: operations, acknowledgements.
	Interactive Class = iota
	// Mail is the bodies of new messages.
	Mail
	// Bulk is what nobody waits for: the first filling of a partner, repairs.
	Bulk

	// Classes is how many there are.
	Classes = 3

	classes = Classes
)

// String implements fmt.Stringer.
func (c Class) String() string {
	switch c {
	case Interactive:
		return "interactive"
	case Mail:
		return "mail"
	case Bulk:
		return "bulk"
	}
	return fmt.Sprintf("class %d", uint8(c))
}

// Stream is what a frame is about: the GUID of an account, zero for the pair.
type Stream [16]byte

// MaxFrame is the most octets a frame's body has.
const MaxFrame = 1 << 20

// Frame is one piece of what the two sides tell each other.
type Frame struct {
	Stream Stream
	Type   uint8 // the user's
	Body   []byte
}

// Handler is what the link's user does with a session. A session's calls begin
// with Up and end with Down; the next session's Up comes after it.
type Handler interface {
	// Up tells of a new session. It may send; frames come in after it returned.
	Up(*Session)
	// Receive takes a frame. It is called for one frame of a class after the
	// other, for the classes at once, and must not wait for room to send: it
	// would wait for a partner that waits for us. The partner may send as much
	// again when Done of what it sent was called.
	Receive(*Session, Received)
	// Writable tells that there is room in a class of which Room said no. It
	// returns soon.
	Writable(*Session, Class)
	// Down tells that a session ended, and why: ErrGoodbye, ErrDead, or what
	// the connection said. No Receive is running any more, and none comes.
	Down(*Session, error)
}

// Received is a frame from the partner.
type Received struct {
	Frame
	Class Class

	session *Session
	octets  uint32
}

// Done tells that the frame takes no memory any more. It must be called once
// for each frame; any goroutine may.
func (r Received) Done() { r.session.consumed(r.Class, r.Stream, r.octets) }

// What ends a session.
var (
	// ErrGoodbye means that the partner said that it goes.
	ErrGoodbye = errors.New("the partner said goodbye")
	// ErrDead means that the partner was silent for too long.
	ErrDead = errors.New("the partner does not answer")
	// ErrReplaced means that a newer connection took the session's place.
	ErrReplaced = errors.New("replaced by a newer connection")
	// ErrClosed means that we ended the session.
	ErrClosed = errors.New("session closed")
	// ErrProtocol means that the partner broke the protocol.
	ErrProtocol = errors.New("protocol error")
)

// Version is the newest version of the frames' protocol, and MinVersion the
// oldest that is still understood.
const (
	Version    = 1
	MinVersion = 1
)

// Config is how a partner is reached and known.
type Config struct {
	// Pair is the name both servers of a pair give it; may be empty.
	Pair string
	// Node is this server's number. Its last bit is its class; the partner's
	// must differ.
	Node uint16
	// Origin is the incarnation of this server's data, which no other has.
	Origin uint64
	// Software is shown to the partner's operator.
	Software string
	// MinVersion and Version are the versions of the user's protocol it can
	// speak. Zero: those of this package.
	MinVersion, Version uint16
	// Features are bits that the user defines; a session has those of both.
	Features uint64
	// Settings are what both servers should have alike, for telling where they
	// do not. At most 64, in a fixed order.
	Settings []Setting

	// Partner is the partner's host:port. Empty: only wait for it.
	Partner string
	// Certificate is shown to the partner.
	Certificate tls.Certificate
	// Pins are the keys that the partner may have; PinOf says what a pin is.
	Pins []Pin
	// Secret is what both know, in place of Pins; at least MinSecret octets.
	Secret []byte

	// Heartbeat is the time between signs of life. Zero: 1 s.
	Heartbeat time.Duration
	// DeadAfter is how long a partner may be silent. Zero: 3 s.
	DeadAfter time.Duration
	// MaxClockOffset is how far the clocks may be apart before it is logged as
	// an error. Zero: 5 min.
	MaxClockOffset time.Duration

	// Now is the clock that the partner's is compared with. Nil: time.Now.
	Now func() time.Time
	// Dial connects to Partner. Nil: over TCP.
	Dial func(ctx context.Context, address string) (net.Conn, error)
}

// Setting is one thing that both servers should have alike.
type Setting struct{ Name, Value string }

// MinSecret is the fewest octets of a secret: whoever pretends to be the
// partner once can try guesses at it in peace.
const MinSecret = 32

const (
	maxSettings     = 64
	maxText         = 256 // of names in a hello
	maxSettingOctet = 512
)

func (c Config) withDefaults() (Config, error) {
	for _, d := range []struct {
		v     *time.Duration
		value time.Duration
	}{{&c.Heartbeat, time.Second}, {&c.DeadAfter, 3 * time.Second}, {&c.MaxClockOffset, 5 * time.Minute}} {
		if *d.v <= 0 {
			*d.v = d.value
		}
	}
	if c.Version == 0 {
		c.MinVersion, c.Version = MinVersion, Version
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Dial == nil {
		c.Dial = dialTCP
	}
	switch {
	case c.DeadAfter < 2*c.Heartbeat:
		return c, fmt.Errorf("a partner would be dead after %s with a heartbeat each %s: dead_after is at least twice heartbeat", c.DeadAfter, c.Heartbeat)
	case c.MinVersion > c.Version:
		return c, fmt.Errorf("version %d is older than the oldest, %d", c.Version, c.MinVersion)
	case len(c.Pins) > 0 && len(c.Secret) > 0:
		return c, errors.New("a partner is known by its key or by a secret, not both")
	case len(c.Pins) == 0 && len(c.Secret) < MinSecret:
		return c, fmt.Errorf("the secret has %d octets and needs %d; make one with: postern replica keygen", len(c.Secret), MinSecret)
	case len(c.Certificate.Certificate) == 0:
		return c, errors.New("a certificate is needed")
	case len(c.Settings) > maxSettings || len(c.Pair) > maxText || len(c.Software) > maxText:
		return c, errors.New("the names are too long")
	}
	return c, nil
}

func (c Config) class() uint16 { return c.Node & 1 }

func dialTCP(ctx context.Context, address string) (net.Conn, error) {
	d := net.Dialer{Timeout: handshakeTime}
	return d.DialContext(ctx, "tcp", address)
}

// Link keeps a session with the partner.
type Link struct {
	cfg       Config
	handler   Handler
	log       hclog.Logger
	doorway   doorway
	strangers rarely
	ready     chan *established // authenticated connections, for Run

	mu       sync.Mutex
	session  *Session // nil while there is none
	ended    <-chan struct{}
	dialing  bool // a handshake of ours is under way
	status   Status
	told     map[string]bool // failures that were logged since the last session
	sessions uint64
}

// Status is how the link does.
type Status struct {
	Connected bool
	// Since is when it connected, or when that ended; zero when it never was.
	Since time.Time
	// Failure is why there is no session, in words for an operator.
	Failure string
	// Refused says that an operator must act: trying again will not help.
	Refused  bool
	Sessions uint64 // since the start
	Peer     Peer   // the last
	Stats    Stats  // of the session
	Partner  string // the configured address
	OwnPin   Pin
	// Differences tells which settings the partner has otherwise, in words.
	Differences []string
}

// New returns a link. Nothing is connected before Run.
func New(cfg Config, handler Handler, log hclog.Logger) (*Link, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("replica: %w", err)
	}
	l := &Link{cfg: cfg, handler: handler, log: log, ready: make(chan *established), told: make(map[string]bool)}
	l.status.Failure = "not connected yet"
	l.status.Partner = cfg.Partner
	if l.status.OwnPin, err = PinOf(cfg.Certificate); err != nil {
		return nil, fmt.Errorf("replica: %w", err)
	}
	return l, nil
}

// Status tells how the link does.
func (l *Link) Status() Status {
	l.mu.Lock()
	defer l.mu.Unlock()
	st := l.status
	if l.session != nil {
		st.Stats = l.session.Stats()
	}
	return st
}

// Session returns the present session, or nil.
func (l *Link) Session() *Session {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.session
}

// Run dials and answers until ctx ends, then sends what is queued, says goodbye
// and waits for everything. It closes the listeners.
func (l *Link) Run(ctx context.Context, listeners ...net.Listener) error {
	running, stop := context.WithCancel(ctx)
	var all sync.WaitGroup
	defer func() {
		stop()
		for _, listener := range listeners {
			_ = listener.Close() // ends accept
		}
		all.Wait()
	}()
	for _, listener := range listeners {
		all.Go(func() { l.accept(running, listener) })
	}
	if l.cfg.Partner != "" {
		all.Go(func() { l.dialLoop(running) })
	}
	for {
		select {
		case <-ctx.Done():
			l.end()
			return nil
		case e := <-l.ready:
			l.adopt(e)
		}
	}
}

// adopt makes a session of an authenticated connection, in place of the one
// before.
func (l *Link) adopt(e *established) {
	s := newSession(l.cfg, e, l.log)
	l.mu.Lock()
	before, ended := l.session, l.ended
	l.mu.Unlock()
	if before != nil {
		before.fail(ErrReplaced)
	}
	if ended != nil {
		<-ended
	}
	done := make(chan struct{})
	l.mu.Lock()
	l.session, l.ended = s, done
	l.sessions++
	clear(l.told)
	l.status.Connected, l.status.Since, l.status.Failure, l.status.Refused = true, time.Now(), "", false
	l.status.Peer, l.status.Sessions, l.status.Differences = s.peer, l.sessions, s.peer.Differences(l.cfg.Settings)
	l.mu.Unlock()
	close(e.adopted)
	l.log.Info("connected to the partner", "remote", s.peer.Remote, "node", s.peer.Node, "software", s.peer.Software, "version", s.level)
	l.tellDifferences(s.peer)
	go func() {
		defer close(done)
		err := s.run(l.handler)
		l.mu.Lock()
		l.session = nil
		l.status.Connected, l.status.Since, l.status.Failure = false, time.Now(), err.Error()
		l.status.Stats = s.Stats()
		l.mu.Unlock()
		l.log.Warn("the session with the partner ended", "reason", err, "remote", s.peer.Remote)
	}()
}

// end says goodbye and waits for the session's end.
func (l *Link) end() {
	l.mu.Lock()
	s, ended := l.session, l.ended
	l.mu.Unlock()
	if s != nil {
		s.Close("the server is stopping")
	}
	if ended != nil {
		<-ended
	}
}

// tellDifferences logs what the two servers have not alike.
func (l *Link) tellDifferences(p Peer) {
	if different := p.Differences(l.cfg.Settings); len(different) > 0 {
		l.log.Warn("the partner is configured otherwise; what is written only here or there is not lost, but the servers behave differently", "differences", strings.Join(different, "; "))
	}
	if p.ClockOffset.Abs() > l.cfg.MaxClockOffset {
		tellClock(l.log, p.ClockOffset)
	}
}

// maxTold bounds the failures that are remembered as logged.
const maxTold = 16

// failed notes and logs why there is no session, once for each reason.
func (l *Link) failed(err error) {
	var refused *Refusal
	text := err.Error()
	l.mu.Lock()
	fresh := l.session == nil && !l.told[text]
	if l.session == nil {
		if len(l.told) >= maxTold {
			clear(l.told)
		}
		l.told[text] = true
		l.status.Failure, l.status.Refused = text, errors.As(err, &refused) && refused.Code != Busy
	}
	l.mu.Unlock()
	if fresh {
		l.log.Warn("no session with the partner", "reason", err)
	}
}
