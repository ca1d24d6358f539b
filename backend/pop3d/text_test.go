package pop3d

import (
	"bytes"
	"strings"
	"testing"
)

// odd are messages whose octets are hard to bring over.
var odd = map[string]string{
	"dots":                "Subject: x\r\n\r\n.\r\n..\r\n.a\r\nb.\r\n...\r\n",
	"no end":              "Subject: x\r\n\r\nno line end",
	"ends in a dot":       "Subject: x\r\n\r\n.",
	"ends in CR":          "Subject: x\r\n\r\nx\r",
	"bare LF":             "Subject: x\n\n.\nfoo\n..\n",
	"dot behind bare LF":  "Subject: x\r\n\r\na\n.\r\nQUIT\r\n",
	"dot between bare LF": "Subject: x\r\n\r\na\n.\nb",
	"lone CR":             "Subject: x\r\n\r\na\r.\rb\r\r\n.\r\n",
	"NULs and 8 bits":     "Subject: \xe4\x00\r\n\r\n\x00\xff\x00.\r\n\x00",
	"no header":           "\r\nbody\r\n",
	"no body":             "Subject: x\r\n",
	"nothing":             "",
	"only dots":           strings.Repeat(".", 100_000),
	"lines of dots":       strings.Repeat(".\n", 100_000),
	"only LF":             strings.Repeat("\n", 100_000),
	"a long line":         "Subject: x\r\n\r\n" + strings.Repeat("y", 300_000) + "\r\n",
	"steps end in CR":     "Subject: x\r\n\r\n" + strings.Repeat("z", stepOctets-15) + "\r\n.\r\n",
	"steps end in CRLF":   "Subject: x\r\n\r\n" + strings.Repeat("z", stepOctets-16) + "\r\n.\r\n",
}

// canonical is a message as a client sees it: every line ends in CRLF.
func canonical(m string) string {
	m = strings.ReplaceAll(strings.ReplaceAll(m, "\r\n", "\n"), "\n", "\r\n")
	if m != "" && !strings.HasSuffix(m, "\r\n") {
		m += "\r\n"
	}
	return m
}

// TestOctets: LIST says what RETR sends, to the octet, and what looks like the
// end of a message inside one never is.
func TestOctets(t *testing.T) {
	t.Parallel()
	s := startServer(t, testConfig())
	var all, names []string
	for name, m := range odd {
		all, names = append(all, m), append(names, name)
	}
	s.add("alice", all...)
	c := s.login("alice")
	sizes := strings.Split(c.whole("LIST"), "\r\n")
	total := 0
	for i, m := range all {
		want := canonical(m)
		c.says("RETR "+itoa(i+1), "+OK "+itoa(len(want))+" octets")
		if got := c.text(); got != want {
			t.Errorf("%s: got %.200q, want %.200q", names[i], got, want)
		}
		if line := itoa(i+1) + " " + itoa(len(want)); sizes[i] != line {
			t.Errorf("%s: listed as %q, want %q", names[i], sizes[i], line)
		}
		total += len(want)
	}
	c.says("STAT", "+OK "+itoa(len(all))+" "+itoa(total))
}

func itoa(n int) string { return string(appendPadded(nil, uint64(n), 10, 0)) }

// TestTop: the header, the empty line, and so many lines of the body.
func TestTop(t *testing.T) {
	t.Parallel()
	s := startServer(t, testConfig())
	const header = "Subject: x\r\nTo: y\r\n"
	s.add("alice", header+"\r\n1\r\n.2\r\n3", header, "\r\n1\r\n2\r\n", "A: b\n\nc\nd\n", header+"\r\n"+strings.Repeat("z\r\n", 50_000))
	c := s.login("alice")
	for command, want := range map[string]string{
		"TOP 1 0": header + "\r\n", "TOP 1 1": header + "\r\n1\r\n", "TOP 1 2": header + "\r\n1\r\n.2\r\n", "TOP 1 3": header + "\r\n1\r\n.2\r\n3\r\n",
		"TOP 1 18446744073709551615": header + "\r\n1\r\n.2\r\n3\r\n", "TOP 2 0": header, "TOP 2 5": header, "TOP 3 0": "\r\n", "TOP 3 1": "\r\n1\r\n",
		"TOP 4 0": "A: b\r\n\r\n", "TOP 4 1": "A: b\r\n\r\nc\r\n", "TOP 5 20000": header + "\r\n" + strings.Repeat("z\r\n", 20_000),
	} {
		if got := c.whole(command); got != want {
			t.Errorf("%s: got %.100q, want %.100q", command, got, want)
		}
	}
}

// TestQuirks: what Outlook and its kind need, where it is asked for.
func TestQuirks(t *testing.T) {
	t.Parallel()
	cfg := testConfig()
	cfg.Quirks = Quirks{NoNULs: true, EndOfHeader: true}
	s := startServer(t, cfg)
	s.add("alice", "A: \x00\r\n\r\n\x00x\x00\r\n", "A: b\r\n", "A: b\r\n\r\nc\r\n", "A: b")
	c := s.login("alice")
	for command, want := range map[string]string{
		"RETR 1": "A: \x80\r\n\r\n\x80x\x80\r\n", "RETR 2": "A: b\r\n\r\n", "RETR 3": "A: b\r\n\r\nc\r\n", "RETR 4": "A: b\r\n\r\n", "TOP 2 0": "A: b\r\n\r\n", "TOP 3 0": "A: b\r\n\r\n",
	} {
		if got := c.whole(command); got != want {
			t.Errorf("%s: got %q, want %q", command, got, want)
		}
	}
}

// FuzzText: however a message is cut into steps, a client that undoes the
// stuffing has its canonical form, whose size is known before.
func FuzzText(f *testing.F) {
	for _, m := range odd {
		if len(m) < 1000 {
			f.Add([]byte(m), uint8(3))
		}
	}
	f.Fuzz(func(t *testing.T, m []byte, step uint8) {
		size, cut := int(step)+1, func(do func([]byte)) {
			for rest := m; len(rest) > 0; {
				n := min(len(rest), int(step)+1)
				do(rest[:n])
				rest = rest[n:]
			}
		}
		var sent []byte
		var out, counted text
		cut(func(b []byte) { sent = out.append(sent, b) })
		cut(counted.count)
		sent, _ = out.complete(sent), counted.complete(nil)
		if out.grown != counted.grown {
			t.Errorf("gained %d, counted %d (steps of %d)", out.grown, counted.grown, size)
		}
		var seen []byte
		for line := range bytes.SplitAfterSeq(sent, []byte("\r\n")) {
			if bytes.Equal(line, []byte(".\r\n")) {
				t.Fatalf("%q ends early", sent)
			}
			seen = append(seen, bytes.TrimPrefix(line, []byte("."))...)
		}
		if want := canonical(string(m)); string(seen) != want || int64(len(seen)) != int64(len(m))+out.grown {
			t.Errorf("%q: a client has %q, want %q; gained %d", m, seen, want, out.grown)
		}
	})
}
