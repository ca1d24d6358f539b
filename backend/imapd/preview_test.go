package imapd

import (
	"strings"
	"testing"
)

// TestPreview runs the exchanges of RFC 8970 section 4.
func TestPreview(t *testing.T) {
	t.Parallel()
	s := startServer(t, testConfig())
	c := s.login("alice")
	c.append("INBOX", "", "Subject: b1g s4le\r\nContent-Type: multipart/alternative; boundary=b\r\n\r\n--b\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n"+
		"Check out these b\xc3\xa4rgains!\r\n> old\r\n--b\r\nContent-Type: text/html\r\n\r\n<p>html</p>\r\n--b--\r\n")
	c.append("INBOX", "", "Subject: lunch\r\nContent-Type: text/html\r\n\r\n<p>Let's <i>meet</i></p><p>at \"noon\"</p>\r\n")
	c.append("INBOX", "", "Subject: picture\r\nContent-Type: image/png\r\n\r\nx\r\n")
	c.ok("SELECT INBOX")
	expect(t, "a literal", c.ok("FETCH 1 (RFC822.SIZE PREVIEW)"), "* 1 FETCH (RFC822.SIZE 205 PREVIEW {26}\r\nCheck out these b\xc3\xa4rgains!)")
	expect(t, "LAZY in a list", c.ok("FETCH 2:3 (PREVIEW (LAZY) UID)"),
		`* 2 FETCH (PREVIEW "Let's meet at \"noon\"" UID 2)`, `* 3 FETCH (PREVIEW "" UID 3)`)
	expect(t, "LAZY alone", c.ok("fetch 2 preview (lazy)"), `* 2 FETCH (PREVIEW "Let's meet at \"noon\"")`)
	if got := c.ok("FETCH 2 PREVIEW (CHANGEDSINCE 1)"); !strings.HasPrefix(got[len(got)-1], `* 2 FETCH (PREVIEW "Let's meet at \"noon\"" MODSEQ (`) {
		t.Errorf("with a modifier of FETCH: %q", got)
	}
	for _, wrong := range []string{"(PREVIEW (FOO))", "PREVIEW (LAZY FOO)", "(PREVIEW LAZY)", "(PREVIEW (LAZY)"} {
		c.fails("FETCH 1 "+wrong, "BAD")
	}
	if got := c.ok("FETCH 1 FLAGS"); strings.Contains(got[0], `\Seen`) {
		t.Error("a preview marks the message as read")
	}
}

// TestSaveDate: the date of saving is that of the copy (RFC 8514 section 2),
// other than INTERNALDATE.
func TestSaveDate(t *testing.T) {
	t.Parallel()
	s := startServer(t, testConfig())
	c := s.login("alice")
	c.ok("APPEND INBOX \" 7-Feb-1994 21:52:25 -0800\" {9+}\r\nA: b\r\n\r\nc")
	c.ok("SELECT INBOX")
	m := s.view(t).At(0)
	want := m.SaveDate.UTC().Format(`"_2-Jan-2006 15:04:05 +0000"`)
	expect(t, "SAVEDATE", c.ok("FETCH 1 (INTERNALDATE SAVEDATE)"), `* 1 FETCH (INTERNALDATE " 8-Feb-1994 05:52:25 +0000" SAVEDATE `+want+")")
}
