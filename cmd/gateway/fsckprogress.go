package main

import (
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postern-mail/postern/store/pack"
)

// fsckProgress is how far the check of one store has come.
type fsckProgress struct {
	store    string
	step     atomic.Pointer[string]
	records  atomic.Int64
	messages atomic.Int64
	bodies   pack.Progress
}

func (p *fsckProgress) String() string {
	step := "start"
	if s := p.step.Load(); s != nil {
		step = *s
	}
	return fmt.Sprintf("%s: checking %s; %d records, %d messages, %d bodies of %d MiB read",
		p.store, step, p.records.Load(), p.messages.Load(), p.bodies.Bodies.Load(), p.bodies.Octets.Load()>>20)
}

// How often progress is told; the first time is as long after the start, so
// that a short check tells none.
const (
	progressOnTerminal = 2 * time.Second
	progressInLog      = 30 * time.Second
)

const clearLine = "\r\x1b[K"

// showProgress tells the progress on out until the function it returns is
// called.
func (k *fsck) showProgress(out io.Writer) (stop func()) {
	k.line = newProgressLine(out)
	done := make(chan struct{})
	var running sync.WaitGroup
	running.Go(func() {
		tick := time.NewTicker(k.line.every())
		defer tick.Stop()
		for {
			select {
			case <-done:
				k.line.end()
				return
			case <-tick.C:
			}
			if p := k.progress.Load(); p != nil {
				k.line.show(p.String())
			}
		}
	})
	return func() {
		close(done)
		running.Wait()
	}
}

func isTerminal(out io.Writer) bool {
	file, ok := out.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(file.Fd()), unix.TCGETS)
	return err == nil
}
