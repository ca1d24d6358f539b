package imapd

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/backend/imapd/sortkey"
	"github.com/postern-mail/postern/backend/mailstore"
	"github.com/postern-mail/postern/internal/testenv"
)

// sortable is a message for SORT and THREAD.
type sortable struct {
	arrival, date, from, to, cc, subject, id, references string
	octets                                               int
}

func (m sortable) add(c *client) {
	c.t.Helper()
	var b strings.Builder
	for _, f := range [][2]string{
		{"Date", m.date}, {"From", m.from}, {"To", m.to}, {"Cc", m.cc}, {"Subject", m.subject}, {"Message-ID", m.id}, {"References", m.references},
	} {
		if f[1] != "" {
			b.WriteString(f[0] + ": " + f[1] + "\r\n")
		}
	}
	b.WriteString("\r\n" + strings.Repeat("x", m.octets) + "\r\n")
	c.ok(fmt.Sprintf("APPEND INBOX %q {%d+}\r\n%s", cmp.Or(m.arrival, " 1-Jan-2020 00:00:00 +0000"), b.Len(), b.String()))
}

func TestSort(t *testing.T) {
	t.Parallel()
	s := startServer(t, testConfig())
	c := s.login("alice")
	for _, m := range []sortable{
		{arrival: " 3-Jan-2020 00:00:00 +0000", date: "Tue, 2 Jan 2001 10:00:00 +0000", from: "Zoe <ann@example.com>", to: "b@x", subject: "Re: beta", octets: 300},
		{arrival: " 1-Jan-2020 00:00:00 +0000", date: "Tue, 2 Jan 2001 10:00:00 +0200", from: "carl@example.com", to: "A@x", cc: "z@x", subject: "Alpha", octets: 100},
		{arrival: " 2-Jan-2020 00:00:00 +0000", date: "no date", from: "=?utf-8?Q?=C3=84nne?= <bob@example.com>", subject: "[list] ALPHA (fwd)", octets: 200},
		{arrival: " 2-Jan-2020 00:00:00 +0000", date: "1 Jan 2001 23:00:00 -0500", from: "\"Ann Lee\" <dora@example.com>, x@y", to: "c@x", cc: "y@x", octets: 200},
	} {
		m.add(c)
	}
	c.ok("SELECT INBOX")
	for range 2 { // with keys worked out, and with keys kept
		for _, tt := range []struct{ sort, want string }{
			{"(ARRIVAL)", "2 3 4 1"}, {"(REVERSE ARRIVAL)", "1 3 4 2"}, {"(DATE)", "4 2 1 3"}, {"(REVERSE DATE)", "3 1 2 4"},
			{"(FROM)", "1 3 2 4"}, {"(TO)", "3 2 1 4"}, {"(CC)", "1 3 4 2"}, {"(SUBJECT)", "4 2 3 1"}, {"(REVERSE SUBJECT)", "1 2 3 4"},
			{"(SUBJECT REVERSE DATE)", "4 3 2 1"}, {"(SIZE SUBJECT)", "2 3 4 1"}, {"(DISPLAYFROM)", "4 3 2 1"}, {"(REVERSE DISPLAYTO)", "4 1 2 3"},
		} {
			expect(t, tt.sort, c.ok("SORT "+tt.sort+" UTF-8 ALL"), "* SORT "+tt.want)
		}
	}
	expect(t, "some", c.ok("UID SORT (DATE) US-ASCII FROM example NOT 2"), "* SORT 4 1 3")
	expect(t, "none", c.ok("SORT (DATE) US-ASCII RECENT"), "* SORT")
	if got := c.ok("SORT (SUBJECT) UTF-8 MODSEQ 1 2:3"); len(got) != 2 || !strings.HasPrefix(got[1], "* SORT 2 3 (MODSEQ ") {
		t.Errorf("MODSEQ: %q", got)
	}
	for _, tt := range []struct{ options, want string }{
		{"", " UID ALL 4,2,1,3"}, {"MIN MAX COUNT", " UID MIN 4 MAX 3 COUNT 4"}, {"PARTIAL 2:3", " UID PARTIAL (2:3 2,1)"},
		{"PARTIAL -1:-2", " UID PARTIAL (-1:-2 1,3)"}, {"PARTIAL 9:10 COUNT", " UID PARTIAL (9:10 NIL) COUNT 4"},
	} {
		expect(t, "ESORT "+tt.options, c.ok("UID SORT RETURN ("+tt.options+") (DATE) UTF-8 ALL"), c.esearch(tt.want))
	}
	expect(t, "ranges", c.ok("SORT RETURN (ALL) (SIZE) UTF-8 ALL"), c.esearch(" ALL 2:4,1"))
	expect(t, "ESORT SAVE", c.ok("UID SORT RETURN (SAVE MIN MAX) (DATE) UTF-8 ALL"), c.esearch(" UID MIN 4 MAX 3"))
	expect(t, "saved", c.ok("SEARCH $"), "* SEARCH 3 4")
	for command, prefix := range map[string]string{
		"SORT () UTF-8 ALL": "BAD", "SORT (REVERSE) UTF-8 ALL": "BAD", "SORT (DATE) ALL": "BAD", "SORT DATE UTF-8 ALL": "BAD",
		"SORT (NOTHING) UTF-8 ALL": "BAD", "SORT (DATE) X-OTHER ALL": "NO [BADCHARSET", "THREAD JWZ UTF-8 ALL": "BAD", "THREAD REFERENCES ALL": "BAD",
	} {
		c.fails(command, prefix)
	}
}

