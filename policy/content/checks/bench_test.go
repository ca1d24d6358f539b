package checks

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/postern-mail/postern/internal/fsx"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/policy/content"
)

// BenchmarkLargeMessage is what a message of 10 MB costs in the spool, and in
// header_checks and body_checks behind it.
func BenchmarkLargeMessage(b *testing.B) {
	line := strings.Repeat("QUJD", 19) + "\r\n"
	body := strings.Repeat(line, 10<<20/len(line))
	kinds := map[string]string{
		"plain": "Content-Type: text/plain\r\n\r\n" + body,
		"parts": "Content-Type: multipart/mixed; boundary=abc\r\n\r\n--abc\r\n\r\nhello\r\n--abc\r\nContent-Transfer-Encoding: base64\r\n\r\n" + body + "--abc--\r\n",
	}
	spool, err := content.OpenSpool(content.SpoolConfig{Dir: filepath.Join(b.TempDir(), "tmp")}, fsx.OS())
	if err != nil {
		b.Fatal(err)
	}
	for name, text := range kinds {
		text = "Subject: hello\r\n" + text
		fields, end := content.Split([]byte(text))
		take := func(b *testing.B) *content.Message {
			m, err := content.New(spool, content.Limits{}, nil, fields, strings.NewReader(text[end:]))
			if err != nil {
				b.Fatal(err)
			}
			return m
		}
		b.Run(name+"/spool", func(b *testing.B) {
			b.SetBytes(int64(len(text)))
			for b.Loop() {
				take(b).Close()
			}
		})
		m := take(b)
		for _, check := range []string{Header, Body} {
			s := stage(b, check, "regexp", "/^Subject: never$/ REJECT\n/^X-Never:/ REJECT\n", nil)
			b.Run(name+"/"+check, func(b *testing.B) {
				b.SetBytes(int64(len(text)))
				b.ReportAllocs()
				for b.Loop() {
					if _, err := s.Evaluate(b.Context(), &mail.Transaction{Message: m}); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
		m.Close()
	}
}
