package link

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/backend/replica/link/linktest"
)

var testSecret = []byte("a secret that both of them know well")

// keys are made once: they take time.
var keys = [2]tls.Certificate{testKey("node 0"), testKey("node 1")}

func testKey(name string) tls.Certificate {
	certPEM, keyPEM, err := NewKey(name, time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
	if err != nil {
		panic(err)
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		panic(err)
	}
	return pair
}

// recorder is a Handler that notes what happens.
type recorder struct {
	mu       sync.Mutex
	sessions []*Session // those that came up
	downs    []error
	got      []Received
	keep     map[Class]bool // do not call Done
	up       func(*Session)
	writable [classes]int
}

func (r *recorder) Up(s *Session) {
	r.mu.Lock()
	if len(r.sessions) != len(r.downs) {
		panic("Up within a session")
	}
	r.sessions = append(r.sessions, s)
	up := r.up
	r.mu.Unlock()
	if up != nil {
		up(s)
	}
}

func (r *recorder) Receive(_ *Session, f Received) {
	r.mu.Lock()
	r.got = append(r.got, f)
	keep := r.keep[f.Class]
	r.mu.Unlock()
	if !keep {
		f.Done()
	}
}

func (r *recorder) Writable(_ *Session, c Class) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.writable[c]++
}

func (r *recorder) Down(s *Session, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.sessions) != len(r.downs)+1 || r.sessions[len(r.downs)] != s {
		panic("Down without Up")
	}
	r.downs = append(r.downs, err)
}

// session returns the present one.
func (r *recorder) session(t *testing.T) *Session {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.sessions) != len(r.downs)+1 {
		t.Fatalf("no session: %d came, %d ended: %v", len(r.sessions), len(r.downs), r.downs)
	}
	return r.sessions[len(r.sessions)-1]
}

func (r *recorder) ups() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.sessions)
}

func (r *recorder) lastDown() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.downs) == 0 {
		return nil
	}
	return r.downs[len(r.downs)-1]
}

func (r *recorder) bodies(c Class) [][]byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all [][]byte
	for _, f := range r.got {
		if f.Class == c {
			all = append(all, f.Body)
		}
	}
	return all
}

// node is one side of a pair under test.
type node struct {
	recorder
	link *Link
	log  bytes.Buffer
	stop func()
}

// pairTest is two nodes on a network in memory, "a" of class 0 and "b" of
// class 1, within a bubble.
type pairTest struct {
	t     *testing.T
	net   *linktest.Network
	nodes [2]*node
}

var hosts = [2]string{"a", "b"}

// testConfig is what a node of a pair in order has.
func testConfig(n *linktest.Network, i int) Config {
	return Config{
		Pair: "cell", Node: uint16(i), Origin: uint64(i)<<48 | uint64(1000+i), Software: fmt.Sprintf("postern test %d", i),
		Secret: testSecret, Certificate: keys[i], Partner: hosts[1-i], Dial: n.Dialer(hosts[i]),
	}
}

// newPair starts both nodes; change alters their configurations.
func newPair(t *testing.T, change func(i int, c *Config)) *pairTest {
	t.Helper()
	p := &pairTest{t: t, net: linktest.New()}
	for i := range p.nodes {
		c := testConfig(p.net, i)
		if change != nil {
			change(i, &c)
		}
		p.start(i, c)
	}
	return p
}

func (p *pairTest) start(i int, c Config) {
	p.t.Helper()
	n := &node{}
	log := hclog.New(&hclog.LoggerOptions{Output: &n.log, Level: hclog.Debug})
	var err error
	if n.link, err = New(c, n, log); err != nil {
		p.t.Fatal(err)
	}
	p.nodes[i] = n
	p.run(i, p.net.Listen(hosts[i]))
}

func (p *pairTest) run(i int, l net.Listener) {
	n := p.nodes[i]
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := n.link.Run(ctx, l); err != nil {
			p.t.Errorf("Run: %v", err)
		}
	}()
	n.stop = func() { cancel(); <-ended }
}

func (p *pairTest) stop() {
	for _, n := range p.nodes {
		n.stop()
	}
}

// after lets time pass.
func after(d time.Duration) {
	time.Sleep(d) // within a bubble only
	synctest.Wait()
}

// within runs a test in a bubble.
func within(t *testing.T, change func(int, *Config), test func(t *testing.T, p *pairTest)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, change)
		defer p.stop()
		after(time.Second)
		test(t, p)
	})
}

func mustSend(t *testing.T, s *Session, c Class, f Frame) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := s.Send(ctx, c, f); err != nil {
		t.Fatal(err)
	}
}

func isRefusal(err error, code RefusalCode) bool {
	var r *Refusal
	return errors.As(err, &r) && r.Code == code
}
