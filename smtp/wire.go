package smtp

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// Sizes of the read buffers. An idle session holds a small one; a message or
// a SASL exchange borrows a large one.
const (
	smallBuffer = 4 << 10
	largeBuffer = 32 << 10
	// flushAt bounds the replies kept back for one write.
	flushAt = 8 << 10
)

var (
	smallBuffers = sync.Pool{New: func() any { return new([smallBuffer]byte) }}
	largeBuffers = sync.Pool{New: func() any { return new([largeBuffer]byte) }}
	replyBuffers = sync.Pool{New: func() any { b := make([]byte, 0, 1<<10); return &b }}
)

var (
	errStopping    = errors.New("server is shutting down")
	errLineTooLong = errors.New("line too long")
	errLineEndless = errors.New("line has no end")
)

// wire is the session's side of a connection: octets in, replies out.
//
// Replies are kept back until the session has to wait for input, so that the
// replies to a pipelined group leave in one write (RFC 2920 section 3.2).
// All methods but stop, hasten, finish and closeNow belong to the session's goroutine.
type wire struct {
	raw  net.Conn // as accepted; deadlines are set here
	conn net.Conn // raw, or TLS above it

	in    []byte // one of the two arrays below; in[r:w] is unread
	r, w  int
	small *[smallBuffer]byte
	large *[largeBuffer]byte

	out          *[]byte // nil while no reply is kept back
	writeTimeout time.Duration
	broken       error // why writing failed; nothing is written after that

	mu       sync.Mutex
	idle     bool      // waiting where a shutdown may interrupt
	until    time.Time // of the present wait
	hastened time.Time // no idle wait that begins before lasts longer
	stopping bool      // idle waits end
	ending   bool      // and all others
}

func newWire(conn net.Conn, writeTimeout time.Duration) *wire {
	w := &wire{raw: conn, conn: conn, writeTimeout: writeTimeout, small: smallBuffers.Get().(*[smallBuffer]byte)}
	w.in = w.small[:]
	return w
}

// release gives the buffers back; the wire must not be used afterwards.
func (w *wire) release() {
	smallBuffers.Put(w.small)
	if w.large != nil {
		largeBuffers.Put(w.large)
	}
	w.dropReplies()
	w.in, w.small, w.large = nil, nil, nil
}

// unread returns the octets that have arrived and were not consumed. They
// stay valid until the next fill.
func (w *wire) unread() []byte { return w.in[w.r:w.w] }

func (w *wire) consume(n int) { w.r += n }

// enlarge makes room for message text and SASL lines.
func (w *wire) enlarge() {
	if w.large != nil {
		return
	}
	w.large = largeBuffers.Get().(*[largeBuffer]byte)
	w.w = copy(w.large[:], w.unread())
	w.r, w.in = 0, w.large[:]
}

// shrink goes back to the small buffer as soon as what is unread fits.
func (w *wire) shrink() {
	if w.large == nil || w.w-w.r > smallBuffer {
		return
	}
	w.w = copy(w.small[:], w.unread())
	w.r, w.in = 0, w.small[:]
	largeBuffers.Put(w.large)
	w.large = nil
}

// rest gives the read buffer back where nothing is unread; until wake nothing
// can be read. What was returned by unread is gone.
func (w *wire) rest() {
	w.shrink()
	if w.w > w.r {
		return
	}
	smallBuffers.Put(w.small)
	w.in, w.small, w.r, w.w = nil, nil, 0, 0
}

// wake ends a rest.
func (w *wire) wake() {
	if w.small == nil {
		w.small = smallBuffers.Get().(*[smallBuffer]byte)
		w.in = w.small[:]
	}
}

// hasten lets the present idle wait, or the one that is about to begin, end at
// the deadline if it would last longer. It may be called from any goroutine.
func (w *wire) hasten(deadline time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.hastened = deadline
	if w.idle && !w.stopping && w.until.After(deadline) {
		w.until = deadline
		_ = w.raw.SetReadDeadline(deadline) // a lost connection ends the wait too
	}
}

// fill sends the replies kept back and waits for more input: the one place
// where a session waits for its client. An idle wait is interrupted by stop.
// The buffer must not be full.
func (w *wire) fill(deadline time.Time, idle bool) error {
	if err := w.flush(); err != nil {
		return err
	}
	if w.r > 0 {
		w.w = copy(w.in, w.unread())
		w.r = 0
	}
	if err := w.arm(deadline, idle); err != nil {
		return err
	}
	n, err := w.conn.Read(w.in[w.w:])
	w.w += n
	stopped := w.disarm(idle)
	if n > 0 {
		return nil // an error comes again with the next read
	}
	if err == nil {
		return io.ErrNoProgress
	}
	if stopped && errors.Is(err, os.ErrDeadlineExceeded) {
		return errStopping
	}
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF // io.EOF is for ends that were announced
	}
	return err
}

