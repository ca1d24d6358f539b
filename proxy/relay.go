package proxy

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// The causes of a relay's end that are not one side's own.
const (
	causeNodeDead = "node is dead"
	causeNodeLost = "node closed the connection"
	causeShutdown = "shutdown"
	causeIdle     = "idle timeout"
	causeDisabled = "account disabled"
	causeKicked   = "kicked"
)

const (
	// parkedOctets is the buffer of a direction in which nothing moves, which
	// is what most do most of the time; relayOctets that of one that moves.
	parkedOctets = 512
	relayOctets  = 32 << 10
	// suspectAfter is how long a node may leave a client without an answer
	// before somebody asks whether it is alive.
	suspectAfter = 5 * time.Second
)

var relayBuffers = sync.Pool{New: func() any { return new([relayOctets]byte) }}

var lineEnd = [2]byte{'\r', '\n'}

// relay is a client and a node that talk to each other.
type relay struct {
	client  net.Conn
	node    *backend
	dialect Dialect
	idle    time.Duration
	write   time.Duration

	last   atomic.Int64 // when anything moved, in nanoseconds since 1970
	octets [2]atomic.Int64
	ended  chan struct{} // closed when run returns

	mu sync.Mutex
	// waiting says that the client said something and has no answer yet; overdue
	// runs as long.
	waiting bool
	overdue *time.Timer
	over    bool   // nobody shall wait for anything any more
	left    bool   // the client said that it will say no more
	cause   string // the first reason to end; "" where one side left
	// tail is what the client was sent last.
	tail    [2]byte
	saidBye bool // a side said goodbye
}

// run relays until one side is gone; rest is what the client has sent already.
// It returns the cause of the end, "" when the client left or logged out.
func (r *relay) run(rest []byte) string {
	defer close(r.ended)
	r.touch()
	r.mu.Lock()
	r.overdue = time.AfterFunc(suspectAfter, r.lookAfter)
	r.overdue.Stop()
	r.mu.Unlock()
	r.node.node.enter(r)
	defer r.node.node.leave(r)
	var upward sync.WaitGroup
	upward.Go(func() { r.upward(rest) })
	r.downward()
	r.stop()
	upward.Wait()
	r.overdue.Stop()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.saidBye {
		r.cause = ""
	}
	if word := r.dialect.parting(byeText[r.cause]); r.cause != "" && word != "" && r.tail == lineEnd {
		_ = r.client.SetWriteDeadline(time.Now().Add(byeTime))
		_, _ = io.WriteString(r.client, word)
	}
	return r.cause
}

// byeTime bounds the goodbye to a client that may not listen any more.
const byeTime = 2 * time.Second

// byeText is what a client is told of the end.
var byeText = map[string]string{
	causeNodeDead: "Server is gone; please connect again",
	causeNodeLost: "Server is gone; please connect again",
	causeShutdown: "Server is shutting down; please connect again",
	causeIdle:     "Autologout; idle for too long",
	causeDisabled: "This account may not be used any more",
	causeKicked:   "Ended by the administrator",
}

func (r *relay) touch() { r.last.Store(time.Now().UnixNano()) }

func (r *relay) idleFor() time.Duration { return time.Since(time.Unix(0, r.last.Load())) }

// end has the relay end for a cause; the first one counts.
func (r *relay) end(cause string) {
	r.mu.Lock()
	if r.cause == "" && !r.left {
		r.cause = cause
	}
	r.mu.Unlock()
	r.stop()
}

// stop ends both directions.
func (r *relay) stop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.over = true
	_ = r.client.SetReadDeadline(time.Unix(1, 0))
	_ = r.node.SetReadDeadline(time.Unix(1, 0))
}

// arm lets conn be read, or reports that the relay is over. It and stop
// exclude each other, so that a stop is never undone.
func (r *relay) arm(conn net.Conn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	patience := r.idle
	if r.left {
		patience = leaveTime
	}
	return !r.over && conn.SetReadDeadline(time.Now().Add(patience)) == nil
}

// leaveTime is how long a node may go on once its client said that it will say
// no more.
const leaveTime = 10 * time.Second

// quiet reports whether nothing is under way: the client has an answer to all
// it said, and the last line it got is whole.
func (r *relay) quiet() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return !r.waiting && r.tail == lineEnd
}

// lookEvery is how often one that is to leave is looked at for a moment at which
// nothing is under way.
const lookEvery = 100 * time.Millisecond

