package proxyproto

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// pipes is a listener whose clients are where they say.
type pipes struct {
	incoming chan net.Conn
	closed   chan struct{}
}

func newPipes() *pipes { return &pipes{make(chan net.Conn), make(chan struct{})} }

type placed struct {
	net.Conn
	from net.Addr
}

func (c placed) RemoteAddr() net.Addr { return c.from }

func (p *pipes) dial(from string) net.Conn {
	client, server := net.Pipe()
	p.incoming <- placed{server, net.TCPAddrFromAddrPort(netip.MustParseAddrPort(from))}
	return client
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case conn := <-p.incoming:
		return conn, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error { close(p.closed); return nil }

func (p *pipes) Addr() net.Addr { return &net.TCPAddr{} }

var inFront = &Config{Networks: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/24")}, Required: true}

func (p *pipes) listen(t *testing.T, cfg *atomic.Pointer[Config]) *Listener {
	t.Helper()
	l := Listen(p, cfg.Load, nil)
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func of(cfg *Config) *atomic.Pointer[Config] {
	var p atomic.Pointer[Config]
	p.Store(cfg)
	return &p
}

// ended reports whether the other side closed the connection.
func ended(conn net.Conn) bool {
	_, err := conn.Read(make([]byte, 1))
	return errors.Is(err, io.EOF)
}

// TestSlowHeadersHoldNobody: a proxy's connection without a header ends after
// the timeout, and clients that come meanwhile are served at once.
func TestSlowHeadersHoldNobody(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newPipes()
		l := p.listen(t, of(inFront))
		next := make(chan net.Conn)
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				next <- conn
			}
		}()
		slow := p.dial("10.0.0.5:1000")
		_, err := io.WriteString(slow, "PROXY TCP4 192.0.2.1 ")
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		quick := p.dial("10.0.0.5:1001")
		go io.WriteString(quick, "PROXY TCP4 192.0.2.1 198.51.100.2 12345 25\r\nEHLO")
		conn := <-next
		if !time.Now().Equal(began) {
			t.Error("a client waited for another one's header")
		}
		if conn.RemoteAddr().String() != "192.0.2.1:12345" || conn.LocalAddr().String() != "198.51.100.2:25" || Via(conn).String() != "10.0.0.5:1001" {
			t.Errorf("from %v to %v via %v", conn.RemoteAddr(), conn.LocalAddr(), Via(conn))
		}
		word := make([]byte, 4)
		if _, err := io.ReadFull(conn, word); err != nil || string(word) != "EHLO" {
			t.Errorf("read %q, %v", word, err)
		}
		time.Sleep(time.Hour) // the deadline was for the header only
		go io.WriteString(quick, "QUIT")
		if _, err := io.ReadFull(conn, word); err != nil || string(word) != "QUIT" {
			t.Errorf("read %q, %v", word, err)
		}
		if !ended(slow) || l.Stats() != (Stats{Malformed: 1}) {
			t.Errorf("a slow header is waited for; %+v", l.Stats())
		}
		quick.Close()
		_ = l.Close()
	})
}

// TestWhoMayTell: only proxies are believed, and they must tell.
func TestWhoMayTell(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		cfg := of(inFront)
		p := newPipes()
		l := p.listen(t, cfg)
		got := make(chan net.Conn, 1)
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					close(got)
					return
				}
				got <- conn
			}
		}()
		dial := func(from, says string) net.Conn {
			conn := p.dial(from)
			go io.WriteString(conn, says) // ends with the connection
			t.Cleanup(func() { conn.Close() })
			return conn
		}
		if !ended(dial("192.0.2.9:1", "EHLO")) || l.Stats().Foreign != 1 {
			t.Errorf("a stranger came through: %+v", l.Stats())
		}
		if !ended(dial("10.0.0.5:1", "EHLO client.test\r\n")) || l.Stats().Malformed != 1 {
			t.Errorf("a proxy without header came through: %+v", l.Stats())
		}
		optional := *inFront
		optional.Required = false
		cfg.Store(&optional)
		dial("192.0.2.9:2", "PROXY TCP4 127.0.0.1 127.0.0.1 1 25\r\n")
		conn := <-got
		word := make([]byte, 5)
		if _, err := io.ReadFull(conn, word); err != nil || string(word) != "PROXY" || conn.RemoteAddr().String() != "192.0.2.9:2" || Via(conn).IsValid() {
			t.Errorf("a client's own header: from %v via %v, read %q, %v", conn.RemoteAddr(), Via(conn), word, err)
		}
		conn.Close()
		dial("10.0.0.5:3", v2(0x20, 0, ""))
		if conn := <-got; conn.RemoteAddr().String() != "10.0.0.5:3" || Via(conn).IsValid() {
			t.Errorf("a check of health is from %v via %v", conn.RemoteAddr(), Via(conn))
		}
		cfg.Store(nil)
		dial("10.0.0.5:4", "")
		if conn := <-got; Via(conn).IsValid() {
			t.Error("a header was waited for after a reload without proxies")
		}
		_ = l.Close()
		if _, ok := <-got; ok {
			t.Error("a connection after close")
		}
	})
}

// TestWaitingIsBounded: a proxy that opens connections and says nothing costs
// no more than what is bounded.
func TestWaitingIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newPipes()
		l := p.listen(t, of(inFront))
		go l.Accept()
		var open []net.Conn
		for range maxWaiting {
			open = append(open, p.dial("10.0.0.5:1"))
		}
		if !ended(p.dial("10.0.0.5:1")) {
			t.Error("one more is waited for")
		}
		synctest.Wait()
		if s := l.Stats(); s != (Stats{Crowded: 1}) {
			t.Errorf("%+v", s)
		}
		_ = l.Close()
		for _, conn := range open {
			if !ended(conn) {
				t.Fatal("a connection is open after Close")
			}
		}
	})
}
