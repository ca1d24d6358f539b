package replica

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-imap/v2"
	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/backend/mailstore"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/store"
	"github.com/postern-mail/postern/store/storetest"
)

// wire is a link in memory: one end.
type wire struct {
	peer   Peer
	mu     sync.Mutex
	queues [Classes][]Frame
	octets [Classes]int
	asked  bool
	ended  chan struct{}
	end    sync.Once
	there  *wire
	to     *Node // who gets what is pushed here
	from   *Node
	arrive [Classes]chan struct{}
	cut    func()
}

const wireRoom = 2 << 20

func (w *wire) Peer() Peer { return w.peer }

func (w *wire) Push(f Frame) {
	w.mu.Lock()
	w.queues[f.Class] = append(w.queues[f.Class], f)
	w.octets[f.Class] += len(f.Payload)
	w.mu.Unlock()
	select {
	case w.arrive[f.Class] <- struct{}{}:
	default:
	}
}

func (w *wire) Room(class Class) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	room := w.octets[class] < wireRoom
	w.asked = w.asked || !room
	return room
}

func (w *wire) Send(_ context.Context, f Frame) error {
	w.Push(f)
	select {
	case <-w.ended:
		return errLinkDown
	default:
		return nil
	}
}

func (w *wire) Close(string) { go w.cut() }

// carry delivers the frames of a class.
func (w *wire) carry(class Class) {
	for {
		select {
		case <-w.ended:
			return
		case <-w.arrive[class]:
		}
		for {
			w.mu.Lock()
			if len(w.queues[class]) == 0 {
				w.mu.Unlock()
				break
			}
			f := w.queues[class][0]
			w.queues[class] = w.queues[class][1:]
			w.octets[class] -= len(f.Payload)
			tell := w.asked && w.octets[class] < wireRoom
			if tell {
				w.asked = false
			}
			w.mu.Unlock()
			select {
			case <-w.ended:
				return
			default:
			}
			w.to.Receive(w.there, f, func() {})
			if tell {
				w.from.Writable(w)
			}
		}
	}
}

// end2 is a server of the pair.
type server struct {
	*Node
	mail  *mailstore.Store
	kv    store.Store
	blobs store.Blobs
	audit *audited
	stop  func()
}

type audited struct {
	mu     sync.Mutex
	events []mail.Event
	t      testing.TB

	connected, joined, joinedOne, refused, stuck chan struct{}
}

func (a *audited) Record(e mail.Event) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.events = append(a.events, e)
	for result, told := range map[string]chan struct{}{"connected": a.connected, "joined": a.joined, "complete": a.joinedOne, "refused": a.refused, "stuck": a.stuck} {
		if e.Result == result {
			select {
			case told <- struct{}{}:
			default: // nobody counts so many, and the node must not wait for a test
			}
		}
	}
	a.t.Logf("%s %s %s", e.Result, e.Login, e.Detail)
}

func (a *audited) has(result string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, e := range a.events {
		if e.Result == result {
			return true
		}
	}
	return false
}

// testConfig is what the servers of a test are.
type testConfig struct {
	Config
	joins     bool // the second has to take over what the first has
	retention time.Duration
}

// patient has the nodes wait for each other longer than any machine stands
// still: what they do when the other is late is for tests that ask for it.
func (c *testConfig) patient() {
	for _, d := range []*time.Duration{&c.SemiSyncWait, &c.StrictWait, &c.AttachWait, &c.Limits.AnswerTimeout} {
		if *d == 0 {
			*d = patience
		}
	}
}

// patience is how long a test waits for what surely comes.
const patience = 2 * time.Minute

type pair struct {
	t       testing.TB
	servers [2]*server
	wires   [2]*wire
	cut     func()
}

