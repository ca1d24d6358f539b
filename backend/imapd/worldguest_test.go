package imapd

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"pgregory.net/rapid"
)

// guest is a session in the world.
type guest struct {
	*client
	w        *world
	enable   string
	box      *worldBox // selected, nil for none
	readOnly bool
	entries  []*worldEntry // by number
	code     string        // the last response with COPYUID
}

// worldEntry is a message as a session knows it.
type worldEntry struct {
	*worldMessage
	known  bool // its flags are
	flags  []string
	modSeq uint64
}

// connect comes anew, and leaves what there was.
func (g *guest) connect() {
	if g.client != nil {
		_ = g.conn.Close()
	}
	g.client, g.box, g.entries = g.w.server.login("alice"), nil, nil
	if g.enable != "" {
		g.ok(g.enable)
	}
}

// open selects a mailbox.
func (g *guest) open(name string) {
	b, verb := g.w.boxes[name], "SELECT"
	if rapid.IntRange(0, 7).Draw(g.w.t, "examine") == 0 {
		verb = "EXAMINE"
	}
	g.box, g.entries, g.readOnly = b, nil, verb == "EXAMINE"
	g.w.answered(verb, g.run(verb+" "+name, false), b != nil)
}

// run sends a command, holds all that is told against the model, and after it
// what the client knows.
func (g *guest) run(command string, numbers bool) string {
	g.tag++
	tag := fmt.Sprintf("t%d", g.tag)
	g.send(tag + " " + command + "\r\n")
	answer := g.until(tag, command, numbers)
	if strings.HasPrefix(answer, "BAD") {
		g.w.t.Fatalf("%.60q: %s", command, answer)
	}
	g.agree(command, numbers)
	return answer
}

// until takes in what comes up to the tagged response.
func (g *guest) until(tag, command string, numbers bool) string {
	for {
		line, err := g.read()
		if err != nil {
			g.w.t.Fatalf("%.60q: %v", command, err)
		}
		if answer, tagged := strings.CutPrefix(line, tag+" "); tagged {
			return answer
		}
		g.apply(line, command, numbers)
	}
}

// farewell is the next command of a session whose mailbox was deleted: it ends.
func (g *guest) farewell() {
	g.send("f NOOP\r\n")
	if lines := g.closed(); len(lines) != 1 || !strings.HasPrefix(lines[0], "* BYE [UNAVAILABLE]") {
		g.w.t.Fatalf("after the mailbox was deleted: %q", lines)
	}
	g.connect()
}

// apply takes in one untagged response.
func (g *guest) apply(line, command string, numbers bool) {
	t := g.w.t
	if found := vanishedTold.FindStringSubmatch(line); found != nil && g.box != nil {
		if numbers || found[1] != "" || g.enable != "ENABLE QRESYNC" {
			t.Fatalf("%.60q: %s", command, line)
		}
		for _, uid := range members(found[2], 0, g.box.next) {
			i := slices.IndexFunc(g.entries, func(e *worldEntry) bool { return e.uid == uid })
			if i < 0 {
				t.Fatalf("%.60q: %s, but UID %d is not known", command, line, uid)
			}
			g.drop(i, command, line)
		}
	}
	if copyUIDCode.MatchString(line) {
		g.code = line
	}
	fields := strings.Fields(line)
	if len(fields) < 3 || fields[0] != "*" || g.box == nil {
		return
	}
	n, err := strconv.Atoi(fields[1])
	if err != nil {
		return
	}
	switch fields[2] {
	case "EXISTS":
		g.exists(n, command, line)
	case "EXPUNGE":
		if numbers || n < 1 || n > len(g.entries) || g.enable == "ENABLE QRESYNC" {
			t.Fatalf("%.60q: %s", command, line)
		}
		g.drop(n-1, command, line)
	case "FETCH":
		if n < 1 || n > len(g.entries) {
			t.Fatalf("%.60q: %s, but %d are known", command, line, len(g.entries))
		}
		g.entries[n-1].fetched(g.w, command, line)
	}
}

// drop takes out an entry whose message must be gone.
func (g *guest) drop(i int, command, line string) {
	if e := g.entries[i]; !e.gone {
		g.w.t.Fatalf("%.60q: %s, but UID %d is there", command, line, e.uid)
	}
	g.entries = slices.Delete(g.entries, i, i+1)
}

