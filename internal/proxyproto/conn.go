package proxyproto

import (
	"errors"
	"net"
	"net/netip"
	"syscall"
)

// Conn is a connection whose client is another one than its peer.
type Conn struct {
	net.Conn
	remote, local net.Addr
	via           netip.AddrPort
}

// RemoteAddr is the client's address.
func (c *Conn) RemoteAddr() net.Addr { return c.remote }

// LocalAddr is the address that the client connected to.
func (c *Conn) LocalAddr() net.Addr { return c.local }

// Via is the address of the proxy.
func (c *Conn) Via() netip.AddrPort { return c.via }

// CloseWrite ends what is sent.
func (c *Conn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}

// SetNoDelay is of TCP.
func (c *Conn) SetNoDelay(on bool) error {
	if tcp, ok := c.Conn.(interface{ SetNoDelay(bool) error }); ok {
		return tcp.SetNoDelay(on)
	}
	return errors.ErrUnsupported
}

// SyscallConn implements syscall.Conn.
func (c *Conn) SyscallConn() (syscall.RawConn, error) {
	if sc, ok := c.Conn.(syscall.Conn); ok {
		return sc.SyscallConn()
	}
	return nil, errors.ErrUnsupported
}

// Via returns the proxy that a connection came through; not valid for one that
// came itself.
func Via(conn net.Conn) netip.AddrPort {
	if c, ok := conn.(*Conn); ok {
		return c.via
	}
	return netip.AddrPort{}
}
