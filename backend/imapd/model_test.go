package imapd

import (
	"fmt"
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

// TestClientsFollowTheServer lets two clients change one mailbox at random.
// Whatever they do, a client that applies the untagged responses in order holds
// the server's numbers, UIDs and flags once it has sent NOOP.
func TestClientsFollowTheServer(t *testing.T) {
	t.Parallel()
	cfg := testConfig()
	cfg.MaxSessionsPerClient = 1 << 20 // a failing round leaves its sessions
	s := startServer(t, cfg)
	round := 0
	rapid.Check(t, func(rt *rapid.T) {
		round++
		box := fmt.Sprintf("box%d", round)
		clients := []*model{{client: s.login("alice")}, {client: s.login("alice")}}
		clients[0].ok("CREATE " + box)
		for _, m := range clients {
			m.run(rt, "SELECT "+box, false)
		}
		text := message("m", "x")
		steps := rapid.IntRange(5, 25).Draw(rt, "steps")
		for range steps {
			m := clients[rapid.IntRange(0, 1).Draw(rt, "client")]
			m.step(rt, box, text)
		}
		for _, m := range clients {
			m.compare(rt)
			m.ok("LOGOUT")
		}
	})
}

func (m *model) step(t *rapid.T, box, text string) {
	n := len(m.messages)
	pick := func() int { return rapid.IntRange(1, n).Draw(t, "message") }
	flag := rapid.SampledFrom([]string{`\Seen`, `\Deleted`, `\Deleted`, `$kw`, ``}).Draw(t, "flag")
	op := rapid.SampledFrom([]string{"FLAGS", "+FLAGS", "-FLAGS", "FLAGS.SILENT", "+FLAGS.SILENT", "-FLAGS.SILENT"}).Draw(t, "op")
	what := rapid.IntRange(0, 9).Draw(t, "command")
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
		m.run(t, fmt.Sprintf("FETCH %d:* (UID FLAGS)", pick()), true)
	case what == 7:
		m.run(t, fmt.Sprintf("SEARCH %d:*", pick()), true)
	case what == 8:
		m.run(t, fmt.Sprintf("MOVE %d %s", pick(), box), false)
	default:
		m.run(t, fmt.Sprintf("FETCH %d BODY[TEXT]", pick()), true)
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
		untagged = m.ok("FETCH 1:* (UID FLAGS)")
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
