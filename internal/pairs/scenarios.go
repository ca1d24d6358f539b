package pairs

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// scenario is one thing that happens to a pair.
type scenario struct {
	name string
	what string
	// shortMemory asks for a pair that forgets soon what happened: the place of
	// an outage of weeks.
	shortMemory bool
	// run does it to the user's account and returns what was seen, and an error
	// when mail is lost, comes back, or the nodes stay apart.
	run func(t testing.TB, p pair, user string) (facts string, err error)
}

// scenarios are the cases in which dsync was seen to lose, revive or diverge,
// and those that it passes, under the names of the list they come from.
var scenarios = []scenario{
	{name: "M1", what: "delivery on A until B shows it", run: deliveryLag},
	{name: "M2", what: "flag set on A until B shows it", run: flagLag},
	{name: "M3", what: "backlog after an outage", run: backlog},
	{name: "M4", what: "3 mails on A, 2 on B while apart", run: conflict(3, 2)},
	{name: "M5", what: "1 mail on A, 1 on B while apart", run: conflict(1, 1)},
	{name: "M6", what: "the same, with the operator's sync command", run: conflictSynced},
	{name: "M7", what: "DELETE on A, APPEND into it on B while apart", run: deleteAgainstAppend},
	{name: "M8", what: "DELETE on A, APPEND into it on B at once, connected, 6 times", run: deleteThenAppend},
	{name: "M9", what: "expunge of the two newest on A while apart, for longer than is remembered", shortMemory: true, run: expunged(5, 6)},
	{name: "M10", what: "expunge in the middle, the same", shortMemory: true, run: expunged(3)},
	{name: "M11", what: "body lost on A's disk, read there, full sync", run: damaged(true)},
	{name: "M12", what: "body lost on A's disk, sync by the replicator", run: damaged(false)},
	{name: "M13", what: "B put back to an older backup, a mail expunged on A meanwhile", shortMemory: true, run: restored},
	{name: "M14", what: "QRESYNC client moves to B, where a mail was expunged while apart", run: ghost},
	{name: "M15", what: "random work on both sides, apart and together", run: random},
	{name: "M16", what: "opposite flags while apart, the later one alone", run: oppositeFlags},
	{name: "M17", what: "renames that make a cycle", run: renameCycle},
	{name: "M18", what: "replication killed with work before it", run: killed},
}

func anything(picture) error { return nil }

// quiet brings the pair to rest after what a scenario began with.
func quiet(t testing.TB, p pair, user string, condition func(picture) error) {
	t.Helper()
	if _, err := settle(p, user, 60*time.Second, condition); err != nil {
		t.Fatalf("%s is not in step at the beginning: %v", p.name(), err)
	}
}

func names(prefix string, n int) []string {
	list := make([]string, n)
	for i := range list {
		list[i] = fmt.Sprintf("%s%d", prefix, i+1)
	}
	return list
}

func deliveryLag(t testing.TB, p pair, user string) (string, error) {
	mustDeliver(t, p, 0, user, "first")
	quiet(t, p, user, has("INBOX", "first"))
	b := session(t, p, 1, user)
	b.must(t, "SELECT INBOX")
	var took []time.Duration
	for i := range 15 {
		began := time.Now()
		mustDeliver(t, p, 0, user, fmt.Sprintf("lag%d", i))
		if err := b.until("EXISTS"); err != nil {
			return "", err
		}
		took = append(took, time.Since(began))
	}
	return median(took), nil
}

// until polls with NOOP until a response holds the word.
func (c *client) until(word string) error {
	for began := time.Now(); time.Since(began) < patience; {
		lines, err := c.do("NOOP")
		if err != nil {
			return err
		}
		if slices.ContainsFunc(lines[:len(lines)-1], func(line string) bool { return strings.Contains(line, word) }) {
			return nil
		}
	}
	return fmt.Errorf("no %s within %v", word, patience)
}

func median(took []time.Duration) string {
	slices.Sort(took)
	return fmt.Sprintf("median %.1f ms, longest %.1f ms", took[len(took)/2].Seconds()*1000, took[len(took)-1].Seconds()*1000)
}

func flagLag(t testing.TB, p pair, user string) (string, error) {
	mustDeliver(t, p, 0, user, "flagged")
	quiet(t, p, user, has("INBOX", "flagged"))
	a, b := session(t, p, 0, user), session(t, p, 1, user)
	a.must(t, "SELECT INBOX")
	b.must(t, "SELECT INBOX")
	var took []time.Duration
	for i := range 8 {
		began := time.Now()
		a.must(t, `STORE 1 %cFLAGS (\Flagged)`, "+-"[i%2])
		if err := b.until("FETCH"); err != nil {
			return "", err
		}
		took = append(took, time.Since(began))
	}
	return median(took), nil
}

