package mime

import (
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

func TestPreview(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct{ message, want string }{
		"plain":                 {"\nSubject: x\n\nhello\nworld\n", "hello world"},
		"empty":                 {"", ""},
		"no body":               {"\nSubject: x\n\n", ""},
		"both":                  {mixed, "hello world"},
		"html alone":            {"\nContent-Type: text/html\n\n<p>hello</p>\n", "hello"},
		"blank text, then html": {"\nContent-Type: multipart/alternative; boundary=b\n\n--b\n\n \n--b\nContent-Type: text/html\n\n<b>hello</b>\n--b--\n", "hello"},
		"attachment first":      {"\nContent-Type: multipart/mixed; boundary=b\n\n--b\nContent-Type: text/plain\nContent-Disposition: attachment\n\nlog\n--b\n\nhello\n--b--\n", "hello"},
		"forwarded alone":       {"\nContent-Type: message/rfc822\n\nSubject: y\n\ninside\n", "inside"},
		"forwarded, then text":  {"\nContent-Type: multipart/mixed; boundary=b\n\n--b\nContent-Type: message/rfc822\n\nSubject: y\n\ninside\n--b\n\noutside\n--b--\n", "outside"},
		"picture":               {"\nContent-Type: image/png\nContent-Transfer-Encoding: base64\n\niVBORw0KGgo=\n", ""},
		"unknown encoding":      {"\nContent-Transfer-Encoding: x-uue\n\nbegin 644 x\n", ""},
		"charset":               {"\nContent-Type: text/plain; charset=iso-8859-1\nContent-Transfer-Encoding: quoted-printable\n\nGr=FC=DFe\n", "Grüße"},
		"delimiter in pieces":   {"\nContent-Type: multipart/mixed; boundary=" + strings.Repeat("b", 60) + "\n\n--" + strings.Repeat("b", 60) + "\n\nhi\n--" + strings.Repeat("b", 60) + "--\n", "hi"},
		"long":                  {"\n\n" + strings.Repeat("word ", 10_000), strings.TrimSpace(strings.Repeat("word ", 40))},
	} {
		message := crlf(row.message)
		for how, r := range map[string]io.Reader{"whole": strings.NewReader(message), "octets": iotest.OneByteReader(strings.NewReader(message))} {
			result, err := Scan(r)
			if err != nil {
				t.Fatal(err)
			}
			if got := string(result.Preview); got != row.want {
				t.Errorf("%s, %s: got %q, want %q", name, how, got, row.want)
			}
		}
	}
}
