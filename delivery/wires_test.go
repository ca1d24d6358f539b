package delivery_test

import (
	"context"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"

	"github.com/postern-mail/postern/delivery"
)

// wires is a network in memory. What is said over it takes no time, so that
// tests of who is too slow run in synthetic time, where no busy machine makes
// a server too slow that is not.
type wires struct {
	mu   sync.Mutex
	dial map[string]func() (net.Conn, error)
}

// connect is for delivery.Target.
func (w *wires) connect(_ context.Context, network, address string) (net.Conn, error) {
	w.mu.Lock()
	dial := w.dial[address]
	w.mu.Unlock()
	if dial == nil {
		return nil, &net.OpError{Op: "dial", Net: network, Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
	}
	return dial()
}

// at has connections to an address made by dial, nil for none.
func (w *wires) at(address string, dial func() (net.Conn, error)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.dial == nil {
		w.dial = make(map[string]func() (net.Conn, error))
	}
	w.dial[address] = dial
}

// listen has serve answer at an address, until stop is called, which ends the
// connections there are. A serve that does not end with its connection has to
// be ended before the test is over.
func (w *wires) listen(t *testing.T, address string, serve func(net.Conn)) (stop func()) {
	t.Helper()
	var mu sync.Mutex
	var served sync.WaitGroup
	var conns []net.Conn
	w.at(address, func() (net.Conn, error) {
		near, far := net.Pipe()
		mu.Lock()
		defer mu.Unlock()
		conns = append(conns, far)
		served.Go(func() {
			defer far.Close()
			serve(far)
		})
		return near, nil
	})
	stop = sync.OnceFunc(func() {
		w.at(address, nil)
		mu.Lock()
		defer mu.Unlock()
		for _, conn := range conns {
			_ = conn.Close()
		}
	})
	t.Cleanup(func() {
		stop()
		served.Wait()
	})
	return stop
}

// target is one of the given addresses.
func (w *wires) target(addresses ...string) delivery.Target {
	target := delivery.Target{Dial: w.connect}
	for _, a := range addresses {
		target.Addresses = append(target.Addresses, "unix:"+a)
	}
	return target
}
