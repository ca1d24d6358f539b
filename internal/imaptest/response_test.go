package imaptest

import (
	"reflect"
	"strings"
	"testing"
)

func TestParseResponse(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		line string
		want response
	}{
		{"* 5 EXISTS", response{kind: "EXISTS", number: 5}},
		{"* OK [HIGHESTMODSEQ 12] Highest", response{kind: "OK", text: "[HIGHESTMODSEQ 12] Highest", code: "HIGHESTMODSEQ 12"}},
		{"* VANISHED (EARLIER) 1,3:5", response{kind: "VANISHED", text: "(EARLIER) 1,3:5", earlier: true, uids: []Range{{1, 1}, {3, 5}}}},
		{"* VANISHED 4294967295", response{kind: "VANISHED", text: "4294967295", uids: []Range{{4294967295, 4294967295}}}},
		{`* 2 FETCH (UID 9 FLAGS (\Seen \Recent $x) MODSEQ (77) EMAILID (M1))`, response{
			kind: "FETCH", number: 2, showsFlags: true, text: `(UID 9 FLAGS (\Seen \Recent $x) MODSEQ (77) EMAILID (M1))`,
			message: Message{UID: 9, ModSeq: 77, Flags: []string{"$x", `\Seen`}, EmailID: "M1"},
		}},
		{"* 1 FETCH (UID 1 BODY[HEADER.FIELDS (MESSAGE-ID)] {39}\r\nMessage-ID: <m1@imaptest.invalid>\r\n\r\n\r\n MODSEQ (5))", response{
			kind: "FETCH", number: 1, text: "(UID 1 BODY[HEADER.FIELDS (MESSAGE-ID)] {39}\r\nMessage-ID: <m1@imaptest.invalid>\r\n\r\n\r\n MODSEQ (5))",
			message: Message{UID: 1, ModSeq: 5, Content: "m1"},
		}},
		{"+ idling", response{kind: "+"}},
	} {
		got, err := parseResponse(tt.line)
		if err != nil || !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%q:\n got %+v, %v\nwant %+v", tt.line, got, err, tt.want)
		}
	}
	for _, line := range []string{"x", "* VANISHED 0", "* VANISHED 5:3", "* VANISHED *", "* 1 FETCH UID 1", "* 1 FETCH (UID)", "* 1 FETCH (UID x)", "* 1 FETCH (FLAGS (a)"} {
		if r, err := parseResponse(line); err == nil {
			t.Errorf("%q is taken as %+v", line, r)
		}
	}
}

func FuzzParseResponse(f *testing.F) {
	for _, s := range []string{
		"* 5 EXISTS", "* OK [HIGHESTMODSEQ 12] x", "* VANISHED (EARLIER) 1,3:5", `* 2 FETCH (UID 9 FLAGS (\Seen) MODSEQ (77) EMAILID (M1))`,
		"* 1 FETCH (BODY[HEADER.FIELDS (MESSAGE-ID)] {3}\r\nabc)", "* FETCH", "* ", "+",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := parseResponse(s)
		if err != nil {
			return
		}
		c := newCache("x")
		_ = c.apply(r)
		for _, x := range r.uids {
			if x.First == 0 || x.Last < x.First {
				t.Errorf("%q has the range %v", s, x)
			}
		}
	})
}

func TestContent(t *testing.T) {
	t.Parallel()
	text := Content("c1-2", 5000)
	if len(text) < 4900 || len(text) > 5100 || strings.Count(text, "\n") != strings.Count(text, "\r\n") {
		t.Errorf("%d octets", len(text))
	}
	header, _, _ := strings.Cut(text, "\r\n\r\n")
	if got := contentOf(header[strings.Index(header, "Message-ID"):]); got != "c1-2" {
		t.Errorf("content %q", got)
	}
}

// What a client knows moves on only when nothing lies below it untold.
func TestCacheCheckpoints(t *testing.T) {
	t.Parallel()
	c := newCache("INBOX")
	apply := func(lines ...string) {
		t.Helper()
		for _, line := range lines {
			r, err := parseResponse(line)
			if err == nil {
				err = c.apply(r)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	apply("* 3 EXISTS", "* OK [UIDVALIDITY 7] x", "* OK [UIDNEXT 4] x", "* OK [HIGHESTMODSEQ 10] x")
	if c.ModSeq != 0 || c.exists != 3 || c.uidNext != 4 {
		t.Errorf("in SELECT: %+v", c)
	}
	c.checkpoint()
	apply("* 1 FETCH (UID 1 FLAGS () MODSEQ (8))", "* 3 FETCH (UID 3 FLAGS () MODSEQ (14))")
	if c.ModSeq != 10 {
		t.Errorf("inside a command: %d", c.ModSeq)
	}
	c.checkpoint()
	if c.ModSeq != 14 {
		t.Errorf("behind a command: %d", c.ModSeq)
	}
	apply("* 3 FETCH (UID 3 FLAGS () MODSEQ (20))", "* OK [HIGHESTMODSEQ 14] an expunge is withheld")
	c.checkpoint()
	if c.ModSeq != 14 {
		t.Errorf("with an expunge withheld: %d", c.ModSeq)
	}
	apply("* VANISHED 1:2", "* VANISHED (EARLIER) 9")
	if got := c.UIDs(); c.exists != 1 || len(got) != 1 || got[0] != 3 {
		t.Errorf("VANISHED: %d of %v", c.exists, got)
	}
	apply("* OK [UIDVALIDITY 8] x")
	if len(c.Messages) != 0 || c.ModSeq != 0 || c.Next != 1 {
		t.Errorf("another UIDVALIDITY: %+v", c)
	}
}
