//go:build unix

package smtp

import (
	"crypto/tls"
	"net"
	"syscall"
)

// clientConnQuiet reports whether an idle connection has nothing to read: data
// would be a farewell, the end of the stream one without words. A connection
// that cannot be asked is taken for quiet.
func clientConnQuiet(conn net.Conn) bool {
	if t, ok := conn.(*tls.Conn); ok {
		conn = t.NetConn()
	}
	sc, ok := conn.(syscall.Conn)
	if !ok {
		return true
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return false
	}
	quiet := false
	// The descriptor is non-blocking; what is read here is lost, but then
	// the connection is not used again either.
	err = raw.Control(func(fd uintptr) {
		var one [1]byte
		_, err := syscall.Read(int(fd), one[:])
		quiet = err == syscall.EAGAIN || err == syscall.EINTR
	})
	return err == nil && quiet
}
