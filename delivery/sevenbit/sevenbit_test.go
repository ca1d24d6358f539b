package sevenbit

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"mime/quotedprintable"
	"strings"
	"testing"
	"testing/iotest"
)

func convert(t testing.TB, text string) string {
	t.Helper()
	c, err := Look(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(c.Reader(strings.NewReader(text)))
	if err != nil {
		t.Fatal(err)
	}
	return string(got)
}

func crlf(lines ...string) string { return strings.Join(lines, "\r\n") }

func TestConversion(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, in, want string }{
		{"plain ASCII stays", crlf("Subject: a", "Content-Transfer-Encoding: 8bit", "", "text", ""), ""},
		{"text", crlf("MIME-Version: 1.0", "Content-Type: text/plain; charset=utf-8", "Content-Transfer-Encoding: 8bit", "Subject: a", "", "Grüße = a ", ".", "", "b\t", ""),
			crlf("MIME-Version: 1.0", "Content-Type: text/plain; charset=utf-8", "Subject: a", "Content-Transfer-Encoding: quoted-printable", "", "Gr=C3=BC=C3=9Fe =3D a=20", ".", "", "b=09", "")},
		{"nothing declared", crlf("Subject: a", "", "ü", ""),
			crlf("Subject: a", "MIME-Version: 1.0", "Content-Transfer-Encoding: quoted-printable", "", "=C3=BC", "")},
		{"no line end", crlf("MIME-Version: 1.0", "", "aü"), crlf("MIME-Version: 1.0", "Content-Transfer-Encoding: quoted-printable", "", "a=C3=BC")},
		{"folded label", crlf("MIME-Version: 1.0", "Content-Transfer-Encoding:", "  8BIT", "X: y", "", "ü", ""),
			crlf("MIME-Version: 1.0", "X: y", "Content-Transfer-Encoding: quoted-printable", "", "=C3=BC", "")},
		{"something else", crlf("MIME-Version: 1.0", "Content-Type: application/x", "", "aü", "b", ""),
			crlf("MIME-Version: 1.0", "Content-Type: application/x", "Content-Transfer-Encoding: base64", "", "YcO8DQpiDQo=", "")},
		{"soft breaks", crlf("MIME-Version: 1.0", "", strings.Repeat("ü", 14), ""),
			crlf("MIME-Version: 1.0", "Content-Transfer-Encoding: quoted-printable", "", strings.Repeat("=C3=BC", 12)+"=C3=", "=BC=C3=BC", "")},
		{"parts", crlf("MIME-Version: 1.0", `Content-Type: multipart/mixed; boundary="b b"`, "Content-Transfer-Encoding: 8bit", "", "über", "--b b",
			"", "ascii", "--b b  ", "Content-Type: text/html", "Content-Transfer-Encoding: 8bit", "", "ü", "--b b", "Content-Type: image/x", "", "ü", "--b b",
			"Content-Transfer-Encoding: 8bit", "", "plain", "--b b--", "ü", ""),
			crlf("MIME-Version: 1.0", `Content-Type: multipart/mixed; boundary="b b"`, "Content-Transfer-Encoding: 7bit", "", "??ber", "--b b",
				"", "ascii", "--b b  ", "Content-Type: text/html", "Content-Transfer-Encoding: quoted-printable", "", "=C3=BC", "--b b", "Content-Type: image/x",
				"Content-Transfer-Encoding: base64", "", "w7w=", "--b b", "Content-Transfer-Encoding: 7bit", "", "plain", "--b b--", "??", "")},
		{"message in a message", crlf("MIME-Version: 1.0", "Content-Type: multipart/digest; boundary=b", "", "--b", "", "Subject: inner", "Content-Transfer-Encoding: 8bit", "", "ü", "--b--", ""),
			crlf("MIME-Version: 1.0", "Content-Type: multipart/digest; boundary=b", "", "--b", "", "Subject: inner", "Content-Transfer-Encoding: quoted-printable", "", "=C3=BC", "--b--", "")},
		{"signed part of seven bits", crlf("MIME-Version: 1.0", "Content-Type: multipart/mixed; boundary=a", "", "--a", "Content-Type: multipart/signed; boundary=b", "", "--b",
			"Content-Transfer-Encoding: 8bit", "", "ascii ", "--b--", "", "--a", "", "ü", "--a--", ""),
			crlf("MIME-Version: 1.0", "Content-Type: multipart/mixed; boundary=a", "", "--a", "Content-Type: multipart/signed; boundary=b", "", "--b",
				"Content-Transfer-Encoding: 8bit", "", "ascii ", "--b--", "", "--a", "Content-Transfer-Encoding: quoted-printable", "", "=C3=BC", "--a--", "")},
		{"encoded already", crlf("MIME-Version: 1.0", "Content-Type: multipart/mixed; boundary=a", "", "--a", "Content-Transfer-Encoding: base64", "", "YQ==", "--a", "", "ü", "--a--"),
			crlf("MIME-Version: 1.0", "Content-Type: multipart/mixed; boundary=a", "", "--a", "Content-Transfer-Encoding: base64", "", "YQ==", "--a", "Content-Transfer-Encoding: quoted-printable", "", "=C3=BC", "--a--")},
	} {
		want := tt.want
		if want == "" {
			want = tt.in
		}
		if got := convert(t, tt.in); got != want {
			t.Errorf("%s:\ngot  %q\nwant %q", tt.name, got, want)
		}
	}
}

