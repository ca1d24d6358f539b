package pop3d

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/backend/mailstore"
	"github.com/postern-mail/postern/store"
	"github.com/postern-mail/postern/store/storetest"
)

// faultyStore fails on demand.
type faultyStore struct {
	store.Store
	unwritable, unreadable atomic.Bool
}

func (f *faultyStore) Commit(ctx context.Context, b *store.Batch) (store.Result, error) {
	if f.unwritable.Load() {
		return store.Result{}, io.ErrClosedPipe
	}
	return f.Store.Commit(ctx, b)
}

func (f *faultyStore) View(ctx context.Context, fn func(store.Snapshot) error) error {
	if f.unreadable.Load() {
		return io.ErrClosedPipe
	}
	return f.Store.View(ctx, fn)
}

// faultyBlobs fails on demand; the count is of bodies opened.
type faultyBlobs struct {
	store.Blobs
	unreadable, cut atomic.Bool
	opened          atomic.Int64
}

func (f *faultyBlobs) Open(ctx context.Context, ref store.Ref) (store.Body, error) {
	if f.unreadable.Load() {
		return nil, io.ErrClosedPipe
	}
	f.opened.Add(1)
	body, err := f.Blobs.Open(ctx, ref)
	if err == nil && f.cut.Load() {
		body = cutBody{body}
	}
	return body, err
}

// cutBody cannot be read beyond its beginning, though it could be opened.
type cutBody struct{ store.Body }

func (c cutBody) ReadAt(p []byte, at int64) (int, error) {
	if at > 0 {
		return 0, io.ErrClosedPipe
	}
	return c.Body.ReadAt(p, at)
}

func startFaulty(t *testing.T) (*server, *faultyStore, *faultyBlobs) {
	kv, blobs := storetest.Open(t)
	index, bodies := &faultyStore{Store: kv}, &faultyBlobs{Blobs: blobs}
	return startServerOn(t, testConfig(), openOn(t, index, bodies)), index, bodies
}

func openOn(t *testing.T, kv store.Store, blobs store.Blobs) *mailstore.Store {
	t.Helper()
	st, err := mailstore.Open(context.Background(), mailstore.Config{}, kv, blobs, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	return st
}

// TestStorageOutage: whatever fails is [SYS/TEMP], a message is never cut off
// so that it looks whole, and QUIT tells the truth.
func TestStorageOutage(t *testing.T) {
	t.Parallel()
	s, index, bodies := startFaulty(t)
	big := message("big", strings.Repeat("0123456789\r\n", 20_000))
	s.add("alice", numbered(3)...)
	s.add("alice", big)
	c := s.login("alice")
	bodies.unreadable.Store(true)
	c.says("STAT", "-ERR [SYS/TEMP] ")
	c.says("LIST", "-ERR [SYS/TEMP] ")
	c.says("RETR 1", "-ERR [SYS/TEMP] ")
	bodies.unreadable.Store(false)
	c.says("STAT", "+OK 4 ")
	bodies.cut.Store(true)
	c.send("RETR 4\r\nNOOP\r\n")
	if got := c.closed(); !strings.HasPrefix(got, "+OK ") || strings.Contains(got, "\r\n.\r\n") || strings.Contains(got, "-ERR") || strings.Contains(got, "Done") {
		t.Errorf("a message that cannot be read to its end: %.100q ... %q", got, got[max(0, len(got)-100):])
	}
	bodies.cut.Store(false)

	c = s.login("alice")
	c.says("DELE 1", "+OK")
	c.says("DELE 2", "+OK")
	index.unwritable.Store(true)
	c.says("QUIT", "-ERR [SYS/TEMP] Some deleted messages were not removed")
	c.closed()
	index.unwritable.Store(false)
	if n := s.left("alice"); n != 4 {
		t.Errorf("%d are left", n)
	}
	index.unreadable.Store(true)
	c = s.dial()
	c.says("USER bob", "+OK") // whose mailboxes are not in memory
	c.says("PASS "+passwords["bob"], "-ERR [SYS/TEMP] ")
	index.unreadable.Store(false)
	c.says("USER bob", "+OK")
	c.says("PASS "+passwords["bob"], "+OK")
}

// TestSizesAreKept: a message is measured once, by whatever session.
func TestSizesAreKept(t *testing.T) {
	t.Parallel()
	s, index, bodies := startFaulty(t)
	s.add("alice", "A: b\n\nc\n", "A: b\r\n\r\nc\r\n", "A: b\r\n\r\nc")
	stat := func(want string, opened int64) {
		t.Helper()
		before := bodies.opened.Load()
		c := s.login("alice")
		c.says("STAT", want)
		c.says("LIST 1", "+OK 1 11")
		c.says("QUIT", "+OK")
		if n := bodies.opened.Load() - before; n != opened {
			t.Errorf("%d bodies were read, not %d", n, opened)
		}
	}
	index.unwritable.Store(true) // what cannot be kept is told all the same
	stat("+OK 3 33", 3)
	index.unwritable.Store(false)
	stat("+OK 3 33", 3)
	stat("+OK 3 33", 0)
	s.add("alice", "A: b\n")
	stat("+OK 4 39", 1)
	c := s.login("alice")
	c.says("DELE 2", "+OK")
	c.says("QUIT", "+OK")
	s.add("alice", "\n")
	stat("+OK 4 30", 1)
	stat("+OK 4 30", 0)
}

// TestPowerCuts: whenever the power goes, messages that nobody marked are
// there, those that were marked are there until QUIT was sent, and gone once
// it was answered.
func TestPowerCuts(t *testing.T) {
	t.Parallel()
	const messages, marked = 200, 160 // of which one commit removes 150
	type cut struct {
		n              int
		left           *storetest.Machine
		sent, answered bool
	}
	m := storetest.NewMachine()
	kv, blobs := m.Open(t)
	s := startServerOn(t, testConfig(), openOn(t, kv, blobs))
	s.add("alice", numbered(messages)...)
	var sent, answered atomic.Bool
	var mu sync.Mutex
	var cuts []cut
	m.OnOp(func(n int) {
		was := answered.Load() // before the cut, so that it surely was
		left := m.Cut(uint64(n))
		now := sent.Load()
		mu.Lock()
		defer mu.Unlock()
		cuts = append(cuts, cut{n, left, now, was})
	})
	c := s.login("alice")
	for i := range marked {
		c.says(fmt.Sprintf("DELE %d", i+1), "+OK")
	}
	sent.Store(true)
	c.says("QUIT", "+OK")
	answered.Store(true)
	s.add("bob", numbered(1)...) // cuts behind the answer
	m.OnOp(nil)
	mu.Lock() // the store goes on, and an operation under way may add one
	all := cuts
	mu.Unlock()
	between := 0
	for _, c := range all {
		kv, blobs := c.left.Open(t)
		after := newServer(t, testConfig(), openOn(t, kv, blobs))
		after.inbox("alice", func(_ *mailstore.Account, box *mailstore.Mailbox) {
			v := box.View()
			n, last := v.Len(), 0
			for i := range n {
				if v.At(i).UID > marked {
					last++
				}
			}
			if last != messages-marked || !c.sent && n != messages || c.answered && n != last {
				t.Errorf("ahead of operation %d (sent %v, answered %v): %d messages, %d that were not marked", c.n, c.sent, c.answered, n, last)
			}
			if n > last && n < messages {
				between++
			}
		})
	}
	t.Logf("%d cuts, %d of them between two commits of one QUIT", len(all), between)
	if len(all) < 3 || between == 0 {
		t.Errorf("%d cuts, of which %d were between the commits of QUIT", len(all), between)
	}
}
