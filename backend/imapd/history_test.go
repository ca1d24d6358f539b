package imapd

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/imaptest"
	"github.com/postern-mail/postern/internal/testenv"
)

var historySteps = flag.Int("imap.history", 60, "steps of each client of TestHistories and rounds of TestCacheIsTheMailbox")

// wanderer is a client with a cache that does what comes to its mind, and loses
// its connection now and then.
type wanderer struct {
	*imaptest.Client
	t     *testing.T
	id    int
	rand  *rand.Rand
	made  int
	box   string
	nodes int // to go to; 0 for one
	// quiet: connections are no longer cut.
	quiet bool
}

var wandererBoxes = []string{"INBOX", "other"}

// TestHistories lets clients with QRESYNC change two mailboxes at the same
// time, come back from lost connections with the caches they have, and write
// down what they see. Nothing they were promised may be broken, and each cache
// that was brought up to date is what the server has.
func TestHistories(t *testing.T) {
	t.Parallel()
	s := startServer(t, testConfig())
	seed := testenv.Seed(t)
	h := imaptest.NewHistory()
	client := func(name string) *imaptest.Client {
		return newWandererClient(t, seed, []string{s.addr}, h, name, nil)
	}
	s.login("alice").ok("CREATE other")
	clients := make([]*wanderer, 3)
	var wait sync.WaitGroup
	for i := range clients {
		w := &wanderer{t: t, id: i, rand: rand.New(rand.NewPCG(seed, uint64(i)))}
		w.Client = newWandererClient(t, seed, []string{s.addr}, h, fmt.Sprintf("c%d", i), w.dial)
		clients[i] = w
		wait.Go(func() {
			for range *historySteps {
				w.step()
			}
		})
	}
	poller := client("poller")
	wait.Go(func() {
		for range *historySteps / 10 {
			if err := errors.Join(poller.Connect(t.Context(), 0), poller.Poll(t.Context(), "INBOX", false)); err != nil {
				t.Error(err)
			}
		}
	})
	wait.Wait()
	for _, w := range clients {
		w.settle(0)
	}
	end := client("end")
	err := errors.Join(end.Connect(t.Context(), 0), end.Final(t.Context()), poller.Connect(t.Context(), 0), poller.Poll(t.Context(), "INBOX", true))
	if err != nil {
		t.Error(err)
	}
	for _, v := range imaptest.Check(h.Events()) {
		t.Error(v)
	}
}

func newWandererClient(t *testing.T, seed uint64, nodes []string, h *imaptest.History, name string, dial func(context.Context, string) (net.Conn, error)) *imaptest.Client {
	cfg := imaptest.Config{Name: name, Login: "alice", Password: "secret", Nodes: nodes, History: h, Dial: dial}
	if len(nodes) == 1 {
		number := fnv.New64a()
		_, _ = io.WriteString(number, name)
		r := rand.New(rand.NewPCG(seed, number.Sum64()))
		cfg.Known = func(c *imaptest.Cache) string { return knownSomehow(r, c) }
	}
	c := imaptest.NewClient(cfg)
	t.Cleanup(c.Drop)
	return c
}

// knownSomehow is what a client may tell with QRESYNC of what it knows: nothing,
// all UIDs, or these and a sample of their numbers (RFC 7162 section 3.2.5.2).
func knownSomehow(r *rand.Rand, c *imaptest.Cache) string {
	uids := c.UIDs()
	form := r.IntN(3)
	if form == 0 || len(uids) == 0 {
		return ""
	}
	list := func(uids []uint32) string { return strings.Trim(strings.ReplaceAll(fmt.Sprint(uids), " ", ","), "[]") }
	known := " " + list(uids)
	var numbers, sample []uint32
	for i, uid := range uids {
		if c.Messages[uid].Content == "" { // others may lie below that were not told yet
			break
		}
		if r.IntN(2) == 0 {
			numbers, sample = append(numbers, uint32(i)+1), append(sample, uid)
		}
	}
	if form == 1 || len(sample) == 0 {
		return known
	}
	return fmt.Sprintf("%s (%s %s)", known, list(numbers), list(sample))
}

// dial makes a connection that is cut somewhere, inside a response most of the
// time, until all is quiet.
func (w *wanderer) dial(_ context.Context, addr string) (net.Conn, error) {
	conn, err := net.Dial("tcp", addr)
	if err != nil || w.quiet {
		return conn, err
	}
	return &cutConn{Conn: conn, left: 1500 + w.rand.IntN(12000)}, nil
}

// errCut is the end of a cutConn.
var errCut = errors.New("cable is pulled")

// cutConn is a connection that ends after some octets from the server.
type cutConn struct {
	net.Conn
	left int
}

func (c *cutConn) Read(p []byte) (int, error) {
	if c.left == 0 {
		_ = c.Close()
		return 0, errCut
	}
	n, err := c.Conn.Read(p[:min(len(p), c.left)])
	c.left -= n
	return n, err
}

// settle comes back once more, when all is quiet.
func (w *wanderer) settle(node int) {
	ctx := w.t.Context()
	w.quiet = true
	for _, box := range wandererBoxes {
		if err := errors.Join(w.Connect(ctx, node), w.Resynced(ctx, box)); err != nil {
			w.t.Errorf("c%d: %v", w.id, err)
		}
	}
}

func (w *wanderer) step() {
	var no *imaptest.No
	err := w.try()
	if err == nil || errors.As(err, &no) || errors.Is(err, imaptest.ErrUnknown) {
		return
	}
	if !errors.Is(err, errCut) && !errors.Is(err, net.ErrClosed) {
		w.t.Errorf("c%d: %v", w.id, err)
	}
	w.Drop()
}

// try is one thing that a client may do.
func (w *wanderer) try() error {
	ctx := w.t.Context()
	if !w.Connected() || w.rand.IntN(12) == 0 {
		w.box = wandererBoxes[w.rand.IntN(2)]
		if err := w.Connect(ctx, w.rand.IntN(max(w.nodes, 1))); err != nil {
			return err
		}
		return w.Select(ctx, w.box)
	}
	var known []uint32
	if cache := w.Cache(w.box); cache != nil {
		known = cache.UIDs()
	}
	what := w.rand.IntN(10)
	if len(known) == 0 {
		what = 0
	}
	pick := func() uint32 { return known[w.rand.IntN(len(known))] }
	dest := wandererBoxes[w.rand.IntN(2)]
	switch what {
	case 0, 1, 2:
		w.made++
		return w.Append(ctx, dest, fmt.Sprintf("m%d-%d", w.id, w.made))
	case 3, 4:
		return w.Store(ctx, pick(), []string{"+FLAGS", "-FLAGS", "+FLAGS.SILENT"}[w.rand.IntN(3)], []string{`\Seen`, `\Flagged`, "$x"}[w.rand.IntN(3)])
	case 5:
		return w.Expunge(ctx, pick())
	case 6:
		return w.Copy(ctx, pick(), dest)
	case 7:
		return w.Move(ctx, pick(), dest)
	case 8:
		return w.Refresh(ctx)
	}
	return w.Idle(ctx, 20*time.Millisecond, func(c *imaptest.Cache) bool {
		return len(c.Messages) > 0 && slices.Max(c.UIDs()) > 0 && w.rand.IntN(3) == 0
	})
}
