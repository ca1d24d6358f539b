package imapd

import (
	"bytes"
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

const (
	readBufferOctets = 8 << 10
	// inlineOctets is what a parked session has for the first octets of the
	// next command; most commands fit, so they cost one read.
	inlineOctets = 96
	// maxIdleLineOctets bounds the line that ends IDLE.
	maxIdleLineOctets = 1000
)

var readBuffers = sync.Pool{New: func() any { return new([readBufferOctets]byte) }}

// errLineTooLong ends the session: what follows an unread line end cannot be
// told from commands.
var errLineTooLong = errors.New("command line too long")

// reader buffers what a connection sends. While its session waits for a
// command it holds no buffer, so that idle connections stay small.
type reader struct {
	conn    net.Conn
	out     *writer       // flushed before every read that may block
	timeout time.Duration // for each read inside a command
	limit   time.Time     // end of the unauthenticated time; zero for none

	buf    *[readBufferOctets]byte // nil while parked
	r, w   int
	inline [inlineOctets]byte
}

// buffered returns how many octets can be had without reading from the
// connection.
func (r *reader) buffered() int { return r.w - r.r }

// park gives the buffer back when it is empty.
func (r *reader) park() {
	if r.buf != nil && r.r == r.w {
		readBuffers.Put(r.buf)
		r.buf, r.r, r.w = nil, 0, 0
	}
}

// release gives the buffer back whatever it holds.
func (r *reader) release() {
	r.r, r.w = 0, 0
	r.park()
}

// wait blocks until something is buffered. The caller has set the deadline.
func (r *reader) wait() error {
	if r.buffered() > 0 {
		return nil
	}
	if err := r.out.flush(); err != nil {
		return err
	}
	return r.refill()
}

// refill waits for octets without a buffer.
func (r *reader) refill() error {
	r.park()
	n, err := r.conn.Read(r.inline[:])
	if n == 0 {
		if err == nil {
			err = io.ErrNoProgress
		}
		return err
	}
	r.buf = readBuffers.Get().(*[readBufferOctets]byte)
	r.r, r.w = 0, copy(r.buf[:], r.inline[:n])
	return nil
}

// readIdleLine reads a short line under a deadline that the caller has set. It
// leaves the writer alone: the session uses that meanwhile.
func (r *reader) readIdleLine() ([]byte, error) {
	var line []byte
	for {
		if r.r == r.w {
			if err := r.refill(); err != nil {
				return nil, err
			}
		}
		pending := r.buf[r.r:r.w]
		end := bytes.IndexByte(pending, '\n')
		if end >= 0 {
			pending = pending[:end+1]
		}
		r.r += len(pending)
		if line = append(line, pending...); len(line) > maxIdleLineOctets {
			return nil, errLineTooLong
		}
		if end >= 0 {
			return bytes.TrimRight(line, "\r\n"), nil
		}
	}
}

// prepare comes before each read inside a command: the client may be waiting
// for what we gathered, and must not let us wait for ever.
func (r *reader) prepare() error {
	if err := r.out.flush(); err != nil {
		return err
	}
	at := time.Now().Add(r.timeout)
	if !r.limit.IsZero() && r.limit.Before(at) {
		at = r.limit
	}
	return r.conn.SetReadDeadline(at)
}

// fill reads more into the buffer, which must have room.
func (r *reader) fill() error {
	if r.buf == nil {
		r.buf = readBuffers.Get().(*[readBufferOctets]byte)
	}
	if r.r == r.w {
		r.r, r.w = 0, 0
	}
	if err := r.prepare(); err != nil {
		return err
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

// readLine appends the next line without its line end to dst. When the line
// takes dst beyond limit octets it returns errLineTooLong.
func (r *reader) readLine(dst []byte, limit int) ([]byte, error) {
	start := len(dst)
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
		if n := len(dst); n > start && dst[n-1] == '\r' {
			dst = dst[:n-1]
		}
		if len(dst) > limit {
			return dst, errLineTooLong
		}
		return dst, nil
	}
}

// Read reads literal octets: from the buffer first, then straight from the
// connection.
func (r *reader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if r.r < r.w {
		n := copy(p, r.buf[r.r:r.w])
		r.r += n
		return n, nil
	}
	if len(p) >= readBufferOctets {
		if err := r.prepare(); err != nil {
			return 0, err
		}
		return r.conn.Read(p)
	}
	if err := r.fill(); err != nil {
		return 0, err
	}
	n := copy(p, r.buf[r.r:r.w])
	r.r += n
	return n, nil
}

// discard reads and drops n octets.
func (r *reader) discard(n int64) error {
	for n > 0 {
		if r.r == r.w {
			if err := r.fill(); err != nil {
				return err
			}
		}
		step := min(int64(r.w-r.r), n)
		r.r += int(step)
		n -= step
	}
	return nil
}
