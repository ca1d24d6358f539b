package imapd

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/imaptest"
	"github.com/postern-mail/postern/internal/testenv"
)

// TestCacheIsTheMailbox changes a mailbox while a client is away, and while it
// is there, pulls its cable at any octet, and lets it come back with what it
// has: with its UIDs, without them, with a sample of its numbers. Whatever it
// was told before, it then holds what a full listing shows.
func TestCacheIsTheMailbox(t *testing.T) {
	t.Parallel()
	seed := testenv.Seed(t)
	s := startServer(t, testConfig())
	h := imaptest.NewHistory()
	r := rand.New(rand.NewPCG(seed, 0))
	away := &wanderer{t: t, id: 0, rand: r, box: "INBOX", quiet: true}
	away.Client = newWandererClient(t, seed, []string{s.addr}, h, "changes", away.dial)
	c := &cacher{t: t, rand: r}
	c.Client = imaptest.NewClient(imaptest.Config{
		Name: "caches", Login: "alice", Password: "secret", Nodes: []string{s.addr}, History: h, Dial: c.dial, Known: c.known,
	})
	t.Cleanup(c.Drop)
	s.login("alice").ok("CREATE other")
	for round := range *historySteps {
		for range 1 + r.IntN(5) {
			away.step()
		}
		c.session(away)
		for range r.IntN(3) {
			away.step()
		}
		c.left = 0
		if err := errors.Join(c.Connect(t.Context(), 0), c.Resynced(t.Context(), "INBOX")); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		if round%3 > 0 {
			c.Drop()
		}
	}
	for _, v := range imaptest.Check(h.Events()) {
		t.Error(v)
	}
}

// cacher is a client with a cache that is changed by nobody but itself.
type cacher struct {
	*imaptest.Client
	t    *testing.T
	rand *rand.Rand
	left int // octets until the cable is pulled; 0 for never
}

func (c *cacher) dial(_ context.Context, addr string) (net.Conn, error) {
	conn, err := net.Dial("tcp", addr)
	if err != nil || c.left == 0 {
		return conn, err
	}
	return &cutConn{Conn: conn, left: c.left}, nil
}

// known is what the client says it knows, or keeps to itself.
func (c *cacher) known(cache *imaptest.Cache) string {
	uids := cache.UIDs()
	if len(uids) == 0 || c.rand.IntN(3) == 0 {
		return ""
	}
	set, numbers, sample := "", "", ""
	for i, uid := range uids {
		set += fmt.Sprintf(",%d", uid)
		if c.rand.IntN(3) == 0 {
			numbers += fmt.Sprintf(",%d", i+1)
			sample += fmt.Sprintf(",%d", uid)
		}
	}
	switch {
	case numbers == "" || c.rand.IntN(2) == 0:
		return " " + set[1:]
	case c.rand.IntN(2) == 0:
		return fmt.Sprintf(" (%s %s)", numbers[1:], sample[1:])
	}
	return fmt.Sprintf(" %s (%s %s)", set[1:], numbers[1:], sample[1:])
}

// session is one connection, in which anything may happen until it is cut.
func (c *cacher) session(other *wanderer) {
	ctx := c.t.Context()
	c.left = 900 + c.rand.IntN(4000)
	if !c.Connected() && c.Connect(ctx, 0) != nil {
		return
	}
	if c.Select(ctx, "INBOX") != nil {
		return
	}
	for c.Connected() && c.rand.IntN(6) > 0 {
		for range 1 + c.rand.IntN(4) {
			other.step()
		}
		switch c.rand.IntN(5) {
		case 0:
			_ = c.Refresh(ctx)
		case 1:
			_ = c.Numbers(ctx)
		case 2, 3: // what may not be told in this command is not told at all
			_ = c.Numbers(ctx)
			c.Drop()
		default:
			_ = c.Idle(ctx, 5*time.Millisecond, func(*imaptest.Cache) bool { return false })
		}
	}
}
