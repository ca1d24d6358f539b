package dkim

import (
	"fmt"
	"strings"
	"testing"
)

// sizes are those of a note, of a letter with a picture, and of a large
// attachment.
var sizes = []int{5 << 10, 100 << 10, 10 << 20}

// text is a body of about so many octets, in lines of words.
func text(octets int) string {
	const line = "It was the best of times, it was the worst of times, it was an age.\r\n"
	return strings.Repeat(line, octets/len(line))
}

const benchHeader = "From: a@example.com\r\nTo: b@example.net\r\nSubject: hello\r\nDate: Fri, 11 Jul 2003 21:00:37 -0700\r\nMessage-ID: <a@b>\r\n"

func BenchmarkSign(b *testing.B) {
	fields, _ := split(benchHeader + "\r\n")
	signer := newSigner(b, Options{})
	key := newKey(b, "example.com", "rsa", rsaKey())
	for _, size := range sizes {
		body := text(size)
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := signer.Sign(fields, strings.NewReader(body), "", key); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkVerify(b *testing.B) {
	fields, _ := split(benchHeader + "\r\n")
	v := NewVerifier(Config{}, zone{"rsa._domainkey.example.com": {recordOf(b, rsaKey())}})
	for _, size := range sizes {
		body := text(size)
		made, err := newSigner(b, Options{}).Sign(fields, strings.NewReader(body), "", newKey(b, "example.com", "rsa", rsaKey()))
		if err != nil {
			b.Fatal(err)
		}
		signed := append(made, fields...)
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			for b.Loop() {
				if all, err := v.Verify(b.Context(), signed, strings.NewReader(body)); err != nil || all[0].Result != Pass {
					b.Fatal(all, err)
				}
			}
		})
	}
}
