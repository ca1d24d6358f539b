package main

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"strings"
)

// distinct is how many messages of one size the driver holds. Each one sent
// starts with a header field of its own beside, so no two are alike.
const distinct = 64

// words are what the texts are made of.
var words = strings.Fields(`the order for your team was shipped this morning and should arrive
before Thursday please check the enclosed list against what you asked for and tell us by the end of the week
whether anything is missing invoices follow at the beginning of next month as agreed in our meeting on the
second floor we moved the review to room four because the projector in room two does not work any longer
kind regards from everybody here who helped with it thank you again numbers schedule contract delivery 2026`)

// messages makes distinct messages of about the given size in octets, ready
// for DATA: CRLF line ends, dots doubled, the final dot included. A message is
// a text, and where the size leaves room a base64 attachment of random octets.
func messages(size int) [][]byte {
	r := rand.New(rand.NewPCG(uint64(size), 5321))
	all := make([][]byte, distinct)
	for i := range all {
		var b bytes.Buffer
		writeHeader(&b, r, i)
		text := min(size, 5000)
		for b.Len() < text-80 {
			b.WriteString(line(r))
		}
		if size > text {
			b.WriteString("--bench\r\nContent-Type: application/octet-stream; name=\"list.bin\"\r\nContent-Transfer-Encoding: base64\r\n\r\n")
			writeAttachment(&b, r, size-80)
		}
		b.WriteString("--bench--\r\n")
		all[i] = append(bytes.ReplaceAll(b.Bytes(), []byte("\r\n."), []byte("\r\n..")), ".\r\n"...)
	}
	return all
}

// writeHeader writes what mail from elsewhere brings along, and begins the
// first part.
func writeHeader(b *bytes.Buffer, r *rand.Rand, i int) {
	for hop := range 3 {
		fmt.Fprintf(b, "Received: from hop%d.remote.example (hop%d.remote.example [192.0.2.%d])\r\n\tby relay%d.remote.example with ESMTPS id %016x\r\n\tfor <someone@%s>; Thu, 1 Oct 2026 09:%02d:%02d +0000\r\n",
			hop, hop, hop+10, hop, r.Uint64(), domain, r.IntN(60), r.IntN(60))
	}
	b.WriteString("DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed; d=remote.example; s=s1;\r\n\th=from:to:subject:date:message-id; bh=")
	b.WriteString(randomBase64(r, 32) + ";\r\n\tb=")
	for range 4 {
		b.WriteString(randomBase64(r, 48) + "\r\n\t ")
	}
	fmt.Fprintf(b, "=\r\nMessage-ID: <%016x.%d@remote.example>\r\nDate: Thu, 1 Oct 2026 09:00:00 +0000\r\n", r.Uint64(), i)
	fmt.Fprintf(b, "From: \"Sender %d\" <sender%d@remote.example>\r\nTo: someone@%s\r\nSubject: %s", i, i, domain, line(r))
	b.WriteString("MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=\"bench\"\r\n\r\n")
	b.WriteString("--bench\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n")
}

// line is a line of text of at most 76 octets; some begin with a dot.
func line(r *rand.Rand) string {
	var b strings.Builder
	if r.IntN(50) == 0 {
		b.WriteString(".")
	}
	for {
		w := words[r.IntN(len(words))]
		if b.Len()+1+len(w) > 74 {
			return b.String() + "\r\n"
		}
		if b.Len() > 0 {
			b.WriteString(" ")
		}
		b.WriteString(w)
	}
}

func writeAttachment(b *bytes.Buffer, r *rand.Rand, until int) {
	for b.Len() < until {
		b.WriteString(randomBase64(r, 57) + "\r\n")
	}
}

func randomBase64(r *rand.Rand, octets int) string {
	raw := make([]byte, octets)
	for i := range raw {
		raw[i] = byte(r.Uint32())
	}
	return base64.StdEncoding.EncodeToString(raw)
}
