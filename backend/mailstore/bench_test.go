package mailstore

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// benchMessage is some 5 KB as mail is: header fields, two parts.
func benchMessage(i int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "Received: from a.example.org by b.example.org with ESMTPS id %d;\r\n\tTue, 3 Feb 2026 23:30:00 -0500\r\n", i)
	b.WriteString("DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed; d=example.org; s=x;\r\n\tb=" + strings.Repeat("abcdefgh", 40) + "\r\n")
	fmt.Fprintf(&b, "From: \"Kim Reader\" <kim@example.org>\r\nTo: pat@example.org, lee@example.net\r\nSubject: number %d\r\n", i)
	fmt.Fprintf(&b, "Date: Tue, 3 Feb 2026 23:30:00 -0500\r\nMessage-ID: <%d@example.org>\r\nMIME-Version: 1.0\r\n", i)
	b.WriteString("Content-Type: multipart/alternative; boundary=bbbbbb\r\n\r\n--bbbbbb\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n")
	for range 25 {
		b.WriteString("A line of text as it stands in mail, neither long nor short, really.\r\n")
	}
	b.WriteString("--bbbbbb\r\nContent-Type: text/html; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n")
	for range 25 {
		b.WriteString("<p>A line of text as it stands in mail, neither long nor short.</p>\r\n")
	}
	b.WriteString("--bbbbbb--\r\n")
	return b.String()
}

// cpu is the processor time of the process so far, in nanoseconds.
func cpu(b *testing.B) int64 {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return usage.Utime.Nano() + usage.Stime.Nano()
}

func benchDeliver(b *testing.B, accounts int) {
	s := openStore(b, Config{})
	handles := make([]*Account, accounts)
	for i := range handles {
		handles[i] = openAccount(b, s, fmt.Sprintf("user%d", i))
	}
	b.SetBytes(int64(len(benchMessage(0))))
	b.ReportAllocs()
	var n atomic.Int64
	b.SetParallelism(8)
	b.ResetTimer()
	before := cpu(b)
	defer func() { b.ReportMetric(float64(cpu(b)-before)/float64(b.N)/1e3, "cpu-us/op") }()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			i := int(n.Add(1))
			content := stage(b, s, benchMessage(i))
			trace := "Return-Path: <kim@example.org>\r\nDelivered-To: pat@example.org\r\n"
			err := handles[i%accounts].Deliver(b.Context(), []Delivery{{ID: fmt.Sprint(i), Content: content, Trace: []byte(trace)}})[0]
			content.Discard()
			if err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkDeliver(b *testing.B) {
	for _, accounts := range []int{1, 16, 500} {
		b.Run(fmt.Sprintf("accounts=%d", accounts), func(b *testing.B) { benchDeliver(b, accounts) })
	}
}

// BenchmarkOpen loads the index of a mailbox of 10 000 messages.
func BenchmarkOpen(b *testing.B) {
	s := openStore(b, Config{})
	a := openAccount(b, s, "kim")
	content := stage(b, s, message(1))
	for range 10_000 / maxDeliveries {
		deliveries := make([]Delivery, maxDeliveries)
		for i := range deliveries {
			deliveries[i].Content = content
		}
		a.Deliver(b.Context(), deliveries)
	}
	b.ReportAllocs()
	for b.Loop() {
		m, err := a.Mailbox(b.Context(), "INBOX")
		if err != nil {
			b.Fatal(err)
		}
		m.box.unload()
		m.Close()
	}
}

// BenchmarkFlagsOfAll sets and clears a flag of every message of a large
// mailbox.
func BenchmarkFlagsOfAll(b *testing.B) {
	s := openStore(b, Config{})
	box := many(b, s, 20_000)
	uids := uidsOf(box.View())
	for b.Loop() {
		setFlags(b, box, uids, FlagsAdd, FlagFlagged)
		setFlags(b, box, uids, FlagsRemove, FlagFlagged)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(2*len(uids)), "ns/message")
}

// BenchmarkCopyMany copies messages within an account.
func BenchmarkCopyMany(b *testing.B) {
	s := openStore(b, Config{})
	a := openAccount(b, s, "kim")
	box := many(b, s, 3_000)
	uids := uidsOf(box.View())
	n := 0
	for b.Loop() {
		n++
		name := fmt.Sprint("Copies", n)
		if _, err := a.Create(b.Context(), name, ""); err != nil {
			b.Fatal(err)
		}
		if _, err := box.Copy(b.Context(), uids, openMailbox(b, a, name)); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(len(uids)), "ns/message")
}

// BenchmarkFlagsOfOne has 16 clients change the flags of single messages of one
// mailbox: they share commits.
func BenchmarkFlagsOfOne(b *testing.B) {
	s := openStore(b, Config{})
	box := many(b, s, 1_000)
	uids := uidsOf(box.View())
	var n atomic.Int64
	b.SetParallelism(16 / runtime.GOMAXPROCS(0))
	b.ResetTimer()
	before := cpu(b)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			i := int(n.Add(1))
			c := FlagsChange{Op: FlagsOp(1 + i/len(uids)%2), Flags: FlagFlagged}
			if _, err := box.StoreFlags(b.Context(), uids[i%len(uids):][:1], c); err != nil {
				b.Error(err)
			}
		}
	})
	b.ReportMetric(float64(cpu(b)-before)/float64(b.N)/1e3, "cpu-us/op")
}

// BenchmarkDeliverMeanwhile tells how long a delivery takes to a mailbox whose
// flags are all being changed, over and over.
func BenchmarkDeliverMeanwhile(b *testing.B) {
	s := openStore(b, Config{})
	box := many(b, s, 50_000)
	uids := uidsOf(box.View())
	a := openAccount(b, s, "kim")
	ctx, cancel := context.WithCancel(b.Context())
	var busy sync.WaitGroup
	busy.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			_, err := box.StoreFlags(ctx, uids, FlagsChange{Op: FlagsOp(1 + i%2), Flags: FlagFlagged})
			if err != nil && ctx.Err() == nil {
				b.Error(err)
			}
		}
	})
	var took []time.Duration
	for b.Loop() {
		content := stage(b, s, message(len(took)))
		began := time.Now()
		if err := a.Deliver(b.Context(), []Delivery{{Content: content}})[0]; err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(began))
		content.Discard()
	}
	cancel()
	busy.Wait()
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1e3, "p50-ms")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1e3, "p99-ms")
}