// exists adds what is there behind the messages that are known.
func (g *guest) exists(n int, command, line string) {
	last := uint64(0)
	if len(g.entries) > 0 {
		last = g.entries[len(g.entries)-1].uid
	}
	added := slices.DeleteFunc(slices.Concat(g.box.messages, g.box.leaving), func(m *worldMessage) bool { return m.uid <= last })
	if present := slices.DeleteFunc(slices.Clone(added), func(m *worldMessage) bool { return m.gone }); len(g.entries)+len(present) == n {
		added = present
	}
	slices.SortFunc(added, func(a, b *worldMessage) int { return cmp.Compare(a.uid, b.uid) })
	for _, m := range added {
		g.entries = append(g.entries, &worldEntry{worldMessage: m})
	}
	if len(g.entries) != n {
		g.w.t.Fatalf("%.60q: %s, but there are %d", command, line, len(g.entries))
	}
}

// fetched takes in a FETCH response: of a message that is there, it tells how it
// is; of one that is gone, nothing but what was told.
func (e *worldEntry) fetched(w *world, command, line string) {
	if m := uidItem.FindStringSubmatch(line); m != nil && m[1] != fmt.Sprint(e.uid) {
		w.t.Fatalf("%.60q: %s, but it has UID %d", command, line, e.uid)
	}
	if m := emailIDOf.FindStringSubmatch(line); m != nil {
		if e.emailID != "" && e.emailID != m[1] {
			w.t.Fatalf("%.60q: %s, but it was %s", command, line, e.emailID)
		}
		e.emailID = m[1]
	}
	if m := modSeqItem.FindStringSubmatch(line); m != nil {
		n, err := strconv.ParseUint(m[1], 10, 63)
		if err != nil || n < e.modSeq || !e.gone && n < e.worldMessage.modSeq {
			w.t.Fatalf("%.60q: %s, but the mod-sequence was %d here and %d elsewhere", command, line, e.modSeq, e.worldMessage.modSeq)
		}
		e.modSeq, e.worldMessage.modSeq = n, max(n, e.worldMessage.modSeq)
	}
	if m := flagsAmong.FindStringSubmatch(line); m != nil {
		flags := sortedWords(m[1])
		if right := e.worldMessage.flags; !e.gone && !slices.Equal(flags, right) || e.gone && e.known && !slices.Equal(flags, e.flags) {
			w.t.Fatalf("%.60q: %s, but UID %d has %q, and %q were told (gone: %v)", command, line, e.uid, right, e.flags, e.gone)
		}
		e.known, e.flags = true, flags
	}
}

// agree holds what the client knows against what is there: all of it, unless
// expunges could not be told.
func (g *guest) agree(command string, numbers bool) {
	if g.box == nil {
		return
	}
	live := 0
	for i, e := range g.entries {
		if e.gone {
			if !numbers {
				g.w.t.Fatalf("behind %.60q message %d is not known to be gone", command, i+1)
			}
			continue
		}
		live++
		if e.known && !slices.Equal(e.flags, e.worldMessage.flags) {
			g.w.t.Fatalf("behind %.60q the client knows UID %d with %q, it has %q", command, e.uid, e.flags, e.worldMessage.flags)
		}
	}
	if live != len(g.box.messages) && live == len(g.entries) {
		g.w.t.Fatalf("behind %.60q the client knows %d of %d messages", command, live, len(g.box.messages))
	}
}

func (g *guest) append(name string) {
	b, flags := g.w.boxes[name], g.w.flags()
	g.w.sent++
	text := message(fmt.Sprintf("m%d", g.w.sent), "x")
	// What is told of it comes before its UID: it is added as it will be.
	if b == nil {
		answer := g.run(fmt.Sprintf("APPEND %s (%s) {%d+}\r\n%s", name, strings.Join(flags, " "), len(text), text), false)
		if g.w.answered("APPEND", answer, false); !strings.HasPrefix(answer, "NO [TRYCREATE]") {
			g.w.t.Fatalf("APPEND without a mailbox: %s", answer)
		}
		return
	}
	uid := b.next
	g.w.add(b, uid, flags, &worldContent{})
	answer := g.run(fmt.Sprintf("APPEND %s (%s) {%d+}\r\n%s", name, strings.Join(flags, " "), len(text), text), false)
	if !strings.HasPrefix(answer, fmt.Sprintf("OK [APPENDUID %d %d]", b.validity, uid)) {
		g.w.t.Fatalf("APPEND, where UID %d is next: %s", uid, answer)
	}
}

