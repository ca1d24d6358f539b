package operator

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// The two ends send each other frames: an octet that says what it is, four
// octets of length, big-endian, and so many octets.
const (
	frameRequest  = 'q' // the first one: a Request
	frameContent  = 'd' // of the message to be saved
	frameEnds     = 'e' // it is whole
	frameStop     = 's'
	frameAnswer   = 'o'
	frameWarning  = 'w'
	frameProgress = 'p'
	frameDone     = 'z' // the last one: why not all was done, empty when it was
)

const (
	maxFrame = 64 << 10
	// maxRequest bounds a request, and with it the users that it names.
	maxRequest = 8 << 20
	// patience is how long one end waits for the other: people read answers in
	// pagers.
	patience = 30 * time.Minute
	// stopPatience is how long a command may take to stop.
	stopPatience = time.Minute
)

// wire is one end of a conversation.
type wire struct {
	conn net.Conn
	br   *bufio.Reader

	mu sync.Mutex // one frame at a time
	bw *bufio.Writer
}

func newWire(conn net.Conn) *wire {
	return &wire{conn: conn, br: bufio.NewReader(conn), bw: bufio.NewWriter(conn)}
}

// put sends a frame.
func (w *wire) put(kind byte, payload []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	_ = w.conn.SetWriteDeadline(time.Now().Add(patience)) // an error shows when writing
	var head [5]byte
	head[0] = kind
	binary.BigEndian.PutUint32(head[1:], uint32(len(payload)))
	_, err := w.bw.Write(head[:])
	if err == nil {
		_, err = w.bw.Write(payload)
	}
	if err == nil {
		err = w.bw.Flush()
	}
	return err
}

// get receives a frame of at most so many octets.
func (w *wire) get(most int) (kind byte, payload []byte, err error) {
	var head [5]byte
	if _, err := io.ReadFull(w.br, head[:]); err != nil {
		return 0, nil, err
	}
	n := binary.BigEndian.Uint32(head[1:])
	if n > uint32(most) {
		return 0, nil, fmt.Errorf("a frame of %d octets is too long", n)
	}
	payload = make([]byte, n)
	_, err = io.ReadFull(w.br, payload)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return head[0], payload, err
}

// frames writes an answer.
type frames struct {
	w    *wire
	kind byte
}

func (f frames) Write(p []byte) (int, error) {
	for n := 0; n < len(p); {
		piece := p[n:min(n+maxFrame, len(p))]
		if err := f.w.put(f.kind, piece); err != nil {
			return n, err
		}
		n += len(piece)
	}
	return len(p), nil
}

// Serve answers a Call at the other end of conn, which it closes. Its error is
// about the conversation; what is wrong with the request is told to the other
// end, who may stop it at any time.
func Serve(ctx context.Context, conn net.Conn, d Deps) error {
	defer conn.Close()
	w := newWire(conn)
	_ = conn.SetReadDeadline(time.Now().Add(patience)) // an error shows when reading
	kind, text, err := w.get(maxRequest)
	if err != nil {
		return err
	}
	var q Request
	if kind != frameRequest || json.Unmarshal(text, &q) != nil {
		return errors.New("malformed request")
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	content, sink := io.Pipe()
	listening := make(chan struct{})
	go func() {
		defer close(listening)
		defer cancel() // it asked for that, or is gone
		err := w.listen(sink)
		_ = sink.CloseWithError(err)
	}()
	done := Run(ctx, d, &q, content, Output{
		Answer:   frames{w, frameAnswer},
		Warn:     func(line string) { _ = w.put(frameWarning, []byte(cut(line))) },
		Progress: func(line string) { _ = w.put(frameProgress, []byte(cut(line))) },
	})
	_ = content.Close()
	var why string
	if done != nil {
		why = done.Error()
	}
	err = w.put(frameDone, []byte(cut(why)))
	_ = conn.Close() // the listener ends
	<-listening
	return err
}

// cut keeps a line within a frame.
func cut(line string) string { return line[:min(len(line), maxFrame)] }

// listen takes in the message to be saved, and returns when the other end wants
// to stop, or is gone.
func (w *wire) listen(content *io.PipeWriter) error {
	saving := true
	for {
		if saving {
			_ = w.conn.SetReadDeadline(time.Now().Add(patience))
		} else {
			_ = w.conn.SetReadDeadline(time.Time{}) // it has nothing more to say
		}
		kind, piece, err := w.get(maxFrame)
		switch {
		case err != nil:
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return err
		case kind == frameStop:
			return context.Canceled
		case kind == frameContent && saving:
			if _, err := content.Write(piece); err != nil {
				saving = false // nobody reads it
			}
		case kind == frameEnds:
			saving = false
			_ = content.Close() // always nil
		}
	}
}

// Call has the Serve at the other end of conn do a command. content is the
// message to be saved, nil without. When ctx ends the other end is asked to
// stop, and tells where it did. The caller closes conn.
func Call(ctx context.Context, conn net.Conn, q *Request, content io.Reader, out Output) error {
	text, err := json.Marshal(q)
	if err != nil {
		return err
	}
	if len(text) > maxRequest {
		return fmt.Errorf("the request names too many users: it has %d octets, and may have %d", len(text), maxRequest)
	}
	w := newWire(conn)
	if err := w.put(frameRequest, text); err != nil {
		return err
	}
	unhook := context.AfterFunc(ctx, func() {
		_ = w.put(frameStop, nil)
		_ = conn.SetReadDeadline(time.Now().Add(stopPatience))
	})
	defer unhook()
	sent := make(chan error, 1)
	go func() { sent <- w.send(content) }()
	err = w.receive(out)
	_ = conn.SetWriteDeadline(time.Now()) // it needs no more of the content
	if readErr := <-sent; readErr != nil && err != nil {
		return errors.Join(readErr, err)
	}
	return err
}

// send sends the message to be saved. Its error is that of reading it.
func (w *wire) send(content io.Reader) error {
	if content != nil {
		buf := make([]byte, maxFrame)
		for {
			n, err := content.Read(buf)
			if n > 0 && w.put(frameContent, buf[:n]) != nil {
				return nil // whoever receives tells why
			}
			if errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				_ = w.put(frameStop, nil)
				return err
			}
		}
	}
	_ = w.put(frameEnds, nil)
	return nil
}

// receive passes the answer on.
func (w *wire) receive(out Output) error {
	for {
		kind, payload, err := w.get(maxFrame)
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return errors.New("the server ended before its answer did")
		case err != nil:
			return err
		case kind == frameAnswer:
			if _, err := out.Answer.Write(payload); err != nil {
				return err
			}
		case kind == frameWarning:
			out.Warn(string(payload))
		case kind == frameProgress:
			out.Progress(string(payload))
		case kind == frameDone:
			if len(payload) > 0 {
				return errors.New(string(payload))
			}
			return nil
		}
	}
}
