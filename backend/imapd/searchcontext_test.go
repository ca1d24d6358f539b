package imapd

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/postern-mail/postern/internal/testenv"
)

func TestContexts(t *testing.T) {
	t.Parallel()
	s := startServer(t, testConfig())
	c, b := s.login("alice"), s.login("alice")
	c.fill("INBOX", 6)
	c.ok("SELECT INBOX")
	b.ok("SELECT INBOX")
	c.send("B01 UID SEARCH RETURN (UPDATE COUNT) DELETED KEYWORD $Junk\r\n")
	got, _ := c.until("B01")
	expect(t, "UPDATE", got, `* ESEARCH (TAG "B01") UID COUNT 0`)
	b.ok(`STORE 2,4:5 +FLAGS.SILENT (\Deleted $Junk)`)
	got = c.ok("NOOP")
	if last := got[len(got)-1]; last != `* ESEARCH (TAG "B01") UID ADDTO (0 2,4:5)` {
		t.Errorf("after STORE: %q", got)
	}
	c.send("B02 SEARCH RETURN (UPDATE ALL) DELETED\r\n")
	got, _ = c.until("B02")
	expect(t, "numbers", got, `* ESEARCH (TAG "B02") ALL 2,4:5`)

	// REMOVEFROM comes before EXPUNGE, ADDTO behind EXISTS.
	b.ok("UID EXPUNGE 2")
	expect(t, "EXPUNGE", c.ok("NOOP"), `* ESEARCH (TAG "B01") UID REMOVEFROM (0 2)`, `* ESEARCH (TAG "B02") REMOVEFROM (0 2)`, "* 2 EXPUNGE")
	b.append("INBOX", `\Deleted $Junk`, message("new", "text"))
	expect(t, "new", c.ok("NOOP"), "* 6 EXISTS", `* ESEARCH (TAG "B01") UID ADDTO (0 7)`, `* ESEARCH (TAG "B02") ADDTO (0 6)`)

	// In IDLE, too, and for changes of one's own.
	c.send("i IDLE\r\n")
	c.line()
	b.ok(`UID STORE 4 -FLAGS.SILENT ($Junk)`)
	if lines := []string{c.line(), c.line()}; lines[1] != `* ESEARCH (TAG "B01") UID REMOVEFROM (0 4)` {
		t.Errorf("in IDLE: %q", lines)
	}
	c.send("DONE\r\n")
	c.until("i")
	got = c.ok(`UID STORE 5 -FLAGS.SILENT (\Deleted)`)
	expect(t, "own STORE", got, `* ESEARCH (TAG "B01") UID REMOVEFROM (0 5)`, `* ESEARCH (TAG "B02") REMOVEFROM (0 4)`)

	// While numbers must stay nothing is told, and then all of it.
	b.ok(`UID STORE 3 +FLAGS.SILENT (\Deleted)`)
	b.ok("UID EXPUNGE 4,7")
	for _, line := range c.ok("FETCH 1 UID") {
		if strings.Contains(line, "ESEARCH") {
			t.Errorf("in a FETCH: %q", line)
		}
	}
	got = c.ok("NOOP")
	expect(t, "after it", got, `* ESEARCH (TAG "B01") UID REMOVEFROM (0 7)`, `* ESEARCH (TAG "B02") REMOVEFROM (0 3,6)`, "* 6 EXPUNGE", "* 3 EXPUNGE", `* ESEARCH (TAG "B02") ADDTO (0 2)`)

	// Tags, limits, the end.
	c.send("B02 SEARCH RETURN (UPDATE) ALL\r\n")
	if _, tagged := c.until("B02"); !strings.HasPrefix(tagged, "BAD") {
		t.Errorf("tag reuse: %s", tagged)
	}
	c.ok(`CANCELUPDATE "B02" "none"`)
	b.ok(`UID STORE 3 -FLAGS.SILENT (\Deleted)`)
	for _, line := range c.ok("NOOP") {
		if strings.Contains(line, "ESEARCH") {
			t.Errorf("after CANCELUPDATE: %q", line)
		}
	}
	for range maxContexts - 1 {
		c.ok("SEARCH RETURN (UPDATE) ALL")
	}
	c.send("B99 SEARCH RETURN (UPDATE COUNT CONTEXT) ALL\r\n")
	got, tagged := c.until("B99")
	expect(t, "one too many", got, `* ESEARCH (TAG "B99") COUNT 4`, `* NO [NOUPDATE "B99"] Too many contexts`)
	if !strings.HasPrefix(tagged, "OK") {
		t.Errorf("one too many: %s", tagged)
	}
	for _, bad := range []string{"CANCELUPDATE", "CANCELUPDATE B01", `CANCELUPDATE "B01`} {
		c.fails(bad, "BAD")
	}
	c.ok("SELECT INBOX")
	b.ok(`STORE 1:* +FLAGS.SILENT (\Deleted $Junk)`)
	for _, line := range c.ok("NOOP") {
		if strings.Contains(line, "ESEARCH") {
			t.Errorf("after SELECT: %q", line)
		}
	}
}

// follower is a client that keeps the result of a search by what it is told.
type follower struct {
	t      *testing.T
	tag    string
	uid    bool
	result []int
}

func (f *follower) number(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil {
		f.t.Fatalf("%q is no number", s)
	}
	return n
}

