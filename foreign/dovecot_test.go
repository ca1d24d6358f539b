package foreign

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/foreign/imap"
	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/store"
	"github.com/postern-mail/postern/store/storetest"
)

const person = "anna@example.com"

// patience bounds each single wait: what takes longer hangs, however many share
// the machine.
const patience = 2 * time.Minute

// events keeps what was audited.
type events struct {
	mu  sync.Mutex
	all []mail.Event
}

func (e *events) Record(one mail.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.all = append(e.all, one)
}

func (e *events) count(result string) (n int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, one := range e.all {
		if one.Result == result {
			n++
		}
	}
	return n
}

// site is a mirror of two servers and one account.
type site struct {
	t       *testing.T
	cfg     Config
	kv      store.Store
	audit   *events
	people  [2]*imap.Client // a mail program on each side
	address [2]string       // of the servers themselves
}

// newSite starts two Dovecots. change may alter the configuration.
func newSite(t *testing.T, change func(*Config)) *site {
	t.Helper()
	l, r := testenv.Dovecot(t, person), testenv.Dovecot(t, person)
	return siteOf(t, [2]string{l.IMAP, r.IMAP}, l.Password, change)
}

func siteOf(t *testing.T, address [2]string, password string, change func(*Config)) *site {
	t.Helper()
	kv, _ := storetest.Open(t)
	s := &site{t: t, kv: kv, audit: &events{}, address: address}
	acct := Account{Name: person}
	for side := range sides {
		acct.Logins[side] = Login{person, password}
		s.cfg.Servers[side] = Server{Address: address[side], Protection: Cleartext, Timeout: patience}
	}
	s.cfg.Name = "test"
	s.cfg.RetryMin, s.cfg.Settle = 20*time.Millisecond, 300*time.Millisecond
	s.cfg.Accounts = func(context.Context) ([]Account, error) { return []Account{acct}, nil }
	if change != nil {
		change(&s.cfg)
	}
	for _, side := range sides {
		s.people[side] = s.person(side)
	}
	return s
}

// person logs a mail program in.
func (s *site) person(side Side) *imap.Client {
	s.t.Helper()
	ctx := s.t.Context()
	c, err := imap.Dial(ctx, s.address[side], nil, patience)
	s.must(err)
	acct, err := s.cfg.Accounts(ctx)
	s.must(err)
	s.must(c.Login(ctx, acct[0].Logins[side].Name, "", acct[0].Logins[side].Password))
	s.must(c.Enable(ctx))
	s.t.Cleanup(func() { _ = c.Close() })
	return c
}

func (s *site) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) agent() *Agent {
	s.t.Helper()
	a, err := New([]Config{s.cfg}, Deps{Store: s.kv, Audit: s.audit, Log: hclog.New(&hclog.LoggerOptions{Output: testWriter{s.t}, Level: hclog.Debug})})
	s.must(err)
	return a
}

// testWriter logs to the test while it runs.
type testWriter struct{ t *testing.T }

func (w testWriter) Write(b []byte) (int, error) {
	if w.t.Context().Err() == nil {
		w.t.Log(strings.TrimRight(string(b), "\n"))
	}
	return len(b), nil
}

// once runs one worker until both sides are in step.
func (s *site) once() *worker {
	s.t.Helper()
	a := s.agent()
	accounts, err := s.cfg.Accounts(s.t.Context())
	s.must(err)
	w := a.worker(a.mirrors[0], accounts[0], a.deps.Log)
	s.must(w.session(s.t.Context(), func() bool { return true }))
	return w
}

// start runs an agent until the test ends or stop is called.
func (s *site) start() (a *Agent, stop func()) {
	s.t.Helper()
	a = s.agent()
	ctx, cancel := context.WithCancel(s.t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := a.Run(ctx); err != nil {
			s.t.Error(err)
		}
	}()
	stop = func() { cancel(); <-ended }
	s.t.Cleanup(stop)
	return a, stop
}

// letter is a message that tells itself apart.
func letter(name string) string {
	return fmt.Sprintf("From: a@example.com\r\nTo: %s\r\nSubject: %s\r\nMessage-ID: <%s@example.com>\r\n\r\nThis is %s.\r\n", person, name, name, name)
}

