package imapd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/backend/mailstore"
	"github.com/postern-mail/postern/internal/imaptest"
	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/store"
	"github.com/postern-mail/postern/store/storetest"
)

// pair is two nodes with an IMAP server each, and between them, for one
// account, what the replication channel does: without a network, and cut and
// healed at will.
type pair struct {
	t       *testing.T
	servers [2]*server
	stores  [2]*mailstore.Store
	blobs   [2]store.Blobs
	changed chan struct{} // a node logged something

	mu       sync.Mutex
	replicas [2]*mailstore.Replica
	attached bool
	had      [2]uint64 // operations of each node that the other has
}

// partner is what a node knows of the other: a bell.
type partner struct{ changed chan struct{} }

func (p partner) Committed(mailstore.GUID, string, uint64) {
	select {
	case p.changed <- struct{}{}:
	default:
	}
}

func (partner) Durable(context.Context, mailstore.GUID, uint64, mailstore.Durability) error {
	return nil
}
func (partner) Available(mailstore.GUID, string) error { return nil }
func (partner) Fetch(context.Context, store.Ref) error { return errors.New("nothing is missing") }

func newPair(t *testing.T, uidWait time.Duration) *pair {
	t.Helper()
	p := &pair{t: t, changed: make(chan struct{}, 1)}
	for node := range p.stores {
		kv, blobs := storetest.Open(t)
		cfg := mailstore.Config{Node: uint16(node), Pair: true, UIDWait: uidWait}
		st, err := mailstore.Open(t.Context(), cfg, kv, blobs, hclog.NewNullLogger())
		if err == nil {
			err = st.Join(t.Context())
		}
		if err != nil {
			t.Fatal(err)
		}
		st.SetPartner(partner{p.changed})
		account, err := st.Account(t.Context(), mail.Account{Name: "alice"})
		if err != nil {
			t.Fatal(err)
		}
		if p.replicas[node], err = st.Replica(t.Context(), account.GUID(), "alice"); err != nil {
			t.Fatal(err)
		}
		account.Close()
		p.stores[node], p.blobs[node] = st, blobs
		p.servers[node] = startServerOn(t, testConfig(), st)
	}
	return p
}

func (p *pair) addresses() []string { return []string{p.servers[0].addr, p.servers[1].addr} }

// run carries what the nodes log to the other, as long as they are attached,
// until ctx ends.
func (p *pair) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.changed:
		}
		p.mu.Lock()
		if p.attached {
			if err := p.exchange(); err != nil {
				p.t.Errorf("exchange: %v", err)
			}
		}
		p.mu.Unlock()
	}
}

// attach brings the nodes together, detach parts them.
func (p *pair) attach() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.attached {
		return nil
	}
	var at [2]mailstore.Position
	for node, r := range p.replicas {
		var err error
		if at[node], err = r.BeginAttach(p.t.Context()); err != nil {
			return err
		}
	}
	for node, r := range p.replicas {
		p.had[node] = at[1-node].Vector.Of(at[node].Origin).Seq
		if err := r.Attached(p.t.Context(), at[1-node]); err != nil {
			return err
		}
	}
	p.attached = true
	return p.exchange()
}

func (p *pair) detach() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.attached = false
	return errors.Join(p.replicas[0].Detach(p.t.Context()), p.replicas[1].Detach(p.t.Context()))
}

// flush carries everything now.
func (p *pair) flush() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.exchange()
}

// exchange carries everything, until there is nothing more. p.mu is held.
func (p *pair) exchange() error {
	for {
		moved := false
		for node := range p.stores {
			some, err := p.carry(node)
			if err != nil {
				return fmt.Errorf("from node %d: %w", node, err)
			}
			moved = moved || some
		}
		if !moved {
			return nil
		}
	}
}

