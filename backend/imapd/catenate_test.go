package imapd

import (
	"fmt"
	"strings"
	"testing"
)

// TestCatenate composes drafts in the ways of RFC 4469 section 4: of a message
// that is there, with parts of it exchanged.
func TestCatenate(t *testing.T) {
	t.Parallel()
	s := startServer(t, testConfig())
	c := s.login("alice")
	draft := "From: a@example.org\r\nSubject: old\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Type: text/plain\r\n\r\nold text\r\n--b\r\nContent-Type: image/png\r\n\r\nPNG\r\n--b--\r\n"
	c.append("Drafts", "", draft)
	c.ok("CREATE a/b&AOk-")
	c.append("a/b&AOk-", "", message("one", "text of one"))
	c.ok("SELECT Drafts")
	validity := s.viewOf(t, "Drafts").UIDValidity()

	fetch := func(i int) string {
		line := c.ok(fmt.Sprintf("FETCH %d BODY.PEEK[]", i))[0]
		_, rest, _ := strings.Cut(line, "}\r\n")
		return strings.TrimSuffix(rest, ")")
	}
	header := draft[:strings.Index(draft, "\r\n\r\n")+4]
	// Literals one after the other, URLs between them; the last line ends it.
	untagged, tagged := c.cmd(fmt.Sprintf("APPEND Drafts (\\Seen $MDNSent) \" 7-Feb-1994 21:52:25 -0800\" CATENATE (URL \"/Drafts;UIDVALIDITY=%d/;UID=1/;section=HEADER\""+
		" TEXT {5+}\r\n--b\r\n URL \"/Drafts;UIDVALIDITY=%d/;UID=1/;SECTION=1.MIME\" TEXT ~{12+}\r\nnew text\r\n\r\n TEXT {7+}\r\n--b--\r\n)", validity, validity))
	if !strings.HasPrefix(tagged, fmt.Sprintf("OK [APPENDUID %d 2]", validity)) {
		t.Fatal(untagged, tagged)
	}
	if got, want := fetch(2), header+"--b\r\nContent-Type: text/plain\r\n\r\nnew text\r\n\r\n--b--\r\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := c.ok("FETCH 2 (FLAGS INTERNALDATE)")[0]; !strings.Contains(got, `FLAGS (\Seen $MDNSent)`) || !strings.Contains(got, " 8-Feb-1994 05:52:25") {
		t.Errorf("flags and date: %q", got)
	}

	for _, row := range []struct{ url, want string }{
		{"/Drafts/;UID=1", draft},
		{";UID=1", draft}, // of the selected mailbox
		{"/;UID=1/;SECTION=2", "PNG"},
		{"/Drafts/;UID=1/;SECTION=TEXT/;PARTIAL=0.3", "--b"},
		{"/Drafts/;UID=1/;PARTIAL=" + fmt.Sprint(len(draft)-3), "-\r\n"},
		{"/Drafts/;UID=1/;SECTION=HEADER.FIELDS%20(subject)", "Subject: old\r\n\r\n"},
		{"/Drafts/;UID=1/;SECTION=HEADER.FIELDS%20(subject)/;PARTIAL=2.4", "bjec"},
		{"/a/b%C3%A9/;UID=1", message("one", "text of one")},
	} {
		c.ok("APPEND Drafts CATENATE (URL \"" + row.url + "\")")
		if got := fetch(int(s.viewOf(t, "Drafts").Len())); got != row.want {
			t.Errorf("%s: got %q, want %q", row.url, got, row.want)
		}
	}

	before := s.viewOf(t, "Drafts").Len()
	bad := func(url string) {
		_, tagged := c.cmd("APPEND Drafts CATENATE (TEXT {1+}\r\nx URL \"" + url + "\" TEXT {3+}\r\nabc)")
		if !strings.HasPrefix(tagged, "NO [BADURL "+url+"] ") {
			t.Errorf("%s: %s", url, tagged)
		}
	}
	for _, url := range []string{
		"/Drafts/;UID=9999", "/Drafts;UIDVALIDITY=1/;UID=1", "/nowhere/;UID=1", "/Drafts/;UID=1/;SECTION=7", "/Drafts/;UID=1/;SECTION=FOO", "/Drafts",
		"http://x/", "imap://other.example/Drafts/;UID=1", "/Drafts/;UID=1;URLAUTH=anonymous:INTERNAL:00",
	} {
		bad(url)
	}
	if s.viewOf(t, "Drafts").Len() != before {
		t.Error("a message that could not be made was added")
	}
	c.ok("UNSELECT")
	bad(";UID=1")
}