// backlogMails is how many mails wait for the partner.
var backlogMails = 300

func backlog(t testing.TB, p pair, user string) (string, error) {
	mustDeliver(t, p, 0, user, "first")
	quiet(t, p, user, has("INBOX", "first"))
	p.pull()
	list := names("b", backlogMails)
	mustDeliver(t, p, 0, user, list...)
	p.plug()
	took, err := settle(p, user, p.heals(), has("INBOX", append(list, "first")...))
	return fmt.Sprintf("%d mails after %.1f s", backlogMails, took.Seconds()), err
}

// conflict delivers to both sides while they are apart. Nothing may be lost,
// and no UID may ever name two mails.
func conflict(onA, onB int) func(testing.TB, pair, string) (string, error) {
	return func(t testing.TB, p pair, user string) (string, error) {
		mustDeliver(t, p, 0, user, "first")
		quiet(t, p, user, has("INBOX", "first"))
		p.pull()
		a, b := names("a", onA), names("b", onB)
		mustDeliver(t, p, 0, user, a...)
		mustDeliver(t, p, 1, user, b...)
		before, err := both(p, user)
		if err != nil {
			return "", err
		}
		p.plug()
		took, err := settle(p, user, p.heals(), has("INBOX", slices.Concat(a, b, []string{"first"})...))
		facts := fmt.Sprintf("in step after %.1f s", took.Seconds())
		if err != nil {
			return facts, err
		}
		after, err := both(p, user)
		if err != nil {
			return facts, err
		}
		facts += fmt.Sprintf("; %d mails got another UID", renumbered(before, after[0]))
		return facts, oneContent(append(before, after...))
	}
}

// both is what the nodes show of an account's INBOX.
func both(p pair, user string) ([]folder, error) {
	var list []folder
	for node := range 2 {
		shows, err := look(p, node, user)
		if err != nil {
			return nil, err
		}
		list = append(list, shows["INBOX"])
	}
	return list, nil
}

func renumbered(before []folder, after folder) int {
	n := 0
	for _, f := range before {
		for uid, m := range f.messages {
			if after.uidOf(m.subject) != uid && m.subject != "first" {
				n++
			}
		}
	}
	return n
}

// oneContent finds UIDs that named two mails.
func oneContent(seen []folder) error {
	named := make(map[string]string)
	for _, f := range seen {
		for uid, m := range f.messages {
			key := fmt.Sprintf("UID %d of UIDVALIDITY %s", uid, f.uidValidity)
			if other, known := named[key]; known && other != m.subject {
				return fmt.Errorf("%s named %s and %s", key, other, m.subject)
			}
			named[key] = m.subject
		}
	}
	return nil
}

func conflictSynced(t testing.TB, p pair, user string) (string, error) {
	mustDeliver(t, p, 0, user, "first")
	quiet(t, p, user, has("INBOX", "first"))
	p.pull()
	mustDeliver(t, p, 0, user, "a1", "a2")
	mustDeliver(t, p, 1, user, "b1", "b2")
	p.plug()
	for range 3 {
		// Just after the cable is plugged in there may be no connection yet.
		var err error
		for began := time.Now(); time.Since(began) < p.heals(); pause(100 * time.Millisecond) {
			if err = p.sync(0, user, false); err == nil {
				break
			}
		}
		if err != nil {
			return "", err
		}
	}
	took, err := settle(p, user, p.heals(), has("INBOX", "first", "a1", "a2", "b1", "b2"))
	return fmt.Sprintf("3 commands, in step %.1f s later", took.Seconds()), err
}

func deleteAgainstAppend(t testing.TB, p pair, user string) (string, error) {
	a, b := session(t, p, 0, user), session(t, p, 1, user)
	a.must(t, "CREATE X")
	if err := a.add("X", "old"); err != nil {
		return "", err
	}
	quiet(t, p, user, has("X", "old"))
	p.pull()
	a.must(t, "DELETE X")
	if err := b.add("X", "kept"); err != nil {
		return "", err
	}
	p.plug()
	_, err := settle(p, user, p.heals(), has("X", "kept"))
	return "", err
}

func deleteThenAppend(t testing.TB, p pair, user string) (string, error) {
	a, b := session(t, p, 0, user), session(t, p, 1, user)
	var promised []string
	for i := range 6 {
		name := fmt.Sprintf("X%d", i)
		a.must(t, "CREATE %s", name)
		if err := a.add(name, "old"); err != nil {
			return "", err
		}
		quiet(t, p, user, has(name, "old"))
		a.must(t, "DELETE %s", name)
		if err := b.add(name, "kept"+name); err == nil { // else it knew of the deletion
			promised = append(promised, name)
		}
	}
	facts := fmt.Sprintf("%d of 6 answered OK", len(promised))
	_, err := settle(p, user, p.heals(), func(shows picture) error {
		var lost []string
		for _, name := range promised {
			if has(name, "kept"+name)(shows) != nil {
				lost = append(lost, name)
			}
		}
		if len(lost) > 0 {
			return fmt.Errorf("%d of them lost: %v", len(lost), lost)
		}
		return nil
	})
	return facts, err
}

