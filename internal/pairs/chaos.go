package pairs

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"
)

// history is what clients of a pair were answered and shown while it was being
// cut, killed and stopped. Safe for concurrent use.
type history struct {
	mu sync.Mutex
	// acked are mails that a node answered for. killed are those that a client
	// expunged, with the node that answered for it, or -1 when nobody did: it
	// may have happened.
	acked  map[string]bool
	killed map[string]int
	// named is what a UID of a mailbox has named, on any node.
	named map[string]string
	wrong []error
}

func newHistory() *history {
	return &history{acked: make(map[string]bool), killed: make(map[string]int), named: make(map[string]string)}
}

func (h *history) delivered(name string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.acked[name] = true
}

// expunging notes that a mail may be gone from now on.
func (h *history) expunging(name string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, known := h.killed[name]; !known {
		h.killed[name] = -1
	}
}

func (h *history) expunged(name string, node int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.killed[name] = node
}

// buried are the mails that a node has answered the expunge of so far.
func (h *history) buried(node int) map[string]bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	dead := make(map[string]bool)
	for name, by := range h.killed {
		if by == node {
			dead[name] = true
		}
	}
	return dead
}

// shows checks what a node showed after those of dead were gone from it.
func (h *history) shows(node int, p picture, dead map[string]bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for mailbox, f := range p {
		for uid, m := range f.messages {
			key := fmt.Sprintf("%s, UIDVALIDITY %s, UID %d", mailbox, f.uidValidity, uid)
			if other, known := h.named[key]; known && other != m.subject {
				h.wrong = append(h.wrong, fmt.Errorf("%s named %s and, on node %d, %s", key, other, node, m.subject))
			}
			h.named[key] = m.subject
			if dead[m.subject] {
				h.wrong = append(h.wrong, fmt.Errorf("node %d shows %s again, which it had expunged", node, m.subject))
			}
		}
	}
}

// verdict compares what both nodes show in the end with what was answered.
func (h *history) verdict(end picture) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	times := make(map[string]int)
	for _, f := range end {
		for _, m := range f.messages {
			times[m.subject]++
		}
	}
	wrong := slices.Clone(h.wrong)
	for name := range h.acked {
		if _, maybe := h.killed[name]; !maybe && times[name] == 0 {
			wrong = append(wrong, fmt.Errorf("%s was answered for and is lost", name))
		}
	}
	for name, n := range times {
		if by, killed := h.killed[name]; killed && by >= 0 {
			wrong = append(wrong, fmt.Errorf("%s was expunged and is there", name))
		}
		if n > 1 {
			wrong = append(wrong, fmt.Errorf("%s is there %d times", name, n))
		}
	}
	return errors.Join(wrong...)
}

// chaos is a pair under load with somebody who breaks it.
type chaos struct {
	p       breakable
	user    string
	history *history
	stop    chan struct{}

	mu      sync.Mutex
	next    int
	hoppers []hopper
}

// nemesis is what is done to a pair for a while, and undone.
type nemesis struct {
	name   string
	do, un func(t testing.TB, p breakable, node int)
}

// breakable is a pair whose parts can be broken one by one.
type breakable interface {
	pair
	// smtp is a gateway before the pair, "" for none.
	smtp() string
	silence(node int) // what the node sends its partner gets lost on the way
	kill9(t testing.TB, node int)
	freeze(t testing.TB, node int)
	thaw(t testing.TB, node int)
}

var nemeses = []nemesis{
	{"cable pulled", func(_ testing.TB, p breakable, _ int) { p.pull() }, func(_ testing.TB, p breakable, _ int) { p.plug() }},
	{"one way silent", func(_ testing.TB, p breakable, n int) { p.silence(n) }, func(_ testing.TB, p breakable, _ int) { p.plug() }},
	{"SIGKILL", func(t testing.TB, p breakable, n int) { p.kill9(t, n) }, func(t testing.TB, p breakable, n int) { p.start(t, n) }},
	{"SIGSTOP", func(t testing.TB, p breakable, n int) { p.freeze(t, n) }, func(t testing.TB, p breakable, n int) { p.thaw(t, n) }},
	{"SIGKILL while apart", func(t testing.TB, p breakable, n int) { p.pull(); p.kill9(t, n) }, func(t testing.TB, p breakable, n int) { p.start(t, n); p.plug() }},
}

