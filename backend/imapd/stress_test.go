package imapd

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/postern-mail/postern/backend/mailstore"
	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/mail"
)

var stressCommands = flag.Int("imap.commands", 150, "commands of each client of TestManyClients")

// ledger is what all clients of a stress run know together.
type ledger struct {
	t testing.TB

	mu       sync.Mutex
	subjects map[string]string // by "mailbox uid"
	doomed   map[string]bool   // subjects that may be expunged
	copies   map[string]int    // how often a subject that may not was added
}

// saw notes that a UID has a subject, which must be the one it always had.
func (l *ledger) saw(mailbox, uid, subject string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	key := mailbox + " " + uid
	if before, known := l.subjects[key]; known && before != subject {
		l.t.Errorf("%s was %q and is %q", key, before, subject)
	}
	l.subjects[key] = subject
}

func (l *ledger) subject(mailbox, uid string) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.subjects[mailbox+" "+uid]
}

func (l *ledger) added(subject string, doomed bool, n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if doomed {
		l.doomed[subject] = true
	} else {
		l.copies[subject] += n
	}
}

func (l *ledger) isDoomed(subject string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.doomed[subject]
}

// stressor is one client of a stress run.
type stressor struct {
	model
	*ledger
	id      int
	rand    *rand.Rand
	mailbox string
	sent    int
	modseq  map[string]uint64 // by UID
}

// TestManyClients lets clients change two mailboxes at the same time while mail
// is delivered. None of them may ever be told what contradicts what it was told
// before; a UID has one content for all of them; and in the end every message
// that nobody expunged is there, as often as it was added.
func TestManyClients(t *testing.T) {
	t.Parallel()
	s := startServer(t, testConfig())
	l := &ledger{t: t, subjects: map[string]string{}, doomed: map[string]bool{}, copies: map[string]int{}}
	s.login("alice").ok("CREATE other")
	seed := testenv.Seed(t)
	clients := make([]*stressor, 4)
	for i := range clients {
		c := &stressor{
			model: model{client: s.login("alice")}, ledger: l, id: i, rand: rand.New(rand.NewPCG(seed, uint64(i))),
			modseq: map[string]uint64{},
		}
		c.open(s.t)
		clients[i] = c
	}
	var wait sync.WaitGroup
	for _, c := range clients {
		wait.Go(func() {
			for range *stressCommands {
				c.step(t)
			}
		})
	}
	wait.Go(func() { l.deliver(s, *stressCommands/3) })
	wait.Wait()
	if t.Failed() {
		return
	}
	for _, c := range clients {
		c.compare(t)
		c.ok("LOGOUT")
	}
	l.settle(s)
	if err := s.store.Check(t.Context()); err != nil {
		t.Error(err)
	}
}

// settle compares what is there with what was added.
func (l *ledger) settle(s *server) {
	c := &stressor{model: model{client: s.login("alice")}, ledger: l, modseq: map[string]uint64{}}
	found := map[string]int{}
	for _, box := range []string{"INBOX", "other"} {
		c.mailbox = box
		c.messages = nil
		c.run(l.t, "SELECT "+box, false)
		if len(c.messages) == 0 {
			continue
		}
		for _, line := range c.ok("FETCH 1:* (UID BODY.PEEK[HEADER.FIELDS (SUBJECT)])") {
			c.apply(l.t, line, true)
			_, subject := c.learn(line)
			found[subject]++
		}
	}
	for subject, n := range l.copies {
		if found[subject] != n {
			l.t.Errorf("%s was added %d times and is there %d times", subject, n, found[subject])
		}
	}
	for subject, n := range found {
		if !l.doomed[subject] && l.copies[subject] != n {
			l.t.Errorf("%s is there %d times and was added %d times", subject, n, l.copies[subject])
		}
	}
}

// open selects one of the mailboxes.
func (c *stressor) open(t failer) {
	c.mailbox = []string{"INBOX", "other"}[c.id%2]
	if c.rand.IntN(2) == 0 {
		c.mailbox = []string{"other", "INBOX"}[c.id%2]
	}
	c.messages, c.modseq = nil, map[string]uint64{}
	c.do(t, "SELECT "+c.mailbox+" (CONDSTORE)", false)
}

