package link

import (
	"net"

	"golang.org/x/sys/unix"
)

// unsent is how much the kernel takes of a connection beyond what it can send:
// all of it goes before anything more urgent.
const unsent = 64 << 10

// tune asks the kernel to keep little.
func tune(conn net.Conn) {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) { // without it only delays grow
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, unsent)
	})
}
