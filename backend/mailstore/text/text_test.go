package text

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"io"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/postern-mail/postern/backend/mailstore/mime"
)

func fold(s string) string { return string(Fold(nil, []byte(s))) }

func TestFold(t *testing.T) {
	t.Parallel()
	for _, row := range []struct{ a, b string }{
		{"Hello, World", "hELLO, wORLD"},
		{"caf\u00e9", "CAFE\u0301"},
		{"\u03a3\u03af\u03c3\u03c5\u03c6\u03bf\u03c2", "\u03c3\u03af\u03c3\u03c5\u03c6\u03bf\u03c3"}, // three forms of sigma
		{"\ufb01n", "FIN"},               // a ligature
		{"\uff21\uff22\uff23", "abc"},    // full width
		{"\u2121", "tel"},                // a sign made of letters
		{"\u01c6", "\u01c4"},             // a digraph, which has a title case
		{"\u1ec7", "\u00ea\u0323"},       // marks in either order
		{"\uac01", "\u1100\u1161\u11a8"}, // Hangul
		{"\u0414\u043e\u043c", "\u0434\u041e\u041c"},
		{"caf\xe9", "caf\u00e9"}, // mislabelled
		{"\xe9\xe9t\xc3", "\u00e9\u00e9t\u00c3"},
	} {
		if fold(row.a) != fold(row.b) {
			t.Errorf("%q folds to %q, %q to %q", row.a, fold(row.a), row.b, fold(row.b))
		}
	}
	for _, row := range []struct{ a, b string }{{"a", "b"}, {"e", "\u00e9"}, {"\u4e2d", "\u6587"}, {"ss", "\u00df"}} {
		if fold(row.a) == fold(row.b) {
			t.Errorf("%q and %q fold to the same", row.a, row.b)
		}
	}
}

// TestFoldInPieces: wherever text is cut, it folds to the same, and folding
// again changes nothing.
func TestFoldInPieces(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.OneOf(rapid.SliceOf(rapid.Byte()), rapid.Map(rapid.StringOf(rapid.SampledFrom([]rune("aZ\u00e9\u0301\u0323\u0302\u1ec7\uac01\u4e2d\U0001f600"))), func(s string) []byte { return []byte(s) })).Draw(t, "text")
		want := Fold(nil, s)
		var f folder
		var got []byte
		for rest := s; len(rest) > 0; {
			n := rapid.IntRange(1, min(5, len(rest))).Draw(t, "piece")
			got, rest = f.add(got, rest[:n]), rest[n:]
		}
		if got = f.end(got); !bytes.Equal(got, want) {
			t.Fatalf("%q in pieces folds to %q, whole to %q", s, got, want)
		}
		if again := Fold(nil, want); !bytes.Equal(again, want) {
			t.Fatalf("%q folds to %q, that to %q", s, want, again)
		}
	})
}

func TestStripper(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"<p>Hello&nbsp;<b>W</b>orld</p>":                               "Hello World",
		"one<br>two<td>three":                                          "one two three",
		"a &lt; b &amp;&#x41;&#66; &unknown; &":                        "a < b &AB &unknown; &",
		"x<style>p { color: red }</style>y<SCRIPT>if(a<b){}</SCRIPT>z": "x y z",
		"x<!-- secret > -- --> y":                                      "x y",
		"<a href=\"a>b\" title='c'>link</a>ed":                         "linked",
		"2 < 3 and 3 > 2":                                              "2 < 3 and 3 > 2",
		"so\u00adft, zero\u200bwidth":                                  "soft, zerowidth",
		"line\r\n  folded\t here":                                      "line folded here",
		"<!DOCTYPE html PUBLIC \"-//W3C\"><html><head>h</head>":        "h",
		"unclosed <b":                                                  "unclosed",
		"<a b<p>still":                                                 "still",
		"\u4e2d<b>\u6587</b>":                                          "\u4e2d\u6587",
	} {
		for cut := 1; cut <= len(in); cut++ {
			var s stripper
			var got []byte
			for rest := in; rest != ""; {
				n := min(cut, len(rest))
				got, rest = s.add(got, []byte(rest[:n]), n == len(rest)), rest[n:]
			}
			if string(got) != want {
				t.Errorf("%q in pieces of %d: %q, want %q", in, cut, got, want)
				break
			}
		}
	}
}