func (s *site) put(side Side, box, name string, flags ...string) uint32 {
	s.t.Helper()
	text := letter(name)
	_, uid, err := s.people[side].Append(s.t.Context(), box, flags, "", int64(len(text)), strings.NewReader(text))
	s.must(err)
	return uid
}

// content is what a side has: for each mailbox the subjects with their flags.
func (s *site) content(side Side) map[string][]string {
	s.t.Helper()
	return contentOf(s.t, s.people[side])
}

func contentOf(t *testing.T, c *imap.Client) map[string][]string {
	t.Helper()
	ctx := t.Context()
	boxes, err := c.List(ctx, "")
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[string][]string)
	for _, b := range boxes {
		if !b.Selectable {
			continue
		}
		name := strings.ReplaceAll(b.Name, b.Delimiter, "/")
		if b.Subscribed {
			name += " (subscribed)"
		}
		all[name] = []string{}
		if _, err := c.Select(ctx, b.Name, nil); err != nil {
			t.Fatal(err)
		}
		err := c.Fetch(ctx, "1:*", func(m imap.Message) error {
			if m.Date != "" {
				all[name] = append(all[name], field(m.Header, "Subject")+" "+strings.Join(m.Flags, ","))
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		slices.Sort(all[name])
	}
	return all
}

func same(a, b map[string][]string) bool {
	return maps.EqualFunc(a, b, func(x, y []string) bool { return slices.Equal(x, y) })
}

// wantSame fails unless both sides have the same, and want where it is not nil.
func (s *site) wantSame(want map[string][]string) {
	s.t.Helper()
	l, r := s.content(Left), s.content(Right)
	if !same(l, r) || want != nil && !same(l, want) {
		s.t.Errorf("the sides differ:\nleft  %v\nright %v\nwant  %v", l, r, want)
	}
}

// eventually waits until ok.
func (s *site) eventually(what string, ok func() bool) {
	s.t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(30 * time.Millisecond) // what is asked is work for the servers
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			s.t.Fatalf("not within %s: %s", patience, what)
		}
	}
}

func (s *site) uids(side Side, box string) map[string]uint32 {
	s.t.Helper()
	_, err := s.people[side].Select(s.t.Context(), box, nil)
	s.must(err)
	all := make(map[string]uint32)
	s.must(s.people[side].Fetch(s.t.Context(), "1:*", func(m imap.Message) error {
		if m.Date != "" {
			all[field(m.Header, "Subject")] = m.UID
		}
		return nil
	}))
	return all
}

func (s *site) flag(side Side, box, name string, add bool, flags ...string) {
	s.t.Helper()
	uid := s.uids(side, box)[name]
	if uid == 0 {
		s.t.Fatalf("no message %s in %s on the %s", name, box, side)
	}
	_, err := s.people[side].Store(s.t.Context(), imap.SetOf([]uint32{uid}), 0, add, flags)
	s.must(err)
}

func (s *site) kill(side Side, box string, names ...string) {
	s.t.Helper()
	var uids []uint32
	there := s.uids(side, box)
	for _, n := range names {
		uids = append(uids, there[n])
	}
	_, err := s.people[side].Store(s.t.Context(), imap.SetOf(uids), 0, true, []string{`\Deleted`})
	s.must(err)
	s.must(s.people[side].Expunge(s.t.Context(), imap.SetOf(uids)))
}

func TestFirstPairing(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil)
	s.put(Left, "INBOX", "one", `\Seen`)
	s.put(Left, "INBOX", "two", "$Label1")
	s.put(Right, "INBOX", "three", `\Flagged`)
	s.must(s.people[Left].Create(t.Context(), "Work.Deep"))
	s.must(s.people[Left].Subscribe(t.Context(), "Work.Deep", true))
	s.put(Left, "Work.Deep", "four")
	s.once()
	want := map[string][]string{"INBOX": {`one \Seen`, `three \Flagged`, "two $Label1"}, "Work/Deep (subscribed)": {"four "}}
	s.wantSame(want)
	// Nothing happens a second time.
	s.once()
	s.wantSame(want)
}

func TestTwins(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil)
	date := `01-Feb-2026 10:00:00 +0100`
	for side, n := range map[Side]int{Left: 3, Right: 2} {
		for range n {
			text := letter("twin")
			_, _, err := s.people[side].Append(t.Context(), "INBOX", nil, date, int64(len(text)), strings.NewReader(text))
			s.must(err)
		}
	}
	s.once()
	s.wantSame(map[string][]string{"INBOX": {"twin ", "twin ", "twin "}})
}

