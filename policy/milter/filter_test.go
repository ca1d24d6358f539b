package milter

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/policy"
)

// filter is a milter that says what it is told to, and notes what it hears.
type filter struct {
	t       testing.TB
	address string // of its unix socket
	// options is its answer to the options; nil agrees to version 6, with all
	// actions and every step.
	options func(offer []byte) []byte
	// says are the packets it answers a command with, in the order of the
	// commands of the kind; when they are used up, and where there are none,
	// it continues. A nil slice closes the connection.
	says map[byte][][]string
	// silent are commands it does not answer.
	silent string

	mu          sync.Mutex
	counts      map[byte]int // of the commands, on all connections
	heard       []string
	connections int
}

func newFilter(t testing.TB, f *filter) *filter {
	t.Helper()
	f.t = t
	f.address = testenv.TempDir(t) + "/f"
	l, err := net.Listen("unix", f.address)
	if err != nil {
		t.Fatal(err)
	}
	var sessions sync.WaitGroup
	conns := make(map[net.Conn]bool)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				break
			}
			f.mu.Lock()
			f.connections++
			conns[c] = true
			f.mu.Unlock()
			sessions.Go(func() {
				defer c.Close()
				f.serve(c)
			})
		}
		sessions.Wait()
	}()
	t.Cleanup(func() {
		l.Close()
		f.mu.Lock()
		for c := range conns {
			c.Close()
		}
		f.mu.Unlock()
		<-done
	})
	return f
}

// say is a packet as a filter sends it.
func say(command byte, data string) string { return string(command) + data }

func (f *filter) serve(c net.Conn) {
	r := bufio.NewReader(c)
	for {
		command, data, err := readPacket(r, nil)
		if err != nil {
			return
		}
		f.note(command, data)
		switch command {
		case cmdNegotiate:
			answer := negotiateReply(6, uint32(leadingSpace-1)&0x1ff, 0)
			if f.options != nil {
				answer = f.options(data)
			}
			if answer == nil || send(c, say(cmdNegotiate, string(answer))) != nil {
				return
			}
			continue
		case cmdMacro, cmdAbort, cmdQuitNew:
			continue
		case cmdQuit:
			return
		}
		if strings.IndexByte(f.silent, command) >= 0 {
			continue
		}
		replies := f.next(command)
		if replies == nil || send(c, replies...) != nil {
			return
		}
	}
}

// next returns what to say to a command.
func (f *filter) next(command byte) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.counts == nil {
		f.counts = make(map[byte]int)
	}
	n := f.counts[command]
	f.counts[command]++
	if all := f.says[command]; n < len(all) {
		return all[n]
	}
	return []string{"c"}
}

func send(c net.Conn, packets ...string) error {
	for _, p := range packets {
		if raw, ok := strings.CutPrefix(p, "raw:"); ok {
			if _, err := io.WriteString(c, raw); err != nil {
				return err
			}
			continue
		}
		if _, err := c.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(p))), p...)); err != nil {
			return err
		}
	}
	return nil
}

func negotiateReply(version, actions, steps uint32) []byte {
	var b []byte
	for _, n := range []uint32{version, actions, steps} {
		b = binary.BigEndian.AppendUint32(b, n)
	}
	return b
}

// note keeps what was heard, legibly.
func (f *filter) note(command byte, data []byte) {
	line := string(command)
	if len(data) > 0 {
		text := strings.TrimSuffix(strings.ReplaceAll(string(data), "\x00", "|"), "|")
		if len(text) > 300 {
			text = fmt.Sprintf("%.20s...(%d)", text, len(data))
		}
		line += " " + text
	}
	if command == cmdNegotiate {
		line = "O"
	}
	f.mu.Lock()
	f.heard = append(f.heard, line)
	f.mu.Unlock()
}

// all returns what was heard so far.
func (f *filter) all() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.heard)
}

// dialled returns how many connections there were.
func (f *filter) dialled() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.connections
}

// has reports whether a line was heard.
func (f *filter) has(line string) bool { return slices.Contains(f.all(), line) }

// waitFor waits until a line was heard that nobody answers.
func (f *filter) waitFor(line string) {
	f.t.Helper()
	testenv.Eventually(f.t, time.Minute, func() error {
		if !f.has(line) {
			return fmt.Errorf("%q was not heard: %q", line, f.all())
		}
		return nil
	})
}

// milter returns a client of the filter.
func (f *filter) milter(change func(*Config)) *Milter {
	f.t.Helper()
	cfg := Config{
		Name: "test", Network: "unix", Address: f.address, Hostname: "mx.example.com", Software: "Postern",
		MaxIdle:        16,
		ConnectTimeout: time.Minute, CommandTimeout: time.Minute, ContentTimeout: time.Minute,
	}
	if change != nil {
		change(&cfg)
	}
	m, err := New(cfg, hclog.NewNullLogger(), nil)
	if err != nil {
		f.t.Fatal(err)
	}
	run(f.t, m)
	return m
}

