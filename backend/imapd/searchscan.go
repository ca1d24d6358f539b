package imapd

import (
	"context"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/postern-mail/postern/backend/mailstore"
)

// scanners are processors that a search may use beside its own, one each: a
// search of text on a machine with nothing else to do takes them all, and on a
// busy one it goes on alone.
type scanners chan struct{}

func newScanners() scanners { return make(scanners, max(0, runtime.GOMAXPROCS(0)-1)) }

// take takes a processor that is free, if there is one.
func (s scanners) take() bool {
	select {
	case s <- struct{}{}:
		return true
	default:
		return false
	}
}

// watchOctets is after how much text a search looks whether to go on, also in the
// middle of a message: two thousand keys may be asked of one that is huge.
const watchOctets = 4 << 20

// scan asks the dear keys of a batch of messages, as many as are wanted. A Meta
// is nil for a message that is gone.
func (r *searchRun) scan(ctx context.Context, batch []int, messages []*mailstore.Message, metas []*mailstore.Meta) error {
	matched := make([]bool, len(batch))
	var next, hits atomic.Int64
	var failed atomic.Pointer[error]
	work := func(goOn func() error) {
		octets := 0
		watch := func(n int) error {
			if octets += n; octets < watchOctets {
				return nil
			}
			octets = 0
			if err := failed.Load(); err != nil {
				return *err
			}
			return goOn()
		}
		for failed.Load() == nil {
			k := int(next.Add(1)) - 1
			if k >= len(batch) || r.want.limit > 0 && len(r.found)+int(hits.Load()) >= r.want.limit {
				return
			}
			if metas[k] == nil {
				continue
			}
			var err error
			if matched[k], err = r.asks(ctx, messages[k], metas[k], watch); err != nil {
				failed.CompareAndSwap(nil, &err)
			}
			if matched[k] {
				hits.Add(1)
			}
		}
	}
	own := func() error { return r.who.goOn(ctx) }
	r.together(func() { work(func() error { return r.who.helpOn(ctx) }) }, func() { work(own) }, func() {
		if err := own(); err != nil {
			failed.CompareAndSwap(nil, &err)
		}
	})
	if err := failed.Load(); err != nil {
		return *err
	}
	for k, i := range batch {
		if matched[k] && !r.enough() {
			r.found = append(r.found, i)
		}
	}
	return nil
}

// waitStep is after how long the session looks whether to wait on for helpers.
const waitStep = time.Second

// together does work that reads bodies on as many processors as are free, has
// the session do its own share, and returns when all have ended. While it waits
// for the others the session looks whether to go on.
func (r *searchRun) together(work, own, look func()) {
	var free scanners
	if r.dear.cost == costBody && r.want.limit == 0 {
		free = r.who.processors()
	}
	var panicked atomic.Pointer[any]
	var helpers sync.WaitGroup
	helped := false
	for free.take() {
		helped = true
		helpers.Go(func() {
			defer func() {
				<-free
				if p := recover(); p != nil { // the session's affair, not the process's
					panicked.Store(&p)
				}
			}()
			work()
		})
	}
	defer func() {
		if helped {
			wait(&helpers, look)
		}
		if p := panicked.Load(); p != nil {
			panic(*p)
		}
	}()
	own()
}

// wait waits for helpers, and calls look now and then.
func wait(helpers *sync.WaitGroup, look func()) {
	ended := make(chan struct{})
	go func() { helpers.Wait(); close(ended) }()
	tick := time.NewTicker(waitStep)
	defer tick.Stop()
	for {
		select {
		case <-ended:
			return
		case <-tick.C:
			look()
		}
	}
}
