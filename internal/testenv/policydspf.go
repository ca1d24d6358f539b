package testenv

import (
	"context"
	"errors"
	"io"
	"net"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

// policydSPFConfig has answers depend on no network: what is not known to the
// local policy is left alone.
const policydSPFConfig = `debugLevel = 0
TestOnly = 0
HELO_reject = Fail
Mail_From_reject = Fail
PermError_reject = False
TempError_Defer = False
skip_addresses = 127.0.0.0/8,::ffff:127.0.0.0/104,::1,192.0.2.0/24
Header_Type = SPF
`

// PolicydSPF serves the real policyd-spf on a unix socket, one process for each
// connection as Postfix's spawn does, and returns the socket's path. Clients of
// 192.0.2.0/24 are skipped by its configuration, so that it asks no DNS.
func PolicydSPF(t testing.TB) string {
	t.Helper()
	program := Program(t, "policyd-spf")
	dir := TempDir(t)
	config := writeFile(t, filepath.Join(dir, "policyd-spf.conf"), []byte(policydSPFConfig), 0o644)
	path := filepath.Join(dir, "spf")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	var all sync.WaitGroup
	all.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() { spawn(ctx, t, conn, program, config) })
		}
	})
	t.Cleanup(func() {
		stop()
		_ = l.Close()
		all.Wait()
	})
	return path
}

// spawn gives a program a connection as its input and output.
func spawn(ctx context.Context, t testing.TB, conn net.Conn, program string, args ...string) {
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	c := exec.CommandContext(ctx, program, args...)
	c.Stdout = conn
	in, err := c.StdinPipe()
	if err == nil {
		err = c.Start()
	}
	if err != nil {
		t.Errorf("start %s: %v", program, err)
		return
	}
	_, err = io.Copy(in, conn) // until the other end hangs up
	if err != nil && !errors.Is(err, net.ErrClosed) {
		t.Logf("%s: %v", program, err)
	}
	_ = in.Close() // which ends it
	_ = c.Wait()   // its last words are on the connection
}
