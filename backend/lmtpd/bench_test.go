package lmtpd

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/backend/mailstore"
	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/smtp"
	"github.com/postern-mail/postern/store/storetest"
)

// everybody knows every address.
type everybody struct{}

func (everybody) AccountOf(_ context.Context, a mail.Address) (mail.Account, error) {
	return mail.Account{Name: string(a.Local)}, nil
}

// benchText is a message of about so many octets, of which no two are equal.
func benchText(octets, n int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "Received: from a.example.org by b.example.org with ESMTPS id %d;\r\n\tTue, 3 Feb 2026 23:30:00 -0500\r\n", n)
	fmt.Fprintf(&b, "From: \"Kim Reader\" <kim@example.org>\r\nTo: pat@example.org\r\nSubject: number %d\r\n", n)
	fmt.Fprintf(&b, "Date: Tue, 3 Feb 2026 23:30:00 -0500\r\nMessage-ID: <%d@example.org>\r\nMIME-Version: 1.0\r\n", n)
	b.WriteString("Content-Type: text/plain; charset=utf-8\r\n\r\n")
	for b.Len() < octets {
		fmt.Fprintf(&b, "Line %x of a text that is hard to pack: %x %x, as most attachments are.\r\n", b.Len()*n, uint64(n*b.Len())*0x9e3779b97f4a7c15, uint64(b.Len()+n)*0xbf58476d1ce4e5b9)
	}
	return b.String()
}

// BenchmarkLMTP stores messages that come over a unix socket, each connection
// waiting for one reply before it sends the next message. cpu-us/op is what
// client and server take together.
func BenchmarkLMTP(b *testing.B) {
	for _, octets := range []int{5 << 10, 50 << 10} {
		for _, connections := range []int{1, 16} {
			b.Run(fmt.Sprintf("%dKB/connections=%d", octets>>10, connections), func(b *testing.B) { benchLMTP(b, octets, connections) })
		}
	}
}

func benchLMTP(b *testing.B, octets, connections int) {
	kv, blobs := storetest.Open(b)
	store, err := mailstore.Open(b.Context(), mailstore.Config{}, kv, blobs, hclog.NewNullLogger())
	if err != nil {
		b.Fatal(err)
	}
	handler, err := New(Config{}, Deps{Store: store, Accounts: everybody{}, Audit: &nobody{}}, hclog.NewNullLogger())
	if err != nil {
		b.Fatal(err)
	}
	server, err := smtp.NewServer(smtp.ServerConfig{Name: "lmtp", Hostname: "b.example", Mode: smtp.ModeLMTP}, handler, hclog.NewNullLogger())
	if err != nil {
		b.Fatal(err)
	}
	path := filepath.Join(testenv.TempDir(b), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		b.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- server.Serve(ctx, l) }()
	defer func() { stop(); <-served }()

	var clients []*benchClient
	for range connections {
		conn, err := net.Dial("unix", path)
		if err != nil {
			b.Fatal(err)
		}
		defer conn.Close()
		c := &benchClient{conn: conn, replies: bufio.NewReader(conn)}
		c.send(b, "LHLO x\r\n", 2)
		clients = append(clients, c)
	}
	texts := make([]string, 256)
	for i := range texts {
		texts[i] = benchText(octets, i+1)
	}
	b.SetBytes(int64(octets))
	b.ReportAllocs()
	b.ResetTimer()
	before := processorTime(b)
	var next atomic.Int64
	var all sync.WaitGroup
	for _, c := range clients {
		all.Go(func() {
			for {
				n := int(next.Add(1))
				if n > b.N {
					return
				}
				text := texts[n%len(texts)]
				c.send(b, fmt.Sprintf("MAIL FROM:<kim@example.org> DELIVERYID=q%09d\r\nRCPT TO:<user%d@example.org>\r\nBDAT %d LAST\r\nX-Number: %09d\r\n%s",
					n, n%16, len(text)+len("X-Number: 000000000\r\n"), n, text), 3)
			}
		})
	}
	all.Wait()
	b.ReportMetric(float64(processorTime(b)-before)/float64(b.N)/1e3, "cpu-us/op")
	b.StopTimer()
}

type nobody struct{}

func (nobody) Record(mail.Event) {}

type benchClient struct {
	conn    net.Conn
	replies *bufio.Reader
}

// send writes and reads so many replies.
func (c *benchClient) send(b *testing.B, text string, replies int) {
	if _, err := c.conn.Write([]byte(text)); err != nil {
		b.Error(err)
		return
	}
	for replies > 0 {
		line, err := c.replies.ReadString('\n')
		if err != nil || line[0] != '2' {
			b.Errorf("%q, %v", line, err)
			return
		}
		if line[3] == ' ' {
			replies--
		}
	}
}

// processorTime is that of the process so far, in nanoseconds.
func processorTime(b *testing.B) int64 {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return usage.Utime.Nano() + usage.Stime.Nano()
}
