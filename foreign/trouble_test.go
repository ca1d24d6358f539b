package foreign

import (
	"bytes"
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
	"github.com/postern-mail/postern/store"
	"github.com/postern-mail/postern/store/storetest"
)

// between is a server that stands before another and changes what it says.
type between struct {
	net.Listener
	mu     sync.Mutex
	refuse string // the answer to APPEND, behind the tag; "" lets it through
	// replace are pairs of what the server says and what we make of it.
	replace []string
	said    []string // lines of the client
	conns   []net.Conn
	over    bool
}

func newBetween(t *testing.T, to string) *between {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &between{Listener: l}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() { b.serve(t, client, to) })
		}
	})
	t.Cleanup(func() { _ = l.Close(); b.end(); all.Wait() })
	return b
}

// keep has a connection closed at the end, or now when that has come.
func (b *between) keep(conn net.Conn) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.over {
		_ = conn.Close()
		return false
	}
	b.conns = append(b.conns, conn)
	return true
}

func (b *between) end() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.over = true
	for _, conn := range b.conns {
		_ = conn.Close()
	}
}

func (b *between) serve(t *testing.T, client net.Conn, to string) {
	defer client.Close()
	if !b.keep(client) {
		return
	}
	server, err := net.Dial("tcp", to)
	if err != nil {
		t.Error(err)
		return
	}
	defer server.Close()
	if !b.keep(server) {
		return
	}
	var back sync.WaitGroup
	defer back.Wait()
	defer server.Close()
	back.Go(func() {
		_, _ = io.Copy(&changing{b: b, w: client}, server)
		_ = client.Close()
	})
	buf := make([]byte, 64<<10)
	for {
		n, err := client.Read(buf)
		if err != nil {
			return
		}
		if answer := b.answer(buf[:n]); answer != "" {
			_, _ = io.WriteString(client, answer)
			continue
		}
		if _, err := server.Write(buf[:n]); err != nil {
			return
		}
	}
}

// answer answers a command in the server's place.
func (b *between) answer(sent []byte) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.said = append(b.said, string(sent))
	tag, command, _ := strings.Cut(string(sent), " ")
	if strings.HasPrefix(command, "APPEND") && b.refuse != "" {
		return tag + " " + b.refuse + "\r\n"
	}
	return ""
}

func (b *between) set(refuse string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.refuse = refuse
}

// changing changes whole lines: what is to be replaced may come in two pieces.
type changing struct {
	b    *between
	w    io.Writer
	half []byte
}

func (c *changing) Write(text []byte) (int, error) {
	whole := bytes.LastIndexByte(text, '\n') + 1
	out := append(c.half, text[:whole]...)
	c.half = nil
	if whole == 0 {
		c.half, out = out, nil
	}
	c.half = append(c.half, text[whole:]...)
	for i := 0; i+1 < len(c.b.replace); i += 2 {
		out = bytes.ReplaceAll(out, []byte(c.b.replace[i]), []byte(c.b.replace[i+1]))
	}
	if _, err := c.w.Write(out); err != nil {
		return 0, err
	}
	return len(text), nil
}

func TestOverQuota(t *testing.T) {
	t.Parallel()
	var right *between
	s := newSite(t, func(c *Config) {
		right = newBetween(t, c.Servers[Right].Address)
		c.Servers[Right].Address = right.Addr().String()
	})
	s.put(Left, "INBOX", "first")
	a, _ := s.start()
	s.eventually("in step", func() bool { return len(s.uids(Right, "INBOX")) == 1 })
	right.set("NO [OVERQUOTA] Quota exceeded")
	told := func(waiting int) bool {
		st := a.Status("", "")[0]
		return len(st.Mailboxes) == 1 && st.Waiting[Left] == waiting && strings.Contains(st.Mailboxes[0].Trouble, "full")
	}
	// One is refused by the server itself, those beside it are not even tried.
	s.put(Left, "INBOX", "m0")
	s.eventually("one is told in the status", func() bool { return told(1) })
	for _, name := range []string{"m1", "m2"} {
		s.put(Left, "INBOX", name)
	}
	s.eventually("told in the status", func() bool { return told(3) })
	// All else goes on.
	s.flag(Left, "INBOX", "first", true, `\Flagged`)
	s.put(Right, "INBOX", "to the left")
	s.eventually("the rest", func() bool {
		return slices.Contains(s.content(Right)["INBOX"], `first \Flagged`) && s.uids(Left, "INBOX")["to the left"] != 0
	})
	right.set("")
	s.must(a.SyncNow(t.Context(), "", person))
	s.eventually("all", func() bool { return len(s.uids(Right, "INBOX")) == 5 && same(s.content(Left), s.content(Right)) })
}

