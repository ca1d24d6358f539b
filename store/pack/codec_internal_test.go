package pack

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"
)

// mails are the kinds of content that mail is made of, of the size of a piece
// or less.
func mails() map[string][]byte {
	rnd := rand.New(rand.NewPCG(1, 2))
	words := make([]string, 4_000)
	for i := range words {
		word := make([]byte, 2+rnd.IntN(4)+rnd.IntN(6))
		for j := range word {
			word[j] = "etaoinsrhldcumfpgwybvkxjqz"[int(float64(26)*rnd.Float64()*rnd.Float64())]
		}
		words[i] = string(word)
	}
	text := func(octets int) string {
		var b strings.Builder
		for column := 0; b.Len() < octets; {
			word := words[int(float64(len(words))*rnd.Float64()*rnd.Float64()*rnd.Float64())]
			b.WriteString(word)
			if column += len(word) + 1; column > 65 {
				b.WriteString("\r\n")
				column = 0
			} else {
				b.WriteByte(' ')
			}
		}
		return b.String()[:octets]
	}
	header := func() string {
		return fmt.Sprintf("Received: from mx%d.example.net (mx%d.example.net [192.0.2.%d])\r\n\tby mail.example.com with ESMTPS id %x\r\n"+
			"\tfor <someone@example.com>; Sat, 21 Nov 2026 19:%02d:11 +0000\r\nMessage-ID: <%x@example.net>\r\n"+
			"DKIM-Signature: v=1; a=rsa-sha256; d=example.net; s=one; h=from:to:subject;\r\n\tb=%s\r\nFrom: A Person <a.person@example.net>\r\n"+
			"To: Someone <someone@example.com>\r\nSubject: %s\r\nMIME-Version: 1.0\r\n\r\n",
			rnd.IntN(9), rnd.IntN(9), rnd.IntN(255), rnd.Uint64(), rnd.IntN(60), rnd.Uint64(), attachment(rnd, 256, false), text(40))
	}
	html := func(octets int) string {
		var b strings.Builder
		for b.Len() < octets {
			fmt.Fprintf(&b, "<tr><td style=\"padding:%dpx;font-family:Arial,sans-serif;color:#%06x\"><a href=\"https://news.example.net/c/%x\">%s</a></td></tr>\r\n",
				rnd.IntN(20), rnd.IntN(1<<24), rnd.Uint64(), text(60+rnd.IntN(200)))
		}
		return b.String()[:octets]
	}
	return map[string][]byte{
		"text 5 KB":                []byte(header() + text(4<<10)),
		"text 30 KB":               []byte(header() + text(29<<10)),
		"HTML 60 KB":               []byte(header() + html(59<<10)),
		"base64 of a JPEG, 256 KB": []byte(attachment(rnd, 192<<10, false))[:256<<10-16],
		"base64 of text, 256 KB":   []byte(attachment(rnd, 192<<10, true))[:256<<10-16],
	}
}

// attachment is base64 in lines of octets that cannot be compressed, or that
// can.
func attachment(rnd *rand.Rand, octets int, text bool) string {
	content := make([]byte, octets)
	for i := range content {
		content[i] = byte(rnd.Uint32())
		if text {
			content[i] = "etaoin srhld"[rnd.IntN(12)]
		}
	}
	encoded := base64.StdEncoding.EncodeToString(content)
	var b strings.Builder
	for len(encoded) > 76 {
		b.WriteString(encoded[:76] + "\r\n")
		encoded = encoded[76:]
	}
	return b.String() + encoded + "\r\n"
}

// BenchmarkCompress measures what compression costs and brings, by the kind of
// content; percent is what is left.
func BenchmarkCompress(b *testing.B) {
	for name, content := range mails() {
		for _, level := range []zstd.EncoderLevel{zstd.SpeedFastest, zstd.SpeedDefault, zstd.SpeedBetterCompression} {
			b.Run(fmt.Sprintf("%s/%s", strings.ReplaceAll(name, " ", "-"), level), func(b *testing.B) {
				encoder, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(level), zstd.WithAllLitEntropyCompression(true),
					zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(largePiece))
				if err != nil {
					b.Fatal(err)
				}
				buf := make([]byte, 0, 2*len(content))
				before := processorTime(b)
				for b.Loop() {
					buf = encoder.EncodeAll(content, buf[:0])
				}
				b.ReportMetric(float64((processorTime(b)-before).Microseconds())/float64(b.N), "cpu-us/op")
				b.ReportMetric(100*float64(len(buf))/float64(len(content)), "percent")
			})
		}
	}
}

// processorTime is what the process has used, which other work beside it does
// not change.
func processorTime(b *testing.B) time.Duration {
	var usage unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// BenchmarkDecompress measures what reading a compressed piece costs more.
func BenchmarkDecompress(b *testing.B) {
	for name, content := range mails() {
		b.Run(strings.ReplaceAll(name, " ", "-"), func(b *testing.B) {
			c := new(codec)
			small := c.compress(nil, content)
			if small == nil {
				return
			}
			data := make([]byte, len(content))
			before := processorTime(b)
			for b.Loop() {
				if err := c.decompress(data, small); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64((processorTime(b)-before).Microseconds())/float64(b.N), "cpu-us/op")
		})
	}
}

// TestCodec: what is compressed comes out as it was, what does not become
// smaller is left, and damage is told.
func TestCodec(t *testing.T) {
	t.Parallel()
	c := new(codec)
	compressed := 0
	for name, content := range mails() {
		small := c.compress([]byte("front"), content)
		if small == nil {
			continue
		}
		compressed++
		if len(small)-5 > len(content)-len(content)/worthwhile {
			t.Errorf("%s: %d octets become %d", name, len(content), len(small)-5)
		}
		data := make([]byte, len(content))
		if err := c.decompress(data, small[5:]); err != nil || !bytes.Equal(data, content) {
			t.Errorf("%s: %v", name, err)
		}
		for _, wrong := range [][]byte{small[5 : len(small)-3], content, nil} {
			if err := c.decompress(data, wrong); err == nil {
				t.Errorf("%s: damage is not noticed", name)
			}
		}
		if err := c.decompress(data[:len(data)-1], small[5:]); err == nil {
			t.Errorf("%s: it fits into less than it was", name)
		}
	}
	random := make([]byte, largePiece)
	rnd := rand.New(rand.NewPCG(1, 2))
	for i := range random {
		random[i] = byte(rnd.Uint32())
	}
	if c.compress(nil, random) != nil {
		t.Error("random octets are compressed")
	}
	if compressed != 5 {
		t.Errorf("only %d kinds of mail are compressed", compressed)
	}
}
