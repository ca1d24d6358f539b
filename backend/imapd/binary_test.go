package imapd

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
)

// wrapped is octets in base64, in lines of 76.
func wrapped(b []byte) string {
	var out strings.Builder
	text := base64.StdEncoding.EncodeToString(b)
	for len(text) > 76 {
		out.WriteString(text[:76] + "\r\n")
		text = text[76:]
	}
	return out.String() + text + "\r\n"
}

// mixedMessage has a part of each encoding.
func mixedMessage(data []byte) string {
	return "Subject: x\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n" +
		"--b\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\ncaf=C3=A9 =\r\nau lait\r\n" +
		"--b\r\nContent-Type: application/octet-stream\r\nContent-Transfer-Encoding: base64\r\n\r\n" + wrapped(data) +
		"--b\r\n\r\nplain\r\n" +
		"--b\r\nContent-Type: application/x\r\nContent-Transfer-Encoding: x-uue\r\n\r\nbegin\r\n" +
		"--b\r\nContent-Type: message/rfc822\r\n\r\nSubject: in\r\n\r\ninside\r\n--b--\r\n"
}

// TestBinary follows RFC 3516: sections are decoded, NUL octets come as a
// literal8, sizes are those of what is decoded, and partials count in that.
func TestBinary(t *testing.T) {
	t.Parallel()
	s := startServer(t, testConfig())
	c := s.login("alice")
	c.append("INBOX", "", mixedMessage([]byte("a\x00b\x00c")))
	c.append("INBOX", "", "Content-Transfer-Encoding: base64\r\n\r\naGVsbG8gd29ybGQ=\r\n")
	c.ok("SELECT INBOX")
	for _, row := range []struct{ items, want string }{
		{"BINARY.PEEK[1]", "BINARY[1] {13}\r\ncaf\xc3\xa9 au lait"},
		{"BINARY.SIZE[1]", "BINARY.SIZE[1] 13"},
		{"BINARY.PEEK[2]", "BINARY[2] ~{5}\r\na\x00b\x00c"},
		{"BINARY.PEEK[2]<1.2>", "BINARY[2]<1> ~{2}\r\n\x00b"},
		{"BINARY.PEEK[2]<3.100>", "BINARY[2]<3> ~{2}\r\n\x00c"},
		{"BINARY.PEEK[2]<99.100>", "BINARY[2]<99> ~{0}\r\n"},
		{"(BINARY.SIZE[1] BINARY.SIZE[2] BINARY.SIZE[3])", "BINARY.SIZE[1] 13 BINARY.SIZE[2] 5 BINARY.SIZE[3] 5"},
		{"BINARY.PEEK[3]", "BINARY[3] {5}\r\nplain"},
		{"BINARY.PEEK[5]", "BINARY[5] {21}\r\nSubject: in\r\n\r\ninside"},
		{"BINARY.PEEK[5.1]", "BINARY[5.1] {6}\r\ninside"},
		{"(BINARY.PEEK[9] BINARY.SIZE[9])", "BINARY[9] NIL BINARY.SIZE[9] 0"},
	} {
		expect(t, row.items, c.ok("FETCH 1 "+row.items), "* 1 FETCH ("+row.want+")")
	}
	whole := mixedMessage([]byte("a\x00b\x00c"))
	expect(t, "whole", c.ok("FETCH 1 (BINARY.SIZE[] BINARY.PEEK[]<0.10>)"), fmt.Sprintf("* 1 FETCH (BINARY.SIZE[] %d BINARY[]<0> {10}\r\n%s)", len(whole), whole[:10]))

	// RFC 3516 section 4.3: what cannot be decoded fails, and the rest does not.
	untagged, tagged := c.cmd("FETCH 1:2 (BINARY.PEEK[4] BINARY.SIZE[1])")
	expect(t, "others", untagged, "* 2 FETCH (BINARY[4] NIL BINARY.SIZE[1] 11)")
	if !strings.HasPrefix(tagged, "NO [UNKNOWN-CTE] ") {
		t.Errorf("tagged %q", tagged)
	}
	expect(t, "BODY of it", c.ok("FETCH 1 BODY.PEEK[4]"), "* 1 FETCH (BODY[4] {5}\r\nbegin)")
	expect(t, "sets \\Seen", c.ok("FETCH 2 BINARY[1]"), "* 2 FETCH (BINARY[1] {11}\r\nhello world FLAGS (\\Seen))")
	for _, wrong := range []string{"BINARY", "BINARY[TEXT]", "BINARY[1.MIME]", "BINARY.SIZE[1]<0.1>", "BINARY[1.]", "BINARY[0]", "BINARY[1", "BINARY.PEEK", "BINARY.FOO[1]"} {
		c.fails("FETCH 1 "+wrong, "BAD")
	}
}