// carry brings records of one node to the other, with bodies, and the answer
// back.
func (p *pair) carry(from int) (some bool, err error) {
	ctx, to := p.t.Context(), 1-from
	records, err := p.replicas[from].Journal(ctx, p.had[from], 1<<20)
	if err != nil || len(records) == 0 {
		return false, err
	}
	load := freight{bodies: map[store.Hash]store.Staged{}, gone: mailstore.Gone{}, last: records[len(records)-1].Last}
	defer load.discard()
	for _, r := range records {
		load.raw = append(load.raw, r.Raw)
		missing, err := p.replicas[to].Missing(ctx, r.Bodies)
		if err == nil {
			err = p.bring(from, missing, &load)
		}
		if err != nil {
			return false, err
		}
	}
	done, err := p.replicas[to].Apply(ctx, load.raw, load.bodies, load.gone)
	// Bodies of copies, whose originals are gone there, and those that a client
	// has expunged since we looked, are asked for, of one record at a time. None
	// may be missing that was brought.
	for missing := (*mailstore.MissingBodies)(nil); errors.As(err, &missing); missing = nil {
		for _, ref := range missing.Refs {
			if load.holds(ref) {
				return false, fmt.Errorf("body %x was brought: %w", ref.Hash[:8], err)
			}
		}
		if err := p.bring(from, missing.Refs, &load); err != nil {
			return false, err
		}
		done, err = p.replicas[to].Apply(ctx, load.raw, load.bodies, load.gone)
	}
	if err != nil {
		return false, err
	}
	p.had[from] = records[len(records)-1].Last
	return true, p.replicas[from].Acked(ctx, mailstore.Ack{Seq: p.had[from], Floors: done.Floors, ModSeq: done.ModSeq, Vector: done.Vector})
}

// freight is what goes to a node at once.
type freight struct {
	raw    [][]byte
	bodies map[store.Hash]store.Staged
	gone   mailstore.Gone
	last   uint64 // operation
}

func (f *freight) discard() {
	for _, b := range f.bodies {
		b.Discard()
	}
}

func (f *freight) holds(ref store.Ref) bool {
	_, gone := f.gone[ref.Hash]
	return gone || f.bodies[ref.Hash] != nil
}

// bring loads bodies, each once.
func (p *pair) bring(from int, refs []store.Ref, load *freight) error {
	ctx, to := p.t.Context(), 1-from
	for _, ref := range refs {
		if load.holds(ref) {
			continue
		}
		body, err := p.blobs[from].Open(ctx, ref)
		if errors.Is(err, store.ErrNotFound) {
			load.gone[ref.Hash] = load.last
			continue
		}
		if err != nil {
			return err
		}
		staged, err := p.stores[to].Stage(ctx, io.NewSectionReader(body, 0, body.Size()))
		_ = body.Close()
		if err != nil {
			return err
		}
		load.bodies[ref.Hash] = staged
	}
	return nil
}

// TestHopping lets clients with caches go from one node of a pair to the other
// while the nodes are parted and brought together, and connections are cut. In
// the end both nodes hold every message that was acknowledged and not expunged,
// nothing came back, no UID meant two messages, and every cache is what the
// node has, whichever it is.
func TestHopping(t *testing.T) {
	t.Parallel()
	seed := testenv.Seed(t)
	p := newPair(t, 10*time.Second)
	ctx, stop := context.WithCancel(t.Context())
	var pump, wait sync.WaitGroup
	pump.Go(func() { p.run(ctx) })
	defer pump.Wait()
	defer stop()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(p.attach())
	p.servers[0].login("alice").ok("CREATE other")
	must(p.flush()) // before a client selects it at the other
	h := imaptest.NewHistory()
	clients := make([]*wanderer, 3)
	for i := range clients {
		w := &wanderer{t: t, id: i, rand: rand.New(rand.NewPCG(seed, uint64(i))), nodes: 2}
		w.Client = newWandererClient(t, seed, p.addresses(), h, fmt.Sprintf("c%d", i), w.dial)
		clients[i] = w
		wait.Go(func() {
			for range *historySteps {
				w.step()
			}
		})
	}
	poller := newWandererClient(t, seed, p.addresses(), h, "poller", nil)
	wait.Go(func() {
		r := rand.New(rand.NewPCG(seed, 77))
		for range *historySteps / 4 {
			if err := errors.Join(poller.Connect(ctx, r.IntN(2)), poller.Poll(ctx, "INBOX", false)); err != nil {
				t.Error(err)
			}
			if r.IntN(3) > 0 {
				err := p.detach()
				if r.IntN(2) == 0 {
					err = errors.Join(err, p.attach())
				}
				if err != nil {
					t.Error(err)
				}
			}
		}
	})
	wait.Wait()
	must(p.attach())
	for node := range 2 {
		for _, w := range clients {
			w.settle(node)
		}
		must(errors.Join(poller.Connect(ctx, node), poller.Poll(ctx, "INBOX", true), poller.Final(ctx)))
	}
	for _, v := range imaptest.Check(h.Events()) {
		t.Error(v)
	}
}