func expunged(gone ...int) func(testing.TB, pair, string) (string, error) {
	return func(t testing.TB, p pair, user string) (string, error) {
		list := names("m", 6)
		mustDeliver(t, p, 0, user, list...)
		quiet(t, p, user, has("INBOX", list...))
		p.pull()
		a := session(t, p, 0, user)
		a.must(t, "SELECT INBOX")
		var left []string
		for i, name := range list {
			if slices.Contains(gone, i+1) {
				a.must(t, `STORE %d +FLAGS (\Deleted)`, i+1)
			} else {
				left = append(left, name)
			}
		}
		a.must(t, "EXPUNGE")
		// Work that makes the logs of what happened turn over.
		for i := range 60 {
			a.must(t, `STORE 1:* %cFLAGS (\Flagged word%d)`, "+-"[i%2], i/2)
			if i%20 == 19 {
				p.turnOver()
			}
		}
		p.plug()
		_, err := settle(p, user, p.heals(), has("INBOX", left...))
		return "", err
	}
}

// pause lets a peer's clock, of seconds, go on.
func pause(d time.Duration) { <-time.After(d) }

func damaged(full bool) func(testing.TB, pair, string) (string, error) {
	return func(t testing.TB, p pair, user string) (string, error) {
		list := []string{"m1", "m2", "m3"}
		for _, s := range list {
			if err := deliver(p.lmtp(0), user, message(s, 100<<10)); err != nil {
				return "", err
			}
		}
		quiet(t, p, user, has("INBOX", list...))
		p.lose(t, 0, user, "m2")
		a, err := dial(p.imap(0), user, p.password())
		if err != nil {
			return "", err
		}
		a.must(t, "SELECT INBOX")
		_, readErr := a.do("UID FETCH 1:* BODY.PEEK[]") // whatever it answers
		a.close()
		if err := p.sync(0, user, full); err != nil {
			return "", err
		}
		_, err = settle(p, user, p.heals(), has("INBOX", list...))
		if err == nil {
			err = readable(p, 0, user, len(list))
		}
		facts := "the first read failed"
		if readErr == nil {
			facts = "the first read did not fail"
		}
		return facts, err
	}
}

// readable reads all bodies of INBOX.
func readable(p pair, node int, user string, n int) error {
	c, err := dial(p.imap(node), user, p.password())
	if err != nil {
		return err
	}
	defer c.close()
	if _, err := c.do("EXAMINE INBOX"); err != nil {
		return err
	}
	lines, err := c.do("UID FETCH 1:* BODY.PEEK[]")
	if err != nil {
		return err
	}
	bodies := 0
	for _, line := range lines {
		if strings.Contains(line, ", line at ") {
			bodies++
		}
	}
	if bodies != n {
		return fmt.Errorf("node %d: %d of %d mails can be read", node, bodies, n)
	}
	return nil
}

func restored(t testing.TB, p pair, user string) (string, error) {
	list := names("m", 4)
	mustDeliver(t, p, 0, user, list...)
	quiet(t, p, user, has("INBOX", list...))
	p.save(t, 1)
	a := session(t, p, 0, user)
	a.must(t, "SELECT INBOX")
	a.must(t, `STORE 2 +FLAGS (\Deleted)`)
	a.must(t, "EXPUNGE")
	mustDeliver(t, p, 0, user, "later")
	want := has("INBOX", "m1", "m3", "m4", "later")
	quiet(t, p, user, want)
	p.restore(t, 1)
	_, err := settle(p, user, p.heals(), want)
	return "", err
}

