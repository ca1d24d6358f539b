package directory

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/postern-mail/postern/status"
)

const (
	// maxLookups bounds the lookups of one kind that go on at once, logins and
	// the rest for themselves. Who comes when there are as many waits in turn:
	// after a restart thousands of questions come at once, and those asked first
	// are to have their answers before their callers give up.
	maxLookups = 32
	// renewWorkers look answers up early, and maxRenewals wait for them.
	renewWorkers = 2
	maxRenewals  = 1024
)

// gate lets so many lookups go on at once, in the order they came.
type gate chan struct{}

func newGate() gate { return make(gate, maxLookups) }

// enter waits for a place; leave gives it back.
func (g gate) enter(ctx context.Context) error {
	select {
	case g <- struct{}{}:
		return nil
	case <-ctx.Done():
		return status.Errorf(status.DirectoryDown, "too many lookups at once: %w", ctx.Err())
	}
}

func (g gate) leave() { <-g }

// renewals are answers to be looked up early, while somebody runs them.
type renewals struct {
	running atomic.Bool
	queue   chan func(context.Context)
}

func newRenewals() *renewals { return &renewals{queue: make(chan func(context.Context), maxRenewals)} }

// later has f run soon, if somebody does and there is room: what is not renewed
// is looked up when its time is over.
func (r *renewals) later(f func(context.Context)) {
	if !r.running.Load() {
		return
	}
	select {
	case r.queue <- f:
	default:
	}
}

// Run looks answers that are asked for often up before their time is over. It
// blocks until ctx ends. Without it every answer is looked up when it is asked
// for and too old, and somebody waits.
func (d *Directory) Run(ctx context.Context) error {
	d.renewals.running.Store(true)
	defer d.renewals.running.Store(false)
	var workers sync.WaitGroup
	for range renewWorkers {
		workers.Go(func() {
			for {
				select {
				case <-ctx.Done():
					return
				case renew := <-d.renewals.queue:
					renew(ctx)
				}
			}
		})
	}
	workers.Wait()
	return nil
}

// answerCounts count what became of questions.
type answerCounts struct {
	hits, negative, shared, misses, stale, failed, renewed atomic.Uint64
}

func (c *answerCounts) hit(err error) {
	if err != nil {
		c.negative.Add(1)
		return
	}
	c.hits.Add(1)
}

// Counts are what became of the questions of one kind since the directory was
// made.
type Counts struct {
	// Hit and Negative were answered from memory, yes and no; Shared by the
	// lookup of somebody else at the same time; Looked up were Misses and, early,
	// Renewed.
	Hit, Negative, Shared, Miss, Renewed uint64
	// Stale were answered by an old yes and Failed not at all, because the
	// directory did not answer.
	Stale, Failed uint64
}

func (c *answerCounts) read() Counts {
	return Counts{
		Hit: c.hits.Load(), Negative: c.negative.Load(), Shared: c.shared.Load(), Miss: c.misses.Load(),
		Renewed: c.renewed.Load(), Stale: c.stale.Load(), Failed: c.failed.Load(),
	}
}

// LatencyBounds are the upper bounds of the classes in which Latency counts.
var LatencyBounds = [...]time.Duration{
	500 * time.Microsecond, time.Millisecond, 2 * time.Millisecond, 5 * time.Millisecond, 10 * time.Millisecond, 25 * time.Millisecond,
	50 * time.Millisecond, 100 * time.Millisecond, 250 * time.Millisecond, 500 * time.Millisecond, time.Second, 5 * time.Second,
}

// Latency is how long lookups took that memory did not answer.
type Latency struct {
	// Within counts those within each of LatencyBounds, each class holding the
	// ones before; Count all.
	Within [len(LatencyBounds)]uint64
	Count  uint64
	Sum    time.Duration
}

// latency gathers a Latency.
type latency struct {
	classes [len(LatencyBounds) + 1]atomic.Uint64
	sum     atomic.Int64
}

func (l *latency) observe(took time.Duration) {
	i := 0
	for i < len(LatencyBounds) && took > LatencyBounds[i] {
		i++
	}
	l.classes[i].Add(1)
	l.sum.Add(int64(took))
}

func (l *latency) read() (out Latency) {
	for i := range l.classes {
		out.Count += l.classes[i].Load()
		if i < len(out.Within) {
			out.Within[i] = out.Count
		}
	}
	out.Sum = time.Duration(l.sum.Load())
	return out
}

// Stats tells what became of questions, by kind, and how long lookups took.
func (d *Directory) Stats() (map[string]Counts, Latency) {
	return map[string]Counts{
		"recipients": d.recipients.counts.read(),
		"logins":     d.accounts.counts.read(),
		"accounts":   d.names.counts.read(),
		"holders":    d.holders.counts.read(),
		"owners":     d.owners.counts.read(),
	}, d.latency.read()
}