// TestBinaryInPieces reads a large attachment as a client does: its size, then
// piece after piece, in order and not.
func TestBinaryInPieces(t *testing.T) {
	t.Parallel()
	data := make([]byte, 300_000)
	for i := range data {
		data[i] = byte(i*7 + i>>9)
	}
	s := startServer(t, testConfig())
	c := s.login("alice")
	c.append("INBOX", "", mixedMessage(data))
	c.ok("SELECT INBOX")
	expect(t, "size", c.ok("FETCH 1 BINARY.SIZE[2]"), fmt.Sprintf("* 1 FETCH (BINARY.SIZE[2] %d)", len(data)))
	piece := func(from, n int) []byte {
		line := c.ok(fmt.Sprintf("FETCH 1 BINARY.PEEK[2]<%d.%d>", from, n))[0]
		_, rest, _ := strings.Cut(line, "}\r\n")
		return []byte(strings.TrimSuffix(rest, ")"))
	}
	var got []byte
	for len(got) < len(data) {
		got = append(got, piece(len(got), 40_000)...)
	}
	if !bytes.Equal(got, data) {
		t.Error("the pieces are not the attachment")
	}
	for _, at := range []struct{ from, n int }{{299_999, 5}, {0, 1}, {100_000, 70_000}, {99_999, 1}, {250_000, 50_000}, {0, 300_000}} {
		if got := piece(at.from, at.n); !bytes.Equal(got, data[at.from:min(at.from+at.n, len(data))]) {
			t.Errorf("piece at %d of %d octets is wrong", at.from, at.n)
		}
	}
}

// TestAppendBinary: what comes as literal8 is stored as it is (RFC 3516 section
// 4.4), in APPEND and MULTIAPPEND.
func TestAppendBinary(t *testing.T) {
	t.Parallel()
	s := startServer(t, testConfig())
	c := s.login("alice")
	text := "Content-Transfer-Encoding: binary\r\n\r\na\x00\xff\r\nb\x00"
	c.ok(fmt.Sprintf("APPEND INBOX (\\Seen) ~{%d+}\r\n%s ~{%d+}\r\n%s", len(text), text, len(text), text))
	c.send(fmt.Sprintf("s1 APPEND INBOX ~{%d}\r\n", len(text)))
	if got := c.line(); !strings.HasPrefix(got, "+ ") {
		t.Fatalf("continuation: %q", got)
	}
	c.send(text + "\r\n")
	if _, tagged := c.until("s1"); !strings.HasPrefix(tagged, "OK") {
		t.Fatal(tagged)
	}
	c.ok("SELECT INBOX")
	for i := range 3 {
		expect(t, "BINARY", c.ok(fmt.Sprintf("FETCH %d BINARY.PEEK[1]", i+1)), fmt.Sprintf("* %d FETCH (BINARY[1] ~{7}\r\na\x00\xff\r\nb\x00)", i+1))
		expect(t, "BODY", c.ok(fmt.Sprintf("FETCH %d BODY.PEEK[]", i+1)), fmt.Sprintf("* %d FETCH (BODY[] {%d}\r\n%s)", i+1, len(text), text))
	}
}