// TestCatenateWaits: literals that wait are asked for one by one, a URL among
// them, and nothing is asked for behind an error.
func TestCatenateWaits(t *testing.T) {
	t.Parallel()
	s := startServer(t, testConfig())
	c := s.login("alice")
	c.append("INBOX", "", message("one", "text"))
	goOn := func(text string) {
		t.Helper()
		if got := c.line(); !strings.HasPrefix(got, "+ ") {
			t.Fatalf("%q instead of a continuation", got)
		}
		c.send(text)
	}
	c.send("s1 APPEND {5}\r\n")
	goOn("INBOX CATENATE (URL {13}\r\n")
	goOn("/INBOX/;UID=1 TEXT {4}\r\n")
	goOn("end\n TEXT {0+}\r\n)\r\n")
	if _, tagged := c.until("s1"); !strings.HasPrefix(tagged, "OK [APPENDUID ") {
		t.Fatal(tagged)
	}
	c.send("s2 APPEND INBOX CATENATE (URL /INBOX/;UID=77 TEXT {4}\r\n")
	if _, tagged := c.until("s2"); !strings.HasPrefix(tagged, "NO [BADURL /INBOX/;UID=77]") {
		t.Fatal(tagged)
	}
	c.ok("NOOP")
	if v := s.view(t); v.Len() != 2 || v.At(1).Octets != v.At(0).Octets+4 {
		t.Errorf("%d messages", v.Len())
	}
}

// TestCatenateMany: several messages of parts and plain ones in one command, all
// or none (RFC 3502).
func TestCatenateMany(t *testing.T) {
	t.Parallel()
	s := startServer(t, testConfig())
	c := s.login("alice")
	c.append("INBOX", "", message("one", "text"))
	_, tagged := c.cmd("APPEND INBOX (\\Seen) CATENATE (TEXT {3+}\r\nA:b URL /INBOX/;UID=1/;SECTION=TEXT) {3+}\r\nC:d (\\Flagged) CATENATE (URL /INBOX/;UID=1)")
	if !strings.HasPrefix(tagged, "OK [APPENDUID ") || !strings.Contains(tagged, " 2:4]") {
		t.Fatal(tagged)
	}
	c.fails("APPEND INBOX {3+}\r\nC:d CATENATE (URL /INBOX/;UID=99)", "NO [BADURL")
	c.fails("APPEND INBOX CATENATE (URL /INBOX/;UID=1) CATENATE (URL /INBOX/;UID=99)", "NO [BADURL")
	if n := s.view(t).Len(); n != 4 {
		t.Errorf("%d messages, want 4", n)
	}
}

// TestCatenateBounds: wrong syntax, empty messages, the size limit and the quota
// are refused, and no octet is taken for a command.
func TestCatenateBounds(t *testing.T) {
	t.Parallel()
	cfg := testConfig()
	cfg.AppendLimitOctets = 2000
	s := startServer(t, cfg)
	c := s.login("alice")
	c.append("INBOX", "", message("one", strings.Repeat("x", 900)))
	for text, want := range map[string]string{
		"CATENATE ()":                                    "BAD",
		"CATENATE (TEXT)":                                "BAD",
		"CATENATE (TEXT abc)":                            "BAD",
		"CATENATE (FOO {3+}\r\nabc)":                     "BAD",
		"CATENATE (TEXT {3+}\r\nabc":                     "BAD",
		"CATENATE (TEXT {3+}\r\nabcTEXT {3+}\r\nabc)":    "BAD",
		"CATENATE (URL /INBOX/;UID=1":                    "BAD",
		"CATENATE (URL /INBOX/;UID=1) x":                 "BAD",
		"CATENATE (TEXT {0+}\r\n)":                       "NO",
		"CATENATE (URL \"/INBOX/;UID=1/;PARTIAL=9999\")": "NO",
		"CATENATE (URL /INBOX/;UID=1 URL /INBOX/;UID=1)": "NO [TOOBIG]",
		"CATENATE (TEXT {2001+}\r\n" + strings.Repeat("A LOGOUT\r\n", 200) + "x)":                  "NO [TOOBIG]",
		"CATENATE (URL /INBOX/;UID=1 TEXT {1900+}\r\n" + strings.Repeat("A LOGOUT\r\n", 190) + ")": "NO [TOOBIG]",
		"CATENATE (URL {9000+}\r\n" + strings.Repeat("x", 9000) + ")":                              "NO [TOOBIG]",
		"CATENATE (" + strings.Repeat("TEXT {1+}\r\nx ", 1001) + "TEXT {1+}\r\nx)":                 "NO [LIMIT]",
		"FOO {3+}\r\nabc": "BAD", "CATENATION (TEXT {3+}\r\nabc)": "BAD",
	} {
		c.fails("APPEND INBOX "+text, want)
		c.ok("NOOP")
	}
	if n := s.view(t).Len(); n != 1 {
		t.Errorf("%d messages, want 1", n)
	}
	small := s.login("small") // 1000 octets
	small.append("INBOX", "", strings.Repeat("x", 600))
	small.fails("APPEND INBOX CATENATE (URL /INBOX/;UID=1 TEXT {1+}\r\nx)", "NO [OVERQUOTA]")
	small.fails("APPEND INBOX CATENATE (TEXT {500+}\r\n"+strings.Repeat("x", 500)+")", "NO [OVERQUOTA]")
}
