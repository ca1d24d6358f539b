package imapd

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

// related makes a message that is related to others of its number by subject or
// Message-ID, in the ways that mail programs do and in some that they should
// not.
func related(r *rand.Rand, i int) string {
	pick := func(options ...string) string { return options[r.IntN(len(options))] }
	var b strings.Builder
	fmt.Fprintf(&b, "From: %s\r\n", pick("Ann Lee <zoe@example.com>", "bob@example.com", "\"carl\" <Carl@example.com>", "=?utf-8?q?=C3=89ve?= <a@example.com>"))
	fmt.Fprintf(&b, "To: %s\r\n", pick("x@y", "Dora <B@c>", "\"E, F\" <a@c>, other@y"))
	if r.IntN(3) == 0 {
		fmt.Fprintf(&b, "Cc: %s\r\n", pick("m@n", "K@n"))
	}
	sent := time.Date(2020, 1, 1+r.IntN(20), r.IntN(24), 0, 0, 0, time.FixedZone("", 3600*(r.IntN(9)-4)))
	fmt.Fprintf(&b, "Date: %s\r\n", sent.Format(pick(time.RFC1123Z, "2 Jan 2006 15:04:05 -0700", "Mon, 2 Jan 06 15:04 -0700")))
	fmt.Fprintf(&b, "Subject: %s\r\n", pick("", "Re: ", "[list] ", "RE: Fwd: ", "fw [x]: ")+pick("Meeting", "meeting", "=?utf-8?q?Gr=C3=BC=C3=9Fe?=", "Lunch", "[tag]", "a  b\r\n c")+pick("", "", " (fwd)"))
	if r.IntN(8) > 0 {
		fmt.Fprintf(&b, "Message-ID: <m%d@x>\r\n", i)
	}
	if i > 0 && r.IntN(3) > 0 {
		b.WriteString("References:")
		for range 1 + r.IntN(3) {
			fmt.Fprintf(&b, " <m%d@x>", r.IntN(i+5))
		}
		b.WriteString("\r\n")
	} else if i > 0 && r.IntN(3) == 0 {
		fmt.Fprintf(&b, "In-Reply-To: <m%d@x>\r\n", r.IntN(i))
	}
	return b.String() + "\r\n" + strings.Repeat("x", r.IntN(30)) + "\r\n"
}

// TestSortLikeDovecot: both servers sort, thread and page alike.
func TestSortLikeDovecot(t *testing.T) {
	t.Parallel()
	b := besideDovecot(t)
	r := rand.New(rand.NewPCG(7, 7))
	for i := range 60 {
		m := related(r, i)
		command := fmt.Sprintf("APPEND INBOX (%s) %q {%d+}\r\n%s", []string{"", `\Seen`, `\Flagged`}[r.IntN(3)],
			time.Date(2021, 1, 1+r.IntN(9), 0, 0, 0, 0, time.UTC).Format(dateTimeLayout), len(m), m)
		b.ours.ok(command)
		b.theirs.ok(command)
	}
	b.ours.ok("SELECT INBOX")
	b.theirs.ok("SELECT INBOX")
	for _, command := range []string{
		"SORT (ARRIVAL) UTF-8 ALL", "SORT (REVERSE ARRIVAL) UTF-8 ALL", "UID SORT (DATE) UTF-8 ALL", "SORT (REVERSE DATE) US-ASCII SEEN", "SORT (FROM) UTF-8 ALL",
		"SORT (TO) UTF-8 ALL", "SORT (CC REVERSE SIZE) UTF-8 ALL", "SORT (SIZE) UTF-8 ALL", "SORT (SUBJECT) UTF-8 ALL", "SORT (SUBJECT DATE) UTF-8 FLAGGED",
		"SORT (DISPLAYFROM) UTF-8 ALL", "SORT (REVERSE DISPLAYTO SUBJECT) UTF-8 ALL", "SORT () UTF-8 ALL", "SORT (FOO) UTF-8 ALL", "SORT (DATE) X-NONE ALL",
		"SORT RETURN (COUNT) (DATE) UTF-8 SEEN", "UID SORT RETURN (MIN) (DATE) UTF-8 ALL", "SORT RETURN (MAX) (SUBJECT) UTF-8 ALL", "UID SORT RETURN () (SIZE) UTF-8 ALL",
		"UID SORT RETURN (PARTIAL 5:9) (DATE) UTF-8 ALL", "UID SORT RETURN (PARTIAL 500:900) (DATE) UTF-8 ALL",
		"THREAD ORDEREDSUBJECT UTF-8 ALL", "THREAD REFERENCES UTF-8 ALL", "UID THREAD REFERENCES UTF-8 SEEN", "THREAD REFERENCES UTF-8 5:40", "THREAD FOO UTF-8 ALL",
		"UID SEARCH RETURN (PARTIAL 3:7) SEEN", "SEARCH RETURN (SAVE) SEEN", "SEARCH $ FLAGGED", "SEARCH $ 1:20",
		"FETCH $ UID", "UID SEARCH RETURN (SAVE COUNT) UNSEEN", "UID FETCH $ UID", "SEARCH RETURN (SAVE MIN MAX) ALL", "SEARCH UID $", "SEARCH YOUNGER 5",
		"SEARCH OLDER 5 1:3", "SEARCH RETURN (SAVE) FOO", "FETCH $ UID",
	} {
		b.same(t, command)
	}
}