func TestServerThatTakesNoKeyword(t *testing.T) {
	t.Parallel()
	var right *between
	s := newSite(t, func(c *Config) {
		right = newBetween(t, c.Servers[Right].Address)
		right.replace = []string{`\Draft \*)]`, `\Draft)]`}
		c.Servers[Right].Address = right.Addr().String()
	})
	s.put(Left, "INBOX", "one", "$Mine", `\Seen`)
	s.once()
	s.flag(Left, "INBOX", "one", true, "$Other", `\Flagged`)
	s.once()
	s.once()
	l, r := s.content(Left)["INBOX"], s.content(Right)["INBOX"]
	if !slices.Equal(l, []string{`one $Mine,$Other,\Flagged,\Seen`}) || !slices.Equal(r, []string{`one \Flagged,\Seen`}) {
		t.Errorf("left %v, right %v", l, r)
	}
	right.mu.Lock()
	defer right.mu.Unlock()
	if sent := strings.Join(right.said, ""); strings.Contains(sent, "$Mine") || strings.Contains(sent, pendingKeyword) && strings.Contains(sent, "APPEND INBOX ("+pendingKeyword) {
		t.Errorf("a keyword was sent to a server that takes none:\n%s", sent)
	}
}

// TestKilledWithoutKeyword: what was appended is found by what it holds.
func TestKilledWithoutKeyword(t *testing.T) {
	t.Parallel()
	s := newSite(t, func(c *Config) {
		c.Settle = 1
		right := newBetween(t, c.Servers[Right].Address)
		right.replace = []string{`\Draft \*)]`, `\Draft)]`}
		c.Servers[Right].Address = right.Addr().String()
	})
	s.once()
	var want []string
	for n, killed := 1, true; killed; n++ {
		for _, what := range []string{"a", "b"} {
			name := fmt.Sprint(what, n)
			s.put(Left, "INBOX", name)
			want = append(want, name+" ")
		}
		_, killed = s.killAt(n)
	}
	s.once()
	slices.Sort(want)
	s.wantSame(map[string][]string{"INBOX": want})
}

func TestRefusedServers(t *testing.T) {
	t.Parallel()
	for _, missing := range []string{"UIDPLUS", "QRESYNC"} {
		s := newSite(t, func(c *Config) {
			b := newBetween(t, c.Servers[Left].Address)
			b.replace = []string{" " + missing, ""}
			c.Servers[Left].Address = b.Addr().String()
		})
		accounts, err := s.cfg.Accounts(t.Context())
		s.must(err)
		found := Check(t.Context(), s.cfg, accounts[0])
		if found[Left].Err == nil || !strings.Contains(found[Left].Err.Error(), missing) || found[Right].Err != nil {
			t.Errorf("without %s: %+v", missing, found)
		}
		a, stop := s.start()
		s.eventually("refused", func() bool { st := a.Status("", ""); return len(st) == 1 && st[0].State == StateRefused })
		stop()
	}
}

func TestIdleAndPolling(t *testing.T) {
	t.Parallel()
	s := newSite(t, func(c *Config) {
		c.Interval = 300 * time.Millisecond
		for i := range c.Servers {
			b := newBetween(t, c.Servers[i].Address)
			b.replace = []string{" NOTIFY", ""}
			if i == 1 {
				b.replace = append(b.replace, " IDLE", "")
			}
			c.Servers[i].Address = b.Addr().String()
		}
	})
	s.must(s.people[Left].Create(t.Context(), "Box"))
	a, _ := s.start()
	s.eventually("in step", func() bool { st := a.Status("", ""); return len(st) == 1 && st[0].State == StateInStep })
	if w := a.Status("", "")[0].Watch; w != [2]string{"idle", "poll"} {
		t.Errorf("watches by %v", w)
	}
	for i, from := range []Side{Left, Right, Left} {
		s.put(from, "INBOX", fmt.Sprint("m", i))
		s.put(from, "Box", fmt.Sprint("n", i))
	}
	s.eventually("the messages", func() bool {
		return len(s.uids(Left, "INBOX")) == 3 && len(s.uids(Right, "INBOX")) == 3 && len(s.uids(Right, "Box")) == 3 && len(s.uids(Left, "Box")) == 3
	})
}