func ghost(t testing.TB, p pair, user string) (string, error) {
	mustDeliver(t, p, 0, user, "m1", "m2", "m3")
	quiet(t, p, user, has("INBOX", "m1", "m2", "m3"))
	a := session(t, p, 0, user)
	a.must(t, "SELECT INBOX")
	for i := range 6 { // the client's value is well above what B has counted
		a.must(t, `STORE 1 %cFLAGS (\Flagged)`, "+-"[i%2])
	}
	quiet(t, p, user, anything)
	p.pull()
	b := session(t, p, 1, user)
	b.must(t, "SELECT INBOX")
	gone := uidOf(t, b, "m2")
	b.must(t, `UID STORE %d +FLAGS (\Deleted)`, gone)
	b.must(t, "EXPUNGE")
	a.must(t, `STORE 1 +FLAGS (\Answered)`)
	validity, modseq := state(t, a)
	p.plug()
	want := has("INBOX", "m1", "m3")
	if _, err := settle(p, user, p.heals(), want); err != nil {
		return "", err
	}
	for _, node := range []int{1, 0} {
		c := session(t, p, node, user)
		c.must(t, "ENABLE QRESYNC")
		lines := strings.Join(c.must(t, "SELECT INBOX (QRESYNC (%s %s))", validity, modseq), "\n")
		if !vanished(lines, gone) {
			return "", fmt.Errorf("node %d does not tell the client that UID %d is gone:\n%s", node, gone, lines)
		}
	}
	return "", nil
}

func uidOf(t testing.TB, c *client, subject string) int {
	t.Helper()
	f, err := c.folder("INBOX")
	if err != nil {
		t.Fatal(err)
	}
	c.must(t, "SELECT INBOX")
	return f.uidOf(subject)
}

// state is what a client that synchronises quickly keeps of INBOX.
func state(t testing.TB, c *client) (validity, modseq string) {
	t.Helper()
	validity, modseq, err := c.state()
	if err != nil {
		t.Fatal(err)
	}
	return validity, modseq
}

// vanished reports whether a VANISHED response names the UID.
func vanished(lines string, uid int) bool {
	for line := range strings.SplitSeq(lines, "\n") {
		_, set, ok := strings.Cut(line, "* VANISHED (EARLIER) ")
		if !ok {
			continue
		}
		for part := range strings.SplitSeq(strings.TrimSpace(set), ",") {
			var lo, hi int
			if n, _ := fmt.Sscanf(part, "%d:%d", &lo, &hi); n == 1 {
				hi = lo
			}
			if lo <= uid && uid <= hi {
				return true
			}
		}
	}
	return false
}

func oppositeFlags(t testing.TB, p pair, user string) (string, error) {
	mustDeliver(t, p, 0, user, "m1")
	quiet(t, p, user, has("INBOX", "m1"))
	a := session(t, p, 0, user)
	a.must(t, "SELECT INBOX")
	a.must(t, `STORE 1 +FLAGS (\Flagged)`)
	quiet(t, p, user, flags(`\Flagged`))
	p.pull()
	for i := range 5 {
		a.must(t, "STORE 1 +FLAGS (more%d)", i)
	}
	a.must(t, `STORE 1 -FLAGS (\Flagged more0 more1 more2 more3 more4)`)
	pause(20 * time.Millisecond)
	b := session(t, p, 1, user)
	b.must(t, "SELECT INBOX")
	b.must(t, `STORE 1 -FLAGS (\Flagged)`)
	b.must(t, `STORE 1 +FLAGS (\Flagged)`)
	p.plug()
	_, err := settle(p, user, p.heals(), flags(`\Flagged`))
	return "", err
}

func flags(want string) func(picture) error {
	return func(p picture) error {
		for _, m := range p["INBOX"].messages {
			if m.flags != want {
				return fmt.Errorf("flags are %q, not %q", m.flags, want)
			}
		}
		return nil
	}
}

func renameCycle(t testing.TB, p pair, user string) (string, error) {
	a := session(t, p, 0, user)
	for _, name := range []string{"P", "Q"} {
		a.must(t, "CREATE %s", name)
		if err := a.add(name, "in"+name); err != nil {
			return "", err
		}
	}
	quiet(t, p, user, has("Q", "inQ"))
	p.pull()
	a.must(t, "RENAME P Q/P")
	pause(20 * time.Millisecond)
	session(t, p, 1, user).must(t, "RENAME Q P/Q")
	p.plug()
	tree := ""
	_, err := settle(p, user, p.heals(), func(shows picture) error {
		found := 0
		tree = ""
		for _, name := range sortedKeys(shows) {
			for _, m := range shows[name].messages {
				if m.subject == "inP" || m.subject == "inQ" {
					found++
					tree += " " + name
				}
			}
		}
		if found != 2 {
			return fmt.Errorf("%d of the two mails are there", found)
		}
		return nil
	})
	return "ends as" + tree, err
}

func killed(t testing.TB, p pair, user string) (string, error) {
	mustDeliver(t, p, 0, user, "first")
	quiet(t, p, user, has("INBOX", "first"))
	p.pull()
	mustDeliver(t, p, 0, user, "waiting")
	p.killReplication(t, 0)
	p.plug()
	took, err := settle(p, user, p.heals(), has("INBOX", "first", "waiting"))
	return fmt.Sprintf("in step after %.1f s", took.Seconds()), err
}
