package testenv

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// privateNetwork is set in the environment of tests that run in one.
const privateNetwork = "POSTERN_PRIVATE_NETWORK"

// InPrivateNetwork runs the calling test once more, by itself, in a network and
// a mount namespace of its own: there is loopback and nothing else, every port
// is free, and the name server of /etc/resolv.conf is 127.0.0.1, where the test
// may start one. It is waited for as long as the C library can wait. It returns true in there; outside it returns false when the
// test has passed inside.
func InPrivateNetwork(t testing.TB) (inside bool) {
	t.Helper()
	if os.Getenv(privateNetwork) != "" {
		return true
	}
	unshare, shell := Program(t, "unshare"), Program(t, "sh")
	Program(t, "ip")
	Program(t, "mount")
	args := []string{"--net", "--mount"}
	if os.Getuid() != 0 { // programs inside change to users of theirs
		args = append(args, "--map-root-user", "--map-auto")
	}
	conf := writeFile(t, filepath.Join(TempDir(t), "resolv.conf"), []byte("nameserver 127.0.0.1\noptions timeout:30 attempts:1\n"), 0o644)
	enter := append(args, shell, "-c", `PATH=$PATH:/sbin:/usr/sbin; ip link set lo up && mount --bind "$1" /etc/resolv.conf && shift && exec "$@"`, "sh", conf)
	ctx, cancel := context.WithTimeout(context.Background(), 8*time.Minute)
	defer cancel()
	if out, err := exec.CommandContext(ctx, unshare, append(enter, "true")...).CombinedOutput(); err != nil {
		t.Logf("%v: %s", err, out)
		Missing(t, "the right to make a network namespace")
	}
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// Such a test waits for programs of others more than it works.
	c := exec.CommandContext(ctx, unshare, append(enter, program, "-test.run=^"+t.Name()+"$", "-test.v", "-test.parallel=16")...)
	c.Env = append(os.Environ(), privateNetwork+"=1")
	c.WaitDelay = 5 * time.Second
	if out, err := c.CombinedOutput(); err != nil {
		t.Errorf("in a private network: %v\n%s", err, out)
	}
	return false
}