func TestThread(t *testing.T) {
	t.Parallel()
	s := startServer(t, testConfig())
	c := s.login("alice")
	for _, m := range []sortable{
		{date: "3 Jan 2001 10:00:00 +0000", subject: "Re: plans", id: "<2@x>", references: "<1@x>"},
		{date: "1 Jan 2001 10:00:00 +0000", subject: "plans", id: "<1@x>"},
		{date: "2 Jan 2001 10:00:00 +0000", subject: "Re: plans", id: "<3@x>", references: "<1@x>"},
		{date: "4 Jan 2001 10:00:00 +0000", subject: "Re: plans", id: "<4@x>", references: "<1@x> <\"2\"@x>"},
		{date: "1 Feb 2001 10:00:00 +0000", subject: "other", id: "<5@x>"},
		{date: "2 Feb 2001 10:00:00 +0000", subject: "Re: OTHER"},
	} {
		m.add(c)
	}
	c.ok("SELECT INBOX")
	expect(t, "REFERENCES", c.ok("THREAD REFERENCES UTF-8 ALL"), "* THREAD (2 (3)(1 4))(5 6)")
	expect(t, "some of them", c.ok("UID THREAD REFERENCES UTF-8 NOT 2"), "* THREAD ((3)(1 4))(5 6)")
	expect(t, "ORDEREDSUBJECT", c.ok("THREAD ORDEREDSUBJECT UTF-8 ALL"), "* THREAD (2 (3)(1)(4))(5 6)")
	expect(t, "none", c.ok("THREAD REFERENCES US-ASCII RECENT"), "* THREAD")
	b := s.login("alice")
	b.ok("SELECT INBOX")
	b.ok(`STORE 2 +FLAGS.SILENT (\Deleted)`)
	b.ok("EXPUNGE")
	sortable{date: "5 Jan 2001 10:00:00 +0000", subject: "x", id: "<7@x>", references: "<4@x>"}.add(c)
	c.ok("NOOP")
	expect(t, "after changes", c.ok("UID THREAD REFERENCES UTF-8 ALL"), "* THREAD ((3)(1 4 7))(5 6)")
}