// away is the node that alice's UIDs do not come from.
func (p *pair) away() *server { return p.servers[1-mail.Account{Name: "alice"}.HomeClass()] }

// An APPEND that waits for a UID from the other node keeps nobody else waiting,
// and is answered when the UID comes.
func TestAppendWaitsForItsUID(t *testing.T) {
	t.Parallel()
	p := newPair(t, time.Minute)
	idle, other, writer := p.away().login("alice"), p.away().login("alice"), p.away().login("alice")
	other.append("INBOX", "", message("before", "text"))
	if err := p.attach(); err != nil {
		t.Fatal(err)
	}
	idle.ok("SELECT INBOX")
	idle.send("i IDLE\r\n")
	idle.line()
	other.ok("SELECT INBOX")
	select { // what rang before
	case <-p.changed:
	default:
	}
	text := message("waits", "text")
	writer.send(fmt.Sprintf("w APPEND INBOX {%d+}\r\n%s\r\n", len(text), text))
	<-p.changed // it is stored, and told
	other.ok(`STORE 1 +FLAGS.SILENT (\Flagged)`)
	if line := idle.line(); line != `* 1 FETCH (FLAGS (\Flagged))` {
		t.Errorf("IDLE meanwhile: %s", line)
	}
	if lines := other.ok("NOOP"); len(lines) > 0 {
		t.Errorf("a message without a UID is told: %q", lines)
	}
	if err := p.flush(); err != nil {
		t.Fatal(err)
	}
	if _, tagged := writer.until("w"); !strings.HasPrefix(tagged, "OK [APPENDUID ") {
		t.Error(tagged)
	}
	if line := idle.line(); line != "* 2 EXISTS" {
		t.Errorf("IDLE then: %s", line)
	}
}

// When no UID comes in time the client is told so, and the message is there
// once it has one.
func TestAppendWithoutAUID(t *testing.T) {
	t.Parallel()
	p := newPair(t, 20*time.Millisecond)
	c := p.away().login("alice")
	c.ok("CREATE other")
	c.append("INBOX", "", message("before", "text"))
	if err := p.attach(); err != nil {
		t.Fatal(err)
	}
	c.ok("SELECT INBOX")
	text := message("late", "text")
	c.fails(fmt.Sprintf("APPEND INBOX {%d+}\r\n%s", len(text), text), "NO [UNAVAILABLE]")
	c.fails("COPY 1 INBOX", "NO [UNAVAILABLE]")
	if lines := c.ok("NOOP"); len(lines) > 0 {
		t.Errorf("before the UIDs: %q", lines)
	}
	if err := p.flush(); err != nil {
		t.Fatal(err)
	}
	lines := c.ok("NOOP")
	if len(lines) != 1 || lines[0] != "* 2 EXISTS" {
		t.Errorf("with the UIDs: %q", lines)
	}
	found := c.ok("UID SEARCH SUBJECT late")
	expect(t, "the late message", found, c.ok("UID SEARCH 2")...)
}
