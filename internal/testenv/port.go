package testenv

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Ports of FreePort lie below those that the system gives to connections and
// to listeners on port 0: nobody who did not ask for that very port gets it.
const (
	lowestPort    = 10_000
	portsEnd      = 32_768 // where Linux begins to give ports by itself
	portsAsked    = 2_000  // how many are tried before a test gives up
	minPortsFound = 1_000  // a range that is smaller is not worth the name
)

// FreePort returns a port of 127.0.0.1 for programs that cannot listen on port
// 0, or that must come back where they were. It stays the test's own until the
// test ends: a lock on a file tells other tests and other processes, and
// neither an outgoing connection nor a listener on port 0 is ever given it.
func FreePort(t testing.TB) int {
	t.Helper()
	end := min(portsEnd, firstOwnPort())
	if end-lowestPort < minPortsFound {
		t.Fatalf("the system gives ports from %d on by itself: set net.ipv4.ip_local_port_range to 32768 60999", end)
	}
	dir := filepath.Join(os.TempDir(), fmt.Sprintf("postern-ports-%d", os.Getuid()))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for range portsAsked {
		port := lowestPort + rand.IntN(end-lowestPort)
		claim, err := claimPort(dir, port)
		if err != nil {
			t.Fatal(err)
		}
		if claim != nil {
			t.Cleanup(func() { _ = claim.Close() })
			return port
		}
	}
	t.Fatalf("no free port in %d tries between %d and %d", portsAsked, lowestPort, end)
	return 0
}

// claimPort returns the locked file that makes the port the caller's until it
// is closed; nil where somebody has the port.
func claimPort(dir string, port int) (*os.File, error) {
	claim, err := os.OpenFile(filepath.Join(dir, strconv.Itoa(port)), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(claim.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = claim.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, nil
		}
		return nil, err
	}
	// A program that knows nothing of the locks may listen there.
	if tryPort(loopback(port)) != nil {
		_ = claim.Close()
		return nil, nil
	}
	return claim, nil
}

// tryPort tells why nobody can listen at address now. No program may start
// meanwhile: until it runs it would hold a copy of the listener, and who is
// given the port could not listen there.
func tryPort(address string) error {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	return l.Close()
}

// firstOwnPort returns where the system begins to give ports by itself.
func firstOwnPort() int {
	text, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	if err != nil {
		return portsEnd
	}
	first, _, _ := strings.Cut(strings.TrimSpace(string(text)), "\t")
	port, err := strconv.Atoi(strings.TrimSpace(first))
	if err != nil {
		return portsEnd
	}
	return port
}

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// awaitPort waits until nobody listens at address any more, as when a program
// that had it was killed: its descriptors are closed a little later.
func awaitPort(t testing.TB, address string) {
	t.Helper()
	Eventually(t, time.Minute, func() error { return tryPort(address) })
}