// TestSortLikeTheSlowModel sorts random mailboxes by random criteria and
// compares with one pass after the other of a plain stable sort.
func TestSortLikeTheSlowModel(t *testing.T) {
	t.Parallel()
	seed := testenv.Seed(t)
	r := rand.New(rand.NewPCG(seed, 0))
	word := func() string { return string(rune('a' + r.IntN(3))) }
	for range 300 {
		n := 1 + r.IntN(40)
		table, v := &keyTable{}, newBenchView(n)
		arrival := func(i int) int64 { return v.messages[i].InternalDate.Unix() }
		wide := []int64{1, 1 << 33}[r.IntN(2)]
		for _, m := range v.messages {
			envelope := fmt.Sprintf(`("%d Jan 2001" "%s" (("%s" NIL "%s" "x")) NIL NIL (("%s" NIL "%s" "x")) ((NIL NIL "%s" "x")) NIL NIL NIL)`,
				1+r.IntN(3), word(), word(), word(), word(), word(), word())
			table.add(keyRow{m.UID, 0, sortkey.Of([]byte(envelope), nil)})
			m.Octets, m.InternalDate = wide*int64(r.IntN(3)), time.Unix(int64(r.IntN(3)), 0)
		}
		var criteria []sortCriterion
		for range 1 + r.IntN(4) {
			criteria = append(criteria, sortCriterion{by: sortBy(r.IntN(int(sortDisplayTo) + 1)), reverse: r.IntN(2) == 0})
		}
		var found []int
		for i := range n {
			if r.IntN(4) > 0 || i == 0 {
				found = append(found, i)
			}
		}
		want := slices.Clone(found)
		for _, c := range slices.Backward(criteria) {
			value := func(i int) string {
				switch c.by {
				case sortRelevancy:
					return ""
				case sortArrival:
					return fmt.Sprintf("%020d", arrival(i))
				case sortSize:
					return fmt.Sprintf("%020d", v.messages[i].Octets)
				case sortDate:
					return fmt.Sprintf("%020d", table.rows[i].key.Sent)
				}
				return table.rows[i].key.Text(sortFields[c.by])
			}
			slices.SortStableFunc(want, func(x, y int) int {
				if c.reverse {
					x, y = y, x
				}
				return cmp.Compare(value(x), value(y))
			})
		}
		g := &ground{told: v, now: v}
		rows, missing := table.find(g, found)
		if missing > 0 {
			t.Fatalf("seed %d: %d messages have no row", seed, missing)
		}
		var columns []column
		for _, c := range criteria {
			columns = append(columns, c.column(g, found, &sortKeys{table, rows}))
		}
		if arrange(found, columns); !slices.Equal(found, want) {
			t.Fatalf("seed %d, %+v: %v, want %v", seed, criteria, found, want)
		}
	}
}

func TestKeyCache(t *testing.T) {
	t.Parallel()
	arrange(nil, []column{{}}) // nothing found is in order
	table := func(uids ...imap.UID) *keyTable {
		tb := &keyTable{}
		for _, uid := range uids {
			tb.add(keyRow{uid, 1, sortkey.Of([]byte(fmt.Sprintf(`(NIL "s%d")`, uid)), nil)})
		}
		return tb
	}
	one, two, three := mailboxID{uidValidity: 1}, mailboxID{uidValidity: 2}, mailboxID{uidValidity: 3}
	c := newKeyCache(2 * table(1).octets)
	c.put(one, table(1))
	c.put(two, table(2))
	c.get(one)
	c.put(three, table(3))
	if len(c.get(one).rows) != 1 || len(c.get(two).rows) != 0 || len(c.get(three).rows) != 1 {
		t.Error("not the one used least was dropped")
	}
	c.put(one, table(1, 2, 3))
	if len(c.tables) != 1 || c.octets != table(3).octets { // it does not fit, and drops no other
		t.Errorf("%d tables of %d octets are kept", len(c.tables), c.octets)
	}

	v := newBenchView(10)
	merged := table(1, 3, 5).merged(table(2, 3, 11), benchFinder{v})
	var uids []imap.UID
	for _, row := range merged.rows {
		uids = append(uids, row.uid)
	}
	if !slices.Equal(uids, []imap.UID{1, 2, 3, 5, 11}) || merged.octets != table(1, 2, 3, 5, 11).octets {
		t.Errorf("merged: %v, %d octets", uids, merged.octets)
	}
	merged = table(1, 2, 3, 4, 5, 20, 21, 22, 23, 24, 25).merged(table(9), benchFinder{v})
	if len(merged.rows) != 6 {
		t.Errorf("messages that are gone are kept: %d rows", len(merged.rows))
	}
}

// benchFinder is a View that can look for UIDs.
type benchFinder struct{ *benchView }

func (v benchFinder) Find(uid imap.UID) (int, bool) {
	return slices.BinarySearchFunc(v.messages, uid, func(m *mailstore.Message, uid imap.UID) int { return cmp.Compare(m.UID, uid) })
}