func TestNotConverted(t *testing.T) {
	t.Parallel()
	deep := "MIME-Version: 1.0\r\n"
	for n := range maxDepth + 1 {
		deep += fmt.Sprintf("Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n", n, n)
	}
	for name, tt := range map[string]struct {
		text string
		want error
	}{
		"signed":        {crlf("Content-Type: multipart/signed; boundary=b", "", "--b", "", "ü", "--b--", ""), ErrSigned},
		"encrypted":     {crlf("Content-Type: multipart/encrypted; boundary=b", "", "--b", "Content-Type: message/rfc822", "", "Subject: x", "", "ü", "--b--", ""), ErrSigned},
		"partial":       {crlf("Content-Type: message/partial", "", "ü", ""), ErrIntricate},
		"many":          {"Content-Type: multipart/mixed; boundary=b\r\n\r\n" + strings.Repeat("--b\r\n\r\n", maxParts+1) + "ü", ErrIntricate},
		"many of ASCII": {"Content-Type: multipart/mixed; boundary=b\r\n\r\n" + strings.Repeat("--b\r\n\r\n", maxParts+1), nil},
		"text before the parts of what is signed": {crlf("Content-Type: multipart/signed; boundary=b", "", "--b",
			"Content-Type: multipart/mixed; boundary=c", "", "ü", "--c", "", "x", "--c--", "--b--", ""), ErrSigned},
		"text behind the parts of what is signed": {crlf("Content-Type: multipart/signed; boundary=b", "", "--b",
			"Content-Type: multipart/mixed; boundary=c", "", "--c", "", "x", "--c--", "ü", "--b--", ""), ErrSigned},
		"text around what is signed": {crlf("Content-Type: multipart/signed; boundary=b", "", "ü", "--b", "", "x", "--b--", "ü", ""), nil},
		"deep":                       {deep + "Content-Type: multipart/mixed; boundary=x\r\n\r\nü", ErrIntricate},
	} {
		if _, err := Look(strings.NewReader(tt.text)); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Look(iotest.ErrReader(io.ErrClosedPipe)); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("reader's error: %v", err)
	}
}

