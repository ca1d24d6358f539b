package dovecot

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/postern-mail/postern/authn/dovecot/wire"
)

// errLost is for questions whose connection ended before their answer.
var errLost = errors.New("the connection ended")

// writeTimeout bounds the writing of one request.
const writeTimeout = 5 * time.Second

// link is one connection, past its handshake.
type link struct {
	conn net.Conn

	writing chan struct{} // held by the one who writes

	mu      sync.Mutex // guards the fields below
	next    uint32
	waiting map[uint32]chan []string
	cause   error // why it ended; nil while it is alive
}

// connected returns a live connection; the first who needs one makes it.
func (v *Verifier) connected(ctx context.Context) (*link, error) {
	select {
	case v.dialing <- struct{}{}:
		defer func() { <-v.dialing }()
	case <-ctx.Done():
		return nil, fmt.Errorf("connect: %w", ctx.Err())
	}
	v.mu.Lock()
	present, closed := v.link, v.closed
	v.mu.Unlock()
	if closed {
		return nil, errClosed
	}
	if present != nil && present.alive() {
		return present, nil
	}
	fresh, lines, err := dial(ctx, v.cfg.Socket)
	if err != nil {
		return nil, err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.closed {
		_ = fresh.conn.Close()
		return nil, errClosed
	}
	v.link = fresh
	v.links.Go(func() { // ends with the connection; Run waits for it
		if err := fresh.read(lines); err != nil {
			v.log.Warn("connection to Dovecot ended", "verifier", v.cfg.Name, "err", err)
		}
	})
	return fresh, nil
}

// dial connects and shakes hands.
func dial(ctx context.Context, socket string) (*link, *bufio.Reader, error) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, nil, err
	}
	// Expiring the deadline ends a read or write under way.
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	lines := wire.NewReader(conn)
	err = shake(conn, lines)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		_ = conn.Close()
		return nil, nil, fmt.Errorf("handshake: %w", err)
	}
	return &link{conn: conn, writing: make(chan struct{}, 1), waiting: make(map[uint32]chan []string)}, lines, nil
}

// maxGreeting bounds the lines of a handshake.
const maxGreeting = 200

// shake sends our greeting and reads the server's.
func shake(conn net.Conn, lines *bufio.Reader) error {
	greeting := wire.Append(nil, "VERSION", wire.Major, wire.Minor)
	if _, err := conn.Write(wire.Append(greeting, "CPID", strconv.Itoa(os.Getpid()))); err != nil {
		return err
	}
	mechanisms, plain := 0, false
	for range maxGreeting {
		fields, err := wire.ReadLine(lines)
		if err != nil {
			return err
		}
		switch fields[0] {
		case "VERSION":
			if len(fields) < 2 || fields[1] != wire.Major {
				return fmt.Errorf("the server speaks another version of the protocol: %.64q", fields)
			}
		case "MECH":
			mechanisms++
			plain = plain || len(fields) > 1 && fields[1] == "PLAIN"
		case "SPID":
			// Sockets of another kind end their greeting here, without a word.
			if mechanisms == 0 {
				return errors.New("this is not a client socket of Dovecot's auth service but auth-master or auth-userdb; set socket to auth-client")
			}
		case "DONE":
			if !plain {
				return errors.New("the server does not offer PLAIN; add it to auth_mechanisms in Dovecot's configuration")
			}
			return nil
		}
	}
	return errors.New("the greeting has no end")
}

func (l *link) alive() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.cause == nil
}

// ask sends AUTH and waits for its OK or FAIL, which it returns without the
// number. errLost when the connection ended first.
func (l *link) ask(ctx context.Context, fields []string) ([]string, error) {
	answer := make(chan []string, 1)
	id, err := l.register(answer)
	if err != nil {
		return nil, err
	}
	defer l.forget(id)
	if err := l.send(ctx, wire.Append(nil, append([]string{"AUTH", strconv.FormatUint(uint64(id), 10)}, fields...)...)); err != nil {
		return nil, err
	}
	select {
	case fields, ok := <-answer:
		if !ok {
			return nil, l.lost()
		}
		return fields, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for the answer: %w", ctx.Err())
	}
}

func (l *link) register(answer chan []string) (uint32, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cause != nil {
		return 0, l.lostLocked()
	}
	for l.next++; l.next == 0 || l.waiting[l.next] != nil; l.next++ {
	}
	l.waiting[l.next] = answer
	return l.next, nil
}

func (l *link) forget(id uint32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.waiting, id)
}

func (l *link) lost() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lostLocked()
}

func (l *link) lostLocked() error { return fmt.Errorf("%w: %w", errLost, l.cause) }

// send writes one line; half a line would spoil all after it, so a write that
// fails ends the connection.
func (l *link) send(ctx context.Context, line []byte) error {
	defer clear(line) // it holds a password
	select {
	case l.writing <- struct{}{}:
		defer func() { <-l.writing }()
	case <-ctx.Done():
		return fmt.Errorf("wait to send: %w", ctx.Err())
	}
	_ = l.conn.SetWriteDeadline(time.Now().Add(writeTimeout))
	if _, err := l.conn.Write(line); err != nil {
		l.fail(err)
		return fmt.Errorf("%w: %w", errLost, err)
	}
	return nil
}

// read hands answers to who waits for them until the connection ends. The
// error is nil when we ended it ourselves.
func (l *link) read(lines *bufio.Reader) error {
	for {
		fields, err := wire.ReadLine(lines)
		if err == nil {
			err = l.deliver(fields)
		}
		if err != nil {
			return l.fail(err)
		}
	}
}

// deliver takes one line from the server. Commands that later versions add are
// none of ours.
func (l *link) deliver(fields []string) error {
	switch fields[0] {
	case "OK", "FAIL", "CONT":
	default:
		return nil
	}
	if len(fields) < 2 {
		return fmt.Errorf("%s without a request", fields[0])
	}
	id, err := strconv.ParseUint(fields[1], 10, 32)
	if err != nil {
		return fmt.Errorf("%s: %.32q is no number of a request", fields[0], fields[1])
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if answer := l.waiting[uint32(id)]; answer != nil { // else who asked has given up
		delete(l.waiting, uint32(id))
		answer <- append(fields[:1], fields[2:]...)
	}
	return nil
}

// fail ends the connection and the questions on it, and returns err when it is
// the first to do so.
func (l *link) fail(err error) error {
	_ = l.conn.Close()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cause != nil {
		return nil
	}
	l.cause = err
	for id, answer := range l.waiting {
		close(answer)
		delete(l.waiting, id)
	}
	return err
}
