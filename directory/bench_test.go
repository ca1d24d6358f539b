package directory_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/postern-mail/postern/directory"
	"github.com/postern-mail/postern/mail"
)

// BenchmarkResolve measures one RCPT's question: remembered, and worked out
// over ten thousand people in a file.
func BenchmarkResolve(b *testing.B) {
	var content strings.Builder
	for i := range 10000 {
		uid := fmt.Sprintf("u%d", i)
		content.WriteString(person(uid, "mail: "+uid+"@x.example"))
	}
	people := tree(b, content.String())
	a := mail.MustAddress("u5000+lists@x.example")
	for name, cache := range map[string]directory.CacheConfig{"cached": {}, "searched": {Disabled: true}} {
		b.Run(name, func(b *testing.B) {
			d := open(b, directory.Config{Cache: cache}, people)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := d.Resolve(b.Context(), a); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
