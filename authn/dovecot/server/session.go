package server

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/postern-mail/postern/authn/dovecot/wire"
	"github.com/postern-mail/postern/authn/sasl"
)

const (
	// writeTimeout bounds the writing of one line.
	writeTimeout = 30 * time.Second
	// outgoing is how many lines wait for a client that reads slowly; the
	// workers wait after that.
	outgoing = 64
)

// session is one connection. Its reader takes the lines in order, workers
// decide, and one writer sends what they say.
type session struct {
	server *Server
	cfg    *Config
	conn   net.Conn

	live     context.Context // of everything on the connection
	cut      context.CancelFunc
	draining atomic.Bool
	out      chan []byte // lines; nil hangs up after those before
	slots    chan struct{}
	work     sync.WaitGroup
	greeted  bool // VERSION came
	terse    bool // the client speaks version 1.0; set before the first request

	mu       sync.Mutex // guards the fields below
	requests map[uint64]*request
}

func newSession(server *Server, cfg *Config, conn net.Conn) *session {
	return &session{
		server: server, cfg: cfg, conn: conn,
		out: make(chan []byte, outgoing), slots: make(chan struct{}, cfg.Workers), requests: make(map[uint64]*request),
	}
}

// run serves the connection until it ends, is idle for too long, or ctx ends.
func (s *session) run(ctx context.Context) {
	s.live, s.cut = context.WithCancel(context.WithoutCancel(ctx))
	defer s.cut()
	stop := context.AfterFunc(ctx, s.drain)
	defer stop()
	var writing sync.WaitGroup
	writing.Go(s.write)
	err := s.greet()
	if err == nil {
		err = s.read()
	}
	if s.draining.Load() {
		late := time.AfterFunc(s.cfg.Grace, s.cut)
		s.work.Wait()
		late.Stop()
	} else {
		s.cut()
		s.work.Wait()
	}
	s.abandon()
	close(s.out)
	writing.Wait()
	if err != nil && !s.draining.Load() && !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) && !errors.Is(err, os.ErrDeadlineExceeded) {
		s.server.log.Warn("connection ended", "listener", s.cfg.Name, "remote", s.conn.RemoteAddr(), "err", err)
	}
}

// drain makes the reader stop.
func (s *session) drain() {
	s.draining.Store(true)
	_ = s.conn.SetReadDeadline(time.Unix(1, 0))
}

// write sends lines until out is closed. After the first that cannot be sent
// nothing more is.
func (s *session) write() {
	broken := false
	for line := range s.out {
		if broken {
			continue
		}
		if line != nil {
			_ = s.conn.SetWriteDeadline(time.Now().Add(writeTimeout))
			_, err := s.conn.Write(line)
			broken = err != nil
		}
		if line == nil || broken {
			broken = true
			s.cut()
			_ = s.conn.Close()
		}
	}
}

// send hands a line to the writer.
func (s *session) send(fields ...string) { s.queue(wire.Append(nil, fields...)) }

// hangUp closes the connection after what was sent before.
func (s *session) hangUp() { s.queue(nil) }

func (s *session) queue(line []byte) {
	select {
	case s.out <- line:
	case <-s.live.Done():
	}
}

// greet tells who we are and what is on offer. A client may send before it.
func (s *session) greet() error {
	mechanisms, err := s.server.mechanisms()
	if err != nil {
		return err
	}
	offered := mechanisms.OfferedByRelay()
	if len(offered) == 0 {
		return errors.New("no mechanism is on offer")
	}
	cookie := make([]byte, 16)
	rand.Read(cookie)
	greeting := wire.Append(nil, "VERSION", wire.Major, wire.Minor)
	for _, name := range offered {
		greeting = wire.Append(greeting, append([]string{"MECH", name}, properties(name)...)...)
	}
	greeting = wire.Append(greeting, "SPID", strconv.Itoa(os.Getpid()))
	greeting = wire.Append(greeting, "CUID", strconv.FormatUint(s.server.uniqueID.Add(1), 10))
	greeting = wire.Append(greeting, "COOKIE", hex.EncodeToString(cookie))
	s.queue(wire.Append(greeting, "DONE"))
	return nil
}

// properties are the words of the protocol for what a mechanism is.
func properties(name string) []string {
	weak := sasl.WeaknessesOf(name)
	var words []string
	for _, p := range []struct {
		word     string
		of       sasl.Weakness
		whenWeak bool
	}{
		{"anonymous", sasl.NoAnonymous, true},
		{"plaintext", sasl.NoPlaintext, true},
		{"dictionary", sasl.NoDictionary, true},
		{"active", sasl.NoActive, true},
		{"forward-secrecy", sasl.ForwardSecrecy, false},
		{"mutual-auth", sasl.MutualAuth, false},
	} {
		if slices.Contains(weak, p.of) == p.whenWeak {
			words = append(words, p.word)
		}
	}
	return words
}

// read takes commands until the connection ends or a line makes no sense.
func (s *session) read() error {
	lines := wire.NewReader(s.conn)
	for {
		_ = s.conn.SetReadDeadline(time.Now().Add(s.cfg.IdleTimeout))
		if s.draining.Load() {
			return nil
		}
		if err := s.readLine(lines); err != nil {
			return err
		}
	}
}

func (s *session) readLine(lines *bufio.Reader) error {
	fields, err := wire.ReadLine(lines)
	if err != nil {
		return err
	}
	command, fields := fields[0], fields[1:]
	switch command {
	case "VERSION":
		return s.version(fields)
	case "AUTH", "CONT", "CANCEL":
		if !s.greeted {
			return fmt.Errorf("%s before VERSION", command)
		}
	default:
		return nil // CPID, and what later versions add
	}
	if len(fields) == 0 {
		return fmt.Errorf("%s without a request", command)
	}
	id, err := strconv.ParseUint(fields[0], 10, 32)
	if err != nil {
		return fmt.Errorf("%s: %.32q is no number of a request", command, fields[0])
	}
	switch command {
	case "AUTH":
		return s.auth(id, fields[1:])
	case "CONT":
		return s.proceed(id, fields[1:])
	}
	s.cancel(id)
	return nil
}

func (s *session) version(fields []string) error {
	if len(fields) < 2 || fields[0] != wire.Major {
		return fmt.Errorf("the client speaks version %.32q of the protocol, we speak %s.%s", strings.Join(fields, "."), wire.Major, wire.Minor)
	}
	if s.greeted {
		return errors.New("VERSION came twice")
	}
	s.greeted, s.terse = true, fields[1] == "0"
	return nil
}
