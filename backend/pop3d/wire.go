package pop3d

import (
	"bytes"
	"errors"
	"io"
	"net"
	"strconv"
	"sync"
	"time"
)

const (
	// readOctets is the buffer that every session has: several commands fit.
	readOctets = 512
	// flushOctets is how much output gathers before it is written on its own.
	flushOctets = 32 << 10
	// stepOctets is how much of a message is read at once.
	stepOctets = 32 << 10
)

// errLineTooLong ends the session: what follows an unread line end cannot be
// told from commands.
var errLineTooLong = errors.New("command line too long")

// reader takes lines off a connection.
type reader struct {
	conn    net.Conn
	out     *writer       // flushed before every read that may block
	timeout time.Duration // for each read inside a command
	limit   time.Time     // end of the time to log in; zero for none

	r, w int
	buf  [readOctets]byte
}

// buffered returns how many octets can be had without reading from the
// connection.
func (r *reader) buffered() int { return r.w - r.r }

// drop forgets what is buffered.
func (r *reader) drop() { r.r, r.w = 0, 0 }

// wait blocks until something is buffered, under a deadline that the caller has
// set.
func (r *reader) wait() error {
	if r.r == r.w {
		r.r, r.w = 0, 0
	}
	n, err := r.conn.Read(r.buf[r.w:])
	r.w += n
	if n > 0 {
		return nil
	}
	if err == nil {
		err = io.ErrNoProgress
	}
	return err
}

// fill is wait inside a command: the client may be waiting for what we
// gathered, and must not let us wait for ever.
func (r *reader) fill() error {
	if err := r.out.flush(); err != nil {
		return err
	}
	at := time.Now().Add(r.timeout)
	if !r.limit.IsZero() && r.limit.Before(at) {
		at = r.limit
	}
	if err := r.conn.SetReadDeadline(at); err != nil {
		return err
	}
	return r.wait()
}

// readLine appends the next line without its line end to dst. It returns
// errLineTooLong when that takes dst beyond limit octets.
func (r *reader) readLine(dst []byte, limit int) ([]byte, error) {
	for {
		if r.r == r.w {
			if err := r.fill(); err != nil {
				return dst, err
			}
		}
		pending := r.buf[r.r:r.w]
		end := bytes.IndexByte(pending, '\n')
		if end >= 0 {
			pending = pending[:end]
		}
		if len(dst)+len(pending) > limit+1 { // the CR is not counted
			return dst, errLineTooLong
		}
		dst = append(dst, pending...)
		r.r += len(pending)
		if end < 0 {
			continue
		}
		r.r++
		dst = bytes.TrimSuffix(dst, []byte("\r"))
		if len(dst) > limit {
			return dst, errLineTooLong
		}
		return dst, nil
	}
}

var writeBuffers = sync.Pool{New: func() any {
	b := make([]byte, 0, flushOctets+3*stepOctets)
	return &b
}}

// writer gathers responses into one buffer and writes it with a deadline.
// Errors stick: after one, everything further is dropped.
type writer struct {
	conn    net.Conn
	timeout time.Duration
	pooled  *[]byte // nil while parked
	buf     []byte
	err     error
}

func (w *writer) grow() {
	if w.pooled == nil {
		w.pooled = writeBuffers.Get().(*[]byte)
		w.buf = (*w.pooled)[:0]
	}
}

// flush writes everything gathered.
func (w *writer) flush() error {
	for b := w.buf; len(b) > 0 && w.err == nil; {
		n := min(len(b), 2*flushOctets)
		if w.err = w.conn.SetWriteDeadline(time.Now().Add(w.timeout)); w.err == nil {
			_, w.err = w.conn.Write(b[:n])
		}
		b = b[n:]
	}
	w.buf = w.buf[:0]
	return w.err
}

// park gives the buffer back; it must have been flushed.
func (w *writer) park() {
	if w.pooled == nil {
		return
	}
	if cap(w.buf) <= 4*flushOctets+3*stepOctets {
		*w.pooled = w.buf[:0]
		writeBuffers.Put(w.pooled)
	}
	w.pooled, w.buf = nil, nil
}

func (w *writer) str(s string) {
	w.grow()
	w.buf = append(w.buf, s...)
}

func (w *writer) num(n uint64) {
	w.grow()
	w.buf = strconv.AppendUint(w.buf, n, 10)
}

// line ends a line; a full buffer is written.
func (w *writer) line(s string) {
	w.grow()
	w.buf = append(w.buf, s...)
	w.buf = append(w.buf, '\r', '\n')
	w.full()
}

// full writes a full buffer.
func (w *writer) full() {
	if len(w.buf) >= flushOctets {
		_ = w.flush() // the error sticks
	}
}
