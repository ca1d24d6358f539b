package imapd

import (
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/backend/mailstore"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/store"
	"github.com/postern-mail/postern/store/storetest"
)

// widest remembers the longest write to a connection.
type widest struct {
	net.Conn
	octets atomic.Int64
}

func (w *widest) Write(p []byte) (int, error) {
	if n := int64(len(p)); n > w.octets.Load() {
		w.octets.Store(n)
	}
	return w.Conn.Write(p)
}

// TestLargeResponseInSteps: one command asks for the same large header many
// times; the server does not gather all of it before it writes.
func TestLargeResponseInSteps(t *testing.T) {
	t.Parallel()
	s := newServer(t, testConfig(), openStore(t))
	near, far := net.Pipe()
	wide := &widest{Conn: far}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.ServeConn(context.Background(), wide)
	}()
	c := newClient(t, near)
	c.line()
	c.ok("LOGIN alice secret")
	header := strings.Repeat("X-Filler: "+strings.Repeat("x", 900)+"\r\n", 400)
	c.append("INBOX", "", header+"\r\nbody\r\n")
	c.ok("SELECT INBOX")
	c.tag++
	tag := fmt.Sprintf("t%d", c.tag)
	c.send(tag + " FETCH 1 (" + strings.TrimSpace(strings.Repeat("BODY.PEEK[HEADER] ", 100)) + ")\r\n")
	untagged, tagged := c.until(tag)
	if len(untagged) != 1 || len(untagged[0]) < 100*len(header) || !strings.HasPrefix(tagged, "OK") {
		t.Errorf("%d responses, %s", len(untagged), tagged)
	}
	if n := wide.octets.Load(); n > 2*bodyStepOctets {
		t.Errorf("the server gathered %d octets before it wrote", n)
	}
	c.ok("LOGOUT")
	_, _ = io.Copy(io.Discard, near)
	<-ended
}

func TestSessionsPerAccount(t *testing.T) {
	t.Parallel()
	cfg := testConfig()
	cfg.MaxSessionsPerAccount = 2
	s := startServer(t, cfg)
	first := s.login("alice")
	s.login("alice")
	third := s.dial()
	third.line()
	for range 2 * cfg.MaxSessionsPerAccount { // not a failed login
		third.fails("LOGIN alice secret", "NO [LIMIT]")
	}
	third.fails("AUTHENTICATE PLAIN AGFsaWNlAHNlY3JldA==", "NO [LIMIT]")
	s.login("bob")
	first.ok("LOGOUT")
	first.closed()
	for { // the server counts a session until it has ended
		if _, tagged := third.cmd("LOGIN alice secret"); strings.HasPrefix(tagged, "OK") {
			break
		}
	}
}

// TestMultiAppendOverQuota: a message that the ones before it leave no room
// for is refused before its octets are asked for.
func TestMultiAppendOverQuota(t *testing.T) {
	t.Parallel()
	s := startServer(t, testConfig())
	c := s.login("small")
	text := message("m", strings.Repeat("x", 300))
	c.send(fmt.Sprintf("a APPEND INBOX {%d+}\r\n%s {%d+}\r\n%s {%d}\r\n", len(text), text, len(text), text, len(text)))
	if line := c.line(); !strings.HasPrefix(line, "a NO [OVERQUOTA]") {
		t.Errorf("third message: %s", line)
	}
	c.ok("NOOP")
	c.fails("STATUS INBOX (MESSAGES)", "OK")
}

// TestDelimiterAtTheEnd: "x/" is the mailbox "x" in every command.
func TestDelimiterAtTheEnd(t *testing.T) {
	t.Parallel()
	s := startServer(t, testConfig())
	c := s.login("alice")
	c.ok("CREATE x/")
	c.ok("SELECT x/")
	c.ok("SUBSCRIBE inbox/")
	expect(t, "delete", c.ok("DELETE x/"), "* OK [CLOSED] Selected mailbox is being deleted")
	c.fails("DELETE INBOX/", "NO [CANNOT]")
	c.fails("CREATE /", "NO [CANNOT]")
	if found := s.audit.Find(mail.EventMailbox); found[0].Mailbox != "x" {
		t.Errorf("audited: %+v", found)
	}
}

// failing refuses commits while countdown is below zero.
type failing struct {
	store.Store
	countdown atomic.Int64
}

func (f *failing) Commit(ctx context.Context, b *store.Batch) (store.Result, error) {
	if f.countdown.Add(-1) == 0 {
		return store.Result{}, store.ErrFull
	}
	return f.Store.Commit(ctx, b)
}

// TestAuditOfHalfAnExpunge: what was expunged before the store failed is in
// the audit, and so is the failure.
func TestAuditOfHalfAnExpunge(t *testing.T) {
	t.Parallel()
	kv, blobs := storetest.Open(t)
	faults := &failing{Store: kv}
	st, err := mailstore.Open(context.Background(), mailstore.Config{}, faults, blobs, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	s := startServerOn(t, testConfig(), st)
	for _, tt := range []struct{ command, detail string }{
		{"EXPUNGE", "expunge"}, {"MOVE 1:* Trash", "move to Trash"},
	} {
		c := s.login("bob")
		c.ok("SELECT INBOX")
		for range 10 {
			c.send("a APPEND INBOX")
			for range 20 {
				c.send(" (\\Deleted) {3+}\r\nabc")
			}
			c.send("\r\n")
			c.until("a")
		}
		before := len(s.audit.Find(mail.EventExpunge))
		faults.countdown.Store(2)
		untagged, tagged := c.cmd(tt.command)
		if !strings.HasPrefix(tagged, "NO [UNAVAILABLE]") || len(untagged) < 50 {
			t.Errorf("%s: %d responses, %s", tt.command, len(untagged), tagged)
		}
		found := s.audit.Find(mail.EventExpunge)[before:]
		if len(found) != 2 || found[0].Result != "ok" || found[0].UIDs == "" || found[0].Detail != tt.detail ||
			found[1].Result != "refused" || found[1].UIDs != "" {
			t.Errorf("%s: audited %+v", tt.command, found)
		}
		faults.countdown.Store(0)
		c.ok("STORE 1:* +FLAGS.SILENT (\\Deleted)")
		c.ok("CLOSE")
		c.ok("LOGOUT")
	}
}

// TestNumbersOfUIDSearch: the sequence numbers in UID SEARCH are those the
// client had when it sent them, whatever was expunged since.
func TestNumbersOfUIDSearch(t *testing.T) {
	t.Parallel()
	s := startServer(t, testConfig())
	one, other := s.login("alice"), s.login("alice")
	for range 3 {
		one.append("INBOX", "", "x\r\n\r\ny\r\n")
	}
	one.ok("SELECT INBOX")
	other.ok("SELECT INBOX")
	other.ok(`STORE 1 +FLAGS (\Deleted)`)
	one.ok("NOOP")
	other.ok("EXPUNGE")
	expect(t, "UID SEARCH", one.ok("UID SEARCH 2"), "* SEARCH 2", "* 1 EXPUNGE")
	other.ok(`STORE 1:2 +FLAGS (\Deleted)`)
	other.ok("EXPUNGE")
	expect(t, "UID SEARCH of one gone", one.ok("UID SEARCH 2:*"), "* SEARCH 3", "* 2 EXPUNGE", "* 1 EXPUNGE")
}