func TestConcurrentChanges(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil)
	for _, n := range []string{"a", "b", "c", "d", "e"} {
		s.put(Left, "INBOX", n)
	}
	s.once()
	s.flag(Left, "INBOX", "a", true, `\Seen`)
	s.flag(Right, "INBOX", "a", true, `\Flagged`, "$Work")
	s.kill(Left, "INBOX", "b")
	s.flag(Right, "INBOX", "b", true, `\Seen`) // the removal wins
	s.kill(Left, "INBOX", "c")
	s.kill(Right, "INBOX", "c", "d")
	s.put(Left, "INBOX", "f")
	s.put(Right, "INBOX", "g")
	s.once()
	s.wantSame(map[string][]string{"INBOX": {`a $Work,\Flagged,\Seen`, "e ", "f ", "g "}})
	s.flag(Right, "INBOX", "a", false, `\Seen`)
	s.flag(Left, "INBOX", "a", false, "$Work")
	s.once()
	s.wantSame(map[string][]string{"INBOX": {`a \Flagged`, "e ", "f ", "g "}})
}

func TestMailboxes(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil)
	ctx := t.Context()
	for _, n := range []string{"Old", "Old.Below", "Gone", "Kept"} {
		s.must(s.people[Left].Create(ctx, n))
		s.put(Left, n, "in "+n)
	}
	s.once()
	s.must(s.people[Left].Rename(ctx, "Old", "New"))
	s.must(s.people[Right].Delete(ctx, "Gone"))
	s.must(s.people[Left].Delete(ctx, "Kept"))
	s.put(Right, "Kept", "after") // unseen by who deleted: it stays
	s.must(s.people[Right].Subscribe(ctx, "INBOX", true))
	w := s.once()
	s.once()
	s.wantSame(map[string][]string{"INBOX (subscribed)": {}, "Kept": {"after "}, "New": {"in Old "}, "New/Below": {"in Old.Below "}})
	if n := w.count; n == nil || s.audit.count("mailbox-renamed") != 1 || s.audit.count("mailbox-removed") != 1 {
		t.Errorf("audit: %+v", s.audit.all)
	}
}

func TestMove(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil)
	ctx := t.Context()
	s.must(s.people[Left].Create(ctx, "Archive"))
	for i := range 5 {
		s.put(Left, "INBOX", fmt.Sprint("m", i))
	}
	s.once()
	s.once() // ids of what was appended are known
	uids := slices.Collect(maps.Values(s.uids(Left, "INBOX")))
	_, _, err := s.people[Left].Copy(ctx, imap.SetOf(uids), "Archive")
	s.must(err)
	s.kill(Left, "INBOX", "m0", "m1", "m2", "m3")
	copies := 0
	a := s.agent()
	accounts, _ := s.cfg.Accounts(ctx)
	w := a.worker(a.mirrors[0], accounts[0], a.deps.Log)
	w.at = func(step string) {
		switch step {
		case "copied":
			copies++
		case "append":
			t.Error("a message was sent that the other side has")
		}
	}
	s.must(w.session(ctx, func() bool { return true }))
	s.wantSame(map[string][]string{"INBOX": {"m4 "}, "Archive": {"m0 ", "m1 ", "m2 ", "m3 ", "m4 "}})
	if copies != 1 {
		t.Errorf("%d COPY commands, want 1", copies)
	}
}

// TestCopyOfWhatChanges has a message copied on one side whose flags changed on
// the other one, which the mirror heard of first or not yet: the copies are
// alike in the end.
func TestCopyOfWhatChanges(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil)
	ctx := t.Context()
	s.put(Left, "INBOX", "m", `\Flagged`)
	s.once()
	s.once() // ids of what was appended are known
	s.flag(Left, "INBOX", "m", true, `\Answered`, "Left")
	for _, side := range sides {
		box := "Copies-" + side.String()
		s.must(s.people[Right].Create(ctx, box))
		uids := slices.Collect(maps.Values(s.uids(Right, "INBOX")))
		_, _, err := s.people[Right].Copy(ctx, imap.SetOf(uids), box)
		s.must(err)
	}
	s.once()
	s.once()
	s.wantSame(map[string][]string{
		"INBOX": {`m Left,\Answered,\Flagged`}, "Copies-left": {`m \Flagged`}, "Copies-right": {`m \Flagged`},
	})
}