// runChaos lets workers loose on the account for so long while the pair is
// broken and mended, and then judges.
func runChaos(t testing.TB, p breakable, user string, seed uint64, length time.Duration) error {
	c := &chaos{p: p, user: user, history: newHistory(), stop: make(chan struct{})}
	var workers sync.WaitGroup
	for i := range 4 {
		workers.Go(func() { c.work(rand.New(rand.NewPCG(seed, uint64(i)))) })
	}
	random := rand.New(rand.NewPCG(seed, 99))
	for began := time.Now(); time.Since(began) < length; {
		n, node := nemeses[random.IntN(len(nemeses))], random.IntN(2)
		pause(time.Duration(500+random.IntN(1500)) * time.Millisecond)
		t.Logf("%v: %s, node %d", time.Since(began).Round(time.Millisecond), n.name, node)
		n.do(t, p, node)
		pause(time.Duration(300+random.IntN(5000)) * time.Millisecond)
		n.un(t, p, node)
	}
	close(c.stop)
	workers.Wait()
	var end picture
	took, err := settle(p, user, p.heals(), func(shows picture) error { end = shows; return nil })
	if err != nil {
		return err
	}
	t.Logf("in step %v after the end; %d mails answered for, %d expunged", took.Round(time.Millisecond), len(c.history.acked), len(c.history.killed))
	return errors.Join(c.history.verdict(end), c.ghosts(t, end["INBOX"]))
}

// ghosts lets every client that kept a copy come back, on both nodes.
func (c *chaos) ghosts(t testing.TB, end folder) error {
	n := 0
	for _, h := range c.hoppers {
		for node := range 2 {
			n += h.ghosts(t, session(t, c.p, node, c.user), end)
		}
	}
	if n > 0 {
		return fmt.Errorf("%d messages are wrong in the copies of %d clients that came back", n, len(c.hoppers))
	}
	return nil
}

// work does one thing after the other. What fails is tried no further: it may
// have happened or not.
func (c *chaos) work(random *rand.Rand) {
	for {
		select {
		case <-c.stop:
			return
		default:
		}
		node := random.IntN(2)
		switch n := random.IntN(12); {
		case n < 3 && c.p.smtp() != "":
			name := c.name()
			if send(c.p.smtp(), c.user, message(name, 100+random.IntN(40<<10))) == nil {
				c.history.delivered(name)
			}
		case n < 5:
			name := c.name()
			if deliver(c.p.lmtp(node), c.user, message(name, 100+random.IntN(40<<10))) == nil {
				c.history.delivered(name)
			}
		case n < 6:
			name := c.name()
			if s, err := dial(c.p.imap(node), c.user, c.p.password()); err == nil {
				if s.add("INBOX", name) == nil {
					c.history.delivered(name)
				}
				s.close()
			}
		default:
			c.edit(random, node)
		}
	}
}

func (c *chaos) name() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.next++
	return fmt.Sprintf("c%d", c.next)
}

// edit looks at INBOX and changes something there.
func (c *chaos) edit(random *rand.Rand, node int) {
	dead := c.history.buried(node)
	s, err := dial(c.p.imap(node), c.user, c.p.password())
	if err != nil {
		return
	}
	defer s.close()
	validity, modseq, err := s.state()
	if err != nil {
		return
	}
	f, err := s.folder("INBOX")
	if err != nil {
		return
	}
	c.history.shows(node, picture{"INBOX": f}, dead)
	if random.IntN(20) == 0 {
		c.mu.Lock()
		c.hoppers = append(c.hoppers, hopper{node, validity, modseq, sortedKeys(f.messages)})
		c.mu.Unlock()
	}
	uids := sortedKeys(f.messages)
	if len(uids) == 0 {
		return
	}
	if _, err := s.do("SELECT INBOX"); err != nil {
		return
	}
	uid := uids[random.IntN(len(uids))]
	name := f.messages[uid].subject
	if random.IntN(2) == 0 {
		_, _ = s.do(`UID STORE %d %cFLAGS (\Flagged)`, uid, "+-"[random.IntN(2)])
		return
	}
	c.history.expunging(name)
	if _, err := s.do(`UID STORE %d +FLAGS.SILENT (\Deleted)`, uid); err != nil {
		return
	}
	if _, err := s.do("UID EXPUNGE %d", uid); err != nil {
		return
	}
	// It may have got another UID in between, and live.
	if after, err := s.folder("INBOX"); err == nil && after.uidOf(name) == 0 {
		c.history.expunged(name, node)
	}
}