var (
	uidItem     = regexp.MustCompile(`UID (\d+)`)
	modSeqItem  = regexp.MustCompile(`MODSEQ \((\d+)\)`)
	subjectItem = regexp.MustCompile(`Subject: (\S+)`)
	copyCode    = regexp.MustCompile(`\[COPYUID \d+ (\S+) (\S+)\]`)
)

// learn notes what a FETCH response tells of a message.
func (c *stressor) learn(line string) (uid, subject string) {
	if m := uidItem.FindStringSubmatch(line); m != nil {
		uid = m[1]
	}
	if m := subjectItem.FindStringSubmatch(line); m != nil && uid != "" {
		subject = m[1]
		c.saw(c.mailbox, uid, subject)
	}
	if m := modSeqItem.FindStringSubmatch(line); m != nil && uid != "" {
		n, _ := strconv.ParseUint(m[1], 10, 64)
		if n < c.modseq[uid] {
			c.t.Errorf("%s: UID %s had MODSEQ %d", line, uid, c.modseq[uid])
		}
		c.modseq[uid] = n
	}
	return uid, subject
}

// do runs a command and checks everything that comes back.
func (c *stressor) do(t failer, text string, numbers bool) (untagged []string, tagged string) {
	untagged, tagged = c.cmd(text)
	for _, line := range untagged {
		c.apply(t, line, numbers)
		c.learn(line)
	}
	if strings.HasPrefix(tagged, "BAD") {
		t.Fatalf("%.80q: %s", text, tagged)
	}
	last := 0
	for i, m := range c.messages {
		if m.uid == "" {
			continue
		}
		uid, _ := strconv.Atoi(m.uid)
		if uid <= last {
			t.Fatalf("after %.80q message %d has UID %d, behind %d", text, i+1, uid, last)
		}
		last = uid
	}
	return untagged, tagged
}

func (c *stressor) step(t failer) {
	n := len(c.messages)
	what := c.rand.IntN(14)
	if n == 0 && what > 2 {
		what = c.rand.IntN(3)
	}
	switch what {
	case 0, 1:
		c.add(t)
	case 2:
		c.rest(t)
	case 3:
		if c.rand.IntN(5) == 0 {
			c.open(t)
		}
	case 4, 5:
		lo := 1 + c.rand.IntN(n)
		c.do(t, fmt.Sprintf("FETCH %d:%d (UID FLAGS BODY.PEEK[HEADER.FIELDS (SUBJECT)])", lo, min(n, lo+5)), true)
	case 6, 7:
		c.flag(t, 1+c.rand.IntN(n))
	case 8:
		c.do(t, "EXPUNGE", false)
	case 9, 10, 11:
		c.transfer(t, 1+c.rand.IntN(n))
	case 12:
		c.conditional(t, 1+c.rand.IntN(n))
	default:
		c.do(t, fmt.Sprintf("UID SEARCH RETURN (MIN MAX COUNT) %d:* NOT DELETED", 1+c.rand.IntN(n)), false)
	}
}

// add brings a new message, by APPEND or as a delivery would.
func (c *stressor) add(t failer) {
	c.sent++
	doomed := c.rand.IntN(2) == 0
	subject := fmt.Sprintf("m%d-%d", c.id, c.sent)
	text := message(subject, strings.Repeat("x", c.rand.IntN(3000)))
	c.added(subject, doomed, 1)
	if _, tagged := c.do(t, fmt.Sprintf("APPEND %s (%s) {%d+}\r\n%s", c.elsewhere(), [2]string{"", "$new"}[c.rand.IntN(2)], len(text), text), false); !strings.HasPrefix(tagged, "OK [APPENDUID") {
		t.Fatalf("APPEND: %s", tagged)
	}
}

// elsewhere is any of the mailboxes.
func (c *stressor) elsewhere() string { return []string{"INBOX", "other"}[c.rand.IntN(2)] }