func (w *world) flags() []string {
	all := []string{`$kw`, `\Deleted`, `\Seen`}
	return slices.DeleteFunc(all, func(string) bool { return rapid.Bool().Draw(w.t, "flag") })
}

// some picks entries, and names them by UID or number.
func (g *guest) some() (set string, picked []*worldEntry, uid bool) {
	n := len(g.entries)
	if n == 0 {
		return "", nil, false
	}
	lo := rapid.IntRange(1, n).Draw(g.w.t, "from")
	hi := rapid.IntRange(lo, min(n, lo+2)).Draw(g.w.t, "to")
	picked = slices.Clone(g.entries[lo-1 : hi])
	if rapid.Bool().Draw(g.w.t, "by UID") {
		return fmt.Sprintf("%d:%d", picked[0].uid, picked[len(picked)-1].uid), picked, true
	}
	return fmt.Sprintf("%d:%d", lo, hi), picked, false
}

func prefixed(uid bool, verb string) string {
	if uid {
		return "UID " + verb
	}
	return verb
}

func (g *guest) fetch() {
	if set, _, uid := g.some(); set != "" {
		items := rapid.SampledFrom([]string{"(UID FLAGS EMAILID)", "(UID FLAGS MODSEQ)", "(UID BODY.PEEK[TEXT])"}).Draw(g.w.t, "items")
		g.run(fmt.Sprintf("%s %s %s", prefixed(uid, "FETCH"), set, items), !uid)
	}
}

var modifiedCode = regexp.MustCompile(`\[MODIFIED (\S+)\]`)

func (g *guest) store() {
	set, picked, uid := g.some()
	if set == "" {
		return
	}
	flags := g.w.flags()
	op := rapid.SampledFrom([]string{"FLAGS", "+FLAGS", "-FLAGS"}).Draw(g.w.t, "op")
	silent := rapid.Bool().Draw(g.w.t, "silent")
	since := uint64(0)
	if rapid.IntRange(0, 3).Draw(g.w.t, "conditional") == 0 {
		since = 1 + rapid.Uint64Range(0, picked[0].worldMessage.modSeq).Draw(g.w.t, "unchanged since")
	}
	command := fmt.Sprintf("%s %s ", prefixed(uid, "STORE"), set)
	if since > 0 {
		// Which of them changed since only the server knows: it is asked first.
		g.run(fmt.Sprintf("%s %s (UID FLAGS MODSEQ)", prefixed(uid, "FETCH"), set), !uid)
		command += fmt.Sprintf("(UNCHANGEDSINCE %d) ", since)
	}
	if command += op; silent {
		command += ".SILENT"
	}
	command += " (" + strings.Join(flags, " ") + ")"
	if g.readOnly {
		g.w.answered(command, g.run(command, !uid), false)
		return
	}
	var kept []string
	for _, e := range picked {
		if e.gone {
			continue
		}
		if since > 0 && e.worldMessage.modSeq > since {
			number := fmt.Sprint(e.uid)
			if !uid {
				number = fmt.Sprint(slices.Index(g.entries, e) + 1)
			}
			kept = append(kept, number)
			continue
		}
		e.worldMessage.flags = stored(e.worldMessage.flags, op, flags)
		if silent && (e.known || op == "FLAGS") {
			e.flags, e.known = stored(e.flags, op, flags), true
		}
	}
	answer := g.run(command, !uid)
	var told []string
	if m := modifiedCode.FindStringSubmatch(answer); m != nil {
		for _, n := range members(m[1], 1, 1<<32) {
			told = append(told, fmt.Sprint(n))
		}
	}
	for _, number := range kept {
		if !slices.Contains(told, number) {
			g.w.t.Fatalf("%s: %s, but %s had changed", command, answer, number)
		}
	}
}

// stored is what STORE makes of flags.
func stored(before []string, op string, flags []string) []string {
	out := slices.Clone(flags)
	if op != "FLAGS" {
		out = slices.DeleteFunc(slices.Clone(before), func(f string) bool { return slices.Contains(flags, f) })
	}
	if op == "+FLAGS" {
		out = append(out, flags...)
	}
	slices.Sort(out)
	return out
}

func (m *worldMessage) isDeleted() bool { return slices.Contains(m.flags, `\Deleted`) }

func (g *guest) expunge() {
	if !g.readOnly {
		g.box.remove((*worldMessage).isDeleted)
	}
	g.w.answered("EXPUNGE", g.run("EXPUNGE", false), !g.readOnly)
}

