package imapd

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// fill appends n messages with subjects m1, m2 and so on to a mailbox.
func (c *client) fill(mailbox string, n int) {
	c.t.Helper()
	for i := 1; i <= n; i++ {
		c.append(mailbox, "", message(fmt.Sprintf("m%d", i), "text"))
	}
}

// esearch is the ESEARCH response of the last command.
func (c *client) esearch(rest string) string {
	return fmt.Sprintf(`* ESEARCH (TAG "t%d")%s`, c.tag, rest)
}

func TestSavedResult(t *testing.T) {
	t.Parallel()
	s := startServer(t, testConfig())
	c := s.login("alice")
	c.fill("INBOX", 10)
	c.ok("CREATE other")
	c.ok("SELECT INBOX")
	expect(t, "before any search", c.ok("FETCH $ UID"))
	expect(t, "COPY of nothing", c.ok("UID COPY $ other"))

	expect(t, "SAVE alone", c.ok("SEARCH RETURN (SAVE) 2,4:6,9"))
	expect(t, "FETCH $", c.ok("FETCH $ UID"), "* 2 FETCH (UID 2)", "* 4 FETCH (UID 4)", "* 5 FETCH (UID 5)", "* 6 FETCH (UID 6)", "* 9 FETCH (UID 9)")
	expect(t, "SEARCH $", c.ok("SEARCH $ 5:*"), "* SEARCH 5 6 9")
	expect(t, "SEARCH UID $", c.ok("UID SEARCH NOT UID $"), "* SEARCH 1 3 7 8 10")
	expect(t, "UID FETCH $", c.ok("UID FETCH $ (UID) (PARTIAL 2:3)"), "* 4 FETCH (UID 4)", "* 5 FETCH (UID 5)")
	expect(t, "UID STORE $", c.ok(`UID STORE $ +FLAGS.SILENT (\Deleted)`))

	// What is expunged leaves the result, whoever does it.
	b := s.login("alice")
	b.ok("SELECT INBOX")
	b.ok("UID EXPUNGE 4:5")
	c.ok("NOOP")
	expect(t, "after expunges", c.ok("FETCH $ UID"), "* 2 FETCH (UID 2)", "* 4 FETCH (UID 6)", "* 7 FETCH (UID 9)")

	// Neither BAD nor a search without SAVE changes it; NO empties it.
	c.fails("SEARCH RETURN (SAVE) FROBNICATE", "BAD")
	c.fails("SEARCH CHARSET X-OTHER ALL", "NO [BADCHARSET")
	expect(t, "search without SAVE", c.ok("SEARCH 1"), "* SEARCH 1")
	expect(t, "still", c.ok("UID SEARCH $"), "* SEARCH 2 6 9")
	c.fails("SEARCH RETURN (SAVE) CHARSET X-OTHER ALL", "NO [BADCHARSET")
	expect(t, "after NO", c.ok("SEARCH $"), "* SEARCH")

	// What SAVE keeps depends on what is told.
	for _, tt := range []struct{ options, told, saved string }{
		{"SAVE MIN", " UID MIN 1", "1"}, {"SAVE MAX", " UID MAX 10", "10"}, {"SAVE MIN MAX", " UID MIN 1 MAX 10", "1 10"},
		{"SAVE COUNT", " UID COUNT 8", "1 2 3 6 7 8 9 10"}, {"MIN SAVE COUNT", " UID MIN 1 COUNT 8", "1 2 3 6 7 8 9 10"},
		{"SAVE ALL MIN", " UID MIN 1 ALL 1:3,6:10", "1 2 3 6 7 8 9 10"},
		{"SAVE PARTIAL 2:4", " UID PARTIAL (2:4 2:3,6)", "2 3 6"}, {"SAVE PARTIAL -2:-1 MIN", " UID MIN 1 PARTIAL (-2:-1 9:10)", "1 9 10"},
		{"SAVE PARTIAL 2:4 COUNT", " UID PARTIAL (2:4 2:3,6) COUNT 8", "1 2 3 6 7 8 9 10"},
	} {
		expect(t, tt.options, c.ok("UID SEARCH RETURN ("+tt.options+") ALL"), c.esearch(tt.told))
		expect(t, tt.options+" saved", c.ok("UID SEARCH $"), "* SEARCH "+tt.saved)
	}

	// Pipelined, and moved away.
	c.send("p1 SEARCH RETURN (SAVE) UID 9:10\r\np2 UID MOVE $ other\r\np3 SEARCH RETURN (COUNT) $\r\n")
	c.until("p1")
	c.until("p2")
	if got, _ := c.until("p3"); len(got) != 1 || !strings.HasSuffix(got[0], "COUNT 0") {
		t.Errorf("after MOVE: %q", got)
	}
	c.ok("SEARCH RETURN (SAVE) DELETED")
	expect(t, "UID EXPUNGE $", c.ok("UID EXPUNGE $"), "* 4 EXPUNGE", "* 2 EXPUNGE")
	c.ok("SEARCH RETURN (SAVE) ALL")
	c.ok("SELECT INBOX")
	expect(t, "after SELECT", c.ok("SEARCH $"), "* SEARCH")
}

