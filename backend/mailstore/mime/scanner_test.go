package mime

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapserver"
)

func crlf(s string) string { return strings.ReplaceAll(strings.TrimPrefix(s, "\n"), "\n", "\r\n") }

func scan(t testing.TB, message string) *Result {
	t.Helper()
	r, err := Scan(strings.NewReader(message))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

const mixed = `
From: "Kim, the Reader" <kim@example.org>
To: Team: a@example.org, "B" <b@example.org>;, c@example.org (Cee)
Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?= "quoted" \ here
Date: Tue, 3 Feb 2026 23:30:00 -0500
Message-ID: <1@example.org>
MIME-Version: 1.0
Content-Type: multipart/mixed; boundary="outer"

preamble
--outer
Content-Type: multipart/alternative;
	boundary=inner

--inner
Content-Type: text/plain; charset=utf-8 (with a comment); format=flowed

hello
world
--inner
Content-Type: text/html

<p>hello</p>

--inner--

--outer
Content-Type: message/rfc822
Content-Description: forwarded

Subject: inside
From: x@example.net
Content-Type: multipart/mixed; boundary=outerer

--outerer

one
--outerer--
--outer
Content-Type: application/pdf; name="a b.pdf"
Content-Transfer-Encoding: base64
Content-ID: <cid@example.org>
Content-Disposition: attachment; filename="a b.pdf"
Content-Language: en, de
Content-Location: http://example.org/

AAAA
--outer--
epilogue
`

func TestStructure(t *testing.T) {
	t.Parallel()
	for _, row := range []struct{ name, message, envelope, structure string }{
		{
			"mixed", mixed,
			`("Tue, 3 Feb 2026 23:30:00 -0500" "=?utf-8?q?Gr=C3=BC=C3=9Fe?= \"quoted\" \\ here"` +
				` (("Kim, the Reader" NIL "kim" "example.org"))` +
				` (("Kim, the Reader" NIL "kim" "example.org"))` +
				` (("Kim, the Reader" NIL "kim" "example.org"))` +
				` ((NIL NIL "Team" NIL)(NIL NIL "a" "example.org")("B" NIL "b" "example.org")(NIL NIL NIL NIL)("Cee" NIL "c" "example.org"))` +
				` NIL NIL NIL "<1@example.org>")`,
			`((("text" "plain" ("charset" "utf-8" "format" "flowed") NIL NIL "7bit" 12 2 NIL NIL NIL NIL)` +
				`("text" "html" NIL NIL NIL "7bit" 14 1 NIL NIL NIL NIL) "alternative" ("boundary" "inner") NIL NIL NIL)` +
				`("message" "rfc822" NIL NIL "forwarded" "7bit" 118 (NIL "inside" ((NIL NIL "x" "example.net")) ((NIL NIL "x" "example.net"))` +
				` ((NIL NIL "x" "example.net")) NIL NIL NIL NIL NIL)` +
				` (("text" "plain" ("charset" "us-ascii") NIL NIL "7bit" 3 1 NIL NIL NIL NIL) "mixed" ("boundary" "outerer") NIL NIL NIL) 8 NIL NIL NIL NIL)` +
				`("application" "pdf" ("name" "a b.pdf") "<cid@example.org>" NIL "base64" 4 NIL ("attachment" ("filename" "a b.pdf")) ("en" "de") "http://example.org/")` +
				` "mixed" ("boundary" "outer") NIL NIL NIL)`,
		},
		{
			"plain", "\nSubject: x\n\nhello", `(NIL "x" NIL NIL NIL NIL NIL NIL NIL NIL)`,
			`("text" "plain" ("charset" "us-ascii") NIL NIL "7bit" 5 1 NIL NIL NIL NIL)`,
		},
		{
			"Sender and Reply-To without an address", "\nFrom: <a@b>\nSender: ,\nReply-To: <>\n\nx\n",
			`(NIL NIL ((NIL NIL "a" "b")) ((NIL NIL "a" "b")) ((NIL NIL "a" "b")) NIL NIL NIL NIL NIL)`,
			`("text" "plain" ("charset" "us-ascii") NIL NIL "7bit" 3 1 NIL NIL NIL NIL)`,
		},
		{
			"empty", "", `(NIL NIL NIL NIL NIL NIL NIL NIL NIL NIL)`,
			`("text" "plain" ("charset" "us-ascii") NIL NIL "7bit" 0 0 NIL NIL NIL NIL)`,
		},
		{
			"multipart without parts", "\nContent-Type: multipart/mixed; boundary=b\n\nnothing\n",
			`(NIL NIL NIL NIL NIL NIL NIL NIL NIL NIL)`,
			`(("text" "plain" ("charset" "us-ascii") NIL NIL "7bit" 0 0 NIL NIL NIL NIL) "mixed" ("boundary" "b") NIL NIL NIL)`,
		},
		{
			"multipart without boundary", "\nContent-Type: multipart/mixed\n\nnothing\n",
			`(NIL NIL NIL NIL NIL NIL NIL NIL NIL NIL)`,
			`("application" "octet-stream" NIL NIL NIL "7bit" 9 NIL NIL NIL NIL)`,
		},
		{
			"digest", "\nContent-Type: multipart/digest; boundary=b\n\n--b\n\nSubject: in\n\nx\n--b--\n",
			`(NIL NIL NIL NIL NIL NIL NIL NIL NIL NIL)`,
			`(("message" "rfc822" NIL NIL NIL "7bit" 16 (NIL "in" NIL NIL NIL NIL NIL NIL NIL NIL)` +
				` ("text" "plain" ("charset" "us-ascii") NIL NIL "7bit" 1 1 NIL NIL NIL NIL) 3 NIL NIL NIL NIL) "digest" ("boundary" "b") NIL NIL NIL)`,
		},
		{
			"raw octets and a line that is no field", "\nFrom me\nSubject: gr\xfc\xdfe\nTo: \"broken <x@y>, z\n\n",
			"(NIL {5}\r\ngr\xfc\xdfe NIL NIL NIL ((NIL NIL \"broken <x@y>, z\" \"\")) NIL NIL NIL NIL)",
			`("text" "plain" ("charset" "us-ascii") NIL NIL "7bit" 0 0 NIL NIL NIL NIL)`,
		},
		{
			"part header without end", "\nContent-Type: multipart/mixed; boundary=b\n\n--b\nContent-Type: text/html\n--b--",
			`(NIL NIL NIL NIL NIL NIL NIL NIL NIL NIL)`,
			`(("text" "html" NIL NIL NIL "7bit" 0 0 NIL NIL NIL NIL) "mixed" ("boundary" "b") NIL NIL NIL)`,
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			r := scan(t, crlf(row.message))
			if got := string(r.Envelope); got != row.envelope {
				t.Errorf("envelope\n got %s\nwant %s", got, row.envelope)
			}
			if got := string(r.BodyStructure); got != row.structure {
				t.Errorf("structure\n got %s\nwant %s", got, row.structure)
			}
			if err := wellFormed(r); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestSections(t *testing.T) {
	t.Parallel()
	message := crlf(mixed)
	root := scan(t, message).Root
	for _, row := range []struct {
		path      []int
		specifier imap.PartSpecifier
		want      string
		missing   bool
	}{
		{path: []int{1, 1}, want: "hello\r\nworld"},
		{path: []int{1, 2}, want: "<p>hello</p>\r\n"},
		{path: []int{1, 2}, specifier: imap.PartSpecifierMIME, want: "Content-Type: text/html\r\n\r\n"},
		{path: []int{2, 1}, want: "one"},
		{path: []int{2, 1}, specifier: imap.PartSpecifierMIME, want: "\r\n"},
		{path: []int{2}, specifier: imap.PartSpecifierHeader, want: "Subject: inside\r\nFrom: x@example.net\r\nContent-Type: multipart/mixed; boundary=outerer\r\n\r\n"},
		{path: []int{2}, specifier: imap.PartSpecifierText, want: "--outerer\r\n\r\none\r\n--outerer--"},
		{path: []int{3}, want: "AAAA"},
		{want: message},
		{path: []int{4}, missing: true},
		{path: []int{0}, missing: true},
		{path: []int{1}, specifier: imap.PartSpecifierHeader, missing: true},
		{path: []int{3, 1}, missing: true},
		{specifier: imap.PartSpecifierMIME, missing: true},
	} {
		span, ok := root.Section(row.path, row.specifier)
		if ok == row.missing {
			t.Errorf("%v %s: found %v", row.path, row.specifier, ok)
			continue
		}
		if got := message[span.Start:span.End]; !row.missing && got != row.want {
			t.Errorf("%v %s: got %q, want %q", row.path, row.specifier, got, row.want)
		}
	}
	single := scan(t, "Subject: x\r\n\r\nbody").Root
	if span, ok := single.Section([]int{1}, ""); !ok || span.Len() != 4 {
		t.Errorf("part 1 of a single part: %v %v", span, ok)
	}
	if _, ok := single.Section([]int{1, 1}, ""); ok {
		t.Error("part 1.1 of a single part exists")
	}
}

func TestFields(t *testing.T) {
	t.Parallel()
	header := []byte("From: a\r\nTo: b,\r\n c\r\nSubject: d\r\n\r\n")
	if got := string(Fields(header, []string{"SUBJECT", "to", "x"}, false)); got != "To: b,\r\n c\r\nSubject: d\r\n\r\n" {
		t.Errorf("got %q", got)
	}
	if got := string(Fields(header, []string{"SUBJECT", "to"}, true)); got != "From: a\r\n\r\n" {
		t.Errorf("got %q", got)
	}
	if got := string(Fields(header, []string{"x"}, false)); got != "\r\n" {
		t.Errorf("got %q", got)
	}
}

func TestSentDate(t *testing.T) {
	t.Parallel()
	for value, want := range map[string]int64{
		"Tue, 3 Feb 2026 23:30:00 -0500":         1770076800,
		"3 Feb 26 01:00 GMT":                     1770076800,
		" Thu,  1 Jan 1970 00:00:00 +0000 (UTC)": 0,
		"Fri, 02 Jan 1970 00:00:00 +0000":        86400,
		"yesterday":                              0,
		"99 Feb 2026":                            0,
		"":                                       0,
	} {
		if got := scan(t, "Date: "+value+"\r\n\r\n").SentDate; got != want {
			t.Errorf("%q: got %d, want %d", value, got, want)
		}
	}
}

// TestBounds feeds what grows without end and wants bounded answers.
func TestBounds(t *testing.T) {
	t.Parallel()
	nested := func(n int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, "Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n", i, i)
		}
		return b.String()
	}
	for name, message := range map[string]string{
		"depth":     nested(5000),
		"messages":  strings.Repeat("Content-Type: message/rfc822\r\n\r\n", 5000),
		"parts":     "Content-Type: multipart/mixed; boundary=b\r\n\r\n" + strings.Repeat("--b\r\n\r\n", 20000),
		"header":    "Subject: " + strings.Repeat("x", 1<<20) + "\r\n\r\nbody",
		"addresses": "To: " + strings.Repeat("a@b,", 60000) + "\r\n\r\n",
		"params":    "Content-Type: text/plain" + strings.Repeat("; a=b", 40000) + "\r\n\r\n",
		"part headers": "Content-Type: multipart/mixed; boundary=b\r\n\r\n" +
			strings.Repeat("--b\r\nContent-Description: "+strings.Repeat("d", 30000)+"\r\n\r\n", 50),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := scan(t, message)
			if err := wellFormed(r); err != nil {
				t.Error(err)
			}
			if n := len(r.BodyStructure) + len(r.Envelope) + len(r.Header); n > 3*maxRendered {
				t.Errorf("%d octets", n)
			}
			if r.Header == nil && r.Root.Header.Len() <= MaxHeaderOctets {
				t.Error("header lost")
			}
		})
	}
}

