package sim

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/mutant"
)

var (
	seeds  = flag.Int("sim.seeds", 500, "how many seeds TestSeeds plays")
	first  = flag.Uint64("sim.seed", 0, "the first of them")
	length = flag.Int("sim.steps", 300, "how many steps each has")
	leave  = flag.String("sim.without", "", "names of steps to leave out, with commas between")
	replay = flag.String("sim.replay", "", "steps to play with the first seed instead, as a failure prints them")
)

// report says how a run failed, with the fewest steps that still do.
func report(w *world, all []step) string {
	kind := kindOf(w.failure)
	fewer := shrink(all, func(s []step) bool {
		again := run(w.seed, s, w.missing, false)
		return again.failure != nil && kindOf(again.failure) == kind
	}, 400)
	last := run(w.seed, fewer, w.missing, true)
	trace := append(last.trace, last.journals())
	return fmt.Sprintf("seed %d (%s): %v\n%d of %d steps still fail:\n%s\n\nreplay with -sim.seed %d -sim.replay %s",
		w.seed, profiles[w.seed%uint64(len(profiles))].name, last.failure, len(fewer), len(all), strings.Join(trace, "\n"),
		w.seed, encode(fewer))
}

// kindOf is the invariant that a failure names, so that shrinking does not end
// at another one.
func kindOf(err error) string {
	text := err.Error()
	if at := strings.IndexByte(text, ':'); at > 0 && at < 4 {
		return text[:at]
	}
	return strings.Fields(text)[0]
}

// draw returns the steps of a seed without those that are to be left out.
func draw(seed uint64) []step {
	all := steps(seed, *length)
	return slices.DeleteFunc(all, func(s step) bool {
		return *leave != "" && slices.Contains(strings.Split(*leave, ","), opNames[s.op])
	})
}

// each plays seeds on all processors until one fails.
func each(from uint64, n int, play func(seed uint64) bool) {
	var next atomic.Uint64
	var stop atomic.Bool
	var wait sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wait.Go(func() {
			for !stop.Load() {
				i := next.Add(1) - 1
				if i >= uint64(n) || !play(from+i) {
					stop.Store(true)
				}
			}
		})
	}
	wait.Wait()
}

func TestSeeds(t *testing.T) {
	t.Parallel()
	if *replay != "" {
		all, err := decode(*replay)
		if err != nil {
			t.Fatal(err)
		}
		w := run(*first, all, mutant.None, true)
		t.Logf("%s", strings.Join(w.trace, "\n"))
		if w.failure != nil {
			t.Fatal(w.failure)
		}
		return
	}
	begin := time.Now()
	var played atomic.Int64
	each(*first, *seeds, func(seed uint64) bool {
		all := draw(seed)
		w := run(seed, all, mutant.None, false)
		if w.failure != nil {
			t.Error(report(w, all))
			return false
		}
		if n := played.Add(1); n%1000 == 0 {
			fmt.Fprintf(os.Stderr, "%d seeds, %.0f/s\n", n, float64(n)/time.Since(begin).Seconds())
		}
		return true
	})
	t.Logf("%d seeds of %d steps, %.0f/s", played.Load(), *length, float64(played.Load())/time.Since(begin).Seconds())
}

// TestReproduces plays seeds twice: everything must follow from the seed.
func TestReproduces(t *testing.T) {
	t.Parallel()
	for seed := range uint64(2 * len(profiles)) {
		all := draw(seed)
		a, b := run(seed, all, mutant.None, true), run(seed, all, mutant.None, true)
		if slices.Equal(a.trace, b.trace) {
			continue
		}
		for i := range min(len(a.trace), len(b.trace)) {
			if a.trace[i] != b.trace[i] {
				t.Fatalf("seed %d differs at line %d:\n%s\n%s", seed, i, a.trace[i], b.trace[i])
			}
		}
		t.Fatalf("seed %d: traces of %d and %d lines", seed, len(a.trace), len(b.trace))
	}
}
