package proxy

import (
	"bufio"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-mail/postern/mail"
)

// TestLeavesBehindAMessage: one that is asked to go while a message is on its
// way, which is cut at the end of a line for a moment, gets all of it first.
func TestLeavesBehindAMessage(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		client, here := net.Pipe()
		there, far := net.Pipe()
		r := &relay{
			client: here, node: &backend{Conn: there, in: bufio.NewReader(there), node: &node{asked: make(chan struct{}, 1), relays: make(map[*relay]struct{})}},
			dialect: IMAP(), idle: time.Hour, write: time.Minute, tail: lineEnd, ended: make(chan struct{}),
		}
		got := make(chan string)
		go func() {
			all, _ := io.ReadAll(client)
			got <- string(all)
		}()
		go func() {
			r.run(nil)
			_, _ = here.Close(), there.Close()
		}()
		const line = "a line of the message\r\n"
		for i := range 20 {
			if _, err := io.WriteString(far, line); err != nil {
				t.Errorf("the relay ended in the middle: %v", err)
				break
			}
			synctest.Wait()
			if i == 0 {
				go r.leave(causeShutdown)
			}
			time.Sleep(lookEvery * 3 / 2)
		}
		if all := <-got; all != strings.Repeat(line, 20)+"* BYE [UNAVAILABLE] Server is shutting down; please connect again\r\n" {
			t.Errorf("the client reads %q", all)
		}
		_, _ = client.Close(), far.Close()
	})
}

// TestWhoWaitsIsWatched: a client that speaks at the very moment at which its
// last answer comes waits for the next one, and somebody looks after the node.
func TestWhoWaitsIsWatched(t *testing.T) {
	t.Parallel()
	r := &relay{dialect: IMAP(), tail: lineEnd, overdue: time.NewTimer(time.Hour)}
	for range 20_000 {
		var both sync.WaitGroup
		both.Go(func() { r.noteSaid([]byte("a NOOP\r\n")) })
		both.Go(func() { r.noteAnswer([]byte("b OK\r\n")) })
		both.Wait()
		if watched := r.overdue.Stop(); watched != r.waiting {
			t.Fatalf("waiting %v, watched %v", r.waiting, watched)
		} else if watched {
			r.overdue.Reset(time.Hour)
		}
	}
}

// TestOriginWithoutZone: a node is told an address that means something to it.
func TestOriginWithoutZone(t *testing.T) {
	t.Parallel()
	s := &session{client: mail.Client{Session: "s", Remote: netip.MustParseAddrPort("[fe80::1%eth0]:5")}, dialogue: &imapSession{}}
	if got := originPOP3(s); got != "SESSION=s TTL=1 ADDR=fe80::1 PORT=5" {
		t.Error(got)
	}
	if got := originID(s); !strings.Contains(got, `"x-originating-ip" "fe80::1"`) {
		t.Error(got)
	}
}