func TestLeftToRight(t *testing.T) {
	t.Parallel()
	s := newSite(t, func(c *Config) { c.Direction = LeftToRight })
	s.put(Left, "INBOX", "one")
	s.put(Left, "INBOX", "two")
	s.put(Right, "INBOX", "was here")
	s.once()
	s.kill(Right, "INBOX", "two")
	s.flag(Right, "INBOX", "one", true, `\Flagged`)
	s.put(Right, "INBOX", "came here")
	s.flag(Left, "INBOX", "one", true, `\Seen`)
	s.put(Left, "INBOX", "three")
	s.must(s.people[Right].Create(t.Context(), "Right only"))
	s.once()
	if l := s.content(Left); !maps.EqualFunc(l, map[string][]string{"INBOX": {`one \Seen`, "three ", "two "}}, slices.Equal) {
		t.Errorf("the left side was changed: %v", l)
	}
	if r := s.content(Right)["INBOX"]; !slices.Equal(r, []string{"came here ", `one \Flagged,\Seen`, "three ", "was here "}) {
		t.Errorf("right: %v", r)
	}
	// After the cut what happened on the right is brought back.
	s.cfg.Direction = Both
	s.once()
	s.wantSame(map[string][]string{"INBOX": {"came here ", `one \Flagged,\Seen`, "three ", "was here "}, "Right only": {}})
}

// TestServerKilled kills a Dovecot in the middle and starts it again.
func TestServerKilled(t *testing.T) {
	t.Parallel()
	l, r := testenv.Dovecot(t, person), testenv.Dovecot(t, person)
	s := siteOf(t, [2]string{l.IMAP, r.IMAP}, l.Password, nil)
	for i := range 60 {
		s.put(Left, "INBOX", fmt.Sprint("m", i))
	}
	_, _ = s.start()
	s.eventually("some mail", func() bool { return len(s.uids(Right, "INBOX")) > 3 })
	r.Process().Kill()
	s.put(Left, "INBOX", "meanwhile")
	r.Restart()
	s.people[Right] = s.person(Right)
	s.eventually("all mail", func() bool { return len(s.uids(Right, "INBOX")) == 61 && same(s.content(Left), s.content(Right)) })
}

// BenchmarkFirstPairing copies 10,000 messages to an empty server, and then pairs
// both anew without what the state knew.
func BenchmarkFirstPairing(b *testing.B) {
	const messages = 10_000
	l, r := testenv.Dovecot(b, person), testenv.Dovecot(b, person)
	for b.Loop() {
		address := [2]string{l.IMAP, r.IMAP}
		c, err := imap.Dial(b.Context(), l.IMAP, nil, time.Minute)
		if err != nil {
			b.Fatal(err)
		}
		if err := c.Login(b.Context(), person, "", l.Password); err != nil {
			b.Fatal(err)
		}
		for i := range messages {
			text := letter(fmt.Sprint("m", i)) + strings.Repeat("Some more text.\r\n", 100)
			if _, _, err := c.Append(b.Context(), "INBOX", nil, "", int64(len(text)), strings.NewReader(text)); err != nil {
				b.Fatal(err)
			}
		}
		for _, what := range []string{"copied", "paired"} {
			kv, _ := storetest.Open(b)
			began := time.Now()
			w := benchWorker(b, kv, address, l.Password)
			if err := w.session(b.Context(), func() bool { return true }); err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(messages/time.Since(began).Seconds(), what+"/s")
		}
	}
}

func benchWorker(b *testing.B, kv store.Store, address [2]string, password string) *worker {
	cfg := Config{Name: "bench", Accounts: func(context.Context) ([]Account, error) { return nil, nil }}
	acct := Account{Name: person}
	for i := range sides {
		acct.Logins[i] = Login{person, password}
		cfg.Servers[i] = Server{Address: address[i], Protection: Cleartext}
	}
	a, err := New([]Config{cfg}, Deps{Store: kv, Audit: &events{}, Log: hclog.NewNullLogger()})
	if err != nil {
		b.Fatal(err)
	}
	return a.worker(a.mirrors[0], acct, a.deps.Log)
}
