package delivery_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-mail/postern/delivery"
	"github.com/postern-mail/postern/delivery/lmtp"
	"github.com/postern-mail/postern/delivery/tlspolicy"
	"github.com/postern-mail/postern/mail"
)

// node is a node of a pair that takes mail by LMTP, and misbehaves on demand.
type node struct {
	class string

	mu       sync.Mutex
	taken    []string // "delivery-id recipients", for each message it has whole
	calls    int      // connections
	hung     chan struct{}
	mute     bool // keeps replies to messages back, until hung is closed
	dead     bool // does not even greet, until hung is closed
	lose     bool // hangs up in place of the next reply to a message
	farewell bool // answers MAIL with 421
}

func newNode(class string) *node { return &node{class: class, hung: make(chan struct{})} }

func (n *node) with(change func(*node)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	change(n)
}

func (n *node) messages() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.taken)
}

func (n *node) called() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.calls
}

func (n *node) serve(conn net.Conn) {
	var dead, mute, lose, farewell bool
	look := func() { n.with(func(n *node) { dead, mute, farewell = n.dead, n.mute, n.farewell }) }
	n.with(func(n *node) { n.calls++ })
	if look(); dead {
		<-n.hung
		return
	}
	r := bufio.NewReader(conn)
	say := func(text string) { _, _ = io.WriteString(conn, text) }
	say("220 x\r\n")
	id, recipients := "", []string{}
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		look()
		switch {
		case strings.HasPrefix(line, "LHLO"):
			say("250-x\r\n250-XPOSTERN PAIR=p CLASS=" + n.class + " NEW=thing\r\n250 PIPELINING\r\n")
		case strings.HasPrefix(line, "MAIL") && farewell:
			say("421 4.3.2 draining\r\n")
			return
		case strings.HasPrefix(line, "MAIL"):
			_, id, _ = strings.Cut(strings.TrimSpace(line), "DELIVERYID=")
			recipients = recipients[:0]
			say("250 ok\r\n")
		case strings.HasPrefix(line, "RCPT"):
			address, _, _ := strings.Cut(strings.TrimPrefix(line, "RCPT TO:<"), "@")
			recipients = append(recipients, address)
			say("250 ok\r\n")
		case strings.HasPrefix(line, "DATA"):
			say("354 go\r\n")
		case line == ".\r\n":
			n.with(func(n *node) {
				n.taken = append(n.taken, id+" "+strings.Join(recipients, ","))
				lose, n.lose = n.lose, false
			})
			if lose {
				return
			}
			if mute {
				<-n.hung
			}
			for range recipients {
				say("250 ok\r\n")
			}
		case strings.HasPrefix(line, "QUIT"):
			say("221 bye\r\n")
			return
		}
	}
}

// listen serves an address until stop is called.
func (n *node) listen(t *testing.T, w *wires, address string) (stop func()) {
	t.Helper()
	stop = w.listen(t, address, n.serve)
	t.Cleanup(func() {
		n.with(func(n *node) {
			select {
			case <-n.hung:
			default:
				close(n.hung)
			}
		})
	})
	return stop
}

// aPair is two nodes, class 0 first, and a transport that has met both.
type aPair struct {
	*lmtp.Transport
	wires  wires
	nodes  [2]*node
	paths  [2]string
	stop   [2]func()
	target delivery.Target
}

// withPair runs a test on a pair in synthetic time.
func withPair(t *testing.T, test func(t *testing.T, p *aPair)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		p := &aPair{nodes: [2]*node{newNode("0"), newNode("1")}, paths: [2]string{"/0", "/1"}}
		for i := range p.nodes {
			p.stop[i] = p.nodes[i].listen(t, &p.wires, p.paths[i])
		}
		p.target = p.wires.target(p.paths[:]...)
		p.restart(t)
		test(t, p)
	})
}

// restart makes a transport that remembers nothing.
func (p *aPair) restart(t *testing.T) {
	t.Helper()
	p.Transport = newLMTP(t, p.target)
	p.Direct("") // waits for the first calls
}

