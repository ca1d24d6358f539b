package admin

import (
	"context"
	"net"
	"os/user"
	"strconv"

	"golang.org/x/sys/unix"
)

type operatorKey struct{}

// Operator names who asked for a command: the user at the other end of the
// control socket, as the kernel knows it, "uid 1000 (kim)". Within a Command
// only.
func Operator(ctx context.Context) string {
	name, _ := ctx.Value(operatorKey{}).(string)
	return name
}

// withOperator notes whom a connection to the control socket comes from.
func withOperator(ctx context.Context, conn net.Conn) context.Context {
	peer, ok := conn.(*net.UnixConn)
	if !ok {
		return ctx
	}
	raw, err := peer.SyscallConn()
	if err != nil {
		return ctx
	}
	var credentials *unix.Ucred
	controlled := raw.Control(func(fd uintptr) {
		credentials, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if controlled != nil || err != nil {
		return ctx
	}
	name := "uid " + strconv.FormatUint(uint64(credentials.Uid), 10)
	if u, err := user.LookupId(strconv.FormatUint(uint64(credentials.Uid), 10)); err == nil {
		name += " (" + u.Username + ")"
	}
	return context.WithValue(ctx, operatorKey{}, name)
}
