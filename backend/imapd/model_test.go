package imapd

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// model is a client that knows only what it was told: one entry per message,
// its UID and flags, "" where it was not told.
type model struct {
	*client
	messages []modelMessage
	modSeq   map[string]int64 // by UID
	seen     *seenMessages    // nil where clients run at the same time
}

// seenMessages is what all clients together were told of a mailbox's messages.
// A UID stands for one message for ever.
type seenMessages struct {
	emailID map[string]string // by UID
	last    int64             // the highest mod-sequence
}

var (
	emailIDOf = regexp.MustCompile(`EMAILID \((\w+)\)`)
	modSeqOf  = regexp.MustCompile(`MODSEQ \((\d+)\)`)
)

// note takes in a FETCH response that has a UID. For one client no mod-sequence
// goes down; one that was not told yet that a message is gone may be told of it
// as it was before others changed it.
func (m *model) note(t failer, uid, line string) {
	a := m.seen
	if found := emailIDOf.FindStringSubmatch(line); found != nil {
		if before := a.emailID[uid]; before != "" && before != found[1] {
			t.Fatalf("%s, but UID %s was %s", line, uid, before)
		}
		a.emailID[uid] = found[1]
	}
	if found := modSeqOf.FindStringSubmatch(line); found != nil {
		n, err := strconv.ParseInt(found[1], 10, 64)
		if err != nil || n < m.modSeq[uid] {
			t.Fatalf("%s, but the mod-sequence of UID %s was %d", line, uid, m.modSeq[uid])
		}
		m.modSeq[uid], a.last = n, max(a.last, n)
	}
}

// failer is a test that can be failed: *rapid.T and *testing.T.
type failer interface {
	Fatalf(format string, args ...any)
}

type modelMessage struct{ uid, flags string }

// none is the flags of a message that is known to have none.
const none = "-"

// apply takes in one untagged response.
func (m *model) apply(t failer, line string, numbers bool) {
	fields := strings.Fields(line)
	if len(fields) < 3 || fields[0] != "*" {
		return
	}
	n, err := strconv.Atoi(fields[1])
	if err != nil {
		return
	}
	switch fields[2] {
	case "EXISTS":
		if n < len(m.messages) {
			t.Fatalf("%s, but %d are known", line, len(m.messages))
		}
		for len(m.messages) < n {
			m.messages = append(m.messages, modelMessage{})
		}
	case "EXPUNGE":
		if numbers {
			t.Fatalf("%s inside a command with sequence numbers", line)
		}
		if n < 1 || n > len(m.messages) {
			t.Fatalf("%s, but %d are known", line, len(m.messages))
		}
		m.messages = append(m.messages[:n-1], m.messages[n:]...)
	case "FETCH":
		if n < 1 || n > len(m.messages) {
			t.Fatalf("%s, but %d are known", line, len(m.messages))
		}
		msg := &m.messages[n-1]
		if _, rest, ok := strings.Cut(line, "UID "); ok {
			uid := strings.TrimRight(strings.Fields(rest)[0], ")")
			if msg.uid != "" && msg.uid != uid {
				t.Fatalf("%s, but its UID was %s", line, msg.uid)
			}
			msg.uid = uid
			if m.seen != nil {
				m.note(t, uid, line)
			}
		}
		if _, rest, ok := strings.Cut(line, "FLAGS ("); ok {
			flags, _, _ := strings.Cut(rest, ")")
			msg.flags = orElse(flags, none)
		}
	}
}

// run sends a command and applies what comes back.
func (m *model) run(t failer, text string, numbers bool) string {
	untagged, tagged := m.cmd(text)
	for _, line := range untagged {
		m.apply(t, line, numbers)
	}
	if strings.HasPrefix(tagged, "BAD") {
		t.Fatalf("%s: %s", text, tagged)
	}
	return tagged
}

// TestClientsFollowTheServer lets three clients change one mailbox at random.
// Whatever they do, a client that applies the untagged responses in order holds
// the server's numbers, UIDs and flags once it has sent NOOP. UIDs are given
// once, mod-sequences grow, and in the end the store finds nothing amiss.
func TestClientsFollowTheServer(t *testing.T) {
	t.Parallel()
	cfg := testConfig()
	cfg.MaxSessionsPerClient = 1 << 20 // a failing round leaves its sessions
	s := startServer(t, cfg)
	round := 0
	rapid.Check(t, func(rt *rapid.T) {
		round++
		box := fmt.Sprintf("box%d", round)
		seen := &seenMessages{emailID: map[string]string{}}
		var clients []*model
		for range 3 {
			clients = append(clients, &model{client: s.login("alice"), modSeq: map[string]int64{}, seen: seen})
		}
		clients[0].ok("CREATE " + box)
		for _, m := range clients {
			m.run(rt, "SELECT "+box, false)
		}
		text := message("m", "x")
		steps := rapid.IntRange(5, 25).Draw(rt, "steps")
		for range steps {
			m := clients[rapid.IntRange(0, len(clients)-1).Draw(rt, "client")]
			m.step(rt, box, text)
		}
		for _, m := range clients {
			m.compare(rt)
			m.ok("LOGOUT")
		}
	})
	if err := s.store.Check(t.Context()); err != nil {
		t.Errorf("the store after all this: %v", err)
	}
}

