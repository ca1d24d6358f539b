package imapd

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// modSeqMarks are the states of a mailbox by the names that a script gives
// them: each server has its own numbers.
type modSeqMarks map[string]string

// place puts numbers for names: "{m1}".
func (m modSeqMarks) place(command string) string {
	for name, value := range m {
		command = strings.ReplaceAll(command, "{"+name+"}", value)
	}
	return command
}

// resyncScript is played to both servers. "a" has QRESYNC enabled, "b" changes
// the mailbox; "mark x" names the state that a was told last. What the servers
// are known to answer differently stands behind the command, with the reason.
var resyncScript = []struct {
	who, command string
	// ours and theirs differ; "" when both answer alike.
	ours, theirs string
	why          string
}{
	{who: "a", command: "SELECT INBOX (QRESYNC (1 1))"},
	{who: "a", command: "ENABLE QRESYNC"},
	{who: "a", command: "SELECT INBOX"},
	{who: "b", command: "SELECT INBOX"},
	{who: "mark", command: "m0"},
	{who: "b", command: `UID STORE 2,4:6,9 +FLAGS.SILENT (\Deleted)`},
	{who: "b", command: "UID EXPUNGE 2,4:6,9"},
	{who: "a", command: "NOOP"},
	{who: "mark", command: "m1"},
	{who: "b", command: `UID STORE 7 FLAGS.SILENT (\Seen \Answered)`},
	{who: "b", command: `UID STORE 12 FLAGS.SILENT ($MDNSent)`},
	{who: "a", command: "NOOP"},
	{who: "a", command: "SELECT INBOX (QRESYNC ({v} {m0}))"},
	{who: "a", command: "SELECT INBOX (QRESYNC ({v} {m1}))"},
	{who: "a", command: "SELECT INBOX (QRESYNC ({v} {m0} 1:5,9:11))"},
	{who: "a", command: "SELECT INBOX (QRESYNC ({v} {m0} 1:12 (1,3,12 1,3,12)))"},
	{who: "a", command: "SELECT INBOX (QRESYNC (77 {m0}))"},
	{who: "a", command: "EXAMINE INBOX (QRESYNC ({v} {m0} 6,7))"},
	{who: "a", command: "SELECT INBOX (QRESYNC (0 {m0}))", ours: "BAD", theirs: "CLOSED; OK", why: "the grammar has no 0 there"},
	{who: "a", command: "SELECT INBOX (QRESYNC ({v} 0 12))", ours: "BAD", theirs: "CLOSED; * 7 FETCH (UID 12 FLAGS ($MDNSent)); OK", why: "the grammar has no 0 there"},
	{who: "a", command: "SELECT INBOX (QRESYNC ({v} {m0} 1:*))", ours: "BAD", theirs: "CLOSED; BAD", why: "what cannot be parsed changes nothing"},
	{who: "a", command: "SELECT INBOX (QRESYNC ({v} {m0} 1:2 (1:2 3)))"},
	{who: "a", command: "SELECT INBOX", ours: "CLOSED; OK", theirs: "OK", why: "Dovecot closed the mailbox before"},
	{who: "a", command: "UID FETCH 4:7 (FLAGS) (CHANGEDSINCE {m0} VANISHED)"},
	{who: "a", command: "UID FETCH 1:* (FLAGS) (VANISHED CHANGEDSINCE {m0})"},
	{who: "a", command: "UID FETCH 1:* (FLAGS) (CHANGEDSINCE {m1})"},
	{who: "a", command: "UID FETCH 1:* (FLAGS) (VANISHED)"},
	{who: "a", command: "FETCH 1:* (FLAGS) (CHANGEDSINCE {m0} VANISHED)"},
	{who: "a", command: "UID FETCH 12 (FLAGS) (CHANGEDSINCE 0)", ours: "BAD", theirs: "* 7 FETCH (UID 12 FLAGS ($MDNSent)); OK", why: "the grammar has no 0 there"},
	{who: "b", command: "UID FETCH 1:* (FLAGS) (CHANGEDSINCE {m0} VANISHED)"},
	{who: "a", command: "SEARCH MODSEQ {m1}"},
	{who: "a", command: "UID SEARCH RETURN (MIN MAX) MODSEQ {m1}"},
	{who: "a", command: "UID SEARCH RETURN (ALL COUNT) MODSEQ {m1}"},
	{who: "a", command: "UID SEARCH RETURN (COUNT) MODSEQ 9223372036854775807"},
	{who: "a", command: `SEARCH MODSEQ "/flags/\\draft" all 1`},
	{who: "a", command: "SEARCH MODSEQ 9223372036854775808", ours: "BAD", theirs: "* SEARCH; OK", why: "mod-sequences have 63 bits"},
	{who: "a", command: `UID STORE 7,8 (UNCHANGEDSINCE {m1}) +FLAGS.SILENT (\Flagged)`},
	{who: "a", command: `UID STORE 8 (UNCHANGEDSINCE 0) +FLAGS (\Seen)`},
	{
		who: "a", command: `STORE 1:2 +FLAGS.SILENT (\Deleted)`,
		ours: "* 1 FETCH (UID 1); * 2 FETCH (UID 3); OK [HIGHESTMODSEQ]", theirs: "* 1 FETCH (UID 1); * 2 FETCH (UID 3); OK", why: "everything has been told then",
	},
	{who: "a", command: "EXPUNGE"},
	{who: "a", command: "EXPUNGE"},
	{
		who: "a", command: `UID STORE 7 +FLAGS (\Deleted)`, ours: `* 1 FETCH (UID 7 FLAGS (\Answered \Deleted \Seen)); OK [HIGHESTMODSEQ]`,
		theirs: `* 1 FETCH (UID 7 FLAGS (\Answered \Deleted \Seen)); OK`, why: "everything has been told then",
	},
	{
		who: "a", command: `UID STORE 8 +FLAGS (\Deleted)`, ours: `* 2 FETCH (UID 8 FLAGS (\Deleted \Flagged)); OK [HIGHESTMODSEQ]`,
		theirs: `* 2 FETCH (UID 8 FLAGS (\Deleted \Flagged)); OK`, why: "everything has been told then",
	},
	{who: "a", command: "UID EXPUNGE 7"},
	{who: "a", command: "UID MOVE 10 Trash"},
	{who: "b", command: "NOOP"},
	{who: "a", command: "CLOSE", ours: "OK [HIGHESTMODSEQ]", theirs: "OK", why: "RFC 7162 section 3.2.8 asks for it"},
	{who: "a", command: "SELECT INBOX (QRESYNC ({v} {m0}))"},
	{who: "a", command: "STATUS INBOX (MESSAGES UIDNEXT)"},
}