func TestReaderErrorIsReturned(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	if _, err := Scan(io.MultiReader(strings.NewReader("Subject: x"), iotest.ErrReader(broken))); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
}

// TestAgainstPeer compares types and sizes with another implementation, on
// messages that leave no room for opinion.
func TestAgainstPeer(t *testing.T) {
	t.Parallel()
	for _, message := range []string{
		crlf("\nSubject: x\nContent-Type: text/plain; charset=utf-8\n\nhello\nworld\n"),
		crlf("\nContent-Type: multipart/mixed; boundary=b\n\n--b\nContent-Type: text/plain\n\nhi\n--b\nContent-Type: image/png\nContent-Transfer-Encoding: base64\n\nAAAA\n--b--\n"),
	} {
		want := flatten(imapserver.ExtractBodyStructure(strings.NewReader(message)))
		if got := flattenOurs(scan(t, message).Root); got != want {
			t.Errorf("%q:\n got %s\nwant %s", message, got, want)
		}
	}
}

func flatten(b imap.BodyStructure) string {
	switch b := b.(type) {
	case *imap.BodyStructureSinglePart:
		return strconv.Itoa(int(b.Size)) + ";"
	case *imap.BodyStructureMultiPart:
		var s strings.Builder
		s.WriteByte('[')
		for _, child := range b.Children {
			s.WriteString(flatten(child))
		}
		return s.String() + "]"
	}
	return "?"
}

