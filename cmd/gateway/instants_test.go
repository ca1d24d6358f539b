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

// instant is a moment in the conversation about one message: before a line
// passes, counted from MAIL, to the backend or, the last lines of replies only,
// to the gateway.
type instant struct {
	toGateway bool
	line      int
	after     bool // after the line has passed instead, while it is worked on
}

func (i instant) String() string {
	name := "before line"
	if i.after {
		name = "after line"
	}
	if i.toGateway {
		return fmt.Sprintf("%s %d of the replies", name, i.line)
	}
	return fmt.Sprintf("%s %d of the message", name, i.line)
}

// wire stands between gateway and backend, passes on line by line, and does
// something at a chosen instant.
type wire struct {
	backend string

	mu    sync.Mutex
	at    instant
	act   func(*talk)     // what happens then; nil for nothing
	fired chan struct{}   // closed when it happened
	done  map[string]bool // subjects whose delivery the gateway was told of
	lines int             // to the backend, of the last message
	gone  chan struct{}   // closed at the end of the test
}

// replyLines are the replies to MAIL, RCPT and the whole message.
const replyLines = 3

func newWire(t *testing.T, path, backend string) *wire {
	t.Helper()
	w := &wire{backend: backend, done: make(map[string]bool), gone: make(chan struct{})}
	l, err := net.Listen("unix", path)
	must(t, err)
	var all sync.WaitGroup
	all.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() { w.pass(conn) })
		}
	})
	t.Cleanup(func() {
		close(w.gone)
		_ = l.Close()
		all.Wait()
	})
	return w
}

// when has act done once, at an instant of whichever message comes to it.
func (w *wire) when(at instant, act func(*talk)) (fired <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.at, w.act, w.fired = at, act, make(chan struct{})
	return w.fired
}

// isNow does what is to be done at an instant, if this is the one.
func (w *wire) isNow(at instant, k *talk) {
	w.mu.Lock()
	act, fired := w.act, w.fired
	if act == nil || at != w.at {
		w.mu.Unlock()
		return
	}
	w.act = nil
	w.mu.Unlock()
	act(k)
	close(fired)
}

func (w *wire) wasTold(subject string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.done[subject]
}

func (w *wire) messageLines() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.lines
}

// talk is one connection.
type talk struct {
	wire            *wire
	gateway, server net.Conn

	mu      sync.Mutex
	line    int // of the message, the next to pass; negative before MAIL
	reply   int
	subject string
}

func (w *wire) pass(gateway net.Conn) {
	server, err := net.Dial("unix", w.backend)
	if err != nil {
		_ = gateway.Close()
		return
	}
	k := &talk{wire: w, gateway: gateway, server: server, line: -1, reply: -1}
	var both sync.WaitGroup
	both.Go(func() { k.toBackend(); k.hangUp() })
	both.Go(func() { k.toGateway(); k.hangUp() })
	ended := make(chan struct{})
	go func() {
		select {
		case <-w.gone:
			k.hangUp()
		case <-ended:
		}
	}()
	both.Wait()
	close(ended)
}

func (k *talk) hangUp() {
	_ = k.gateway.Close()
	_ = k.server.Close()
}

func (k *talk) toBackend() {
	lines := bufio.NewReader(k.gateway)
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			return
		}
		k.mu.Lock()
		if strings.HasPrefix(line, "MAIL FROM:") {
			k.line, k.reply = 0, 0
		}
		if subject, ok := strings.CutPrefix(line, "Subject: "); ok {
			k.subject = strings.TrimSpace(subject)
		}
		n := k.line
		if k.line >= 0 {
			k.line++
		}
		k.mu.Unlock()
		if n >= 0 {
			k.wire.isNow(instant{line: n}, k)
		}
		if _, err := io.WriteString(k.server, line); err != nil {
			return
		}
		if n >= 0 {
			k.wire.isNow(instant{line: n, after: true}, k)
		}
	}
}

