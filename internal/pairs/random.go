package pairs

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// Random work: so many runs of so many steps.
var (
	randomRuns  = 3
	randomSteps = 60
)

// worker does random work on a pair and knows what must come of it.
type worker struct {
	p      pair
	user   string
	random *rand.Rand
	apart  bool
	next   int
	// acked are mails that a node answered for; killed those that a client
	// expunged.
	acked, killed map[string]bool
	seen          []folder
	hoppers       []hopper
}

// hopper is a client that kept a copy of INBOX and comes back elsewhere.
type hopper struct {
	from             int
	validity, modseq string
	uids             []int
}

func random(t testing.TB, p pair, user string) (string, error) {
	steps := 0
	for run := range randomRuns {
		w := &worker{
			p: p, user: user, random: rand.New(rand.NewPCG(uint64(run), 15)),
			acked: make(map[string]bool), killed: make(map[string]bool), next: run * 1000,
		}
		// What earlier runs left is none of this one's.
		a := session(t, p, 0, user)
		a.must(t, "SELECT INBOX")
		if _, err := a.do(`STORE 1:* +FLAGS (\Deleted)`); err == nil {
			a.must(t, "EXPUNGE")
		}
		quiet(t, p, user, has("INBOX"))
		for range randomSteps {
			if err := w.step(t); err != nil {
				return "", fmt.Errorf("run %d: %w", run, err)
			}
			steps++
		}
		if err := w.check(t); err != nil {
			return fmt.Sprintf("run %d of %d", run+1, randomRuns), fmt.Errorf("run %d: %w", run, err)
		}
	}
	return fmt.Sprintf("%d runs, %d steps", randomRuns, steps), nil
}

func (w *worker) step(t testing.TB) error {
	node := w.random.IntN(2)
	switch n := w.random.IntN(20); {
	case n < 8:
		w.next++
		name := fmt.Sprintf("r%d", w.next)
		if err := deliver(w.p.lmtp(node), w.user, message(name, 200)); err != nil {
			return err
		}
		w.acked[name] = true
	case n < 13:
		return w.edit(node, `UID STORE %d `+[]string{"+", "-"}[w.random.IntN(2)]+`FLAGS (\Flagged)`, false)
	case n < 16:
		return w.edit(node, `UID STORE %d +FLAGS (\Deleted)`, true)
	case n < 18:
		return w.leave(t, node)
	default:
		if w.apart = !w.apart; w.apart {
			w.p.pull()
		} else {
			w.p.plug()
		}
	}
	return nil
}

// edit changes a mail of INBOX as one node shows it.
func (w *worker) edit(node int, command string, expunge bool) error {
	c, err := dial(w.p.imap(node), w.user, w.p.password())
	if err != nil {
		return err
	}
	defer c.close()
	f, err := c.folder("INBOX")
	if err != nil {
		return err
	}
	w.seen = append(w.seen, f)
	if len(f.messages) == 0 {
		return nil
	}
	uids := sortedKeys(f.messages)
	uid := uids[w.random.IntN(len(uids))]
	if _, err := c.do("SELECT INBOX"); err != nil {
		return err
	}
	if _, err := c.do(command, uid); err != nil {
		return err
	}
	if expunge {
		if _, err := c.do("UID EXPUNGE %d", uid); err != nil {
			return err
		}
		// It may have got another UID in between, and live.
		after, err := c.folder("INBOX")
		if err != nil {
			return err
		}
		if name := f.messages[uid].subject; after.uidOf(name) == 0 {
			w.killed[name] = true
		}
	}
	return nil
}

// leave keeps what a node shows, to come back with it later.
func (w *worker) leave(t testing.TB, node int) error {
	c, err := dial(w.p.imap(node), w.user, w.p.password())
	if err != nil {
		return err
	}
	defer c.close()
	validity, modseq := state(t, c)
	f, err := c.folder("INBOX") // newer than the state, never older
	if err != nil {
		return err
	}
	w.hoppers = append(w.hoppers, hopper{node, validity, modseq, sortedKeys(f.messages)})
	return nil
}

// check joins the nodes and compares with what was answered.
func (w *worker) check(t testing.TB) error {
	w.p.plug()
	var want []string
	for name := range w.acked {
		if !w.killed[name] {
			want = append(want, name)
		}
	}
	if _, err := settle(w.p, w.user, w.p.heals(), has("INBOX", want...)); err != nil {
		return err
	}
	after, err := both(w.p, w.user)
	if err != nil {
		return err
	}
	if err := oneContent(append(w.seen, after...)); err != nil {
		return err
	}
	ghosts := 0
	for _, h := range w.hoppers {
		for node := range 2 {
			ghosts += h.ghosts(t, session(t, w.p, node, w.user), after[node])
		}
	}
	if ghosts > 0 {
		return fmt.Errorf("%d messages that are gone stay in the copies of clients that came back", ghosts)
	}
	return nil
}

// ghosts counts what the client goes on showing though it is gone, and what it
// never hears of.
func (h hopper) ghosts(t testing.TB, c *client, now folder) int {
	t.Helper()
	c.must(t, "ENABLE QRESYNC")
	lines := strings.Join(c.must(t, "SELECT INBOX (QRESYNC (%s %s))", h.validity, h.modseq), "\n")
	c.close()
	n := 0
	for _, uid := range h.uids {
		if _, there := now.messages[uid]; !there && !vanished(lines, uid) {
			n++
		}
	}
	highest := 0
	if len(h.uids) > 0 {
		highest = slices.Max(h.uids)
	}
	for uid := range now.messages {
		if uid <= highest && !slices.Contains(h.uids, uid) && !strings.Contains(lines, fmt.Sprintf("UID %d ", uid)) && !strings.Contains(lines, fmt.Sprintf("UID %d)", uid)) {
			n++
		}
	}
	return n
}
