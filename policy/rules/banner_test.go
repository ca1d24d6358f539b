package rules

import (
	"encoding/base64"
	"io"
	"mime/quotedprintable"
	"strings"
	"testing"

	"github.com/postern-mail/postern/mail"
)

const caution = "Caution: from outside – be careful"

func bannered(t *testing.T, m letter, banner string) string {
	t.Helper()
	r := withBanner(m, banner)
	if r == nil {
		return ""
	}
	out, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

func TestBanner(t *testing.T) {
	t.Parallel()
	multi := func(kind, inner string) letter {
		return letter{fields: []mail.Field{mail.Field(`Content-Type: multipart/` + kind + `; boundary="b"`)}, body: inner}
	}
	for _, tt := range []struct {
		name string
		m    letter
		want string
	}{
		{"no type", letter{body: "hello\r\n"}, "Caution: from outside ? be careful\r\n\r\nhello\r\n"},
		{"8bit UTF-8", letter{fields: []mail.Field{"Content-Type: text/plain; charset=UTF-8", "Content-Transfer-Encoding: 8bit"}, body: "hé\r\n"}, caution + "\r\n\r\nhé\r\n"},
		{"latin-1", letter{fields: []mail.Field{"Content-Type: text/plain; charset=windows-1252", "Content-Transfer-Encoding: 8bit"}, body: "x\r\n"},
			"Caution: from outside \x96 be careful\r\n\r\nx\r\n"},
		{"quoted-printable", letter{fields: []mail.Field{"Content-Type: text/plain; charset=utf-8", "Content-Transfer-Encoding: quoted-printable"}, body: "h=C3=A9\r\n"},
			"Caution: from outside =E2=80=93 be careful\r\n\r\nh=C3=A9\r\n"},
		{"html", letter{fields: []mail.Field{"Content-Type: text/html"}, body: "<html>\r\n<BODY class=x>\r\nhi\r\n"},
			"<html>\r\n<BODY class=x><p>Caution: from outside &#x2013; be careful</p>\r\n\r\nhi\r\n"},
		{"html without a body", letter{fields: []mail.Field{"Content-Type: text/html"}, body: "<b>hi</b>\r\n"},
			"<p>Caution: from outside &#x2013; be careful</p>\r\n<b>hi</b>\r\n"},
		{"alternative", multi("alternative", "--b\r\n\r\nplain\r\n--b\r\nContent-Type: text/html\r\n\r\n<body>x\r\n--b--\r\n"),
			"--b\r\n\r\nCaution: from outside ? be careful\r\n\r\nplain\r\n--b\r\nContent-Type: text/html\r\n\r\n<body><p>Caution: from outside &#x2013; be careful</p>\r\nx\r\n--b--\r\n"},
		{"mixed", multi("mixed", "pre\r\n--b\r\nContent-Type: multipart/alternative; boundary=i\r\n\r\n--i\r\n\r\nplain\r\n--i--\r\n--b\r\nContent-Type: text/plain\r\n\r\nattached\r\n--b--\r\n"),
			"pre\r\n--b\r\nContent-Type: multipart/alternative; boundary=i\r\n\r\n--i\r\n\r\nCaution: from outside ? be careful\r\n\r\nplain\r\n--i--\r\n--b\r\nContent-Type: text/plain\r\n\r\nattached\r\n--b--\r\n"},
		{"signed", multi("signed", "--b\r\n\r\nplain\r\n--b--\r\n"), ""},
		{"encrypted", multi("encrypted", "--b\r\n\r\nplain\r\n--b--\r\n"), ""},
		{"attachment", letter{fields: []mail.Field{"Content-Type: text/plain", "Content-Disposition: attachment; filename=x.txt"}, body: "hello\r\n"}, ""},
		{"picture", letter{fields: []mail.Field{"Content-Type: image/png"}, body: "hello\r\n"}, ""},
		{"strange encoding", letter{fields: []mail.Field{"Content-Transfer-Encoding: x-uuencode"}, body: "hello\r\n"}, ""},
		{"utf-16", letter{fields: []mail.Field{"Content-Type: text/plain; charset=utf-16", "Content-Transfer-Encoding: base64"}, body: "aABpAA==\r\n"}, ""},
		{"boundary that never comes", multi("alternative", "text\r\n"), ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if got := bannered(t, tt.m, caution); got != tt.want {
				t.Errorf("got  %q\nwant %q", got, tt.want)
			}
		})
	}
}

// TestBannerDecodes: what a mail program decodes is the banner and then all of
// the text.
func TestBannerDecodes(t *testing.T) {
	t.Parallel()
	text := strings.Repeat("Zeile für Zeile\r\n", 40)
	for _, banner := range []string{"x", "xy", "xyz", caution, strings.Repeat("lang ", 100)} {
		fields := []mail.Field{"Content-Type: text/plain; charset=utf-8", "Content-Transfer-Encoding: base64"}
		got := bannered(t, letter{fields, wrapped(base64.StdEncoding.EncodeToString([]byte(text)))}, banner)
		plain, err := base64.StdEncoding.DecodeString(strings.ReplaceAll(got, "\r\n", ""))
		if err != nil || strings.TrimLeft(string(plain), " ") != banner+"\r\n\r\n"+text {
			t.Errorf("base64 %q: %q, %v", banner, plain, err)
		}
		var b strings.Builder
		w := quotedprintable.NewWriter(&b)
		_, _ = io.WriteString(w, text)
		_ = w.Close()
		fields[1] = "Content-Transfer-Encoding: quoted-printable"
		decoded, err := io.ReadAll(quotedprintable.NewReader(strings.NewReader(bannered(t, letter{fields, b.String()}, banner))))
		if err != nil || string(decoded) != banner+"\r\n\r\n"+text {
			t.Errorf("quoted-printable %q: %q, %v", banner, decoded, err)
		}
	}
}

// FuzzBanner: whatever the message is, what comes out is the message with text
// put in, in whole lines' ends, and nothing is lost.
func FuzzBanner(f *testing.F) {
	f.Add("text/plain", "7bit", "hello\r\n")
	f.Add("multipart/mixed; boundary=b", "7bit", "--b\r\n\r\nx\r\n--b--\r\n")
	f.Add("multipart/alternative; boundary=b", "8bit", "--b\r\nContent-Type: text/html\r\n\r\n<body\r\n--b\r\n--b--")
	f.Add("text/html", "base64", "PGI+\r\n")
	f.Fuzz(func(t *testing.T, kind, encoding, body string) {
		m := letter{[]mail.Field{mail.Field("Content-Type: " + kind), mail.Field("Content-Transfer-Encoding: " + encoding)}, body}
		r := withBanner(m, "BANNER")
		if r == nil {
			return
		}
		out, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		at := 0
		for i := range len(out) { // the body is what is left when text is taken out
			if at < len(body) && out[i] == body[at] {
				at++
			}
		}
		if at != len(body) || len(out) <= len(body) {
			t.Errorf("%q became %q", body, out)
		}
	})
}