// TestResyncLikeDovecot plays one script to both servers.
func TestResyncLikeDovecot(t *testing.T) {
	t.Parallel()
	first := besideDovecot(t)
	ours := &scripted{name: "ours", a: first.ours, b: first.again(first.ours), marks: modSeqMarks{}}
	theirs := &scripted{name: "Dovecot", a: first.theirs, b: first.again(first.theirs), marks: modSeqMarks{}}
	for _, s := range []*scripted{ours, theirs} {
		for i := range 12 {
			s.a.append("INBOX", "", message(fmt.Sprint(i), "text"))
		}
		s.a.cmd("CREATE Trash")
	}
	for i, step := range resyncScript {
		got, want := ours.play(step.who, step.command), theirs.play(step.who, step.command)
		if step.why == "" && !slices.Equal(got, want) {
			t.Errorf("step %d, %s %s:\n   ours %q\nDovecot %q", i, step.who, step.command, got, want)
		}
		if step.why != "" && (strings.Join(got, "; ") != step.ours || strings.Join(want, "; ") != step.theirs) {
			t.Errorf("step %d, %s %s, which should differ because %s:\n   ours %q\nDovecot %q", i, step.who, step.command, step.why, got, want)
		}
	}
}

// scripted is one server with two clients.
type scripted struct {
	name  string
	a, b  *client
	marks modSeqMarks
	last  string // HIGHESTMODSEQ told to a
}

var validityTold = regexp.MustCompile(`\[UIDVALIDITY (\d+)\]`)

// play runs one step and returns what the answer says of messages, and how it
// ended; numbers that every server has its own of are left out.
func (s *scripted) play(who, command string) []string {
	if who == "mark" {
		s.marks[command] = s.last
		return nil
	}
	c := s.a
	if who == "b" {
		c = s.b
	}
	untagged, tagged := c.cmd(s.marks.place(command))
	if who == "a" {
		s.learn(append(untagged, tagged)...)
	}
	var out []string
	for _, line := range untagged {
		line = strings.ReplaceAll(modSeqItemOf.ReplaceAllString(line, ""), "( ", "(")
		line = flagsItem.ReplaceAllStringFunc(line, sortFlags)
		switch {
		case len(aboutMessages([]string{line})) > 0:
			out = append(out, line)
		case strings.HasPrefix(line, "* SEARCH"), strings.HasPrefix(line, "* ESEARCH"), strings.HasPrefix(line, "* ENABLED"):
			out = append(out, ownNumbers.ReplaceAllString(line, "$1 n"))
		case strings.Contains(line, "[CLOSED]"):
			out = append(out, "CLOSED")
		}
	}
	word, rest, _ := strings.Cut(tagged, " ")
	if m := regexp.MustCompile(`^\[(HIGHESTMODSEQ|MODIFIED [\d,:]+)`).FindStringSubmatch(rest); m != nil {
		word += " [" + m[1] + "]"
	}
	return append(out, word)
}

var (
	ownNumbers   = regexp.MustCompile(`(MODSEQ|TAG) ("t\d+"|\d+)`)
	modSeqItemOf = regexp.MustCompile(` ?MODSEQ \(\d+\)`)
	flagsItem    = regexp.MustCompile(`FLAGS \([^)]*\)`)
)

// sortFlags brings the flags of "FLAGS (...)" into one order, without \Recent,
// which went with IMAP4rev2.
func sortFlags(item string) string {
	flags := slices.DeleteFunc(strings.Fields(item[len("FLAGS ("):len(item)-1]), func(f string) bool { return f == `\Recent` })
	slices.Sort(flags)
	return "FLAGS (" + strings.Join(flags, " ") + ")"
}

func (s *scripted) learn(lines ...string) {
	for _, line := range lines {
		if m := modSeqTold.FindStringSubmatch(line); m != nil {
			s.last = m[1]
		}
		if m := validityTold.FindStringSubmatch(line); m != nil {
			s.marks["v"] = m[1]
		}
		for _, m := range regexp.MustCompile(`FETCH .*MODSEQ \((\d+)\)`).FindAllStringSubmatch(line, -1) {
			if len(m[1]) > len(s.last) || len(m[1]) == len(s.last) && m[1] > s.last {
				s.last = m[1]
			}
		}
	}
}
