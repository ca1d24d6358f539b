package imapd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"

	"github.com/postern-mail/postern/backend/mailstore"
	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/store"
	"github.com/postern-mail/postern/store/storetest"
)

// losingBlobs has lost what it once took, when told so.
type losingBlobs struct {
	store.Blobs
	lost atomic.Bool
}

func (l *losingBlobs) Open(ctx context.Context, ref store.Ref) (store.Body, error) {
	if l.lost.Load() {
		return nil, fmt.Errorf("body %x: %w", ref.Hash, store.ErrNotFound)
	}
	return l.Blobs.Open(ctx, ref)
}

// A body that is lost is not a message without the text: a search that needs it
// says that it cannot be done.
func TestSearchOfLostBodies(t *testing.T) {
	t.Parallel()
	kv, blobs := storetest.Open(t)
	losing := &losingBlobs{Blobs: blobs}
	st, err := mailstore.Open(context.Background(), mailstore.Config{}, kv, losing, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	s := startServerOn(t, testConfig(), st)
	c := s.login("alice")
	c.append("INBOX", "", message("one", "needle"))
	c.ok("SELECT INBOX")
	losing.lost.Store(true)
	for _, command := range []string{
		"SEARCH BODY needle", "SEARCH NOT TEXT needle", "UID SEARCH RETURN (COUNT) BODY needle", "SORT (ARRIVAL) UTF-8 BODY needle",
		"THREAD REFERENCES UTF-8 BODY needle", "ESEARCH IN (PERSONAL) BODY needle",
	} {
		c.fails(command, "NO [UNAVAILABLE]")
	}
	losing.lost.Store(false)
	expect(t, "found again", c.ok("SEARCH BODY needle"), "* SEARCH 1")
}

// A context that cannot be kept is given up with a line of its own, also when
// some of the change was known already.
func TestContextInAnOutage(t *testing.T) {
	t.Parallel()
	s, faulty := startFaulty(t)
	c, b := s.login("alice"), s.login("alice")
	c.fill("INBOX", 3)
	c.ok("SELECT INBOX")
	b.ok("SELECT INBOX")
	c.send("B01 UID SORT RETURN (UPDATE ALL) (SUBJECT) UTF-8 UNSEEN\r\n")
	c.until("B01")
	b.ok(`STORE 2 +FLAGS.SILENT (\Seen)`)
	// A header too long to be kept beside the index has to be read.
	b.append("INBOX", "", "X-Long: "+strings.Repeat("long ", 300_000)+"\r\n"+message("m2", "text"))
	faulty.unreadable.Store(true)
	got := c.ok("NOOP")
	for _, line := range got {
		if strings.Contains(line, "ESEARCH") {
			t.Errorf("told without its end: %q", line)
		}
	}
	if last := got[len(got)-1]; !strings.HasPrefix(last, `* NO [NOUPDATE "B01"]`) {
		t.Errorf("in an outage: %q", got)
	}
}

// slowBody is read a piece at a time, and tells how often.
type slowBody struct {
	store.Body
	blobs *slowBlobs
}

func (b slowBody) ReadAt(p []byte, at int64) (int, error) {
	if b.blobs.armed.Load() && b.blobs.reads.Add(1) == 1 {
		close(b.blobs.began)
		<-b.blobs.goOn
	}
	return b.Body.ReadAt(p, at)
}

type slowBlobs struct {
	store.Blobs
	armed       atomic.Bool
	reads       atomic.Int64
	began, goOn chan struct{}
}

func (b *slowBlobs) Open(ctx context.Context, ref store.Ref) (store.Body, error) {
	body, err := b.Blobs.Open(ctx, ref)
	if err != nil {
		return nil, err
	}
	return slowBody{body, b}, nil
}

// connected are the two ends of a connection.
func connected(t *testing.T) (near, far *net.TCPConn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	client, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	server, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return client.(*net.TCPConn), server.(*net.TCPConn)
}

// reset returns nil once the other end has reset the connection. Unlike a read,
// it leaves that for others to see.
func reset(conn *net.TCPConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	found := errors.New("the connection is there")
	err = raw.Control(func(fd uintptr) {
		fds := []unix.PollFd{{Fd: int32(fd)}}
		if _, err := unix.Poll(fds, 0); err == nil && fds[0].Revents&unix.POLLERR != 0 {
			found = nil
		}
	})
	return errors.Join(found, err)
}

// Many keys about one large message end with the connection, and not when all of
// them are decided.
func TestSearchOfNobodyInALargeMessage(t *testing.T) {
	t.Parallel()
	kv, blobs := storetest.Open(t)
	slow := &slowBlobs{Blobs: blobs, began: make(chan struct{}), goOn: make(chan struct{})}
	st, err := mailstore.Open(context.Background(), mailstore.Config{}, kv, slow, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	s := newServer(t, testConfig(), st)
	near, far := connected(t)
	ended := make(chan struct{})
	go func() { defer close(ended); s.ServeConn(context.Background(), far) }()
	c := newClient(t, near)
	c.line()
	c.ok("LOGIN alice " + passwords["alice"])
	const octets, keys = 1 << 20, 100
	c.append("INBOX", "", message("large", strings.Repeat("0123456789abcde\n", octets/16)))
	c.ok("SELECT INBOX")
	slow.armed.Store(true)
	c.send("z SEARCH" + strings.Repeat(" NOT BODY needle", keys) + "\r\n")
	<-slow.began
	_ = near.SetLinger(0) // a reset, at once
	_ = near.Close()
	// A program that some test starts just now may hold the connection open.
	testenv.Eventually(t, soon, func() error { return reset(far) })
	close(slow.goOn)
	<-ended
	if n := slow.reads.Load(); n >= keys*octets/(32<<10) {
		t.Errorf("all was read, in %d pieces", n)
	}
}
