package imapd

import (
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// must is what an RFC wants of a server, as a dialogue with one mailbox of three
// messages: the commands before it succeed.
type must struct {
	rfc      string // and its section
	before   []string
	command  string
	tagged   string   // what the answer begins with
	untagged []string // each is somewhere in what comes before it
	never    string   // is nowhere in it
}

var musts = []must{
	// UIDONLY
	{"9586 3, numbers in a command", enabled("UIDONLY"), "FETCH 1 FLAGS", "BAD [UIDREQUIRED]", nil, ""},
	{"9586 3, the marker *", enabled("UIDONLY"), "STORE * +FLAGS (\\Seen)", "BAD [UIDREQUIRED]", nil, ""},
	{"9586 3.2, SEARCH", enabled("UIDONLY"), "SEARCH ALL", "BAD", nil, ""},
	{"9586 3.2, COPY", enabled("UIDONLY"), "COPY 1 Sent", "BAD", nil, ""},
	{"9586 3.2, MOVE", enabled("UIDONLY"), "MOVE 1 Sent", "BAD", nil, ""},
	{"9586 3.3, UIDFETCH for UID FETCH", enabled("UIDONLY"), "UID FETCH 1 (UID FLAGS)", "OK", []string{"* 1 UIDFETCH (UID 1 FLAGS ())"}, " FETCH "},
	{"9586 3.3, UIDFETCH for UID STORE", enabled("UIDONLY"), `UID STORE 2 +FLAGS (\Seen)`, "OK", []string{`* 2 UIDFETCH (FLAGS (\Seen))`}, " FETCH "},
	{"9586 3.4, EXPUNGE", append(enabled("UIDONLY"), `UID STORE 2 +FLAGS (\Deleted)`), "EXPUNGE", "OK", []string{"* VANISHED 2"}, "EXPUNGE"},
	{"9586 3.5, a sequence set as a key", enabled("UIDONLY"), "UID SEARCH 1:2", "BAD [UIDREQUIRED]", nil, ""},
	{"9586 3.5, deep in a program", enabled("UIDONLY"), "UID SEARCH OR SEEN (NOT 1)", "BAD [UIDREQUIRED]", nil, ""},
	{"9586 3.5, UIDs", enabled("UIDONLY"), "UID SEARCH UID 1:2", "OK", []string{"* SEARCH 1 2"}, ""},
	{"9586 3.6, COPYUID", enabled("UIDONLY"), "UID COPY 1 Sent", "OK [COPYUID ", nil, ""},
	{"9586 3.6, UID MOVE", enabled("UIDONLY"), "UID MOVE 3 Sent", "OK", []string{"* OK [COPYUID ", "* VANISHED 3"}, "EXPUNGE"},
	{"9586 3.7, MODSEQ", enabled("UIDONLY CONDSTORE"), "UID FETCH 1 FLAGS", "OK", []string{"* 1 UIDFETCH (FLAGS () MODSEQ ("}, ""},
	{"9586 3.7, message sequence match data", enabled("UIDONLY QRESYNC"), "SELECT INBOX (QRESYNC (1 1 1:3 (1,2 1,2)))", "BAD", nil, ""},
	{"9586 3.7, SELECT without a number of the first unseen", enabled("UIDONLY"), "SELECT INBOX", "OK", []string{"* 3 EXISTS"}, "UNSEEN"},
	{"9586 3.8, SORT", enabled("UIDONLY"), "SORT (SUBJECT) UTF-8 ALL", "BAD [UIDREQUIRED]", nil, ""},
	{"9586 3.8, THREAD", enabled("UIDONLY"), "THREAD REFERENCES UTF-8 ALL", "BAD [UIDREQUIRED]", nil, ""},
	{"9586 3.8, UID SORT", enabled("UIDONLY"), "UID SORT (SUBJECT) UTF-8 ALL", "OK", []string{"* SORT 1 2 3"}, ""},
	{"9586 3.8, UID SORT by number", enabled("UIDONLY"), "UID SORT (SUBJECT) UTF-8 1:2", "BAD [UIDREQUIRED]", nil, ""},
	{"9586 3.8, ESEARCH by number", enabled("UIDONLY"), "ESEARCH IN (selected) 1:2", "BAD [UIDREQUIRED]", nil, ""},
	{"9586 3.8, REPLACE by number", enabled("UIDONLY"), "REPLACE 1 INBOX {1+}\r\nx", "BAD [UIDREQUIRED]", nil, ""},

	// UTF8=ACCEPT
	{"9755 3, UTF-8 in a quoted string", enabled("UTF8=ACCEPT"), "UID SEARCH SUBJECT \"\u00fc\"", "OK", []string{"* SEARCH"}, ""},
	{"9755 3, no UTF-8 in a quoted string", enabled("UTF8=ACCEPT"), "UID SEARCH SUBJECT \"\xfc\"", "BAD", nil, ""},
	{"9755 3, half of a character", enabled("UTF8=ACCEPT"), "CREATE \"\xe2\x82\"", "BAD", nil, ""},
	{"9755 3, control characters in a name", enabled("UTF8=ACCEPT"), "CREATE \"a\u0085b\"", "NO [CANNOT]", nil, ""},
	{"9755 3, separators of lines in a name", enabled("UTF8=ACCEPT"), "CREATE \"a\u2028b\"", "NO [CANNOT]", nil, ""},
	{"9755 3, CHARSET", enabled("UTF8=ACCEPT"), "SEARCH CHARSET UTF-8 ALL", "BAD", nil, ""},
	{"9755 3, CHARSET of ESEARCH", enabled("UTF8=ACCEPT"), "ESEARCH IN (selected) CHARSET UTF-8 ALL", "BAD", nil, ""},
	{"9755 3, a charset that has to be there", enabled("UTF8=ACCEPT"), "SORT (SUBJECT) UTF-8 ALL", "OK", []string{"* SORT 1 2 3"}, ""},
	{"9755 3, another one", enabled("UTF8=ACCEPT"), "SORT (SUBJECT) ISO-8859-1 ALL", "BAD", nil, ""},
	{"9755 3, of THREAD", enabled("UTF8=ACCEPT"), "THREAD ORDEREDSUBJECT UTF-8 ALL", "OK", nil, ""},
	{"9755 3, another one of THREAD", enabled("UTF8=ACCEPT"), "THREAD REFERENCES KOI8-R ALL", "BAD", nil, ""},
	{"9755 3, without ENABLE names are ASCII", []string{"CREATE &APw-"}, `LIST "" &APw-`, "OK", []string{`"/" &APw-`}, "\u00fc"},

	// PARTIAL
	{"9394 3.1, with ALL", nil, "UID SEARCH RETURN (ALL PARTIAL 1:2) ALL", "BAD", nil, ""},
	{"9394 3.1, twice", nil, "UID SEARCH RETURN (PARTIAL 1:2 PARTIAL 2:3) ALL", "BAD", nil, ""},
	{"9394 3.1, from both ends", nil, "UID SEARCH RETURN (PARTIAL 1:-2) ALL", "BAD", nil, ""},
	{"9394 3.1, nothing in the range", nil, "UID SEARCH RETURN (PARTIAL 10:20) ALL", "OK", []string{"PARTIAL (10:20 NIL)"}, ""},
	{"9394 3.1, backwards", nil, "UID SEARCH RETURN (PARTIAL -1:-2) ALL", "OK", []string{"PARTIAL (-1:-2 2:3)"}, ""},
	{"9394 3.2, with COUNT", nil, "UID SEARCH RETURN (PARTIAL 2:2 COUNT) ALL", "OK", []string{"PARTIAL (2:2 2) COUNT 3"}, ""},
	{"9394 3.3, UID FETCH", nil, "UID FETCH 1:* UID (PARTIAL -1:-1)", "OK", []string{"* 3 FETCH (UID 3)"}, "UID 2"},
	{"9394 3.3, not FETCH", nil, "FETCH 1:* UID (PARTIAL -1:-1)", "BAD", nil, ""},

	// MULTISEARCH
	{"7377 2.2, no mailbox is not an error", nil, `ESEARCH IN (mailboxes "nowhere") ALL`, "OK", nil, "ESEARCH"},
	{"7377 2.2, the selected one without IN", nil, "ESEARCH ALL", "OK", []string{"MAILBOX INBOX UIDVALIDITY ", ") UID ALL 1:3"}, ""},
	{"7377 2.2, nothing found is told of no mailbox", nil, `ESEARCH IN (personal) SUBJECT "nothing has it"`, "OK", nil, "ESEARCH"},
	{"7377 2.1, numbers in others", nil, `ESEARCH IN (mailboxes "INBOX") 1:2`, "BAD", nil, ""},
	{"7377 2.3, SAVE in several", nil, `ESEARCH IN (mailboxes ("INBOX" "Sent")) RETURN (SAVE) ALL`, "BAD", nil, ""},

	// UNAUTHENTICATE
	{"8437 3, nothing is left enabled", enabled("IMAP4rev2 UIDONLY"), "UNAUTHENTICATE", "OK [CAPABILITY ", nil, ""},
	{"8437 3, a mailbox needs a login", []string{"UNAUTHENTICATE"}, "SELECT INBOX", "BAD", nil, ""},
	{"8437 3, the dialect is gone", append(enabled("UIDONLY"), "UNAUTHENTICATE", "LOGIN alice secret", "SELECT INBOX"), "FETCH 1 UID", "OK", []string{"* 1 FETCH (UID 1)"}, ""},

	// COMPRESS
	{"4978 3, another algorithm", nil, "COMPRESS GZIP", "BAD", nil, ""},
}

func enabled(names string) []string { return []string{"ENABLE " + names} }

func TestMusts(t *testing.T) {
	t.Parallel()
	for i, m := range musts {
		t.Run(fmt.Sprint(i, " ", m.rfc), func(t *testing.T) {
			t.Parallel()
			fresh := startServer(t, testConfig()).login("alice")
			for _, subject := range []string{"a", "b", "c"} {
				fresh.append("INBOX", "", message(subject, "text"))
			}
			fresh.ok("SELECT INBOX")
			for _, command := range m.before {
				fresh.ok(command)
			}
			untagged, tagged := fresh.cmd(m.command)
			all := strings.Join(untagged, "\n")
			if !strings.HasPrefix(tagged, m.tagged) {
				t.Errorf("%s: %s, want %s", m.command, tagged, m.tagged)
			}
			for _, want := range m.untagged {
				if !strings.Contains(all, want) {
					t.Errorf("%s: %q, want %s", m.command, untagged, want)
				}
			}
			if m.never != "" && strings.Contains(all, m.never) {
				t.Errorf("%s: %q has %s", m.command, untagged, m.never)
			}
		})
	}
}

// A tag that would seem to end the response code is not told (RFC 9585 section 4).
func TestProgressOfOddTags(t *testing.T) {
	t.Parallel()
	for tag, want := range map[string]string{"a1": `("a1" NIL NIL)]`, "a]1": "(NIL NIL NIL)]"} {
		near, far := net.Pipe()
		s := &session{tag: tag, began: time.Now().Add(-time.Hour), w: writer{conn: far, timeout: time.Minute}}
		go func() {
			s.inProgress()
			_ = far.Close()
		}()
		if line, err := io.ReadAll(near); err != nil || !strings.HasPrefix(string(line), "* OK [INPROGRESS "+want) {
			t.Errorf("tag %s: %q, %v", tag, line, err)
		}
	}
}
