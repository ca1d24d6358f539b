package imapd

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/postern-mail/postern/backend/mailstore"
	"github.com/postern-mail/postern/mail"
)

// world is the model of an account: what must be in its mailboxes after the
// commands that were answered with OK. One command runs at a time, so there is
// one right answer to each.
type world struct {
	t      *rapid.T
	server *server
	boxes  map[string]*worldBox
	names  []string // that mailboxes may have
	guests []*guest
	caches []*resyncCache
	// had is what a name and a UIDVALIDITY stood for: never for another mailbox.
	had  map[string]*worldBox
	sent int
}

type worldBox struct {
	name     string
	validity uint64
	next     uint64 // no new message has a lower UID
	messages []*worldMessage
	// leaving are gone by the command under way, which may tell that they are
	// there before.
	leaving []*worldMessage
	deleted bool
}

type worldMessage struct {
	uid    uint64
	flags  []string // sorted
	modSeq uint64   // the highest that anybody was told
	gone   bool
	*worldContent
}

// worldContent is what copies of a message share.
type worldContent struct{ emailID string }

// TestModel lets sessions do at random what clients do: with messages, with
// mailboxes, also those that others have selected, while mail is delivered and
// caches are brought up to date. Every response must follow from the model, and
// behind every command that may tell of expunges a client knows what is there.
func TestModel(t *testing.T) {
	t.Parallel()
	cfg := testConfig()
	cfg.MaxSessionsPerClient = 1 << 20 // a failing round leaves its sessions
	s := startServer(t, cfg)
	round := 0
	rapid.Check(t, func(rt *rapid.T) {
		round++
		w := newWorld(rt, s, round)
		for range rapid.IntRange(5, 30).Draw(rt, "steps") {
			w.step()
		}
		for _, c := range w.caches {
			c.resync(w)
		}
		for _, g := range w.guests {
			if g.box != nil && g.box.deleted {
				g.farewell()
			}
			g.run("NOOP", false)
			_ = g.conn.Close()
		}
		for name := range w.boxes {
			if name != "INBOX" {
				w.act("DELETE "+name, true)
			}
		}
	})
	if err := s.store.Check(t.Context()); err != nil {
		t.Errorf("the store after all this: %v", err)
	}
}

func newWorld(t *rapid.T, s *server, round int) *world {
	w := &world{t: t, server: s, boxes: map[string]*worldBox{}, had: map[string]*worldBox{}, names: []string{"INBOX"}}
	for _, name := range []string{"a", "b", "c"} {
		w.names = append(w.names, fmt.Sprintf("%s%d", name, round))
	}
	c := s.login("alice")
	c.ok("SELECT INBOX")
	if s.view(c.t).Len() > 0 {
		c.ok(`STORE 1:* +FLAGS.SILENT (\Deleted)`)
		c.ok("EXPUNGE")
	}
	c.ok("CREATE " + w.names[1])
	_ = c.conn.Close()
	for _, name := range w.names[:2] {
		w.found(name)
	}
	for _, enable := range []string{"", "ENABLE CONDSTORE", "ENABLE QRESYNC"} {
		g := &guest{w: w, enable: enable}
		w.guests = append(w.guests, g)
		g.connect()
	}
	return w
}

// found is an empty mailbox that was just created.
func (w *world) found(name string) *worldBox {
	v := w.server.viewOf(w.server.t, name)
	if v.Len() > 0 {
		w.t.Fatalf("%s is new and has %d messages", name, v.Len())
	}
	b := &worldBox{validity: uint64(v.UIDValidity()), next: uint64(v.UIDNext())}
	w.named(b, name)
	return b
}

// named gives a mailbox a name.
func (w *world) named(b *worldBox, name string) {
	key := fmt.Sprint(name, " ", b.validity)
	if before := w.had[key]; before != nil && before != b {
		w.t.Fatalf("%s had UIDVALIDITY %d before, as another mailbox", name, b.validity)
	}
	w.had[key], w.boxes[name], b.name = b, b, name
}

// act is a command of a session of its own about mailboxes.
func (w *world) act(command string, right bool) {
	c := w.server.login("alice")
	defer func() { _ = c.conn.Close() }()
	if _, tagged := c.cmd(command); strings.HasPrefix(tagged, "OK") != right {
		w.t.Fatalf("%s: %s", command, tagged)
	}
}

func (w *world) name() string { return rapid.SampledFrom(w.names).Draw(w.t, "mailbox") }

// add adds a message with a UID that the server told.
func (w *world) add(b *worldBox, uid uint64, flags []string, content *worldContent) {
	if uid < b.next {
		w.t.Fatalf("%s: UID %d was given before, the next is %d", b.name, uid, b.next)
	}
	b.next = uid + 1
	b.messages = append(b.messages, &worldMessage{uid: uid, flags: slices.Clone(flags), worldContent: content})
}

// remove takes out the messages that match.
func (b *worldBox) remove(which func(*worldMessage) bool) {
	b.leaving = nil
	b.messages = slices.DeleteFunc(b.messages, func(m *worldMessage) bool {
		if m.gone = which(m); m.gone {
			b.leaving = append(b.leaving, m)
		}
		return m.gone
	})
}

