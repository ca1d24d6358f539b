package imapd

import (
	"fmt"
	"testing"
)

// searched are messages for text to be found in.
var searched = []string{
	message("plain", "na\xc3\xafve words of the body"),
	"Subject: =?utf-8?q?Caf=C3=A9?= =?iso-8859-1?q?_cr=E8me?=\r\nX-Other: =?utf-8?b?R3LDvMOfZQ==?=\r\n" +
		"Content-Type: text/plain; charset=iso-8859-1\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\nd=E9j=E0 v=\r\nu\r\n",
	"Subject: multi\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\npreamble\r\n" +
		"--b\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: base64\r\nX-Part: partfield\r\n\r\nVMOpbMOpcGhvbmU=\r\n" +
		"--b\r\nContent-Type: text/html; charset=utf-8\r\n\r\n<p class=\"marked\">rich <b>con</b>tent</p>\r\n" +
		"--b\r\nContent-Type: application/octet-stream; name=\"filename.bin\"\r\n\r\nbinaryword\r\n" +
		"--b\r\nContent-Type: message/rfc822\r\n\r\nSubject: inner subject\r\nFrom: inner@example.com\r\n\r\ninner body\r\n" +
		"--b--\r\nepilogue\r\n",
	"Subject: koi\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=koi8-r\r\n\r\n\xf0\xd2\xc9\xd7\xc5\xd4 \xcd\xc9\xd2\r\n",
	"Subject: jp\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=iso-2022-jp\r\n\r\n\x1b$BF|K\\8l\x1b(B\r\n",
}

// TestSearchLikeDovecot: both find text in the same messages.
func TestSearchLikeDovecot(t *testing.T) {
	t.Parallel()
	b := besideDovecot(t)
	for _, m := range searched {
		b.ours.append("INBOX", "", m)
		b.theirs.append("INBOX", "", m)
	}
	b.ours.ok("SELECT INBOX")
	b.theirs.ok("SELECT INBOX")
	for _, word := range []string{
		"plain", "na\u00efve", "NA\u00cfVE", "nai\u0308ve", "naive", "words of", "caf\u00e9", "cr\u00e8me", "caf\u00e9 cr\u00e8me", "gr\u00fc\u00dfe", "GR\u00dcSSE",
		"d\u00e9j\u00e0 vu", "deja", "preamble", "epilogue", "partfield", "t\u00e9l\u00e9phone", "marked", "<b>con</b>", "binaryword", "filename.bin",
		"inner subject", "inner@example", "inner body", "\u043f\u0440\u0438\u0432\u0435\u0442", "\u041c\u0418\u0420", "\u65e5\u672c", "multi", "utf-8", "no such text",
	} {
		for _, key := range []string{"TEXT", "BODY", "SUBJECT", "HEADER X-Other"} {
			b.same(t, fmt.Sprintf("SEARCH CHARSET UTF-8 %s {%d+}\r\n%s", key, len(word), word))
		}
	}
}
