package queue

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
	"github.com/postern-mail/postern/store"
	"github.com/postern-mail/postern/store/pack"
)

// backlogSize is how many messages the benchmarks of large queues work with;
// the environment may ask for more.
func backlogSize(b *testing.B) int {
	text := os.Getenv("QUEUE_BENCH_MESSAGES")
	if text == "" {
		return 20_000
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		b.Fatal(err)
	}
	return n
}

// fillDeferred queues messages that were tried and wait, without trying them.
func (r *rig) fillDeferred(messages int, due time.Time) {
	r.t.Helper()
	staged, err := r.Stage(context.Background(), strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	const atOnce = 150
	reply := status.ConnectionFailed.Reply()
	reply.Text = "connect to mx.dead.test[192.0.2.1]:25: connection timed out"
	for done := 0; done < messages; done += atOnce {
		batch := store.NewBatch()
		for i := done; i < min(done+atOnce, messages); i++ {
			to := mail.MustAddress(fmt.Sprintf("user%d@d%d.test", i, i%500))
			m := r.shards.newMessage(NewID(), &record{
				arrived: time.Now().Truncate(time.Millisecond), ref: staged.Ref(),
				envelope:     mail.Envelope{ReversePath: mail.MustAddress(fmt.Sprintf("sender%d@a.test", i%100))},
				receivedFrom: "client.a.test [192.0.2.7]",
				groups:       [][]mail.Recipient{{{Address: to, Accepted: to, Route: mail.Route{Transport: "smtp"}}}},
			})
			s := newGroupState(1)
			s.attempts, s.due = 3, due.Add(time.Duration(i)*time.Millisecond)
			s.recipients[0].last = mail.Outcome{Class: mail.Deferred, Reply: reply, At: time.Now(), Recipient: to}
			m.work[0].state = &s
			if err := r.addRecord(batch, m); err != nil {
				r.t.Fatal(err)
			}
			r.blobs.Link(batch, staged)
		}
		batch.Ops = foldCounts(batch.Ops)
		if _, err := r.kv.Commit(context.Background(), batch); err != nil {
			r.t.Fatal(err)
		}
	}
}

// heap is how much memory is in use.
func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// residentOctets is how much memory the process has.
func residentOctets() int64 {
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	var size, resident int64
	_, _ = fmt.Sscan(string(text), &size, &resident) // 0 where there is no /proc
	return resident * int64(os.Getpagesize())
}

// BenchmarkStart opens a store and its queue with many deferred messages, none
// of them due and then all of them, and lists it.
func BenchmarkStart(b *testing.B) {
	messages := backlogSize(b)
	for name, due := range map[string]time.Duration{"waiting": time.Hour, "due": -time.Hour} {
		b.Run(fmt.Sprintf("%d %s", messages, name), func(b *testing.B) {
			dir := b.TempDir()
			kv, blobs := openConfiguredIn(b, dir)
			r := newRigOn(b, Config{Grace: time.Second}, kv, blobs)
			r.shared = true // no check at the end, which takes minutes
			r.transport.deliver = func(ctx context.Context, _ mail.Delivery, _ mail.Recipient) mail.Outcome {
				<-ctx.Done() // in flight for as long as it takes to look
				return later
			}
			r.fillDeferred(messages, time.Now().Add(due))
			before := heap()
			var start, list, listCPU time.Duration
			b.ResetTimer()
			for range b.N {
				if r.stop != nil {
					r.stop()
				}
				if err := errors.Join(r.blobs.(*pack.Blobs).Close(), r.kv.Close()); err != nil {
					b.Fatal(err)
				}
				began := time.Now()
				r.kv, r.blobs = openConfiguredIn(b, dir)
				r.reopen()
				r.Queue.deps.Audit = nil
				r.start()
				if due < 0 {
					r.until("full lines", func() bool { return r.Stats().Active >= min(messages, 9_000) })
				}
				start += time.Since(began)
				began, cpu := time.Now(), processorTime()
				n := 0
				for _, err := range r.List(context.Background(), Filter{}) {
					if err != nil {
						b.Fatal(err)
					}
					n++
				}
				listCPU += processorTime() - cpu
				if list += time.Since(began); n != messages || r.Stats().Messages != int64(messages) {
					b.Fatalf("%d listed, %+v", n, r.Stats())
				}
			}
			b.StopTimer()
			if n := r.Stats().Active; n > 0 {
				b.ReportMetric(float64(heap()-before)/float64(n), "heap-B/message")
			}
			b.ReportMetric(float64(residentOctets())/(1<<20), "RSS-MiB")
			b.ReportMetric(start.Seconds()/float64(b.N), "start-s")
			b.ReportMetric(list.Seconds()/float64(b.N), "list-s")
			b.ReportMetric(listCPU.Seconds()/float64(b.N), "list-cpu-s")
		})
	}
}

// BenchmarkDeadDestination queues messages to a destination that does not
// answer, while others take theirs, and reports what they cost.
func BenchmarkDeadDestination(b *testing.B) {
	messages := backlogSize(b)
	for range b.N {
		kv, blobs := openAsConfigured(b)
		r := newRigOn(b, Config{}, kv, blobs)
		r.Queue.deps.Audit = nil
		r.transport.deliver = func(context.Context, mail.Delivery, mail.Recipient) mail.Outcome { return offline }
		r.start()
		before := heap()
		for i := range messages {
			r.accept("alice@a.test", fmt.Sprintf("u%d@dead.test", i))
		}
		inMemory := r.Stats().Active
		used := heap() - before
		began := time.Now()
		n := 0
		for range r.List(context.Background(), Filter{}) {
			n++
		}
		list := time.Since(began)
		r.stop()
		began = time.Now()
		r.reopen()
		r.start()
		restart := time.Since(began)
		if n != messages || r.Stats().Messages != int64(messages) {
			b.Fatalf("%d listed, %+v", n, r.Stats())
		}
		b.ReportMetric(float64(used)/float64(messages), "heap-B/message")
		b.ReportMetric(float64(inMemory), "in-memory")
		b.ReportMetric(list.Seconds(), "list-s")
		b.ReportMetric(restart.Seconds(), "restart-s")
		r.stop()
	}
}