func TestPartial(t *testing.T) {
	t.Parallel()
	s := startServer(t, testConfig())
	c := s.login("alice")
	c.fill("INBOX", 12)
	c.ok("SELECT INBOX")
	c.ok(`STORE 3,7 +FLAGS.SILENT (\Deleted)`)
	for _, tt := range []struct{ options, want string }{
		{"PARTIAL 1:3", " UID PARTIAL (1:3 1:2,4)"}, {"PARTIAL 3:1", " UID PARTIAL (3:1 1:2,4)"},
		{"PARTIAL 8:20", " UID PARTIAL (8:20 10:12)"}, {"PARTIAL 11:20", " UID PARTIAL (11:20 NIL)"},
		{"PARTIAL -1:-3", " UID PARTIAL (-1:-3 10:12)"}, {"PARTIAL -9:-20 COUNT", " UID PARTIAL (-9:-20 1:2) COUNT 10"},
		{"PARTIAL -4:-3", " UID PARTIAL (-4:-3 9:10)"}, {"PARTIAL 2:2 MIN MAX", " UID MIN 1 MAX 12 PARTIAL (2:2 2)"},
		{"PARTIAL -11:-4000000000", " UID PARTIAL (-11:-4000000000 NIL)"},
		{"MIN", " UID MIN 1"}, {"MAX", " UID MAX 12"}, {"MIN MAX", " UID MIN 1 MAX 12"},
	} {
		expect(t, tt.options, c.ok("UID SEARCH RETURN ("+tt.options+") UNDELETED"), c.esearch(tt.want))
		expect(t, tt.options+", read", c.ok("UID SEARCH RETURN ("+tt.options+") NOT BODY needle UNDELETED"), c.esearch(tt.want))
	}
	expect(t, "of none", c.ok("SEARCH RETURN (PARTIAL -1:-3 MIN) RECENT"), c.esearch(" PARTIAL (-1:-3 NIL)"))
	expect(t, "MIN and MAX of one", c.ok("SEARCH RETURN (MIN MAX) 5"), c.esearch(" MIN 5 MAX 5"))

	expect(t, "UID FETCH", c.ok("UID FETCH 1:* (UID) (PARTIAL -1:-2)"), "* 11 FETCH (UID 11)", "* 12 FETCH (UID 12)")
	expect(t, "UID FETCH of a gap", c.ok("UID FETCH 2,5:6 (UID) (PARTIAL 2:9)"), "* 5 FETCH (UID 5)", "* 6 FETCH (UID 6)")
	before := s.view(t).HighestModSeq()
	c.ok("ENABLE CONDSTORE")
	c.ok(`STORE 2,4,6 +FLAGS.SILENT (\Flagged)`)
	got := c.ok(fmt.Sprintf("UID FETCH 1:* (UID) (PARTIAL -1:-2 CHANGEDSINCE %d)", before))
	if len(got) != 2 || !strings.HasPrefix(got[0], "* 4 FETCH (UID 4 ") || !strings.HasPrefix(got[1], "* 6 FETCH (UID 6 ") {
		t.Errorf("PARTIAL with CHANGEDSINCE: %q", got)
	}
}

func TestSearchTimes(t *testing.T) {
	t.Parallel()
	s := startServer(t, testConfig())
	c := s.login("alice")
	// A day may end while they are saved.
	first := time.Now().UTC().Format(dateLayout)
	for _, age := range []time.Duration{0, 90 * time.Minute, 50 * time.Hour} {
		text := message("m", "text")
		c.ok(fmt.Sprintf("APPEND INBOX %q {%d+}\r\n%s", time.Now().Add(-age).Format(dateTimeLayout), len(text), text))
	}
	c.ok("SELECT INBOX")
	now := time.Now().UTC()
	last, behind := now.Format(dateLayout), now.AddDate(0, 0, 1).Format(dateLayout)
	for _, tt := range []struct{ keys, want string }{
		{"YOUNGER 3600", " 1"}, {"OLDER 3600", " 2 3"}, {"YOUNGER 86400", " 1 2"}, {"OLDER 86400", " 3"},
		{"YOUNGER 4294967295", " 1 2 3"}, {"OLDER 4294967295", ""}, {"NOT YOUNGER 3600 YOUNGER 86400", " 2"},
		{"SAVEDATESUPPORTED", " 1 2 3"}, {"SAVEDBEFORE 1-Jan-2020", ""}, {"SAVEDBEFORE " + behind, " 1 2 3"},
		{"OR SAVEDON " + first + " SAVEDON " + last, " 1 2 3"}, {"SAVEDSINCE " + first, " 1 2 3"}, {"SAVEDSINCE 2-Jan-2020", " 1 2 3"},
	} {
		expect(t, tt.keys, c.ok("SEARCH "+tt.keys), "* SEARCH"+tt.want)
	}
}