func TestUIDValidityReset(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil)
	ctx := t.Context()
	s.must(s.people[Left].Create(ctx, "Box"))
	for i := range 30 {
		s.put(Left, "Box", fmt.Sprint("m", i))
	}
	s.once()
	// The mailbox on the right is made anew with a part of its mail.
	s.must(s.people[Right].Delete(ctx, "Box"))
	s.must(s.people[Right].Create(ctx, "Box"))
	for i := range 10 {
		s.put(Right, "Box", fmt.Sprint("m", i))
	}
	s.put(Right, "Box", "new")
	s.once()
	l := s.content(Left)
	s.wantSame(nil)
	if len(l["Box"]) != 31 {
		t.Errorf("Box holds %d messages, want the 30 and the new one: %v", len(l["Box"]), l["Box"])
	}
}

func TestGuard(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil)
	var names []string
	for i := range 40 {
		names = append(names, fmt.Sprint("m", i))
		s.put(Left, "INBOX", names[i])
	}
	s.must(s.people[Left].Create(t.Context(), "Box"))
	a, _ := s.start()
	s.eventually("in step", func() bool { return len(s.uids(Right, "INBOX")) == 40 })
	s.kill(Left, "INBOX", names[:30]...)
	s.eventually("held", func() bool {
		st := a.Status("", "")
		return len(st) == 1 && st[0].State == StateHeld && st[0].Held == 30
	})
	s.put(Left, "INBOX", "later") // other changes go on
	s.eventually("the new message", func() bool { return len(s.uids(Right, "INBOX")) == 41 })
	for i := range 5 { // the first may come together with the one in INBOX
		s.put(Left, "Box", fmt.Sprint("elsewhere", i))
		var st AccountStatus
		s.eventually("the new message elsewhere", func() bool {
			st = a.Status("", "")[0]
			return slices.ContainsFunc(st.Mailboxes, func(m MailboxStatus) bool { return m.Name == "Box" && m.Messages == int64(i+1) })
		})
		if st.State != StateHeld || st.Held != 30 || s.audit.count("held") != 1 {
			t.Errorf("%s, %d messages are held; audit: %+v", st.State, st.Held, s.audit.all)
		}
	}
	s.must(a.Confirm(t.Context(), "", person))
	s.eventually("removed", func() bool { return len(s.uids(Right, "INBOX")) == 11 })
	s.kill(Right, "INBOX", "later")
	s.eventually("removed", func() bool { return len(s.uids(Left, "INBOX")) == 10 })
	s.kill(Right, "INBOX", names[30:]...)
	for i := range 30 {
		s.put(Right, "INBOX", fmt.Sprint("n", i))
	}
	var more []string
	for i := range 30 {
		more = append(more, fmt.Sprint("n", i))
	}
	s.eventually("in step", func() bool {
		left := s.uids(Left, "INBOX")
		for _, name := range more {
			if _, there := left[name]; !there { // there may be thirty with some of the old ones
				return false
			}
		}
		return len(left) == 30
	})
	s.kill(Right, "INBOX", more...)
	s.eventually("held", func() bool { return a.Status("", "")[0].Held == 30 })
	s.must(a.Restore(t.Context(), "", person))
	s.eventually("restored", func() bool { return len(s.uids(Right, "INBOX")) == 30 && len(s.uids(Left, "INBOX")) == 30 })
}

// cuttable is a way to a server that can be cut.
type cuttable struct {
	net.Listener
	to string

	mu    sync.Mutex
	conns map[net.Conn]bool // true for those to the server
	down  bool
	after int64 // octets towards the server until it is cut; 0 for never
}

func newCuttable(t *testing.T, to string) *cuttable {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cuttable{Listener: l, to: to, conns: make(map[net.Conn]bool)}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() { c.serve(conn) })
		}
	})
	t.Cleanup(func() { _ = l.Close(); c.cut(true); all.Wait() })
	return c
}