func (w *wire) arm(deadline time.Time, idle bool) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if idle && w.stopping || w.ending {
		return errStopping
	}
	if idle && !w.hastened.IsZero() && deadline.After(w.hastened) && time.Now().Before(w.hastened) {
		deadline = w.hastened
	}
	w.idle, w.until = idle, deadline
	return w.raw.SetReadDeadline(deadline)
}

func (w *wire) disarm(idle bool) (stopped bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.idle = false
	return idle && w.stopping || w.ending
}

// stop ends idle waits, the present one and those to come, with errStopping.
// It may be called from any goroutine.
func (w *wire) stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stopping = true
	if w.idle {
		// An error means that the connection is gone, which ends the wait too.
		_ = w.raw.SetReadDeadline(time.Unix(1, 0))
	}
}

// finish ends all waits for the client, the present one and those to come, with
// errStopping: it can still be told so. It may be called from any goroutine.
func (w *wire) finish() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stopping, w.ending = true, true
	_ = w.raw.SetReadDeadline(time.Unix(1, 0)) // as in stop
}

// closeNow closes the connection beneath whatever the session is doing. It
// may be called from any goroutine.
func (w *wire) closeNow() { _ = w.raw.Close() }

// line is a command line without its line end. Text stays valid until the
// next fill.
type line struct {
	text   []byte
	bareLF bool // ended in LF without CR
}

// readLine waits for a line of at most limit octets. Only one CR before the LF
// belongs to the line end. A longer line is consumed to its end and reported
// as errLineTooLong; one that does not end soon after that as errLineEndless,
// and then nothing more can be read. An idle wait is interrupted by stop.
func (w *wire) readLine(limit int, deadline time.Time, idle bool) (line, error) {
	scanned, dropped := 0, 0
	for {
		unread := w.unread()
		if i := bytes.IndexByte(unread[scanned:], '\n'); i >= 0 {
			end := scanned + i
			w.consume(end + 1)
			text, crlf := bytes.CutSuffix(unread[:end], []byte{'\r'})
			if dropped > 0 || len(text) > limit {
				return line{}, errLineTooLong
			}
			return line{text: text, bareLF: !crlf}, nil
		}
		if scanned = len(unread); scanned > limit+1 {
			if dropped += scanned; dropped > maxLineOverrun {
				return line{}, errLineEndless
			}
			w.consume(scanned)
			scanned = 0
		}
		if w.w-w.r == len(w.in) {
			w.enlarge()
		}
		if err := w.fill(deadline, idle); err != nil {
			return line{}, err
		}
	}
}

// flush writes the replies kept back.
func (w *wire) flush() error {
	if w.out == nil {
		return nil
	}
	defer w.dropReplies()
	if w.broken != nil {
		return w.broken
	}
	// Infallible on a live connection; on a dead one the write tells why.
	_ = w.raw.SetWriteDeadline(time.Now().Add(w.writeTimeout))
	_, w.broken = w.conn.Write(*w.out)
	return w.broken
}

func (w *wire) dropReplies() {
	if w.out == nil {
		return
	}
	*w.out = (*w.out)[:0]
	if cap(*w.out) <= 2*flushAt {
		replyBuffers.Put(w.out)
	}
	w.out = nil
}

// pending returns the buffer replies are appended to.
func (w *wire) pending() *[]byte {
	if w.out == nil {
		w.out = replyBuffers.Get().(*[]byte)
	}
	return w.out
}

// earlyInput reports whether the client has already sent more than was
// consumed. Under TLS only what is decrypted counts: records still to be read
// may be the protocol's own.
func (w *wire) earlyInput() bool {
	return w.w > w.r || w.conn == w.raw && peekInput(w.raw)
}

// shut sends what is kept back and closes. A polite close lets the client
// read the last reply first: with unread input a plain close would reset the
// connection and might take the reply away.
func (w *wire) shut(polite bool) {
	err := w.flush()
	if polite && err == nil {
		w.linger()
	}
	_ = w.conn.Close()
}

const (
	lingerTime   = 2 * time.Second
	lingerOctets = 1 << 20
)

func (w *wire) linger() {
	half, ok := w.conn.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil {
		return
	}
	if w.arm(time.Now().Add(lingerTime), true) != nil {
		return
	}
	for total := 0; total < lingerOctets; {
		n, err := w.raw.Read(w.in)
		if err != nil {
			return
		}
		total += n
	}
}
