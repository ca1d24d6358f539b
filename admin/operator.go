package admin

import (
	"context"
	"net"
	"strconv"

	"github.com/postern-mail/postern/internal/unixsock"
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
	uid, err := unixsock.Peer(conn)
	if err != nil {
		return ctx
	}
	name := "uid " + strconv.FormatUint(uint64(uid), 10)
	if login := unixsock.UserName(uid); login != "" {
		name += " (" + login + ")"
	}
	return context.WithValue(ctx, operatorKey{}, name)
}