func TestCharset(t *testing.T) {
	t.Parallel()
	for _, row := range []struct{ name, in, want string }{
		{"ISO-8859-1", "caf\xe9", "caf\u00e9"},
		{"koi8-r", "\xe4\xcf\xcd", "\u0414\u043e\u043c"},
		{"iso-2022-jp", "\x1b$BF|K\\\x1b(B ok", "\u65e5\u672c ok"},
		{"shift_jis", "\x93\xfa\x96\x7b", "\u65e5\u672c"},
		{"gb2312", "\xd6\xd0\xce\xc4", "\u4e2d\u6587"},
		{"gb18030", "ab\xd6\xd0", "ab\u4e2d"},
		{"big5", "\xa4\xa4", "\u4e2d"},
		{"euc-kr", "\xb0\xa1", "\uac00"},
		{"utf-16le", "a\x00\xe9\x00", "a\u00e9"},
		{"windows-1252", "\x80", "\u20ac"},
		{"utf-8", "\u00e9", "\u00e9"},
		{"no-such", "abc", "abc"},
		{"unicode-1-1-utf-7", "abc", "abc"},
	} {
		for cut := 1; cut <= len(row.in); cut++ {
			var c charset
			c.reset(row.name)
			var got, buf []byte
			for rest := row.in; rest != ""; {
				n := min(cut, len(rest))
				got, rest = append(got, c.add(&buf, []byte(rest[:n]), n == len(rest))...), rest[n:]
			}
			if string(got) != row.want {
				t.Errorf("%s %q in pieces of %d: %q, want %q", row.name, row.in, cut, got, row.want)
				break
			}
		}
	}
}