// TestLongLines: a line longer than every buffer comes out right, in pieces.
func TestLongLines(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"text/plain", "application/x"} {
		body := strings.Repeat("aü b\r", 40_000) + "\r\n" + strings.Repeat(" ", 70_000) + "\r\n"
		text := "MIME-Version: 1.0\r\nContent-Type: " + kind + "\r\n\r\n" + body
		got := convert(t, text)
		for line := range strings.SplitSeq(got, "\r\n") {
			if len(line) > 76 || hasEightBit([]byte(line)) {
				t.Fatalf("%s: line %.100q", kind, line)
			}
		}
		if bodies := decoded(t, got); len(bodies) != 1 || bodies[0] != body {
			t.Errorf("%s: came back as %d octets, not %d", kind, len(bodies[0]), len(body))
		}
	}
}

// bodies is a visitor that keeps the decoded content of each part.
type bodies struct {
	all  []string
	part part
	raw  bytes.Buffer
	open bool
}

func (*bodies) field([]byte, bool) {}

func (b *bodies) headerEnds(p part, _ []byte) { b.end(); b.part, b.open = p, true }

func (b *bodies) body(line []byte, _ bool) { b.raw.Write(line) }

func (b *bodies) between(_ []byte, boundary, _ bool) {
	if boundary {
		if n := b.raw.Len(); n > 0 { // the line end before a boundary is the boundary's
			b.raw.Truncate(n - len("\n"))
			if bytes.HasSuffix(b.raw.Bytes(), []byte("\r")) {
				b.raw.Truncate(b.raw.Len() - 1)
			}
		}
		b.end()
	}
}

func (b *bodies) end() {
	if !b.open {
		return
	}
	content := b.raw.Bytes()
	switch b.part.encoding {
	case "quoted-printable":
		if text, err := io.ReadAll(quotedprintable.NewReader(&b.raw)); err == nil {
			content = text
		}
	case "base64":
		if text, err := io.ReadAll(base64.NewDecoder(base64.StdEncoding, &b.raw)); err == nil {
			content = text
		}
	}
	b.all = append(b.all, string(content))
	b.open = false
	b.raw.Reset()
}

func decoded(t testing.TB, text string) []string {
	t.Helper()
	b := &bodies{}
	w := newWalker(strings.NewReader(text), b)
	for {
		if err := w.step(); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	b.end()
	return b.all
}

// FuzzConversion: what comes out has seven bits beside its header, needs no
// conversion, and holds the same as before.
func FuzzConversion(f *testing.F) {
	for _, seed := range []string{
		crlf("Content-Type: multipart/mixed; boundary=b", "", "--b", "Content-Type: text/plain", "Content-Transfer-Encoding: 8bit", "", "ü ", "--b", "Content-Type: a/b", "", "\xff", "--b--", ""),
		crlf("Content-Type: message/rfc822", "", "Subject: x", "", "ü\r"), "a\n\n\x80", "Content-Type: multipart/digest; boundary=b\n\n--b\n\n\n\xff",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		c, err := Look(strings.NewReader(text))
		if err != nil {
			return
		}
		converted, err := io.ReadAll(c.Reader(iotest.OneByteReader(strings.NewReader(text))))
		if err != nil {
			t.Fatal(err)
		}
		got := string(converted)
		if !c.Needed() {
			if got != text {
				t.Fatalf("changed without need: %q", got)
			}
			return
		}
		if again, err := Look(strings.NewReader(got)); err != nil || again.Needed() {
			t.Fatalf("%q needs conversion again: %v", got, err)
		}
		if strings.Contains(strings.ToLower(text), "base64") || strings.Contains(strings.ToLower(text), "quoted-printable") {
			return // what cannot be decoded may look otherwise
		}
		unix := strings.NewReplacer("\r\n", "\n")
		before, after := decoded(t, text), decoded(t, got)
		if fmt.Sprintf("%q", unix.Replace(strings.Join(before, "|"))) != fmt.Sprintf("%q", unix.Replace(strings.Join(after, "|"))) {
			t.Fatalf("before %q, after %q", before, after)
		}
	})
}