func (g *guest) uidExpunge() {
	if len(g.entries) == 0 {
		return
	}
	first := g.entries[rapid.IntRange(0, len(g.entries)-1).Draw(g.w.t, "first")].uid
	last := first + rapid.Uint64Range(0, 3).Draw(g.w.t, "more")
	if !g.readOnly {
		g.box.remove(func(m *worldMessage) bool { return m.isDeleted() && first <= m.uid && m.uid <= last })
	}
	g.w.answered("UID EXPUNGE", g.run(fmt.Sprintf("UID EXPUNGE %d:%d", first, last), false), !g.readOnly)
}

// search looks for flags: of messages that are there, the result is right.
func (g *guest) search() {
	g.tag++
	tag := fmt.Sprintf("t%d", g.tag)
	g.send(tag + " SEARCH RETURN (ALL) DELETED\r\n")
	var found []uint64
	for {
		line := g.line()
		if rest, ok := strings.CutPrefix(line, tag+" "); ok {
			if !strings.HasPrefix(rest, "OK") {
				g.w.t.Fatalf("SEARCH: %s", rest)
			}
			break
		}
		if _, set, ok := strings.Cut(line, " ALL "); ok && strings.HasPrefix(line, "* ESEARCH ") {
			found = members(set, 1, 1<<32)
		}
		g.apply(line, "SEARCH", true)
	}
	for i, e := range g.entries {
		if !e.gone && e.isDeleted() != slices.Contains(found, uint64(i+1)) {
			g.w.t.Fatalf("SEARCH DELETED: %v, but message %d has %q", found, i+1, e.worldMessage.flags)
		}
	}
	g.agree("SEARCH", true)
}

var copyUIDCode = regexp.MustCompile(`\[COPYUID (\d+) (\S+) (\S+)\]`)

// transfer is COPY or MOVE. The new messages get the next UIDs, in order.
func (g *guest) transfer(verb, name string) {
	set, picked, uid := g.some()
	if set == "" || verb == "MOVE" && g.readOnly {
		return
	}
	dest := g.w.boxes[name]
	command := fmt.Sprintf("%s %s %s", prefixed(uid, verb), set, name)
	live := slices.DeleteFunc(picked, func(e *worldEntry) bool { return e.gone })
	if dest == nil || len(live) == 0 {
		if answer := g.run(command, false); dest == nil && !strings.HasPrefix(answer, "NO [TRYCREATE]") {
			g.w.t.Fatalf("%s without a mailbox: %s", command, answer)
		}
		return
	}
	first := dest.next
	for _, e := range live {
		g.w.add(dest, dest.next, e.worldMessage.flags, e.worldContent)
	}
	if verb == "MOVE" {
		g.box.remove(func(m *worldMessage) bool {
			return slices.ContainsFunc(live, func(e *worldEntry) bool { return e.worldMessage == m })
		})
	}
	g.code = ""
	answer := g.run(command, false)
	code := copyUIDCode.FindStringSubmatch(g.code + answer)
	if code == nil || code[1] != fmt.Sprint(dest.validity) {
		g.w.t.Fatalf("%s: %s %s", command, g.code, answer)
	}
	source, copies := members(code[2], 1, 1<<32), members(code[3], 1, 1<<32)
	if len(source) != len(live) || len(copies) != len(live) {
		g.w.t.Fatalf("%s: %q, but %d messages", command, code[0], len(live))
	}
	for i, e := range live {
		if source[i] != e.uid || copies[i] != first+uint64(i) {
			g.w.t.Fatalf("%s: %q, where UID %d becomes %d", command, code[0], e.uid, first+uint64(i))
		}
	}
}

// leave is CLOSE or UNSELECT.
func (g *guest) leave() {
	verb := rapid.SampledFrom([]string{"CLOSE", "UNSELECT"}).Draw(g.w.t, "leave")
	b := g.box
	if verb == "CLOSE" && !g.readOnly && !b.deleted {
		b.remove((*worldMessage).isDeleted)
	}
	g.box, g.entries = nil, nil
	g.w.answered(verb, g.run(verb, false), true)
}

// idle is IDLE that ends at once.
func (g *guest) idle() {
	g.tag++
	tag := fmt.Sprintf("t%d", g.tag)
	g.send(tag + " IDLE\r\n")
	for {
		line := g.line()
		if strings.HasPrefix(line, "+") {
			break
		}
		g.apply(line, "IDLE", false)
	}
	g.send("DONE\r\n")
	g.until(tag, "IDLE", false)
	g.agree("IDLE", false)
}