func (c *cuttable) keep(conn net.Conn, toServer bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.down {
		_ = conn.Close()
		return false
	}
	c.conns[conn] = toServer
	return true
}

// end closes a connection that was kept.
func (c *cuttable) end(conn net.Conn) {
	_ = conn.Close()
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.conns, conn)
}

func (c *cuttable) serve(client net.Conn) {
	if !c.keep(client, false) {
		return
	}
	defer c.end(client)
	server, err := net.Dial("tcp", c.to)
	if err != nil || !c.keep(server, true) {
		return
	}
	defer c.end(server)
	var back sync.WaitGroup
	back.Go(func() {
		_, _ = io.Copy(client, server)
		_ = client.Close()
		_, _ = io.Copy(io.Discard, server) // until the server is done with what it was sent
	})
	_, _ = io.Copy(counting{server, c}, client)
	_ = server.(*net.TCPConn).CloseWrite()
	back.Wait()
}

// counting cuts the way after so many octets.
type counting struct {
	io.Writer
	c *cuttable
}

func (w counting) Write(b []byte) (int, error) {
	w.c.mu.Lock()
	cut := false
	if w.c.after > 0 {
		if w.c.after -= int64(len(b)); w.c.after <= 0 {
			b, cut, w.c.after = b[:max(0, len(b)+int(w.c.after))], true, 0
		}
	}
	w.c.mu.Unlock()
	n, err := w.Writer.Write(b)
	if cut {
		w.c.sever()
		return n, io.ErrClosedPipe
	}
	return n, err
}

// sever takes all clients away. The servers finish what they were sent whole.
func (c *cuttable) sever() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for conn, toServer := range c.conns {
		if !toServer {
			_ = conn.Close()
		}
	}
}

// settled waits until the server is done with all that came this way.
func (c *cuttable) settled(t *testing.T) {
	t.Helper()
	testenv.Eventually(t, patience, func() error {
		c.mu.Lock()
		defer c.mu.Unlock()
		if n := len(c.conns); n > 0 {
			return fmt.Errorf("%d connections are there", n)
		}
		return nil
	})
}

// cut ends all connections; with down new ones end, too.
func (c *cuttable) cut(down bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.down = down
	for conn := range c.conns {
		_ = conn.Close()
	}
}

func (c *cuttable) heal() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.down = false
}

func TestOutage(t *testing.T) {
	t.Parallel()
	var way *cuttable
	s := newSite(t, func(c *Config) {
		way = newCuttable(t, c.Servers[Right].Address)
		c.Servers[Right].Address = way.Addr().String()
	})
	s.put(Left, "INBOX", "before")
	a, _ := s.start()
	s.eventually("in step", func() bool { return len(s.uids(Right, "INBOX")) == 1 })
	way.cut(true)
	s.put(Left, "INBOX", "during")
	s.put(Right, "INBOX", "there")
	s.eventually("told in the status", func() bool {
		st := a.Status("", "")[0]
		return st.State == StateRetrying && strings.HasPrefix(st.Error, "right: ") && st.Behind > 0
	})
	way.heal()
	want := map[string][]string{"INBOX": {"before ", "during ", "there "}}
	s.eventually("in step again", func() bool { return same(s.content(Left), want) && same(s.content(Right), want) })
}

func TestLag(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil)
	a, _ := s.start()
	s.eventually("in step", func() bool { st := a.Status("", ""); return len(st) == 1 && st[0].State == StateInStep })
	if w := a.Status("", "")[0].Watch; w != [2]string{"notify", "notify"} {
		t.Errorf("watches by %v, want NOTIFY", w)
	}
	var took []time.Duration
	for i := range 8 {
		from, name := Side(i%2), fmt.Sprint("m", i)
		s.put(from, "INBOX", name)
		began := time.Now()
		s.eventually("the message", func() bool { return s.uids(from.Other(), "INBOX")[name] != 0 })
		took = append(took, time.Since(began).Round(time.Millisecond))
	}
	t.Logf("from APPEND to being there: %v", took)
	// Changes at any instant of a pass are heard of.
	for i := range 60 {
		s.put(Side(i%2), "INBOX", fmt.Sprint("n", i))
	}
	s.eventually("all messages", func() bool { return len(s.uids(Left, "INBOX")) == 68 && len(s.uids(Right, "INBOX")) == 68 })
}
