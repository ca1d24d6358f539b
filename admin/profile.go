package admin

import (
	"context"
	"fmt"
	"io"
	"net/url"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// maxProfile bounds how long a processor profile may take.
const maxProfile = 5 * time.Minute

// profiling is held while a processor profile is taken: the runtime makes one
// at a time.
var profiling sync.Mutex

// Profile is the Command that tells what the process does, in the format that
// `go tool pprof` reads. Its arguments: "kind", which is cpu, heap, allocs,
// goroutine, mutex, block or threadcreate, and for cpu "seconds". A profile
// names functions of the program, never addresses or content of mail.
func Profile(ctx context.Context, args url.Values, out io.Writer) error {
	kind := args.Get("kind")
	if kind == "cpu" {
		return profileProcessor(ctx, args.Get("seconds"), out)
	}
	if p := pprof.Lookup(kind); p != nil {
		return p.WriteTo(out, 0)
	}
	kinds := []string{"cpu"}
	for _, p := range pprof.Profiles() {
		kinds = append(kinds, p.Name())
	}
	slices.Sort(kinds)
	return fmt.Errorf("no profile is called %q; there are %s", kind, strings.Join(kinds, ", "))
}

func profileProcessor(ctx context.Context, text string, out io.Writer) error {
	seconds, err := strconv.Atoi(text)
	if length := time.Duration(seconds) * time.Second; err != nil || length <= 0 || length > maxProfile {
		return fmt.Errorf("a profile takes 1 to %d seconds, not %q", maxProfile/time.Second, text)
	}
	if !profiling.TryLock() {
		return fmt.Errorf("another profile is being taken")
	}
	defer profiling.Unlock()
	if err := pprof.StartCPUProfile(out); err != nil {
		return err
	}
	defer pprof.StopCPUProfile()
	select {
	case <-time.After(time.Duration(seconds) * time.Second):
	case <-ctx.Done(): // the operator went away
	}
	return nil
}