func TestWords(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"plain":                                  "plain",
		"=?utf-8?Q?caf=C3=A9_au?= lait":          "caf\u00e9 au lait",
		"=?UTF-8?B?w6k=?= =?utf-8?b?dMOp?=":      "\u00e9t\u00e9",
		"=?utf-8?Q?=E4=B8?= =?utf-8?Q?=AD?=":     "\u4e2d", // a character cut in two
		"=?iso-8859-1*fr?q?=E9?=, =?utf-8?q?x?=": "\u00e9, x",
		"=?iso-8859-1?q?=E9?= =?utf-8?q?x?=":     "\u00e9x",
		"a =?broken =?utf-8?q?x?=":               "a =?broken x",
		"=?utf-8?x?abc?= =??= =?":                "=?utf-8?x?abc?= =??= =?",
		"=?utf-8?q??=tail":                       "tail",
		"=?ISO-2022-JP?B?GyRCRnxLXBsoQg==?=":     "\u65e5\u672c",
		"(=?utf-8?q?a?=)":                        "(a)",
	} {
		var w words
		if got := string(w.decode([]byte(in))); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func TestHeaderContains(t *testing.T) {
	t.Parallel()
	const header = "Subject: =?utf-8?q?Caf=C3=A9?=\r\n  Paris\r\nX-Empty:\r\nsubject : second\r\nFrom: a@example.com\r\n\r\n"
	for _, row := range []struct {
		name, needle string
		want         bool
	}{
		{"Subject", "caf\u00e9  par", true}, {"subject", "SECOND", true}, {"subject", "example", false},
		{"", "from: a@", true}, {"X-Empty", "", true}, {"X-None", "", false}, {"X-Empty", "x", false},
		{"Sub", "", false}, {"", "", true}, {"Subject", "utf-8", false},
	} {
		if got := HeaderContains([]byte(header), row.name, Exactly(row.needle)); got != row.want {
			t.Errorf("%q has %q: %v", row.name, row.needle, got)
		}
	}
}

// parse makes a message of its octets.
func parse(t testing.TB, octets string) *Message {
	t.Helper()
	found, err := mime.Scan(strings.NewReader(octets))
	if err != nil {
		t.Fatal(err)
	}
	return &Message{Header: found.Header, Root: found.Root, Body: func() (io.ReaderAt, error) { return strings.NewReader(octets), nil }}
}

const nested = "From: outer@example.com\r\nSubject: outer subject\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\npreamble words\r\n" +
	"--b\r\nContent-Type: text/plain; charset=iso-8859-1\r\nContent-Transfer-Encoding: quoted-printable\r\nX-Part: partfield\r\n\r\nna=EFve te=\r\nxt\r\n" +
	"--b\r\nContent-Type: text/html\r\n\r\n<p>rich <i>con</i>tent</p><a href=\"https://example.net/target\">here</a>\r\n" +
	"--b\r\nContent-Type: application/octet-stream; name=\"fileinname.bin\"\r\nContent-Transfer-Encoding: base64\r\n\r\nYmluYXJ5d29yZA==\r\n" +
	"--b\r\nContent-Type: application/json\r\n\r\n{\"key\": \"jsonword\"}\r\n" +
	"--b\r\nContent-Type: message/rfc822\r\n\r\nSubject: inner =?utf-8?q?s=C3=BCbject?=\r\nContent-Transfer-Encoding: base64\r\n\r\naW5uZXIgYm9keQ==\r\n" +
	"--b--\r\nepilogue words\r\n"

func TestMessage(t *testing.T) {
	t.Parallel()
	m := parse(t, nested)
	for _, row := range []struct {
		needle     string
		text, body bool
	}{
		{"OUTER SUBJECT", true, false},
		{"na\u00efve text", true, true},
		{"partfield", true, false}, // a MIME header field
		{"fileinname", true, false},
		{"rich content", true, true},   // as it is read
		{"<i>con</i>tent", true, true}, // as it was sent
		{"example.net/target", true, true},
		{"inner s\u00fcbject", true, false}, // a header within the body
		{"inner body", true, true},
		{"binaryword", false, false}, {"YmluYXJ5", false, false},
		{"preamble", false, false}, {"epilogue", false, false},
		{"jsonword", false, false},
		{"text\r\nrich", false, false}, // not across parts
	} {
		needle := Exactly(row.needle)
		text, err := m.Contains(Options{}, needle)
		body, err2 := m.BodyContains(Options{}, needle)
		if err != nil || err2 != nil || text != row.text || body != row.body {
			t.Errorf("%q: text %v, body %v, %v, %v", row.needle, text, body, err, err2)
		}
	}
	if ok, err := m.BodyContains(Options{Attachments: true}, Exactly("jsonword")); !ok || err != nil {
		t.Errorf("attachment: %v, %v", ok, err)
	}
}

// TestLoosely: accents do not count, on either side.
func TestLoosely(t *testing.T) {
	t.Parallel()
	m := parse(t, "Subject: =?utf-8?q?R=C3=A9sum=C3=A9?=\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n\u0647\u064e\u0630\u0627 \u00fcber na\u00efve\r\n")
	for needle, want := range map[string]bool{"resume": true, "R\u00c9SUME": true, "\u0647\u0630\u0627": true, "uber": true, "naive": true, "resumes": false} {
		if ok, err := m.Contains(Options{}, Loosely(needle)); ok != want || err != nil {
			t.Errorf("%q: %v, %v", needle, ok, err)
		}
	}
	if ok, _ := m.Contains(Options{}, Exactly("resume")); ok {
		t.Error("an exact needle without accents was found among accents")
	}
}

// TestNeedleAcrossPieces: a needle is found wherever it lies, in texts of many
// times what is looked at at once.
func TestNeedleAcrossPieces(t *testing.T) {
	t.Parallel()
	for _, at := range []int{0, 1, stepOctets - 3, stepOctets - 6, stepOctets, 2*stepOctets - 1, 3*stepOctets - 7} {
		text := strings.Repeat("x", at) + "Need\u00e9le" + strings.Repeat("y", 3*stepOctets-at)
		for _, encoding := range []string{"8bit", "base64"} {
			sent := text
			if encoding == "base64" {
				sent = base64.StdEncoding.EncodeToString([]byte(text))
			}
			m := parse(t, "Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: "+encoding+"\r\n\r\n"+sent)
			if ok, err := m.BodyContains(Options{}, Exactly("nEED\u00c9LE")); !ok || err != nil {
				t.Errorf("at %d in %s: %v, %v", at, encoding, ok, err)
			}
			if ok, err := m.BodyContains(Options{}, Exactly("needl")); ok || err != nil {
				t.Errorf("at %d in %s: found what is not there, %v", at, encoding, err)
			}
		}
	}
}

// TestMatcher: in whatever pieces a text comes, the same is found.
func TestMatcher(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		letters := rapid.SliceOfN(rapid.SampledFrom([]byte("ab")), 1, 6)
		needle := letters.Draw(t, "needle")
		text := rapid.SliceOf(rapid.SampledFrom([]byte("ab"))).Draw(t, "text")
		m := newMatcher(Needle{octets: needle})
		defer m.release()
		m.Begin(AsSent)
		for rest := text; len(rest) > 0; {
			n := rapid.IntRange(1, len(rest)).Draw(t, "piece")
			if !m.Add(AsSent, rest[:n]) {
				break
			}
			rest = rest[n:]
		}
		if want := bytes.Contains(text, needle); m.found != want {
			t.Fatalf("%q in %q: %v", needle, text, m.found)
		}
	})
}