// run keeps a Milter until the test ends.
func run(t testing.TB, m *Milter) {
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// letter is a message in memory.
type letter struct {
	fields []mail.Field
	ours   int
	body   string
	read   error // after the body
}

func (l *letter) Fields() []mail.Field { return l.fields }
func (l *letter) Ours() int            { return l.ours }
func (l *letter) BodyOctets() int64    { return int64(len(l.body)) }

func (l *letter) Body() io.ReadSeeker {
	if l.read != nil {
		return brokenReader{strings.NewReader(l.body), l.read}
	}
	return strings.NewReader(l.body)
}

type brokenReader struct {
	*strings.Reader
	err error
}

func (b brokenReader) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if errors.Is(err, io.EOF) {
		err = b.err
	}
	return n, err
}

func (l *letter) Apply(e mail.Edit) error {
	switch {
	case e.Insert != nil && e.Insert.At <= len(l.fields):
		l.fields = slices.Insert(l.fields, e.Insert.At, e.Insert.Field)
	case e.Change != nil && e.Change.At < len(l.fields) && e.Change.Field == "":
		l.fields = slices.Delete(l.fields, e.Change.At, e.Change.At+1)
	case e.Change != nil && e.Change.At < len(l.fields):
		l.fields[e.Change.At] = e.Change.Field
	case e.Body != nil:
		b, err := io.ReadAll(e.Body)
		l.body = string(b)
		return err
	case e.OfEnvelope():
	default:
		return fmt.Errorf("cannot apply %+v", e)
	}
	return nil
}

func newLetter() *letter {
	return &letter{
		fields: []mail.Field{"Received: by mx.example.com", "From: a@sender.example", "Subject: one\r\n two", "X-Tag: 1", "X-Tag: 2"},
		ours:   1, body: "Hello\r\n",
	}
}

func client() mail.Client {
	return mail.Client{
		Session: "s1", Listener: "mx", Remote: netip.MustParseAddrPort("192.0.2.7:4711"), Local: netip.MustParseAddrPort("198.51.100.1:25"),
		Hostname: "client.example", Helo: "helo.example", Extended: true,
	}
}

func address(s string) mail.Address {
	a, err := mail.ParseAddress(s)
	if err != nil {
		panic(err)
	}
	return a
}

// dialogue walks an attendance through a message as the chain does, and stops
// at the first verdict that refuses the session or the message.
type dialogue struct {
	t       testing.TB
	a       policy.Attendance
	tx      mail.Transaction
	message *letter
	// verdicts are those of the steps, the last one that of the content.
	verdicts []mail.Verdict
}

func (m *Milter) dialogue(t testing.TB) *dialogue {
	d := &dialogue{t: t, a: m.Stage(false).Attend(), message: newLetter()}
	d.tx = mail.Transaction{Client: client(), Envelope: mail.Envelope{ReversePath: address("a@sender.example"), DeclaredOctets: 100, Body: mail.Body8BitMIME}}
	t.Cleanup(d.a.Close)
	return d
}

func (d *dialogue) step(phase mail.Phase) mail.Verdict {
	d.t.Helper()
	d.tx.Phase = phase
	if d.tx.Client.Helo = client().Helo; phase == mail.PhaseConnect {
		d.tx.Client.Helo = ""
	}
	if phase == mail.PhaseRecipient {
		d.tx.QueueID = "Q1"
		d.tx.Recipient = &mail.Recipient{Address: address("b@example.com"), Notify: mail.NotifyFailure | mail.NotifyDelay, Original: "rfc822;b+x@example.com"}
		defer func() { d.tx.Recipient = nil }()
	}
	v, err := d.a.Step(context.Background(), &d.tx)
	if err != nil {
		d.t.Fatalf("step %v: %v", phase, err)
	}
	d.verdicts = append(d.verdicts, v)
	return v
}

func (d *dialogue) content() mail.Verdict {
	d.t.Helper()
	d.tx.Phase, d.tx.Message = mail.PhaseEndOfData, d.message
	v, err := d.a.Content(context.Background(), &d.tx)
	if err != nil {
		d.t.Fatalf("content: %v", err)
	}
	for _, e := range v.Edits {
		if err := d.message.Apply(e); err != nil {
			d.t.Fatalf("apply: %v", err)
		}
	}
	d.tx.Message = nil
	d.verdicts = append(d.verdicts, v)
	return v
}

// transaction goes from MAIL to the message's end.
func (d *dialogue) transaction() mail.Verdict {
	d.t.Helper()
	for _, phase := range []mail.Phase{mail.PhaseMail, mail.PhaseRecipient, mail.PhaseData} {
		if v := d.step(phase); v.Action == mail.Reject {
			d.a.Abort()
			return v
		}
	}
	return d.content()
}

// all goes through one session with one message.
func (d *dialogue) all() mail.Verdict {
	d.t.Helper()
	for _, phase := range []mail.Phase{mail.PhaseConnect, mail.PhaseHelo} {
		if v := d.step(phase); v.Action == mail.Reject {
			return v
		}
	}
	return d.transaction()
}
