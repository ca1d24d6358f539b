package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/testenv"
)

// cutter stands between gateway and backend and can drop a connection in
// place of a chosen reply.
type cutter struct {
	backend string

	mu  sync.Mutex
	at  int // the reply to be lost, counted from the greeting; negative for none
	cut int // connections cut so far
}

// newCutter listens at path and passes on to the socket backend.
func newCutter(t *testing.T, path, backend string) *cutter {
	t.Helper()
	c := &cutter{backend: backend, at: -1}
	l, err := net.Listen("unix", path)
	must(t, err)
	var all sync.WaitGroup
	all.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() { c.pass(conn) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		all.Wait()
	})
	return c
}

// loseReply has the next connection end in place of its nth reply.
func (c *cutter) loseReply(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = n
}

func (c *cutter) cuts() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cut
}

// lost tells whether the nth reply is the one to be lost.
func (c *cutter) lost(n int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n != c.at {
		return false
	}
	c.at = -1
	c.cut++
	return true
}

func (c *cutter) pass(client net.Conn) {
	defer func() { _ = client.Close() }()
	server, err := net.Dial("unix", c.backend)
	if err != nil {
		return
	}
	defer func() { _ = server.Close() }()
	go func() {
		_, _ = io.Copy(server, client) // ends with either side
		_ = server.Close()
	}()
	replies := bufio.NewReader(server)
	for n := 0; ; {
		line, err := replies.ReadString('\n')
		if err != nil {
			return
		}
		last := len(line) > 3 && line[3] == ' '
		if last && c.lost(n) {
			return
		}
		if _, err := io.WriteString(client, line); err != nil {
			return
		}
		if last {
			n++
		}
	}
}

// TestLostReplies: whichever reply of the backend is lost on its way to the
// gateway, the client is told 250 and the message is in the mailbox once.
func TestLostReplies(t *testing.T) {
	t.Parallel()
	text := strings.Replace(standard, `address = ["unix:{{.Socket}}"]`, `address = ["unix:{{.Dir}}/cut.sock"]`, 1)
	if text == standard {
		t.Fatal("the standard configuration has another target")
	}
	s := newSite(t, text, nil)
	c := newCutter(t, filepath.Join(s.Dir, "cut.sock"), s.Socket)
	s.start()
	const greeting, final = 0, 4 // LHLO, MAIL and RCPT are between
	var subjects []string
	for lost := final; lost >= greeting; lost-- {
		c.loseReply(lost)
		for n := 1; c.cuts() < final-lost+1; n++ {
			if n%5 == 0 { // connections that are open are past the reply: a new gateway makes its own
				s.proc.Kill()
				s.start()
			}
			subject := fmt.Sprintf("reply %d, message %d", lost, n)
			must(t, s.inject("a@elsewhere.example", []string{"bob@example.com"}, subject))
			subjects = append(subjects, subject)
		}
	}
	testenv.Eventually(t, time.Minute, func() error {
		got := count(t, s, "bob")
		for _, subject := range subjects {
			if got[subject] != 1 {
				return fmt.Errorf("%q is %d times in the mailbox", subject, got[subject])
			}
		}
		return nil
	})
	for subject, n := range count(t, s, "bob") {
		if n != 1 {
			t.Errorf("%q is %d times in the mailbox", subject, n)
		}
	}
}

// TestDeliveredWhileTheClientWaits: mail is in the mailbox when the client is
// told, from the first message after a start on, and was never queued.
func TestDeliveredWhileTheClientWaits(t *testing.T) {
	t.Parallel()
	s := newSite(t, standard, nil).start()
	for n := range 20 {
		subject := fmt.Sprintf("number %d", n)
		must(t, s.inject("a@elsewhere.example", []string{"bob@example.com"}, subject))
		if got := count(t, s, "bob")[subject]; got != 1 {
			t.Fatalf("%q is %d times in the mailbox when its client was answered", subject, got)
		}
	}
	// Where nobody can deliver, the queue takes over.
	must(t, s.inject("a@elsewhere.example", []string{"erin@example.com"}, "to be forwarded"))
	if out := s.run("queue", "list"); !strings.Contains(out, "erin@elsewhere.example") {
		t.Errorf("not queued:\n%s", out)
	}
}
