package testenv

import (
	"net"
	"os"
	"testing"
)

// A port stays its test's: neither another test is given it nor, while nobody
// listens there, a listener on port 0 or an outgoing connection.
func TestPortsAreTheTestsOwn(t *testing.T) {
	t.Parallel()
	taken := make(map[int]bool)
	for range 200 {
		port := FreePort(t)
		if taken[port] {
			t.Fatalf("port %d was given twice", port)
		}
		if taken[port] = true; port >= firstOwnPort() {
			t.Fatalf("port %d is one that the system gives by itself, from %d on", port, firstOwnPort())
		}
	}
}

func TestClaimedPortIsPassedOver(t *testing.T) {
	t.Parallel()
	port, dir := FreePort(t), t.TempDir()
	claim := func() *os.File {
		t.Helper()
		f, err := claimPort(dir, port)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	first := claim()
	if first == nil {
		t.Fatal("a free port is not given")
	}
	if claim() != nil {
		t.Error("a claimed port is given again")
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", loopback(port))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	if claim() != nil {
		t.Error("a port where somebody listens is given")
	}
}