// settled is how long nothing came after which nothing is under way: the middle
// of a message, too, looks like the end of an answer where it is cut at a line.
const settled = 2 * lookEvery

// leave ends the relay as soon as nothing is under way. Whoever does not want
// to wait for that closes the client's connection.
func (r *relay) leave(cause string) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for !r.quiet() || r.idleFor() < settled {
		select {
		case <-r.ended:
			return
		case <-tick.C:
		}
	}
	r.end(cause)
}

// lookAfter suspects a node that leaves its client without an answer.
func (r *relay) lookAfter() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.waiting && !r.over {
		r.node.node.suspect()
		r.overdue.Reset(suspectAfter)
	}
}

// upward brings what the client says to the node.
func (r *relay) upward(rest []byte) {
	if len(rest) > 0 && !r.toNode(rest) {
		return // what the node said last is still on its way down
	}
	switch err := r.copy(r.client, r.client, r.toNode); {
	case errors.Is(err, errGone):
	case errors.Is(err, io.EOF):
		r.mu.Lock()
		r.left = true
		_ = r.node.SetReadDeadline(time.Now().Add(leaveTime))
		r.mu.Unlock()
		if half, ok := r.node.Conn.(interface{ CloseWrite() error }); ok && half.CloseWrite() == nil {
			return
		}
		r.stop()
	default:
		r.stop()
	}
}

func (r *relay) toNode(p []byte) bool {
	r.octets[0].Add(int64(len(p)))
	r.noteSaid(p)
	_ = r.node.SetWriteDeadline(time.Now().Add(r.write))
	_, err := r.node.Write(p)
	return err == nil
}

// downward brings what the node says to the client.
func (r *relay) downward() {
	switch err := r.copy(r.node, r.node.in, r.toClient); {
	case errors.Is(err, errGone): // the client is
	case errors.Is(err, os.ErrDeadlineExceeded):
		if r.idleFor() >= r.idle {
			r.end(causeIdle)
		}
	default:
		r.end(causeNodeLost)
	}
}

func (r *relay) toClient(p []byte) bool {
	r.octets[1].Add(int64(len(p)))
	r.noteAnswer(p)
	_ = r.client.SetWriteDeadline(time.Now().Add(r.write))
	_, err := r.client.Write(p)
	return err == nil
}

// noteSaid remembers that the client waits for an answer, and whether it said
// goodbye.
func (r *relay) noteSaid(p []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.saidBye = r.saidBye || r.dialect.leaves(p)
	if !r.waiting {
		r.waiting = true
		r.overdue.Reset(suspectAfter)
	}
}

// noteAnswer remembers how the stream to the client stands: whether a line is
// whole, and whether the node said goodbye.
func (r *relay) noteAnswer(p []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.waiting {
		r.waiting = false
		r.overdue.Stop()
	}
	word := []byte(r.dialect.farewell())
	if len(word) > 0 && (r.tail == lineEnd && bytes.HasPrefix(p, word) || bytes.Contains(p, append([]byte("\r\n"), word...))) {
		r.saidBye = true
	}
	if len(p) == 1 {
		r.tail = [2]byte{r.tail[1], p[0]}
	} else {
		r.tail = [2]byte(p[len(p)-2:])
	}
}

// errGone means that the side a direction leads to is gone.
var errGone = errors.New("gone")

// copy moves what conn says, through src. Between bursts it holds a small
// buffer only.
func (r *relay) copy(conn net.Conn, src io.Reader, to func([]byte) bool) error {
	var parked [parkedOctets]byte
	buffer := parked[:]
	var big *[relayOctets]byte
	defer func() {
		if big != nil {
			relayBuffers.Put(big)
		}
	}()
	for {
		if !r.arm(conn) {
			return os.ErrDeadlineExceeded
		}
		n, err := src.Read(buffer)
		if n > 0 {
			r.touch()
			if !to(buffer[:n]) {
				return errGone
			}
		}
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded) && r.idleFor() < r.idle:
			continue // the other direction moved, or the relay is over
		case err != nil:
			return err
		case n == len(buffer) && big == nil:
			big = relayBuffers.Get().(*[relayOctets]byte)
			buffer = big[:]
		case n < parkedOctets && big != nil:
			relayBuffers.Put(big)
			big, buffer = nil, parked[:]
		}
	}
}
