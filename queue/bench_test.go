package queue

import (
	"bytes"
	"context"
	"fmt"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/store"
	"github.com/postern-mail/postern/store/pack"
	"github.com/postern-mail/postern/store/pebble"
)

// BenchmarkAccept accepts and delivers, with 64 clients, messages of a size;
// it reports the processor time of all of it per message.
func BenchmarkAccept(b *testing.B) {
	for _, octets := range []int{5 << 10, 50 << 10} {
		b.Run(fmt.Sprintf("%dKB", octets>>10), func(b *testing.B) {
			kv, blobs := openAsConfigured(b)
			r := newRigOn(b, Config{InitialConcurrency: 20}, kv, blobs)
			r.Queue.deps.Audit = nil // the rig's keeps everything in memory
			r.transport.deliver = func(context.Context, mail.Delivery, mail.Recipient) mail.Outcome { return fine }
			r.start()
			content := bytes.Repeat([]byte("0123456789abcdef012345678\r\n"), octets/27)
			b.SetParallelism(32)
			b.ReportAllocs()
			cpu := processorTime()
			b.ResetTimer()
			b.RunParallel(func(p *testing.PB) {
				for p.Next() {
					// Equal bodies would be stored once.
					id := NewID()
					staged, err := r.Stage(context.Background(), bytes.NewReader(append([]byte(id+"\r\n"), content...)))
					if err != nil {
						b.Error(err)
						return
					}
					to := mail.MustAddress("bob@b.test")
					s := Submission{ID: id, Content: staged, Envelope: mail.Envelope{
						ReversePath: mail.MustAddress("alice@a.test"),
						Recipients:  []mail.Recipient{{Address: to, Accepted: to}},
					}}
					if err := r.Accept(context.Background(), s); err != nil {
						b.Error(err)
						return
					}
				}
			})
			b.StopTimer()
			r.until("an empty queue", func() bool { return r.Stats().Messages == 0 })
			b.ReportMetric(float64((processorTime()-cpu).Microseconds())/float64(b.N), "cpu-us/op")
		})
	}
}

// openAsConfigured opens a store as a gateway does.
func openAsConfigured(b *testing.B) (store.Store, store.Blobs) {
	return openConfiguredIn(b, b.TempDir())
}

func openConfiguredIn(b *testing.B, dir string) (store.Store, store.Blobs) {
	log := hclog.NewNullLogger()
	kv, err := pebble.Open(context.Background(), pebble.Config{Dir: filepath.Join(dir, "meta"), ReserveOctets: -1}, log)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = kv.Close() })
	blobs, err := pack.Open(context.Background(), pack.Config{Dir: filepath.Join(dir, "bodies"), ReserveOctets: -1}, kv, log)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = blobs.Close() })
	return kv, blobs
}

// processorTime is what the process has used so far.
func processorTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