func TestSearchCharsets(t *testing.T) {
	t.Parallel()
	s := startServer(t, testConfig())
	c := s.login("alice")
	c.append("INBOX", "", "Subject: =?utf-8?B?0L/RgNC40LLQtdGC?=\r\n\r\ntext\r\n") // Russian for hello
	c.append("INBOX", "", "Subject: =?utf-8?Q?gr=C3=BC=C3=9Fe?=\r\n\r\ntext\r\n")
	c.ok("SELECT INBOX")
	for _, tt := range []struct{ charset, text, want string }{
		{"UTF-8", "\xd0\xbf\xd1\x80\xd0\xb8\xd0\xb2\xd0\xb5\xd1\x82", " 1"},
		{"koi8-r", "\xd0\xd2\xc9\xd7\xc5\xd4", " 1"}, {"WINDOWS-1251", "\xcf\xf0\xe8\xe2\xe5\xf2", " 1"},
		{"ISO-8859-1", "GR\xdc", " 2"}, {`"iso-8859-15"`, "gr\xfc\xdfe", " 2"}, {"US-ASCII", "gr", " 2"},
	} {
		expect(t, tt.charset, c.ok(fmt.Sprintf("SEARCH CHARSET %s SUBJECT {%d+}\r\n%s", tt.charset, len(tt.text), tt.text)), "* SEARCH"+tt.want)
	}
	for _, name := range []string{"UTF-16", "UTF-7", "X-USER-DEFINED", "ISO-2022-KR", "NONE", `""`} {
		c.fails("SEARCH CHARSET "+name+" ALL", "NO [BADCHARSET (US-ASCII UTF-8 ")
	}
	c.fails("SEARCH CHARSET X-OTHER FROBNICATE", "BAD")
}

func TestSearchFuzzy(t *testing.T) {
	t.Parallel()
	s := startServer(t, testConfig())
	c := s.login("alice")
	c.append("INBOX", "", "Subject: Der Bericht, =?utf-8?Q?gepr=C3=BCft?=\r\n\r\nCaf\xc3\xa9 am Abend\r\n")
	c.append("INBOX", "", "Subject: Berichte\r\n\r\ncafe, abends\r\n")
	c.append("INBOX", `\Flagged`, "Subject: nothing\r\n\r\nam Morgen\r\n")
	c.ok("SELECT INBOX")
	for _, tt := range []struct{ keys, want string }{
		{`FUZZY SUBJECT "gepruft bericht"`, " 1"}, {`SUBJECT "gepruft bericht"`, ""}, {`FUZZY SUBJECT "BERICHT"`, " 1 2"},
		{`FUZZY BODY "abend cafe"`, " 1 2"}, {"FUZZY BODY {14+}\r\nABEND, CAF\xc3\x89??", " 1 2"}, {`BODY "abend cafe"`, ""},
		{`FUZZY TEXT "bericht cafe am"`, " 1"}, {"FUZZY FLAGGED", " 3"}, {"FUZZY 2", " 2"}, {"NOT FUZZY (SUBJECT \"gepruft\")", " 2 3"},
		{`FUZZY (OR SUBJECT "x gepruft" BODY morgen)`, " 3"}, {`FUZZY HEADER Subject ""`, " 1 2 3"}, {`FUZZY SUBJECT "..."`, ""},
		{`FUZZY SUBJECT gepruft SUBJECT gepruft`, ""},
	} {
		expect(t, tt.keys, c.ok("SEARCH "+tt.keys), "* SEARCH"+tt.want)
	}
	expect(t, "RELEVANCY", c.ok("SEARCH RETURN (RELEVANCY ALL) FUZZY BODY cafe"), c.esearch(" ALL 1:2 RELEVANCY (100 100)"))
	expect(t, "by RELEVANCY", c.ok("SORT (RELEVANCY REVERSE ARRIVAL) UTF-8 FUZZY BODY cafe"), "* SORT 1 2")
	c.fails("SEARCH RETURN (RELEVANCY ALL) BODY cafe", "BAD")
	c.fails("SORT (RELEVANCY) UTF-8 BODY cafe", "BAD")
}
