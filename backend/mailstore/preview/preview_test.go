package preview

import (
	"encoding/base64"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/postern-mail/postern/backend/mailstore/transfer"
)

func TestOf(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name string
		part Part
		want string
	}{
		{"plain", Part{Raw: []byte("Hello,\r\n\r\n  this is\t the text.\r\n")}, "Hello, this is the text."},
		{"nothing", Part{}, ""},
		{"blank", Part{Raw: []byte(" \r\n\r\n")}, ""},
		{"quoted-printable", Part{Raw: []byte("Gr=C3=BC=C3=9Fe aus =\r\nK=C3=B6ln"), Charset: "utf-8", Encoding: transfer.QuotedPrintable}, "Grüße aus Köln"},
		{"latin1", Part{Raw: []byte("Gr\xfc\xdfe"), Charset: "ISO-8859-1"}, "Grüße"},
		{"latin1 that is UTF-8", Part{Raw: []byte("Grüße"), Charset: "ISO-8859-1"}, "Grüße"},
		{"no charset", Part{Raw: []byte("Gr\xfc\xdfe \x93x\x94")}, "Grüße “x”"},
		{"utf-8 that is not", Part{Raw: []byte("Gr\xfc\xdfe"), Charset: "utf-8"}, "Grüße"},
		{"unknown charset", Part{Raw: []byte("hello"), Charset: "x-unknown"}, "hello"},
		{"japanese", Part{Raw: []byte("\x1b$B$3$s$K$A$O\x1b(B"), Charset: "iso-2022-jp"}, "こんにちは"},
		{"utf-16", Part{Raw: []byte("h\x00i\x00"), Charset: "utf-16le"}, "hi"},
		{"base64", Part{Raw: []byte(base64.StdEncoding.EncodeToString([]byte("zwölf"))), Encoding: transfer.Base64, Charset: "utf-8"}, "zwölf"},
		{"answer above", Part{Raw: []byte("Yes, please.\r\n\r\nOn Monday Kim wrote:\r\n> Shall I?\r\n> Kim\r\n")}, "Yes, please."},
		{"answer above, long introduction", Part{Raw: []byte("Yes.\n\nOn Monday, 2 February 2026, Kim the Reader\n<kim@example.org> wrote:\n> Shall I?\n")}, "Yes."},
		{"answer below", Part{Raw: []byte("Kim wrote:\r\n> Shall I?\r\n\r\nYes: now.\r\n")}, "Yes: now."},
		{"only quotes", Part{Raw: []byte("> Shall I?\r\n>> What?\r\n")}, "Shall I? What?"},
		{"signature", Part{Raw: []byte("Hi\r\n-- \r\nKim\r\nExample Ltd\r\n")}, "Hi"},
		{"only a signature", Part{Raw: []byte("-- \r\nKim\r\n")}, "-- Kim"},
		{"whole message quoted", Part{Raw: []byte("See below.\r\n-----Original Message-----\r\nFrom: x\r\n")}, "See below."},
		{"signed", Part{Raw: []byte("-----BEGIN PGP SIGNED MESSAGE-----\r\nHash: SHA256\r\n\r\nThe text\r\n-----BEGIN PGP SIGNATURE-----\r\n\r\nabc\r\n")}, "The text"},
		{"rules", Part{Raw: []byte("=======\r\nNews\r\n-------\r\nof today\r\n")}, "News of today"},
		{"colon without a quote", Part{Raw: []byte("The list:\r\none\r\ntwo\r\n")}, "The list: one two"},
		{"control characters", Part{Raw: []byte("a\x00b\x1b[31mc\u202ed")}, "ab[31mcd"},
		{"html", Part{HTML: true, Raw: []byte(`<html><head><title>T</title><style>p { color: red }</style></head><body><p>Hello <b>wor</b>ld,</p><p>it&#39;s&nbsp;me</p><script>x()</script></body>`)}, "Hello world, it's me"},
		{"html with a quote", Part{HTML: true, Raw: []byte(`<div>Yes</div><div class="gmail_quote"><div class="gmail_attr">On Monday:</div><div>x</div><blockquote>Shall I?</blockquote></div>`)}, "Yes"},
		{"html of quotes", Part{HTML: true, Raw: []byte(`<blockquote>Shall I?</blockquote>`)}, "Shall I?"},
		{"html in table", Part{HTML: true, Raw: []byte(`<table><tr><td>a</td><td>b</td></tr><tr><td>c</table>`)}, "a b c"},
		{"html cut off", Part{HTML: true, Raw: []byte(`<p>hello <a href="http://exa`)}, "hello"},
		{"html filler", Part{HTML: true, Raw: []byte("<div style=\"display:none\">Look!&zwnj;&nbsp;&zwnj;&nbsp;&#847;&nbsp;</div><p>News")}, "Look! News"},
		{"joiners in words", Part{Raw: []byte("می\u200cخواهم 👩\u200d🚀")}, "می\u200cخواهم 👩\u200d🚀"},
		{"cut off within a rune", Part{Raw: []byte("héé")[:4]}, "hé"},
	} {
		if got := Of(row.part); got != row.want {
			t.Errorf("%s: got %q, want %q", row.name, got, row.want)
		}
	}
	long := Of(Part{Raw: []byte(strings.Repeat("größer ", 100))})
	if n := utf8.RuneCountInString(long); n > MaxRunes || n < MaxRunes-1 {
		t.Errorf("%d characters", n)
	}
}

// FuzzOf: whatever comes, the preview is one short line of UTF-8.
func FuzzOf(f *testing.F) {
	for _, seed := range []string{"hello", "<p>x<blockquote>y", "> a\n-- \nb", "=C3=\n", "\x1b$B$3", "On x wrote:\n> y", "-----BEGIN PGP SIGNED MESSAGE-----\n"} {
		f.Add([]byte(seed), "utf-8", uint8(0))
		f.Add([]byte(seed), "iso-2022-jp", uint8(5))
	}
	f.Fuzz(func(t *testing.T, raw []byte, charset string, how uint8) {
		got := Of(Part{Raw: raw, Charset: charset, Encoding: transfer.Encoding(how % 4), HTML: how&4 != 0})
		if !utf8.ValidString(got) || utf8.RuneCountInString(got) > MaxRunes || got != strings.TrimSpace(got) ||
			strings.ContainsFunc(got, func(r rune) bool { return unicode.IsControl(r) }) {
			t.Fatalf("%q", got)
		}
	})
}

func BenchmarkOf(b *testing.B) {
	plain := []byte(strings.Repeat("A line of text as mail has them, not too short.\r\n", 70))
	html := []byte("<html><head><style>" + strings.Repeat("td { padding: 0 }\n", 500) + "</style></head><body>" + strings.Repeat("<p>Some <b>text</b> here.</p>", 50))
	for name, p := range map[string]Part{"plain": {Raw: plain, Charset: "utf-8"}, "html": {Raw: html, Charset: "utf-8", HTML: true}} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				Of(p)
			}
		})
	}
}
