package shared

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/store/memory"
)

var secret = []byte(strings.Repeat("s", MinSecret))

// network connects gateways inside a test.
type network struct {
	mu sync.Mutex
	at map[string]*door
}

type door struct {
	name   string
	in     chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (d *door) Accept() (net.Conn, error) {
	select {
	case c := <-d.in:
		return c, nil
	case <-d.closed:
		return nil, net.ErrClosed
	}
}

func (d *door) Close() error   { d.once.Do(func() { close(d.closed) }); return nil }
func (d *door) Addr() net.Addr { return &net.TCPAddr{} }

func newNetwork() *network { return &network{at: make(map[string]*door)} }

func (n *network) listen(name string) net.Listener {
	n.mu.Lock()
	defer n.mu.Unlock()
	d := &door{name: name, in: make(chan net.Conn), closed: make(chan struct{})}
	n.at[name] = d
	return d
}

func (n *network) dial(ctx context.Context, address string) (net.Conn, error) {
	n.mu.Lock()
	d := n.at[address]
	n.mu.Unlock()
	if d == nil {
		return nil, errors.New("connection refused")
	}
	ours, theirs := net.Pipe()
	select {
	case d.in <- theirs:
		return ours, nil
	case <-d.closed:
		return nil, errors.New("connection refused")
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// gateway is one store with its peers.
type gateway struct {
	*Store
	peers *Peers
	stop  func()
}

func (n *network) gateway(t *testing.T, disk *memory.Disk, name string, cfg PeersConfig) *gateway {
	t.Helper()
	s := openOn(t, disk)
	if cfg.Secret == nil {
		cfg.Secret = secret
	}
	cfg.Dial = n.dial
	p, err := NewPeers(cfg, s, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	l := n.listen(name)
	all.Go(func() { _ = p.Run(ctx, l) })
	all.Go(func() { _ = s.Run(ctx) })
	return &gateway{s, p, func() { cancel(); all.Wait() }}
}

func TestGatewaysAgree(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		cfg := TableConfig{}
		// b knows everybody, a and c know only b, b dials a, too.
		diskA := memory.NewDisk()
		a := n.gateway(t, diskA, "a", PeersConfig{Addresses: []string{"b"}})
		before := a.Table("facts", cfg)
		before.Put("before", []byte("1"), inHours(1))
		b := n.gateway(t, memory.NewDisk(), "b", PeersConfig{Addresses: []string{"a"}})
		c := n.gateway(t, memory.NewDisk(), "c", PeersConfig{Addresses: []string{"b"}})
		tables := []*Table{before, b.Table("facts", cfg), c.Table("facts", cfg)}
		everywhere := func(key, want string) {
			t.Helper()
			for i, table := range tables {
				if got := text(t, table, key); got != want {
					t.Errorf("gateway %d has %q under %s, want %q", i, got, key, want)
				}
			}
		}
		time.Sleep(time.Minute)
		everywhere("before", "1")
		tables[2].Put("from c", []byte("2"), inHours(1))
		time.Sleep(time.Second)
		everywhere("from c", "2")
		tables[0].Put("from c", []byte("3"), inHours(1))
		time.Sleep(time.Second)
		everywhere("from c", "3")
		for _, g := range []*gateway{a, b, c} {
			g.Counters("sent", time.Hour, 0).Add("alice", 2)
		}
		time.Sleep(time.Minute) // a new table begins new sessions
		for i, g := range []*gateway{a, b, c} {
			if got := g.Counters("sent", time.Hour, 0).Total("alice"); got != 6 {
				t.Errorf("gateway %d counts %d", i, got)
			}
		}
		st := b.peers.Status()
		if len(st) != 2 || st[0].Address != "a" || !st[0].Connected || !st[0].Complete || st[1].Address != "" || !st[1].Connected || st[1].Received == 0 {
			t.Errorf("b's peers: %+v", st)
		}
		// One is away while another deletes: it hears of it when it is back.
		a.stop()
		time.Sleep(time.Second)
		if st := b.peers.Status()[0]; st.Connected || st.Failure == "" {
			t.Errorf("a is away, and b says %+v", st)
		}
		tables[1].Delete("before")
		tables[1].Put("meanwhile", []byte("4"), inHours(1))
		a = n.gateway(t, diskA, "a", PeersConfig{Addresses: []string{"b"}})
		tables[0] = a.Table("facts", cfg)
		time.Sleep(2 * time.Minute)
		everywhere("before", "-")
		everywhere("meanwhile", "4")
		tables[0].Put("before", []byte("again"), inHours(1))
		time.Sleep(time.Second)
		everywhere("before", "again")
		for _, g := range []*gateway{a, b, c} {
			g.stop()
		}
	})
}

func TestStrangersLearnNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		disk := memory.NewDisk()
		a := n.gateway(t, disk, "a", PeersConfig{})
		a.Table("facts", TableConfig{}).Put("k", []byte("1"), inHours(9))
		flush(t, a.Store)
		b := n.gateway(t, memory.NewDisk(), "b", PeersConfig{Addresses: []string{"a"}, Secret: []byte(strings.Repeat("x", MinSecret))})
		table := b.Table("facts", TableConfig{})
		copied := n.gateway(t, disk.Clone(), "c", PeersConfig{Addresses: []string{"a"}})
		time.Sleep(time.Minute)
		if st := b.peers.Status()[0]; text(t, table, "k") != "-" || st.Connected || !strings.Contains(st.Failure, "the secrets differ") {
			t.Errorf("with another secret: %+v", st)
		}
		if st := copied.peers.Status()[0]; st.Connected || !strings.Contains(st.Failure, "copied") {
			t.Errorf("with the same data: %+v", st)
		}
		// Who says nothing is cut off, and keeps nobody out.
		for range 3 * maxStrangers {
			if _, err := n.dial(t.Context(), "a"); err != nil {
				t.Fatal(err)
			}
		}
		d := n.gateway(t, memory.NewDisk(), "d", PeersConfig{Addresses: []string{"a"}})
		table = d.Table("facts", TableConfig{})
		time.Sleep(time.Minute)
		if text(t, table, "k") != "1" {
			t.Errorf("silent strangers keep a peer out: %+v", d.peers.Status())
		}
		for _, g := range []*gateway{a, b, copied, d} {
			g.stop()
		}
	})
}