func (m *model) step(t *rapid.T, box, text string) {
	n := len(m.messages)
	pick := func() int { return rapid.IntRange(1, n).Draw(t, "message") }
	flag := rapid.SampledFrom([]string{`\Seen`, `\Deleted`, `\Deleted`, `$kw`, ``}).Draw(t, "flag")
	op := rapid.SampledFrom([]string{"FLAGS", "+FLAGS", "-FLAGS", "FLAGS.SILENT", "+FLAGS.SILENT", "-FLAGS.SILENT"}).Draw(t, "op")
	what := rapid.IntRange(0, 15).Draw(t, "command")
	switch {
	case what <= 1 || n == 0:
		m.run(t, fmt.Sprintf("APPEND %s {%d+}\r\n%s", box, len(text), text), false)
	case what <= 3:
		i := pick()
		before := m.messages[i-1].flags
		if strings.Contains(op, "SILENT") {
			m.messages[i-1].flags = untold
		}
		m.run(t, fmt.Sprintf("STORE %d %s (%s)", i, op, flag), true)
		if m.messages[i-1].flags == untold {
			m.messages[i-1].flags = afterSilent(before, op, flag)
		}
	case what == 4:
		i := pick()
		if uid := m.messages[i-1].uid; uid != "" {
			m.run(t, fmt.Sprintf("UID STORE %s %s (%s)", uid, strings.TrimSuffix(op, ".SILENT"), flag), false)
		}
	case what == 5:
		m.run(t, "EXPUNGE", false)
	case what == 6:
		m.run(t, fmt.Sprintf("FETCH %d:* (UID FLAGS EMAILID)", pick()), true)
	case what == 7:
		m.run(t, fmt.Sprintf("SEARCH %d:*", pick()), true)
	case what == 8:
		m.run(t, fmt.Sprintf("MOVE %d %s", pick(), box), false)
	case what == 9:
		m.run(t, fmt.Sprintf("FETCH %d BODY[TEXT]", pick()), true)
	case what == 10:
		i := pick()
		if uid := m.messages[i-1].uid; uid != "" {
			m.run(t, "UID EXPUNGE "+uid, false)
		}
	case what == 11:
		since := rapid.SampledFrom([]int64{1, m.seen.last, 1 << 60}).Draw(t, "unchanged since")
		m.run(t, fmt.Sprintf("STORE %d (UNCHANGEDSINCE %d) %s (%s)", pick(), max(since, 1), strings.TrimSuffix(op, ".SILENT"), flag), true)
	case what == 12:
		m.run(t, fmt.Sprintf("COPY %d:* %s", pick(), box), false)
	case what == 13:
		m.run(t, "UNSELECT", false)
		m.messages = nil
		m.run(t, "SELECT "+box, false)
	case what == 14:
		m.run(t, "SEARCH RETURN (SAVE) "+rapid.SampledFrom([]string{"SEEN", "UNSEEN", "DELETED", "ALL"}).Draw(t, "search"), true)
		m.run(t, "FETCH $ (UID FLAGS MODSEQ)", true)
	default:
		m.idle(t)
	}
}

// idle is IDLE that ends at once: what it tells is applied, like that of NOOP.
func (m *model) idle(t failer) {
	m.tag++
	tag := fmt.Sprintf("t%d", m.tag)
	m.send(tag + " IDLE\r\n")
	for line := m.line(); !strings.HasPrefix(line, "+"); line = m.line() {
		m.apply(t, line, false)
	}
	m.send("DONE\r\n")
	untagged, _ := m.until(tag)
	for _, line := range untagged {
		m.apply(t, line, false)
	}
}

// untold stands for the flags of a message while a silent STORE runs.
const untold = "?"

// afterSilent is what a client knows of a message's flags after a silent STORE
// during which it was not told of them.
func afterSilent(before, op, flag string) string {
	switch {
	case op == "FLAGS.SILENT":
		return orElse(flag, none)
	case before == "" || flag == "":
		return before
	}
	kept := slices.DeleteFunc(strings.Fields(before), func(f string) bool { return f == flag || f == none })
	if op == "+FLAGS.SILENT" {
		kept = append(kept, flag)
	}
	return orElse(strings.Join(kept, " "), none)
}

// compare asks the server for everything and holds it against the model.
func (m *model) compare(t failer) {
	m.run(t, "NOOP", false)
	known := append([]modelMessage(nil), m.messages...)
	untagged := []string{}
	if len(known) > 0 {
		untagged = slices.DeleteFunc(m.ok("FETCH 1:* (UID FLAGS EMAILID MODSEQ)"), func(line string) bool {
			return strings.HasPrefix(line, "* OK [HIGHESTMODSEQ ") // the first command with MODSEQ tells it
		})
	}
	if len(untagged) != len(known) {
		t.Fatalf("%d messages, but %d are known: %q", len(untagged), len(known), untagged)
	}
	for i, line := range untagged {
		m.apply(t, line, true)
		now := m.messages[i]
		if known[i].uid != "" && known[i].uid != now.uid || known[i].flags != "" && !sameWords(known[i].flags, now.flags) {
			t.Fatalf("message %d: known %+v, is %+v", i+1, known[i], now)
		}
	}
}

func sameWords(a, b string) bool {
	x, y := strings.Fields(a), strings.Fields(b)
	if len(x) != len(y) {
		return false
	}
	for _, w := range x {
		if !hasKeyword(y, w) {
			return false
		}
	}
	return true
}
