package transfer

import (
	"bytes"
	"encoding/base64"
	"io"
	"mime/quotedprintable"
	"strings"
	"testing"
)

func decode(e Encoding, text string) string {
	d := New(e)
	return string(d.Finish(d.Append(nil, []byte(text))))
}

func TestDecode(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		encoding   Encoding
		text, want string
	}{
		{Identity, "a=3D\r\n\x00\xff", "a=3D\r\n\x00\xff"},
		{Other, "begin 644 x", "begin 644 x"},
		{Base64, "aGVsbG8gd29ybGQ=", "hello world"},
		{Base64, "aGVs\r\nbG8g\r\n d29y\tbGQ=\r\n", "hello world"},
		{Base64, "aGVsbG8", "hello"},
		{Base64, "aGVsbG8gdw", "hello w"},
		{Base64, "aGV-_!sbG8=", "hello"},
		{Base64, "aGk=aGk=", "hihi"},
		{Base64, "AAECAwA=", "\x00\x01\x02\x03\x00"},
		{Base64, "", ""},
		{Base64, "=", ""},
		{Base64, "A", ""},
		{QuotedPrintable, "caf=C3=A9 =3d=\r\n x", "café = x"},
		{QuotedPrintable, "a  \r\nb\t\nc ", "a\r\nb\nc"},
		{QuotedPrintable, "a= \t\r\nb=\nc=", "abc"},
		{QuotedPrintable, "a=zz b=4", "a=zz b=4"},
		{QuotedPrintable, "a= b=\rc", "a= bc"},
		{QuotedPrintable, "a \r b", "a \r b"},
		{QuotedPrintable, "=00=0D=0A", "\x00\r\n"},
		{QuotedPrintable, strings.Repeat(" ", 200) + "x", strings.Repeat(" ", 200) + "x"},
		{QuotedPrintable, "==41", "=A"},
	} {
		if got := decode(row.encoding, row.text); got != row.want {
			t.Errorf("%d of %.40q: got %q, want %q", row.encoding, row.text, got, row.want)
		}
	}
}

func TestParse(t *testing.T) {
	t.Parallel()
	for token, want := range map[string]Encoding{
		"": Identity, "7BIT": Identity, "8bit": Identity, "Binary": Identity, "BASE64": Base64,
		"Quoted-Printable": QuotedPrintable, "x-uuencode": Other,
	} {
		if got := Parse([]byte(token)); got != want {
			t.Errorf("%q: got %d, want %d", token, got, want)
		}
	}
}

// FuzzDecode: it does not matter how the input is cut, nor whether a copy goes
// on; the output is not longer than the input; what is encoded rightly comes
// back.
func FuzzDecode(f *testing.F) {
	for _, seed := range []string{"aGVsbG8=", "caf=C3=A9 \r\n=\r\nx=", "=  \r", "==", "\x00", "a= =41"} {
		f.Add([]byte(seed), uint8(3))
	}
	f.Fuzz(func(t *testing.T, b []byte, cut uint8) {
		for _, e := range []Encoding{Identity, Base64, QuotedPrintable, Other} {
			whole := decode(e, string(b))
			if len(whole) > len(b) {
				t.Fatalf("%d: %d octets of %d", e, len(whole), len(b))
			}
			d := New(e)
			var out []byte
			for rest := b; len(rest) > 0; {
				n := min(int(cut%7)+1, len(rest))
				d2 := d
				out = d2.Append(out, rest[:n])
				d, rest = d2, rest[n:]
			}
			if out = d.Finish(out); string(out) != whole {
				t.Fatalf("%d: %q in pieces, %q as a whole", e, out, whole)
			}
		}
		if got := decode(Base64, base64.StdEncoding.EncodeToString(b)); got != string(b) {
			t.Fatalf("base64 of %q: %q", b, got)
		}
		var encoded bytes.Buffer
		w := quotedprintable.NewWriter(&encoded)
		w.Binary = true
		if _, err := w.Write(b); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if got := decode(QuotedPrintable, encoded.String()); got != string(b) {
			t.Fatalf("quoted-printable of %q: %q", b, got)
		}
	})
}

func BenchmarkBase64(b *testing.B) {
	text := []byte(strings.Repeat(strings.Repeat("QUJD", 19)+"\r\n", 800))
	dst := make([]byte, 0, len(text))
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		d := New(Base64)
		dst = d.Finish(d.Append(dst[:0], text))
	}
	_, _ = io.Discard.Write(dst)
}
