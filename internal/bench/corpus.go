package main

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"time"
)

// The words that searches look for, and how rare they are.
const (
	needleSubject = "needlesubject"
	needleBody    = "needlebody"
	needleEvery   = 2_500
)

// letter is message n of a large mailbox: some 5 KB on average, threads of a
// few messages each, a third with a part in HTML and one of eight with an
// attachment. It depends on n alone.
func letter(n int) []byte {
	r := rand.New(rand.NewPCG(uint64(n), 9051))
	var b bytes.Buffer
	date := time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(n) * 17 * time.Minute)
	for hop := range 2 {
		fmt.Fprintf(&b, "Received: from hop%d.remote.example (hop%d.remote.example [192.0.2.%d])\r\n\tby relay.remote.example with ESMTPS id %016x\r\n\tfor <someone@%s>; %s\r\n",
			hop, hop, hop+10, r.Uint64(), domain, date.Format(time.RFC1123Z))
	}
	thread, reply := n/4, n%4
	fmt.Fprintf(&b, "Message-ID: <%d.%d@remote.example>\r\nDate: %s\r\n", thread, reply, date.Format(time.RFC1123Z))
	if reply > 0 {
		fmt.Fprintf(&b, "In-Reply-To: <%d.%d@remote.example>\r\nReferences:", thread, reply-1)
		for k := range reply {
			fmt.Fprintf(&b, " <%d.%d@remote.example>", thread, k)
		}
		b.WriteString("\r\n")
	}
	fmt.Fprintf(&b, "From: \"Sender %d\" <sender%d@remote.example>\r\nTo: someone@%s, \"Other\" <other%d@%s>\r\n", r.IntN(400), r.IntN(400), domain, r.IntN(90), domain)
	b.WriteString("Subject: " + []string{"", "Re: ", "Re: ", "AW: "}[reply])
	about := rand.New(rand.NewPCG(uint64(thread), 5256))
	fmt.Fprintf(&b, "%s %s %d", words[about.IntN(len(words))], words[about.IntN(len(words))], thread)
	if n%needleEvery == 7 {
		b.WriteString(" " + needleSubject)
	}
	b.WriteString("\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=\"bench\"\r\n\r\n--bench\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n")
	for range 8 + r.IntN(40) {
		b.WriteString(line(r))
	}
	if n%needleEvery == 11 {
		b.WriteString("and there is the " + needleBody + " which is looked for\r\n")
	}
	if n%3 == 0 {
		b.WriteString("--bench\r\nContent-Type: text/html; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n<html><body>\r\n")
		for range 8 + r.IntN(30) {
			b.WriteString("<p style=3D\"margin: 0\">" + line(r))
		}
		b.WriteString("</body></html>\r\n")
	}
	if n%8 == 0 {
		b.WriteString("--bench\r\nContent-Type: application/octet-stream; name=\"list.bin\"\r\nContent-Transfer-Encoding: base64\r\n\r\n")
		writeAttachment(&b, r, b.Len()+4_000+r.IntN(20_000))
	}
	b.WriteString("--bench--\r\n")
	return b.Bytes()
}
