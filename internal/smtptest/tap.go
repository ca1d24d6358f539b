package smtptest

import (
	"net"
	"sync"
)

// tap is a connection that is read all the time, so that the other side never
// waits for a reader, and that keeps what was read.
type tap struct {
	net.Conn

	mu    sync.Mutex
	more  *sync.Cond
	said  []byte
	ended error
}

func newTap(conn net.Conn) *tap {
	t := &tap{Conn: conn}
	t.more = sync.NewCond(&t.mu)
	go t.listen() // ends with the connection
	return t
}

func (t *tap) listen() {
	buf := make([]byte, 64<<10)
	for {
		n, err := t.Conn.Read(buf)
		t.mu.Lock()
		t.said = append(t.said, buf[:n]...)
		t.ended = err
		t.more.Broadcast()
		t.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// take returns what was read since the last call, and whether the connection
// has ended.
func (t *tap) take() (said string, ended bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	said, t.said = string(t.said), nil
	return said, t.ended != nil
}

// Read implements net.Conn, for a layer above.
func (t *tap) Read(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for len(t.said) == 0 && t.ended == nil {
		t.more.Wait()
	}
	if len(t.said) == 0 {
		return 0, t.ended
	}
	n := copy(p, t.said)
	t.said = t.said[n:]
	return n, nil
}
