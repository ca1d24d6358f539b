package helper

import (
	"fmt"
	"net"
	"slices"
	"syscall"
)

// CheckPeer refuses a connection unless the process at its other end runs, or
// where it listens was started, as one of uids (SO_PEERCRED, unix(7)).
func CheckPeer(conn *net.UnixConn, uids []int) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var peer *syscall.Ucred
	var inner error
	if err := raw.Control(func(fd uintptr) {
		peer, inner = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	}); err != nil {
		return err
	}
	if inner != nil {
		return fmt.Errorf("credentials of peer: %w", inner)
	}
	if !slices.Contains(uids, int(peer.Uid)) {
		return fmt.Errorf("peer runs as uid %d, expected one of %v", peer.Uid, uids)
	}
	return nil
}