// step is one thing that happens.
func (w *world) step() {
	for _, b := range w.boxes {
		b.leaving = nil
	}
	g := w.guests[rapid.IntRange(0, len(w.guests)-1).Draw(w.t, "client")]
	switch {
	case g.box == nil:
		g.open(w.name())
		return
	case g.box.deleted:
		g.farewell()
		return
	}
	switch what := rapid.IntRange(0, 27).Draw(w.t, "what"); what {
	case 0, 1, 2:
		g.append(w.name())
	case 3, 4, 5, 6:
		g.store()
	case 7:
		g.fetch()
	case 8:
		g.run("NOOP", false)
	case 9, 10:
		g.expunge()
	case 11, 12:
		g.uidExpunge()
	case 13:
		g.search()
	case 14, 15:
		g.transfer("COPY", w.name())
	case 16, 17:
		g.transfer("MOVE", w.name())
	case 18:
		g.leave()
	case 19:
		g.connect()
	case 20:
		g.idle()
	case 21:
		w.create(g, w.name())
	case 22:
		w.delete(g, w.name())
	case 23:
		w.rename(g, w.name(), w.name())
	case 24:
		w.deliver(w.name())
	case 25, 26:
		w.remember(w.name())
	default:
		if len(w.caches) > 0 {
			w.caches[rapid.IntRange(0, len(w.caches)-1).Draw(w.t, "cache")].resync(w)
		}
	}
}

func (w *world) create(g *guest, name string) {
	answer := g.run("CREATE "+name, false)
	if w.answered("CREATE "+name, answer, w.boxes[name] == nil) {
		w.found(name)
	}
}

// answered reports whether a command was done, which must be as it should.
func (w *world) answered(command, answer string, done bool) bool {
	if strings.HasPrefix(answer, "OK") != done || !done && !strings.HasPrefix(answer, "NO") {
		w.t.Fatalf("%s: %q", command, answer)
	}
	return done
}

func (w *world) delete(g *guest, name string) {
	b := w.boxes[name]
	done := b != nil && name != "INBOX"
	if done {
		b.deleted = true
		b.remove(func(*worldMessage) bool { return true })
		delete(w.boxes, name)
	}
	if done && g.box == b { // it is not selected any more
		g.box, g.entries = nil, nil
	}
	w.answered("DELETE "+name, g.run("DELETE "+name, false), done)
}

func (w *world) rename(g *guest, from, to string) {
	b, command := w.boxes[from], fmt.Sprintf("RENAME %s %s", from, to)
	done := b != nil && w.boxes[to] == nil
	moved := &worldBox{}
	if done && from == "INBOX" {
		moved.messages = b.messages
		b.messages = nil
	}
	gone := map[*worldMessage]*worldMessage{}
	for _, m := range moved.messages {
		copied := *m
		gone[m], m.gone = &copied, true
	}
	if !w.answered(command, g.run(command, false), done) {
		return
	}
	if from != "INBOX" {
		delete(w.boxes, from)
		w.named(b, to)
		return
	}
	v := w.server.viewOf(w.server.t, to)
	if v.Len() != len(moved.messages) {
		w.t.Fatalf("%s: %d messages instead of %d", command, v.Len(), len(moved.messages))
	}
	moved.validity, moved.next = uint64(v.UIDValidity()), 1
	w.named(moved, to)
	list := moved.messages
	moved.messages = nil
	for i, m := range list {
		w.add(moved, uint64(v.At(i).UID), gone[m].flags, m.worldContent)
	}
}

// deliver brings a message as LMTP does.
func (w *world) deliver(name string) {
	account, err := w.server.store.Account(w.server.t.Context(), mail.Account{Name: "alice"})
	if err != nil {
		w.t.Fatalf("account: %v", err)
	}
	defer account.Close()
	content, err := w.server.store.Stage(w.server.t.Context(), strings.NewReader(message("delivered", "x")))
	if err != nil {
		w.t.Fatalf("stage: %v", err)
	}
	defer content.Discard()
	w.sent++
	d := mailstore.Delivery{ID: fmt.Sprintf("%s-%d", w.names[1], w.sent), Content: content, Mailbox: name}
	for _, err := range account.Deliver(w.server.t.Context(), []mailstore.Delivery{d, d}) {
		if err != nil {
			w.t.Fatalf("deliver: %v", err)
		}
	}
	v := w.server.viewOf(w.server.t, name)
	if w.boxes[name] == nil { // created by the delivery
		w.named(&worldBox{validity: uint64(v.UIDValidity())}, name)
	}
	b := w.boxes[name]
	if v.Len() != len(b.messages)+1 {
		w.t.Fatalf("%s: %d messages after one was delivered to %d", name, v.Len(), len(b.messages))
	}
	w.add(b, uint64(v.At(v.Len()-1).UID), nil, &worldContent{})
}

// resyncCache is what a client with QRESYNC keeps while it is away.
type resyncCache struct {
	box      *worldBox
	modSeq   string
	messages []uint64            // UIDs by number
	flags    map[uint64][]string // by UID
}