// rest lets time pass: NOOP, or an IDLE that ends at any moment.
func (c *stressor) rest(t failer) {
	if c.rand.IntN(2) == 0 {
		c.do(t, "NOOP", false)
		return
	}
	c.tag++
	tag := fmt.Sprintf("t%d", c.tag)
	c.send(tag + " IDLE\r\n")
	for line := c.line(); ; line = c.line() {
		if strings.HasPrefix(line, "+") {
			break
		}
		c.apply(t, line, false)
		c.learn(line)
	}
	c.send("DONE\r\n")
	untagged, tagged := c.until(tag)
	for _, line := range untagged {
		c.apply(t, line, false)
		c.learn(line)
	}
	if !strings.HasPrefix(tagged, "OK") {
		t.Fatalf("IDLE: %s", tagged)
	}
}

// flag changes flags; \Deleted only where the message may go.
func (c *stressor) flag(t failer, i int) {
	m := &c.messages[i-1]
	flag := []string{`\Seen`, `\Flagged`, `$one`, `$two`}[c.rand.IntN(4)]
	if c.isDoomed(c.subject(c.mailbox, m.uid)) {
		flag = `\Deleted`
	}
	op := []string{"+FLAGS", "-FLAGS", "+FLAGS.SILENT", "-FLAGS.SILENT"}[c.rand.IntN(4)]
	before := m.flags
	if strings.Contains(op, "SILENT") {
		m.flags = untold
	}
	c.do(t, fmt.Sprintf("STORE %d %s (%s)", i, op, flag), true)
	if m := &c.messages[i-1]; m.flags == untold {
		m.flags = afterSilent(before, op, flag)
	}
}

// conditional is a STORE that must not overwrite what the client has not seen.
func (c *stressor) conditional(t failer, i int) {
	uid := c.messages[i-1].uid
	known, ok := c.modseq[uid]
	if uid == "" || !ok {
		return
	}
	_, tagged := c.do(t, fmt.Sprintf(`STORE %d (UNCHANGEDSINCE %d) +FLAGS ($cond)`, i, known), true)
	if !strings.HasPrefix(tagged, "OK") {
		t.Fatalf("conditional STORE: %s", tagged)
	}
}

// transfer copies or moves a message, and learns from COPYUID what it became.
func (c *stressor) transfer(t failer, i int) {
	uid, dest := c.messages[i-1].uid, c.elsewhere()
	subject := c.subject(c.mailbox, uid)
	if uid == "" || subject == "" {
		return
	}
	verb := []string{"UID COPY", "UID MOVE", "UID MOVE"}[c.rand.IntN(3)]
	untagged, tagged := c.do(t, fmt.Sprintf("%s %s %s", verb, uid, dest), false)
	m := copyCode.FindStringSubmatch(strings.Join(untagged, "\n") + "\n" + tagged)
	if m == nil {
		return // it was gone already
	}
	if m[1] != uid || m[2] == "" {
		t.Fatalf("%s of %s: %s", verb, uid, m[0])
	}
	c.saw(dest, m[2], subject)
	if verb == "UID COPY" && !c.isDoomed(subject) {
		c.added(subject, false, 1)
	}
}

// deliver brings mail as LMTP does, each message twice under one identity.
func (l *ledger) deliver(s *server, n int) {
	account, err := s.store.Account(l.t.Context(), mail.Account{Name: "alice"})
	if err != nil {
		l.t.Error(err)
		return
	}
	defer account.Close()
	for i := range n {
		subject := fmt.Sprintf("delivered-%d", i)
		content, err := s.store.Stage(l.t.Context(), strings.NewReader(message(subject, "text")))
		if err != nil {
			l.t.Error(err)
			return
		}
		l.added(subject, false, 1)
		d := mailstore.Delivery{ID: subject, Content: content, Trace: []byte("Return-Path: <>\r\n")}
		for _, err := range account.Deliver(l.t.Context(), []mailstore.Delivery{d, d}) {
			if err != nil {
				l.t.Error(err)
			}
		}
		content.Discard()
	}
}