// to is a delivery to accounts that are at home as their local-part ends: "a0"
// on class 0.
func to(id string, names ...string) mail.Delivery {
	var addresses []string
	for _, name := range names {
		addresses = append(addresses, name+"@example.com")
	}
	d := message(addresses...)
	d.ID = id
	for i, name := range names {
		d.Envelope.Recipients[i].Home = mail.Home(name[len(name)-1:])
	}
	return d
}

func wantTaken(t *testing.T, who string, n *node, want ...string) {
	t.Helper()
	if got := n.messages(); !slices.Equal(got, want) {
		t.Errorf("%s took %q, want %q", who, got, want)
	}
}

func wantDelivered(t *testing.T, outcomes []mail.Outcome, remotes ...string) {
	t.Helper()
	for i, o := range outcomes {
		if o.Class != mail.Delivered || i < len(remotes) && o.Remote != remotes[i] {
			t.Fatalf("recipient %d: %+v, want it delivered by %v", i, o, remotes)
		}
	}
}

// TestPairMailGoesHome: to the home of each recipient, one message to both
// where it has recipients at both, in order, under one id; and all of it to
// the node that is left, by one conversation.
func TestPairMailGoesHome(t *testing.T) {
	t.Parallel()
	withPair(t, func(t *testing.T, p *aPair) {
		wantDelivered(t, p.Deliver(t.Context(), to("Q1.0", "a0")), p.paths[0])
		wantDelivered(t, p.Deliver(t.Context(), to("Q2.0", "a1")), p.paths[1])
		wantDelivered(t, p.Deliver(t.Context(), to("Q3.0", "a1", "b0", "c1")), p.paths[1], p.paths[0], p.paths[1])
		wantTaken(t, "class 0", p.nodes[0], "Q1.0 a0", "Q3.0 b0")
		wantTaken(t, "class 1", p.nodes[1], "Q2.0 a1", "Q3.0 a1,c1")
		p.stop[1]()
		wantDelivered(t, p.Deliver(t.Context(), to("Q4.0", "a1")), p.paths[0])
		wantDelivered(t, p.Deliver(t.Context(), to("Q5.0", "a1", "b0")), p.paths[0], p.paths[0])
		wantTaken(t, "class 0", p.nodes[0], "Q1.0 a0", "Q3.0 b0", "Q4.0 a1", "Q5.0 a1,b0")
	})
}

// TestPairPinnedHome: a host of the directory counts for more than the class.
func TestPairPinnedHome(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var w wires
		zero, one := newNode("0"), newNode("1")
		zero.listen(t, &w, "box0.example:24")
		one.listen(t, &w, "box1.example:24")
		tr := newLMTP(t, delivery.Target{Addresses: []string{"box0.example:24", "box1.example:24"}, TLS: tlspolicy.None, Dial: w.connect})
		tr.Direct("")
		d := to("Q1.0", "a0", "b0")
		d.Envelope.Recipients[0].Home = "Box1.example"
		wantDelivered(t, tr.Deliver(t.Context(), d))
		wantTaken(t, "class 0", zero, "Q1.0 b0")
		wantTaken(t, "class 1", one, "Q1.0 a0")
	})
}

// TestPairLostReply: the home hangs up in place of its reply. The partner has
// the message under the same id in the same attempt, and a gateway that was
// restarted in between, and cannot know, repeats it under that id too.
func TestPairLostReply(t *testing.T) {
	t.Parallel()
	withPair(t, func(t *testing.T, p *aPair) {
		p.nodes[1].with(func(n *node) { n.lose = true })
		wantDelivered(t, p.Deliver(t.Context(), to("Q1.0", "a1")), p.paths[0])
		p.restart(t)
		p.stop[1]()
		wantDelivered(t, p.Deliver(t.Context(), to("Q1.0", "a1")), p.paths[0])
		wantTaken(t, "class 1", p.nodes[1], "Q1.0 a1")
		wantTaken(t, "class 0", p.nodes[0], "Q1.0 a1", "Q1.0 a1")
	})
}