func (f *follower) set(s string) (nums []int) {
	for part := range strings.SplitSeq(s, ",") {
		lo, hi, isRange := strings.Cut(part, ":")
		if !isRange {
			hi = lo
		}
		for n := f.number(lo); n <= f.number(hi); n++ {
			nums = append(nums, n)
		}
	}
	return nums
}

// see applies one response.
func (f *follower) see(line string) {
	if n, ok := strings.CutSuffix(line, " EXPUNGE"); ok && !f.uid {
		gone := f.number(strings.TrimPrefix(n, "* "))
		for i, n := range f.result {
			if n == gone {
				f.t.Fatalf("%s is expunged and still in %v", line, f.result)
			}
			if n > gone {
				f.result[i]--
			}
		}
	}
	rest, ok := strings.CutPrefix(line, fmt.Sprintf(`* ESEARCH (TAG %q)`, f.tag))
	if !ok {
		return
	}
	rest = strings.TrimPrefix(rest, " UID")
	for rest != "" {
		item, after, _ := strings.Cut(strings.TrimPrefix(rest, " "), " (")
		list, left, _ := strings.Cut(after, ")")
		rest = left
		words := strings.Fields(list)
		for i := 0; i+1 < len(words); i += 2 {
			f.apply(item, f.number(words[i]), f.set(words[i+1]))
		}
	}
}

func (f *follower) apply(item string, position int, nums []int) {
	switch {
	case item == "REMOVEFROM" && position == 0:
		f.result = slices.DeleteFunc(f.result, func(n int) bool { return slices.Contains(nums, n) })
	case item == "REMOVEFROM":
		if got := f.result[position-1 : position-1+len(nums)]; !slices.Equal(got, nums) {
			f.t.Fatalf("REMOVEFROM (%d %v): there is %v", position, nums, got)
		}
		f.result = slices.Delete(f.result, position-1, position-1+len(nums))
	case item == "ADDTO" && position == 0:
		f.result = append(f.result, nums...)
		slices.Sort(f.result)
	case item == "ADDTO":
		f.result = slices.Insert(f.result, position-1, nums...)
	default:
		f.t.Fatalf("unexpected %s", item)
	}
}

// Whatever others do, the results that a client keeps are those of a new
// search.
func TestContextsStayTrue(t *testing.T) {
	t.Parallel()
	for _, qresync := range []bool{false, true} {
		s := startServer(t, testConfig())
		c, b := s.login("alice"), s.login("alice")
		c.fill("INBOX", 12)
		if qresync {
			c.ok("ENABLE QRESYNC")
		}
		c.ok("SELECT INBOX")
		b.ok("SELECT INBOX")
		searches := []string{
			"UID SEARCH RETURN (UPDATE ALL) UNSEEN", "UID SORT RETURN (UPDATE ALL) (SUBJECT) UTF-8 UNFLAGGED", "UID SEARCH RETURN (UPDATE ALL) UID 5:* SUBJECT m",
			"UID SORT RETURN (UPDATE ALL) (REVERSE SIZE ARRIVAL) UTF-8 OR SEEN FLAGGED",
		}
		if !qresync { // VANISHED has no numbers to follow
			searches = append(searches, "SEARCH RETURN (UPDATE ALL) SEEN", "SORT RETURN (UPDATE ALL) (REVERSE SUBJECT) UTF-8 NOT SEEN")
		}
		var followers []*follower
		for i, search := range searches {
			f := &follower{t: t, tag: fmt.Sprintf("C%d", i), uid: strings.HasPrefix(search, "UID")}
			c.send(f.tag + " " + search + "\r\n")
			got, _ := c.until(f.tag)
			if _, all, ok := strings.Cut(got[0], " ALL "); ok {
				f.result = f.set(all)
			}
			followers = append(followers, f)
		}
		seed := testenv.Seed(t)
		r := rand.New(rand.NewPCG(seed, 0))
		for range 60 {
			for range 1 + r.IntN(3) {
				uid := 1 + r.IntN(25)
				switch r.IntN(5) {
				case 0:
					b.append("INBOX", []string{"", `\Seen`, `\Flagged`}[r.IntN(3)], message(fmt.Sprintf("m%d", r.IntN(20)), strings.Repeat("x", r.IntN(5))))
				case 1:
					b.ok(fmt.Sprintf(`UID STORE %d +FLAGS.SILENT (\Deleted)`, uid))
					b.ok("EXPUNGE")
				default:
					b.ok(fmt.Sprintf(`UID STORE %d:%d %sFLAGS.SILENT (%s)`, uid, uid+2, []string{"+", "-"}[r.IntN(2)], []string{`\Seen`, `\Flagged`}[r.IntN(2)]))
				}
			}
			got := c.ok([]string{"NOOP", "FETCH * UID", "UID SEARCH RETURN (COUNT) ALL"}[r.IntN(3)])
			got = append(got, c.ok("NOOP")...)
			for i, f := range followers {
				for _, line := range got {
					f.see(line)
				}
				again := c.ok(strings.Replace(searches[i], "UPDATE ", "", 1))
				_, all, ok := strings.Cut(again[len(again)-1], " ALL ")
				if want := (*follower).set; ok && !slices.Equal(f.result, want(f, all)) || !ok && len(f.result) > 0 {
					t.Fatalf("seed %d: %s: the client has %v, a new search finds %s; after %q", seed, searches[i], f.result, all, got)
				}
			}
		}
	}
}