// remember takes a mailbox as a session is shown it.
func (w *world) remember(name string) {
	b := w.boxes[name]
	if b == nil {
		return
	}
	c := w.server.login("alice")
	defer func() { _ = c.conn.Close() }()
	cache := &resyncCache{box: b, flags: map[uint64][]string{}}
	c.ok("ENABLE QRESYNC")
	for _, line := range c.ok("SELECT " + name) {
		if m := modSeqTold.FindStringSubmatch(line); m != nil {
			cache.modSeq = m[1]
		}
	}
	if len(b.messages) > 0 {
		for _, line := range c.ok("FETCH 1:* (UID FLAGS)") {
			cache.apply(w, line)
		}
	}
	cache.messages = slices.Sorted(maps.Keys(cache.flags))
	w.caches = append(w.caches, cache)
}

var vanishedTold = regexp.MustCompile(`^\* VANISHED (\(EARLIER\) )?(\S+)$`)

func (c *resyncCache) apply(w *world, line string) {
	if found := vanishedTold.FindStringSubmatch(line); found != nil {
		for uid := range c.flags {
			if setHas(found[2], uid) {
				delete(c.flags, uid)
			}
		}
		for _, m := range c.box.messages {
			if setHas(found[2], m.uid) {
				w.t.Fatalf("%s, but UID %d is there", line, m.uid)
			}
		}
	}
	if uid, flags, ok := flagsTold(line); ok {
		c.flags[uid] = flags
	}
}

// resync comes back with a cache, all of it or the part that is named, which
// must then be what is there. The cache is as old as before afterwards.
func (c *resyncCache) resync(w *world) {
	if c.box.deleted {
		return
	}
	client := w.server.login("alice")
	defer func() { _ = client.conn.Close() }()
	client.ok("ENABLE QRESYNC")
	now := &resyncCache{box: c.box, flags: maps.Clone(c.flags)}
	known, sample := "", ""
	named := func(uint64) bool { return true }
	if n := len(c.messages); n > 0 && rapid.Bool().Draw(w.t, "known UIDs") {
		lo := rapid.IntRange(0, n-1).Draw(w.t, "from")
		hi := rapid.IntRange(lo, n-1).Draw(w.t, "to")
		first, last := c.messages[lo], c.messages[hi]
		known = fmt.Sprintf(" %d:%d", first, last)
		named = func(uid uint64) bool { return first <= uid && uid <= last }
	}
	if n := len(c.messages); n > 0 && rapid.Bool().Draw(w.t, "sample") {
		var numbers, uids []string
		for i := range n {
			if rapid.Bool().Draw(w.t, "in sample") {
				numbers, uids = append(numbers, fmt.Sprint(i+1)), append(uids, fmt.Sprint(c.messages[i]))
			}
		}
		if len(numbers) > 0 {
			sample = fmt.Sprintf(" (%s %s)", strings.Join(numbers, ","), strings.Join(uids, ","))
		}
	}
	command := fmt.Sprintf("SELECT %s (QRESYNC (%d %s%s%s))", c.box.name, c.box.validity, c.modSeq, known, sample)
	for _, line := range client.ok(command) {
		now.apply(w, line)
	}
	for _, m := range c.box.messages {
		if flags, cached := now.flags[m.uid]; named(m.uid) && (!cached || !slices.Equal(flags, m.flags)) {
			w.t.Fatalf("%s: UID %d has %q, told was %q (%v)", command, m.uid, m.flags, flags, cached)
		}
		delete(now.flags, m.uid)
	}
	for uid := range now.flags {
		if named(uid) {
			w.t.Fatalf("%s: UID %d is gone, which was not told", command, uid)
		}
	}
}

// setHas reports whether a set, which has no "*", has a number.
func setHas(set string, n uint64) bool {
	return slices.Contains(members(set, n, n), n)
}

// members lists the numbers of a set from lo to hi, in its order.
func members(set string, lo, hi uint64) []uint64 {
	var list []uint64
	for part := range strings.SplitSeq(set, ",") {
		first, last, ok := strings.Cut(part, ":")
		if !ok {
			last = first
		}
		a, _ := strconv.ParseUint(first, 10, 64)
		b, _ := strconv.ParseUint(last, 10, 64)
		for n := max(min(a, b), lo); n <= min(max(a, b), hi); n++ {
			list = append(list, n)
		}
	}
	return list
}

var flagsAmong = regexp.MustCompile(`FLAGS \(([^)]*)\)`)

// flagsTold reads UID and flags of a FETCH response that has both.
func flagsTold(line string) (uid uint64, flags []string, ok bool) {
	u, f := uidItem.FindStringSubmatch(line), flagsAmong.FindStringSubmatch(line)
	if u == nil || f == nil {
		return 0, nil, false
	}
	uid, err := strconv.ParseUint(u[1], 10, 32)
	return uid, sortedWords(f[1]), err == nil
}

func sortedWords(s string) []string {
	words := strings.Fields(s)
	slices.Sort(words)
	return words
}