// TestPairDoubtGoesBackFirst: whoever may have a message is asked first when
// both lost their replies, so that no more copies have to be merged than need.
func TestPairDoubtGoesBackFirst(t *testing.T) {
	t.Parallel()
	withPair(t, func(t *testing.T, p *aPair) {
		for _, n := range p.nodes {
			n.with(func(n *node) { n.lose = true })
		}
		if got := p.Deliver(t.Context(), to("Q1.0", "a1")); got[0].Class != mail.Deferred {
			t.Fatalf("%+v", got)
		}
		wantDelivered(t, p.Deliver(t.Context(), to("Q1.0", "a1")), p.paths[0]) // the last that may have it
		wantTaken(t, "class 1", p.nodes[1], "Q1.0 a1")
	})
}

// TestPairNodeThatHangs: a home that took the message and is stopped before it
// answers, and answers nobody else either, is found dead; the partner gets the
// message. The others do not ask the home first.
func TestPairNodeThatHangs(t *testing.T) {
	t.Parallel()
	withPair(t, func(t *testing.T, p *aPair) {
		p.nodes[1].with(func(n *node) { n.mute, n.dead = true, true })
		wantDelivered(t, p.Deliver(t.Context(), to("Q1.0", "a1")), p.paths[0])
		called := p.nodes[1].called()
		for i := range 5 {
			wantDelivered(t, p.Deliver(t.Context(), to(fmt.Sprint("Q2.", i), "b1")), p.paths[0])
		}
		wantTaken(t, "class 1", p.nodes[1], "Q1.0 a1")
		if again := p.nodes[1].called(); again > called+2 { // the health's own calls
			t.Errorf("the dead node was called %d times for 5 messages", again-called)
		}
	})
}

// TestPairSlowNode: a home that is slow to store but greets is alive: the
// partner does not get what it will answer.
func TestPairSlowNode(t *testing.T) {
	t.Parallel()
	withPair(t, func(t *testing.T, p *aPair) {
		p.nodes[1].with(func(n *node) { n.mute = true })
		before := p.nodes[1].called()
		done := make(chan []mail.Outcome, 1)
		go func() { done <- p.Deliver(t.Context(), to("Q1.0", "a1")) }()
		time.Sleep(4 * time.Second) // as many failover times
		synctest.Wait()
		if n := p.nodes[1].called(); n < before+3 {
			t.Errorf("the node was called %d times only", n-before)
		}
		close(p.nodes[1].hung)
		wantDelivered(t, <-done, p.paths[1])
		wantTaken(t, "class 0", p.nodes[0])
	})
}

// TestPairComesBack: a home that is back gets its mail again once it has
// answered for a while.
func TestPairComesBack(t *testing.T) {
	t.Parallel()
	withPair(t, func(t *testing.T, p *aPair) {
		p.stop[1]()
		wantDelivered(t, p.Deliver(t.Context(), to("Q0", "a1")), p.paths[0])
		back := newNode("1")
		back.listen(t, &p.wires, p.paths[1])
		home := false
		for n := 1; n < 100 && !home; n++ {
			got := p.Deliver(t.Context(), to(fmt.Sprint("Q", n), "a1"))
			wantDelivered(t, got)
			home = got[0].Remote == p.paths[1]
			time.Sleep(100 * time.Millisecond)
		}
		if calls := back.called(); !home || calls < 3 {
			t.Errorf("mail went home: %t, after %d calls", home, calls)
		}
	})
}

// TestPairDrainedNode: 421 sends the message to the partner at once, and all
// that follow.
func TestPairDrainedNode(t *testing.T) {
	t.Parallel()
	withPair(t, func(t *testing.T, p *aPair) {
		p.nodes[0].with(func(n *node) { n.farewell = true })
		for i := range 3 {
			wantDelivered(t, p.Deliver(t.Context(), to(fmt.Sprint("Q", i), "a0")), p.paths[1])
		}
		wantTaken(t, "class 0", p.nodes[0])
	})
}

// TestOtherServersAreNoPair: servers that do not say that they are a pair get
// mail in the order of their addresses.
func TestOtherServersAreNoPair(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var w wires
		w.listen(t, "/0", newPairServer().serve)
		w.listen(t, "/1", newPairServer().serve)
		tr := newLMTP(t, w.target("/0", "/1"))
		tr.Direct("")
		wantDelivered(t, tr.Deliver(t.Context(), to("Q1", "a0")), "/0")
		wantDelivered(t, tr.Deliver(t.Context(), to("Q2", "a1")), "/0")
	})
}