func (k *talk) toGateway() {
	lines := bufio.NewReader(k.server)
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			return
		}
		n := -1
		if k.mu.Lock(); k.reply >= 0 && len(line) > 3 && line[3] == ' ' {
			n = k.reply
			k.reply++
		}
		subject, count := k.subject, k.line
		k.mu.Unlock()
		if n >= 0 {
			k.wire.isNow(instant{toGateway: true, line: n}, k)
		}
		if _, err := io.WriteString(k.gateway, line); err != nil {
			return
		}
		if n == replyLines-1 && strings.HasPrefix(line, "250 ") {
			k.wire.mu.Lock()
			k.wire.done[subject], k.wire.lines = true, count
			k.wire.mu.Unlock()
		}
		if n >= 0 {
			k.wire.isNow(instant{toGateway: true, line: n, after: true}, k)
		}
	}
}

// instants returns those of a message of so many lines, of which three are
// commands: all, or all but most of the lines of the content.
func instants(lines int, all bool) []instant {
	var list []instant
	for n := range lines {
		if all || n <= 3 || n == lines/2+1 || n == lines-1 {
			list = append(list, instant{line: n})
		}
	}
	list = append(list, instant{line: lines - 1, after: true})
	for n := range replyLines {
		list = append(list, instant{toGateway: true, line: n})
	}
	return append(list, instant{toGateway: true, line: replyLines - 1, after: true})
}

// pair is a gateway and a backend, each a process of its own, with the wire
// between them.
type pair struct {
	gateway, backend *site
	wire             *wire
}

func newPair(t *testing.T, cutThrough string) *pair {
	t.Helper()
	gatewayRole := standard[strings.Index(standard, "gateway {"):strings.Index(standard, "backend {")]
	p := &pair{backend: newSite(t, variant(t, standard, gatewayRole, ""), nil)}
	p.gateway = newSite(t, variant(t, standard, backendRole, "",
		`{ address = ["unix:{{.Socket}}"] }`, `{
    address     = ["unix:{{.Dir}}/wire"]
    cut_through = "`+cutThrough+`"
  }`), nil)
	p.wire = newWire(t, filepath.Join(p.gateway.Dir, "wire"), p.backend.Socket)
	p.backend.start()
	p.gateway.start()
	return p
}

// send sends a message, in the midst of which something may happen, and
// reports whether it was accepted.
func (p *pair) send(subject string) bool {
	return p.gateway.inject("a@elsewhere.example", []string{"bob@example.com"}, subject) == nil
}

// TestKilledAtEachInstant: at each instant of the conversation between gateway
// and backend the connection is cut, the gateway killed or the backend killed,
// with mail that is brought there while its client waits and with mail out of
// the queue. Every message that was accepted is in the mailbox once; those
// whose client got no answer are there once or not at all.
func TestKilledAtEachInstant(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"auto", "never"} {
		for _, victim := range []string{"connection", "gateway", "backend"} {
			t.Run(mode+"/"+victim, func(t *testing.T) {
				t.Parallel()
				killAtEachInstant(t, newPair(t, mode), victim)
			})
		}
	}
}

func killAtEachInstant(t *testing.T, p *pair, victim string) {
	told := func(subject string) {
		t.Helper()
		testenv.Eventually(t, time.Minute, func() error {
			if !p.wire.wasTold(subject) {
				return fmt.Errorf("%q was accepted and not delivered", subject)
			}
			return nil
		})
	}
	if !p.send("undisturbed") {
		t.Fatal("a message was not accepted")
	}
	told("undisturbed")
	accepted := map[string]bool{"undisturbed": true}
	for _, at := range instants(p.wire.messageLines(), victim == "connection") {
		subject := at.String()
		act := (*talk).hangUp
		dead := map[string]*site{"gateway": p.gateway, "backend": p.backend}[victim]
		if dead != nil {
			act = func(*talk) { dead.proc.Kill() }
		}
		fired := p.wire.when(at, act)
		answered := make(chan bool, 1)
		go func() { answered <- p.send(subject) }()
		select {
		case <-fired:
		case <-time.After(time.Minute):
			t.Fatalf("%s: never came", at)
		}
		if dead != nil {
			dead.start()
		}
		if accepted[subject] = <-answered; accepted[subject] {
			told(subject)
		} else if victim != "gateway" {
			t.Errorf("%s: not accepted, although the gateway lives", at)
		}
	}
	got := count(t, p.backend, "bob")
	for subject, yes := range accepted {
		if n := got[subject]; n > 1 || yes && n != 1 {
			t.Errorf("%s (accepted: %t): %d times in the mailbox", subject, yes, n)
		}
	}
}
