package imapd

import (
	"errors"
	"net"
	"syscall"
)

// errHungUp ends a command that nobody waits for any more.
var errHungUp = &connError{errors.New("client closed the connection during a command")}

// peer is what can be seen of the other end of a connection without reading.
type peer uint8

const (
	peerThere peer = iota // or there is no way to tell
	peerDone              // it sends no more, and may still listen
	peerGone
)

// peerOf looks at a socket. Octets that wait to be read hide the end behind
// them.
func peerOf(socket net.Conn) peer {
	conn, ok := socket.(syscall.Conn)
	if !ok {
		return peerThere
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return peerThere
	}
	found := peerThere
	err = raw.Control(func(fd uintptr) {
		var b [1]byte
		n, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		switch {
		case n == 0 && err == nil:
			found = peerDone
		case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.ETIMEDOUT):
			found = peerGone
		}
		// The end of what it sends hides a reset from reading.
		if code, err := syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_ERROR); err == nil && code != 0 {
			found = peerGone
		}
	})
	if err != nil {
		return peerThere
	}
	return found
}

// attend ends a search whose client is gone. One that only sends no more, as
// scripts do, is waiting for its answer: it is told that there will be one, which
// a client that is gone answers with a reset.
func (s *sessionSearch) attend() error {
	switch peerOf(s.socket) {
	case peerGone:
		return errHungUp
	case peerDone:
		if !s.spoken {
			s.spoken = true
			s.w.line("* OK Searching")
			if err := s.w.flush(); err != nil {
				return &connError{err}
			}
		}
	}
	return nil
}
