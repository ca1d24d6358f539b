package replica

import (
	"context"
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/backend/mailstore"
)

// BenchmarkDeliveryLag is the time from the beginning of a delivery to the
// partner's commit of it.
func BenchmarkDeliveryLag(b *testing.B) {
	p := newPair(b, testConfig{})
	p.connect()
	i := 0
	for b.Loop() {
		if err := p.servers[i%2].deliver(b, "anna", fmt.Sprint(i), message("x", 2<<10)); err != nil {
			b.Fatal(err)
		}
		i++
	}
}

// BenchmarkFlags is one STORE on 250 messages, confirmed by the partner.
func BenchmarkFlags(b *testing.B) {
	p := newPair(b, testConfig{})
	p.connect()
	var list []imap.UID
	for i := range 250 {
		if err := p.servers[0].deliver(b, "anna", fmt.Sprint(i), message("x", 100)); err != nil {
			b.Fatal(err)
		}
	}
	p.same("anna")
	box := p.servers[0].open(b, "anna", "INBOX")
	view := box.View()
	for i := range view.Len() {
		list = append(list, view.At(i).UID)
	}
	op := mailstore.FlagsAdd
	for b.Loop() {
		if _, err := box.StoreFlags(b.Context(), list, mailstore.FlagsChange{Op: op, Flags: mailstore.FlagSeen}); err != nil {
			b.Fatal(err)
		}
		op = mailstore.FlagsAdd + mailstore.FlagsRemove - op
	}
	b.ReportMetric(250*float64(b.N)/b.Elapsed().Seconds(), "flags/s")
}

// BenchmarkCatchUp is the way of 5,000 mails of 2 KiB to a partner that was
// away, from the link's beginning.
func BenchmarkCatchUp(b *testing.B) {
	for b.Loop() {
		b.StopTimer()
		p := newPair(b, testConfig{Config: Config{Mode: mailstore.DurabilityAsync}})
		for i := range 5000 {
			if err := p.servers[0].deliver(b, "anna", fmt.Sprint(i), message(fmt.Sprint(i), 2<<10)); err != nil {
				b.Fatal(err)
			}
		}
		head, err := p.servers[0].mail.Head(b.Context(), mailstore.AccountGUID("anna"))
		if err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		p.connect()
		p.servers[0].want(head.Account, "anna")
		ctx, cancel := context.WithTimeout(b.Context(), time.Minute)
		if err := p.servers[0].wait(ctx, head.Account, head.Seq, mailstore.DurabilityStrict); err != nil {
			b.Fatal(err)
		}
		cancel()
		b.StopTimer()
		p.cut()
		for _, s := range p.servers {
			s.stop()
		}
		b.StartTimer()
	}
}

// BenchmarkIdle is what an attached account costs in memory, both servers
// together.
func BenchmarkIdle(b *testing.B) {
	const accounts = 4000
	p := newPair(b, testConfig{Config: Config{Mode: mailstore.DurabilityAsync}})
	p.connect()
	used := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := used()
	for i := range accounts {
		if err := p.servers[0].deliver(b, fmt.Sprint("user", i), "1", message("x", 10)); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
	}
	b.ReportMetric(float64(int64(used()-before))/accounts/2, "octets/account")
	b.ReportMetric(float64(p.servers[0].lag().Attached), "attached")
}