type failing struct{ io.ReaderAt }

func (failing) ReadAt([]byte, int64) (int, error) { return 0, io.ErrUnexpectedEOF }

// TestUnreadable: an error of the body is told, not taken for its end.
func TestUnreadable(t *testing.T) {
	t.Parallel()
	m := parse(t, nested)
	m.Body = func() (io.ReaderAt, error) { return failing{}, nil }
	if _, err := m.Contains(Options{}, Exactly("absent")); err == nil {
		t.Error("no error")
	}
}

func FuzzMessage(f *testing.F) {
	f.Add([]byte(nested), "content")
	f.Add([]byte("Content-Type: text/html; charset=shift_jis\r\nContent-Transfer-Encoding: base64\r\n\r\nPGI+"), "b")
	f.Fuzz(func(t *testing.T, octets []byte, needle string) {
		m := parse(t, string(octets))
		folded := Exactly(needle)
		body, err := m.BodyContains(Options{Attachments: true}, folded)
		if err != nil {
			t.Fatal(err)
		}
		if text, err := m.Contains(Options{Attachments: true}, folded); err != nil || body && !text {
			t.Fatalf("body %v, text %v, %v", body, text, err)
		}
	})
}

// FuzzHTML: text without markup comes out as it went in, and whatever comes is
// the same in any pieces.
func FuzzHTML(f *testing.F) {
	for _, seed := range []string{"<p>a &amp; b</p>", "<!-- x -->", "<a b='c", "&#x110000;", "<script>a<b</script>", "\u00ad\xe4\xb8"} {
		f.Add([]byte(seed), 3)
	}
	f.Fuzz(func(t *testing.T, in []byte, cut int) {
		var one, many stripper
		whole := one.add(nil, in, true)
		var got []byte
		for rest := in; len(rest) > 0; {
			n := 1 + (cut&0xff)%len(rest)
			got, rest = many.add(got, rest[:n], n == len(rest)), rest[n:]
		}
		if len(in) > 0 && !bytes.Equal(got, whole) {
			t.Fatalf("in pieces %q, whole %q", got, whole)
		}
		if bytes.ContainsAny(whole, "\r\n\t") {
			t.Fatalf("white space was left: %q", whole)
		}
	})
}

func BenchmarkContains(b *testing.B) {
	text := strings.Repeat("some text of the body of a message with words in it\r\n", 120)
	for _, kind := range []string{"text/plain", "text/html", "text/plain; charset=iso-8859-1"} {
		m := parse(b, fmt.Sprintf("Subject: x\r\nContent-Type: %s\r\n\r\n%s", kind, text))
		b.Run(strings.ReplaceAll(kind, " ", ""), func(b *testing.B) {
			b.SetBytes(int64(len(text)))
			b.ReportAllocs()
			for b.Loop() {
				if ok, err := m.Contains(Options{}, Exactly("needle")); ok || err != nil {
					b.Fatal(ok, err)
				}
			}
		})
	}
}
