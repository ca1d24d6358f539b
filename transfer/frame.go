package transfer

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// The two ends send lines of JSON to each other; a text follows its line in
// pieces: four octets of length, big-endian, and so many octets; length 0 is
// the end, abandoned means that the text could not be read to its end.
const (
	maxLine   = 1 << 20
	pieceSize = 64 << 10
	abandoned = 1<<32 - 1
)

// patience is how long one end waits for the other: a source may be a server
// that has to be reached again first.
const patience = 30 * time.Minute

var errAbandoned = errors.New("the text could not be read to its end")

// wire is one end of a conversation.
type wire struct {
	conn net.Conn
	br   *bufio.Reader
	bw   *bufio.Writer
}

func newWire(conn net.Conn) *wire {
	return &wire{conn: conn, br: bufio.NewReaderSize(conn, pieceSize), bw: bufio.NewWriterSize(conn, pieceSize)}
}

// extend gives the other end the whole time again.
func (w *wire) extend() { _ = w.conn.SetDeadline(time.Now().Add(patience)) } // an error shows when reading

func (w *wire) put(v any) error {
	line, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if len(line) >= maxLine {
		return fmt.Errorf("a line of %d octets is too long", len(line))
	}
	w.extend()
	_, err = w.bw.Write(append(line, '\n'))
	return err
}

func (w *wire) get(v any) error {
	w.extend()
	var line []byte
	for {
		part, err := w.br.ReadSlice('\n')
		line = append(line, part...)
		switch {
		case len(line) > maxLine:
			return errors.New("a line is too long")
		case err == nil:
			return json.Unmarshal(line, v)
		case !errors.Is(err, bufio.ErrBufferFull):
			return err
		}
	}
}

// putText sends r to its end. readErr is r's own; the other end then drops
// the text.
func (w *wire) putText(r io.Reader) (n int64, readErr, err error) {
	buf := make([]byte, 4+pieceSize)
	for {
		k, err := io.ReadFull(r, buf[4:])
		if k > 0 {
			w.extend()
			binary.BigEndian.PutUint32(buf, uint32(k))
			if _, err := w.bw.Write(buf[:4+k]); err != nil {
				return n, nil, err
			}
			n += int64(k)
		}
		if err == nil {
			continue
		}
		end := uint32(0)
		if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			readErr, end = err, abandoned
		}
		binary.BigEndian.PutUint32(buf, end)
		_, err = w.bw.Write(buf[:4])
		return n, readErr, err
	}
}

// text is one that is being received. After an error other than errAbandoned
// the conversation is of no more use.
type text struct {
	w    *wire
	left uint32
	err  error
}

func (t *text) Read(p []byte) (int, error) {
	if t.err != nil {
		return 0, t.err
	}
	if t.left == 0 {
		t.w.extend()
		var head [4]byte
		if _, t.err = io.ReadFull(t.w.br, head[:]); t.err != nil {
			return 0, t.lost()
		}
		switch t.left = binary.BigEndian.Uint32(head[:]); {
		case t.left == 0:
			t.err = io.EOF
		case t.left == abandoned:
			t.err = errAbandoned
		case t.left > pieceSize:
			t.err = errors.New("a piece of text is too long")
		}
		if t.err != nil {
			return 0, t.err
		}
	}
	n, err := t.w.br.Read(p[:min(len(p), int(t.left))])
	t.left -= uint32(n)
	if t.err = err; err != nil {
		return n, t.lost()
	}
	return n, nil
}

// lost keeps an end in the middle from looking like the end of the text.
func (t *text) lost() error {
	if errors.Is(t.err, io.EOF) {
		t.err = io.ErrUnexpectedEOF
	}
	return t.err
}

// finish reads what is left of the text, and returns the conversation's error.
func (t *text) finish() error {
	_, err := io.Copy(io.Discard, t)
	if errors.Is(err, errAbandoned) {
		return nil
	}
	return err
}

// request is what the client asks for; answer what it is told, the last one
// with End.
type request struct {
	Do      string        `json:"do"`
	Folder  *Folder       `json:"folder,omitempty"`
	Message *Message      `json:"message,omitempty"`
	UIDs    []uint32      `json:"uids,omitempty"`
	Changes []FlagsChange `json:"changes,omitempty"`
	Keep    bool          `json:"keep,omitempty"`
	Keys    bool          `json:"keys,omitempty"`
}

type answer struct {
	End     bool     `json:"end,omitempty"`
	Error   string   `json:"error,omitempty"`
	Folder  *Folder  `json:"folder,omitempty"`
	Message *Message `json:"message,omitempty"`
	Stored  *Stored  `json:"stored,omitempty"`
	Note    string   `json:"note,omitempty"`
	Text    bool     `json:"text,omitempty"` // one follows
}

// Stored is what became of a staged message.
type Stored struct {
	UID uint32 `json:"uid,omitempty"`
	// Repeated: it was there already.
	Repeated bool `json:"repeated,omitempty"`
	// Error is why it was not stored; Final tells that no other will be either.
	Error string `json:"error,omitempty"`
	Final bool   `json:"final,omitempty"`
}

// FlagsChange adds flags to a message and takes others away.
type FlagsChange struct {
	UID    uint32   `json:"uid"`
	Add    []string `json:"add,omitempty"`
	Remove []string `json:"remove,omitempty"`
}