func flattenOurs(p *Part) string {
	if p.Kind != Multipart {
		return strconv.Itoa(int(p.Body.Len())) + ";"
	}
	var s strings.Builder
	s.WriteByte('[')
	for _, child := range p.Parts {
		s.WriteString(flattenOurs(child))
	}
	return s.String() + "]"
}

func FuzzScan(f *testing.F) {
	f.Add([]byte(crlf(mixed)), uint8(0))
	f.Add([]byte("Content-Type: multipart/mixed; boundary=\"\"\r\n\r\n--\r\n"), uint8(1))
	f.Add([]byte("Content-Type: message/rfc822\r\n\r\nContent-Type: multipart/digest; boundary=a\n\n--a\n\n\n--a\n--a--"), uint8(3))
	f.Add([]byte("To: a:b:c;;<@r:x@[1]>(\\\"), \"\x00\r\n\xff\"@\r\nContent-Language: ,,\r\nContent-Disposition: a;=;b=\r\n\r\n"), uint8(7))
	f.Add([]byte("Content-Type: text/\"\r\nContent-Type: a/b;c=\"\\\r\nContent-ID:\r\nContent-Transfer-Encoding: (\r\n\r\n"), uint8(2))
	f.Fuzz(func(t *testing.T, message []byte, step uint8) {
		whole := scan(t, string(message))
		if err := wellFormed(whole); err != nil {
			t.Fatal(err)
		}
		if err := inside(whole.Root, Span{0, int64(len(message))}); err != nil {
			t.Fatal(err)
		}
		// However the octets arrive, the answer is the same.
		s := NewScanner()
		for rest := message; len(rest) > 0; {
			n := min(int(step)%17+1, len(rest))
			_, _ = s.Write(rest[:n])
			rest = rest[n:]
		}
		pieces := s.Result()
		if !bytes.Equal(pieces.BodyStructure, whole.BodyStructure) || !bytes.Equal(pieces.Envelope, whole.Envelope) ||
			!bytes.Equal(pieces.Header, whole.Header) {
			t.Fatalf("in pieces of %d:\n%s\n%s", int(step)%17+1, pieces.BodyStructure, whole.BodyStructure)
		}
	})
}

