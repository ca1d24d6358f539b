package imapd

import (
	"context"
	"io"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/backend/mailstore"
	"github.com/postern-mail/postern/store"
	"github.com/postern-mail/postern/store/storetest"
)

// faultyBlobs fails on demand.
type faultyBlobs struct {
	store.Blobs
	full, unreadable, cut atomic.Bool
}

func (f *faultyBlobs) Stage(ctx context.Context, r io.Reader) (store.Staged, error) {
	if f.full.Load() {
		_, _ = io.CopyN(io.Discard, r, 10)
		return nil, store.ErrFull
	}
	return f.Blobs.Stage(ctx, r)
}

func (f *faultyBlobs) Open(ctx context.Context, ref store.Ref) (store.Body, error) {
	if f.unreadable.Load() {
		return nil, io.ErrClosedPipe
	}
	body, err := f.Blobs.Open(ctx, ref)
	if err == nil && f.cut.Load() {
		body = cutBody{body}
	}
	return body, err
}

// cutBody cannot be read, though it could be opened.
type cutBody struct{ store.Body }

func (cutBody) Read([]byte) (int, error)          { return 0, io.ErrClosedPipe }
func (cutBody) ReadAt([]byte, int64) (int, error) { return 0, io.ErrClosedPipe }

func startFaulty(t *testing.T) (*server, *faultyBlobs) {
	kv, blobs := storetest.Open(t)
	faulty := &faultyBlobs{Blobs: blobs}
	st, err := mailstore.Open(context.Background(), mailstore.Config{}, kv, faulty, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	return startServerOn(t, testConfig(), st), faulty
}

// A store that fails is an outage: the command says so, the rest of its
// octets are not commands, and the session goes on.
func TestStorageOutage(t *testing.T) {
	t.Parallel()
	s, faulty := startFaulty(t)
	c := s.login("alice")
	text := message("one", strings.Repeat("0123456789\r\n", 3000))
	c.append("INBOX", "", text)
	faulty.full.Store(true)
	c.fails("APPEND INBOX {20000+}\r\n"+strings.Repeat("x NOOP\r\nx CREATE y\r\n", 1000)+" {5+}\r\nabcde", "NO [UNAVAILABLE]")
	c.fails("APPEND INBOX {5+}\r\nabcde", "NO [UNAVAILABLE]")
	faulty.full.Store(false)
	c.append("INBOX", "", text)
	c.ok("SELECT INBOX")
	faulty.unreadable.Store(true)
	c.fails("FETCH 1 BODY.PEEK[]", "NO [")
	c.fails("SEARCH BODY x", "NO [")
	c.ok("FETCH 1:2 (FLAGS ENVELOPE BODY.PEEK[HEADER])") // needs no body
	faulty.unreadable.Store(false)
	c.ok("FETCH 2 BODY.PEEK[]")

	// A body that ends inside its literal ends the session: nothing true can
	// be sent in its place.
	faulty.cut.Store(true)
	c.send("z FETCH 1 BODY.PEEK[]\r\nzz NOOP\r\n")
	for _, line := range c.closed() {
		if strings.HasPrefix(line, "z") {
			t.Errorf("after a body that cannot be read: %q", line)
		}
	}
}

func TestQuota(t *testing.T) {
	t.Parallel()
	s := startServer(t, testConfig())
	c := s.login("small")
	c.append("INBOX", "", message("fits", "x"))
	c.fails("APPEND INBOX {900}", "NO [OVERQUOTA]")
	c.fails("APPEND INBOX {900+}\r\n"+strings.Repeat("a CREATE y\r\n", 75), "NO [OVERQUOTA]")
	c.append("INBOX", "", message("fits", "x"))
}

// An idle session must cost little: ten thousand of them are one small server.
func TestIdleSessionsAreSmall(t *testing.T) {
	const sessions, limit = 200, 32 << 10
	cfg := testConfig()
	cfg.MaxSessionsPerClient = 2 * sessions
	s := startServer(t, cfg)
	first := s.login("alice")
	first.append("INBOX", "", message("m", "x"))
	used := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapInuse + m.StackInuse
	}
	before := used()
	for range sessions {
		c := s.login("alice")
		c.ok("SELECT INBOX")
		c.ok("FETCH 1 (FLAGS BODY[])")
		c.send("i IDLE\r\n")
		c.line()
		c.r.Reset(c.conn)
	}
	each := (int64(used()) - int64(before)) / sessions
	t.Logf("%d octets for each idle session, its client's %d octets of buffer included", each, 4096)
	if each > limit {
		t.Errorf("an idle session costs %d octets, more than %d", each, limit)
	}
}
