package imapd

import (
	"strings"
	"testing"
)

// TestThreadID: messages of a thread have one THREADID, in every mailbox and
// for ever, and SEARCH finds them by it (RFC 8474 sections 5.2 and 6).
func TestThreadID(t *testing.T) {
	t.Parallel()
	s := startServer(t, testConfig())
	c := s.login("alice")
	for _, header := range []string{
		"Message-ID: <a@b>\r\n",
		"Message-ID: <c@b>\r\nIn-Reply-To: <a@b>\r\n",
		"Message-ID: <d@b>\r\nReferences: <a@b>\r\n <c@b>\r\n",
		"Message-ID: <e@b>\r\n",
		"Subject: nothing\r\n",
		"Subject: nothing\r\n",
	} {
		c.append("INBOX", "", header+"\r\nx")
	}
	c.ok("SELECT INBOX")
	c.ok("COPY 2,5 Sent")
	ids := func() (list []string) {
		for _, line := range c.ok("FETCH 1:* THREADID") {
			_, rest, ok := strings.Cut(line, "FETCH (THREADID (T")
			if !ok || len(rest) != 34 {
				t.Fatalf("%q", line)
			}
			list = append(list, "T"+rest[:32])
		}
		return list
	}
	in := ids()
	if in[0] != in[1] || in[1] != in[2] || in[3] == in[0] || in[4] == in[5] || in[4] == in[0] {
		t.Errorf("threads are %q", in)
	}
	expect(t, "SEARCH", c.ok("SEARCH THREADID "+in[0]), "* SEARCH 1 2 3")
	expect(t, "SEARCH", c.ok("SEARCH NOT THREADID "+in[0]+" OR THREADID "+in[4]+" EMAILID M"+in[5][1:]), "* SEARCH 5 6")
	expect(t, "SEARCH by what is none", c.ok("SEARCH OR THREADID T00 OR THREADID M"+in[0][1:]+" THREADID "+in[0]+"00"), "* SEARCH")
	c.ok("SELECT Sent")
	if sent := ids(); sent[0] != in[1] || sent[1] != in[4] {
		t.Errorf("copies have %q, their originals %q", sent, in)
	}
}
