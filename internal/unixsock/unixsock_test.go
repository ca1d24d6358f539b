package unixsock

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/postern-mail/postern/internal/testenv"
)

// shortDir is a folder whose paths fit a socket's name.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "p")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func TestListen(t *testing.T) {
	t.Parallel()
	path := filepath.Join(shortDir(t), "new", "s")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("mode: %v, %v", info, err)
	}
	if _, err := Listen(path); err == nil || !strings.Contains(err.Error(), "another server") {
		t.Errorf("second server: %v", err)
	}
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatalf("the first no longer answers: %v", err)
	}
	_ = conn.Close()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	testenv.DeadSocket(t, path)
	again, err := Listen(path)
	if err != nil {
		t.Fatalf("after a crash: %v", err)
	}
	if err := again.Close(); err != nil {
		t.Error(err)
	}
}

// TestNoSocket: a mistyped path costs nobody a file.
func TestNoSocket(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	file, link := filepath.Join(dir, "file"), filepath.Join(dir, "link")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(file, link); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{file, link, dir} {
		if _, err := Listen(path); err == nil || !strings.Contains(err.Error(), "no socket") {
			t.Errorf("%s: %v", path, err)
		}
	}
	if text, err := os.ReadFile(link); string(text) != "precious" {
		t.Errorf("left of the file: %q, %v", text, err)
	}
}

// TestPeer: whoever connects is known by user id, and may be anybody where the
// socket is for everybody.
func TestPeer(t *testing.T) {
	t.Parallel()
	path := filepath.Join(shortDir(t), "new", "s")
	l, err := ListenFor(path, 0o666)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o666 {
		t.Errorf("mode of the socket: %v, %v", info, err)
	}
	if info, err := os.Stat(filepath.Dir(path)); err != nil || info.Mode().Perm()&0o005 != 0o005 {
		t.Errorf("mode of its folder: %v, %v", info, err)
	}
	client, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = client.Close() }()
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if uid, err := Peer(conn); err != nil || int(uid) != os.Getuid() {
		t.Errorf("the peer is %d, %v, want %d", uid, err, os.Getuid())
	}
	if name := UserName(0); name != "root" {
		t.Errorf("uid 0 is %q", name)
	}
	if name := UserName(4294967000); name != "" {
		t.Errorf("nobody's uid is %q", name)
	}
	one, other := net.Pipe()
	defer func() { _, _ = one.Close(), other.Close() }()
	if _, err := Peer(one); err == nil {
		t.Error("a pipe has a peer")
	}
}