// inside checks that parts lie in their parents, in order.
func inside(p *Part, outer Span) error {
	if p.Header.Start < outer.Start || p.Header.Len() < 0 || p.Body.Len() < 0 || p.Body.Start != p.Header.End || p.Body.End > outer.End {
		return fmt.Errorf("part %+v is not inside %+v", p, outer)
	}
	at := p.Body.Start
	for _, child := range p.Parts {
		if child.Header.Start < at {
			return fmt.Errorf("part %+v starts before %d", child, at)
		}
		if err := inside(child, p.Body); err != nil {
			return err
		}
		at = child.Body.End
	}
	return nil
}

// wellFormed checks the wire forms against the grammar of strings and lists.
func wellFormed(r *Result) error {
	for _, wire := range [][]byte{r.Envelope, r.BodyStructure, r.Body} {
		rest, err := readValue(wire, 0)
		if err == nil && len(rest) > 0 {
			err = errors.New("trailing octets")
		}
		if err != nil {
			return fmt.Errorf("%w: %q", err, wire)
		}
	}
	return nil
}

func readValue(b []byte, depth int) ([]byte, error) {
	switch {
	case len(b) == 0 || depth > 1000:
		return nil, errors.New("ends early")
	case b[0] == '(':
		b = b[1:]
		for len(b) > 0 && b[0] != ')' {
			var err error
			if b, err = readValue(bytes.TrimPrefix(b, []byte(" ")), depth+1); err != nil {
				return nil, err
			}
		}
		if len(b) == 0 {
			return nil, errors.New("list is not closed")
		}
		return b[1:], nil
	case b[0] == '"':
		for i := 1; i < len(b); i++ {
			switch c := b[i]; {
			case c == '\\' && i+1 < len(b):
				i++
				if b[i] != '"' && b[i] != '\\' {
					return nil, errors.New("bad escape")
				}
			case c == '"':
				return b[i+1:], nil
			case c == 0 || c == '\r' || c == '\n' || c >= 0x7f:
				return nil, fmt.Errorf("octet %#x in a quoted string", c)
			}
		}
		return nil, errors.New("quoted string is not closed")
	case b[0] == '{':
		head, rest, found := bytes.Cut(b[1:], []byte("}\r\n"))
		n, err := strconv.Atoi(string(head))
		if !found || err != nil || n > len(rest) || bytes.ContainsAny(rest[:n], "\x00\r\n") {
			return nil, errors.New("bad literal")
		}
		return rest[n:], nil
	case bytes.HasPrefix(b, []byte("NIL")):
		return b[3:], nil
	}
	i := 0
	for i < len(b) && b[i] >= '0' && b[i] <= '9' {
		i++
	}
	if i == 0 {
		return nil, fmt.Errorf("unexpected octet %q", b[0])
	}
	return b[i:], nil
}

func BenchmarkScan(b *testing.B) {
	message := []byte(crlf(mixed) + strings.Repeat("A line of text as mail has them, not too short.\r\n", 70))
	b.SetBytes(int64(len(message)))
	b.ReportAllocs()
	for b.Loop() {
		s := NewScanner()
		_, _ = s.Write(message)
		s.Result()
	}
}