// TestAPeerThatStopsReading: no change waits for it, what waits for it is
// bounded, and it is dropped.
func TestAPeerThatStopsReading(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := openOn(t, memory.NewDisk())
		table := s.Table("facts", TableConfig{Entries: 2 * maxNoted})
		ours, theirs := net.Pipe()
		defer theirs.Close()
		peer := newSession(s, ours, hello{node: 7, clock: time.Now()}, "")
		s.sessions.Store(&[]*session{peer})
		ended := make(chan error)
		go func() { ended <- peer.run(t.Context()) }()
		synctest.Wait()
		before := time.Now()
		for i := range maxNoted + 10 {
			table.Put(fmt.Sprint(i), []byte("x"), inHours(1))
		}
		if time.Since(before) > 0 {
			t.Error("a change waited for the peer")
		}
		peer.mu.Lock()
		noted, again := len(peer.noted), peer.again
		peer.mu.Unlock()
		if noted > maxNoted || !again {
			t.Errorf("%d changes wait, all again: %v", noted, again)
		}
		if err := <-ended; err == nil || time.Since(before) > 2*deadAfter {
			t.Errorf("the session ended after %s: %v", time.Since(before), err)
		}
	})
}

// unused returns a connection that nothing goes over.
func unused() net.Conn {
	c, _ := net.Pipe()
	return c
}

func TestAClockThatIsWrong(t *testing.T) {
	t.Parallel()
	s := openOn(t, memory.NewDisk())
	table := s.Table("facts", TableConfig{})
	peer := newSession(s, unused(), hello{node: 7, clock: time.Now()}, "")
	tell := func(at time.Time, value string) {
		t.Helper()
		b := appendRecord(appendText(appendText(nil, "facts"), "k"), record{stamp: stampAt(at), expires: inHours(50).UnixMilli(), value: []byte(value)})
		if err := peer.take(frameRecords, b); err != nil {
			t.Fatal(err)
		}
	}
	tell(inHours(2), "far ahead")
	if got := text(t, table, "k"); got != "-" || peer.refused.Load() != 1 {
		t.Errorf("a fact of the future is believed: %q", got)
	}
	ahead := time.Now().Add(30 * time.Minute)
	tell(ahead, "ahead")
	table.Put("k", []byte("ours, later"), inHours(1))
	tell(ahead, "ahead")
	if got := text(t, table, "k"); got != "ours, later" {
		t.Errorf("what was written after a peer's fact was heard lost to it: %q", got)
	}
	p, err := NewPeers(PeersConfig{Secret: secret}, s, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	h := hello{version, 7, inHours(3), prove(secret, labelDialer, 7, nil)}
	if err := p.judge(h, labelDialer, nil); err == nil || !strings.Contains(err.Error(), "clocks") {
		t.Errorf("a peer with a wrong clock: %v", err)
	}
	if h.clock = inHours(0); p.judge(h, labelDialer, nil) != nil || p.judge(h, labelAcceptor, nil) == nil || p.judge(h, labelDialer, []byte("other")) == nil {
		t.Error("a proof counts for another side or connection")
	}
}

func FuzzFrame(f *testing.F) {
	good := appendRecord(appendText(appendText(nil, "facts"), "k"), record{1, 2, 1 << 60, []byte("x")})
	f.Add(byte(frameRecords), good)
	f.Add(byte(frameRecords), append(good, 1))
	f.Add(byte('?'), []byte("x"))
	f.Fuzz(func(t *testing.T, kind byte, content []byte) {
		kv, _ := memory.NewDisk().Open()
		s := Open(t.Context(), kv, nil, hclog.NewNullLogger())
		table := s.Table("facts", TableConfig{Entries: 4, Merge: mergeCounts})
		peer := newSession(s, unused(), hello{node: 7}, "")
		_ = peer.take(kind, content)
		_ = peer.take(kind, content)
		if n := table.Status().Entries; n > 4 {
			t.Errorf("%d entries", n)
		}
		if err := s.Flush(t.Context()); err != nil {
			t.Errorf("what a peer told cannot be written: %v", err)
		}
	})
}

func TestReadSecret(t *testing.T) {
	t.Parallel()
	if _, err := NewPeers(PeersConfig{Secret: []byte("short")}, openOn(t, memory.NewDisk()), hclog.NewNullLogger()); err == nil {
		t.Error("a short secret is taken")
	}
	if _, err := ReadSecret(t.TempDir() + "/none"); err == nil {
		t.Error("a missing file is read")
	}
}
