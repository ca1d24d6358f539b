// Package smtptest runs golden transcripts of SMTP and LMTP dialogues against
// a server in memory, and in synthetic time.
//
// A transcript is the "transcript" file of a txtar archive. Its lines are
//
//	C: text    a line the client sends, CRLF added; neighbours leave in one write
//	C| text    octets the client sends as they are, with the escapes of Go strings
//	S: text    a line the server answered, without its CRLF
//	S| closed  the server closed the connection
//	TLS:       the client performs a TLS handshake
//	EOF:       the client closes the connection
//	T: 5m      time passes
//	#          a comment
//
// With UPDATE_GOLDEN=1 what the server said is written into the archive.
package smtptest

import (
	"net"
	"sync"
)

// Listener is a net.Listener whose connections are net.Pipes, so that servers
// run inside a testing/synctest bubble.
type Listener struct {
	incoming chan net.Conn
	closed   chan struct{}
	once     sync.Once
}

// NewListener returns an open Listener.
func NewListener() *Listener {
	return &Listener{incoming: make(chan net.Conn), closed: make(chan struct{})}
}

// Dial connects to whoever accepts.
func (l *Listener) Dial() (net.Conn, error) {
	client, server := net.Pipe()
	select {
	case l.incoming <- server:
		return client, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Accept implements net.Listener.
func (l *Listener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.incoming:
		return conn, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (l *Listener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

// Addr implements net.Listener.
func (l *Listener) Addr() net.Addr { return pipeAddr{} }

type pipeAddr struct{}

func (pipeAddr) Network() string { return "pipe" }
func (pipeAddr) String() string  { return "pipe" }