func newServer(t testing.TB, node uint16, kv store.Store, blobs store.Blobs, cfg testConfig) *server {
	t.Helper()
	log := hclog.NewNullLogger()
	if testing.Verbose() {
		log = hclog.New(&hclog.LoggerOptions{Name: fmt.Sprint("node", node), Level: hclog.Warn})
	}
	s := &server{kv: kv, blobs: blobs, audit: &audited{t: t, connected: make(chan struct{}, 1000), joined: make(chan struct{}, 1000), joinedOne: make(chan struct{}, 1000), refused: make(chan struct{}, 1000), stuck: make(chan struct{}, 1000)}}
	var err error
	if s.mail, err = mailstore.Open(t.Context(), mailstore.Config{Node: node, Pair: true, JournalRetention: cfg.retention}, kv, blobs, log); err != nil {
		t.Fatal(err)
	}
	if cfg.Dir == "" {
		cfg.Dir = t.TempDir()
	}
	cfg.ScrubInterval = -1
	cfg.patient()
	s.Node, err = New(t.Context(), cfg.Config, Deps{Mail: s.mail, KV: kv, Blobs: blobs, Audit: s.audit, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	s.mail.SetPartner(s.Node)
	if !cfg.joins {
		if err := s.mail.Join(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = s.Run(ctx)
	}()
	s.stop = sync.OnceFunc(func() {
		cancel()
		<-ended
	})
	t.Cleanup(s.stop)
	return s
}

func newPair(t testing.TB, cfg testConfig) *pair {
	t.Helper()
	p := &pair{t: t}
	for i := range p.servers {
		kv, blobs := storetest.Open(t)
		p.servers[i] = newServer(t, uint16(i), kv, blobs, cfg)
	}
	return p
}

// connect brings the link up and waits for it.
func (p *pair) connect() {
	p.t.Helper()
	p.connectOnly()
	for _, s := range p.servers {
		await(p.t, s.audit.connected)
	}
}

// connectOnly brings the link up.
func (p *pair) connectOnly() {
	p.t.Helper()
	var running sync.WaitGroup
	for i := range p.wires {
		peer := p.servers[1-i]
		w := &wire{
			peer: Peer{Node: uint16(1 - i), Origin: peer.mail.Origin(), Remote: "memory"}, ended: make(chan struct{}),
			to: peer.Node, from: p.servers[i].Node,
		}
		for class := range w.arrive {
			w.arrive[class] = make(chan struct{}, 1)
		}
		p.wires[i] = w
	}
	wires := p.wires
	wires[0].there, wires[1].there = wires[1], wires[0]
	cut := sync.OnceFunc(func() {
		for _, w := range wires {
			w.end.Do(func() { close(w.ended) })
		}
		running.Wait()
		for i, w := range wires {
			p.servers[i].Down(w, errors.New("cut"))
		}
	})
	p.cut = cut
	for i, w := range wires {
		w.cut = cut
		p.servers[i].Up(w)
	}
	for _, w := range wires {
		for class := range Class(Classes) {
			running.Go(func() { w.carry(class) })
		}
	}
	p.t.Cleanup(cut)
}

// joinedOne waits until the server has taken over an account, joinedAll until it
// has all.
func (s *server) joinedOne(t testing.TB) { await(t, s.audit.joinedOne) }
func (s *server) joinedAll(t testing.TB) { await(t, s.audit.joined) }

func await(t testing.TB, told chan struct{}) {
	t.Helper()
	select {
	case <-told:
	case <-time.After(patience):
		t.Fatal("it does not happen")
	}
}

// open returns an account's mailbox.
func (s *server) open(t testing.TB, name, mailbox string) *mailstore.Mailbox {
	t.Helper()
	account, err := s.mail.Account(t.Context(), mail.Account{Name: name})
	if err != nil {
		t.Fatal(err)
	}
	box, err := account.Mailbox(t.Context(), mailbox)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { box.Close(); account.Close() })
	return box
}

func message(subject string, octets int) string {
	return "Subject: " + subject + "\r\n\r\n" + strings.Repeat("0123456789abcde\n", octets/16)
}

// deliver brings a message as LMTP does.
func (s *server) deliver(t testing.TB, name, id, text string) error {
	t.Helper()
	account, err := s.mail.Account(t.Context(), mail.Account{Name: name})
	if err != nil {
		return err
	}
	defer account.Close()
	staged, err := s.mail.Stage(t.Context(), strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	defer staged.Discard()
	return errors.Join(account.Deliver(t.Context(), []mailstore.Delivery{{ID: id, Content: staged, Trace: []byte("X-Trace: " + name + "\r\n")}})...)
}

// same waits until the two servers hold the same of an account.
func (p *pair) same(names ...string) {
	p.t.Helper()
	for _, name := range names {
		var result Verified
		s := p.servers[0]
		if _, err := s.named(p.t.Context(), name); errors.Is(err, ErrNoAccount) {
			s = p.servers[1]
		}
		err := s.Verify(p.t.Context(), name, false, func(v Verified) { result = v })
		// Asked by an operator it gives up sooner than a test may.
		for began := time.Now(); err == nil && late(result.Err) && time.Since(began) < patience; {
			err = s.Verify(p.t.Context(), name, false, func(v Verified) { result = v })
		}
		if err != nil || result.Err != nil || !result.Same {
			for i, s := range p.servers {
				rows, _ := s.Accounts(context.Background(), name)
				p.t.Logf("server %d: %+v", i, rows)
				if r, err := s.mail.Replica(context.Background(), mailstore.AccountGUID(name), name); err == nil {
					position, err := r.Position(context.Background())
					p.t.Logf("server %d stands at %+v, %v", i, position, err)
				}
			}
			p.t.Fatalf("%s: same %v, %v, %v", name, result.Same, result.Err, err)
		}
		one, two := p.servers[0].contents(p.t, name), p.servers[1].contents(p.t, name)
		if one != two {
			p.t.Fatalf("%s differs:\n%s\nand\n%s", name, one, two)
		}
	}
}

// late reports whether a comparison failed only because it gave up too soon.
func late(err error) bool { return errors.Is(err, errUnsettled) || errors.Is(err, errNotAttached) }

// contents tells what a client sees of an account.
func (s *server) contents(t testing.TB, name string) string {
	t.Helper()
	account, err := s.mail.Account(t.Context(), mail.Account{Name: name})
	if err != nil {
		t.Fatal(err)
	}
	defer account.Close()
	boxes, err := account.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	for _, info := range boxes {
		fmt.Fprintf(&out, "%s %s %v\n", info.Name, info.GUID, info.Subscribed)
		box, err := account.Mailbox(t.Context(), info.Name)
		if err != nil {
			t.Fatal(err)
		}
		view := box.View()
		for i := range view.Len() {
			m := view.At(i)
			fmt.Fprintf(&out, "  %d %s %d %v %d\n", m.UID, m.EmailID, m.Flags, m.Keywords, m.Octets)
			body, err := box.Body(t.Context(), m)
			if err != nil {
				t.Fatal(err)
			}
			got := new(bytes.Buffer)
			if _, err := got.ReadFrom(body); err != nil || int64(got.Len()) != m.Octets {
				t.Fatalf("message %d: %d octets, %v", m.UID, got.Len(), err)
			}
			_ = body.Close()
		}
		box.Close()
	}
	return out.String()
}

func uids(list ...imap.UID) []imap.UID { return list }
