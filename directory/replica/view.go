package replica

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/postern-mail/postern/directory"
	"github.com/postern-mail/postern/status"
)

// View is a replica with the servers behind it: what it does not hold they are
// asked. It implements directory.Searcher, Binder, Generational, Notifier,
// Explainer and Aging, and may be used concurrently.
type View struct {
	replica *Replica
	live    directory.Searcher
	silent  atomic.Int64 // Unix time in ns of when live last did not answer
}

// silentPause is for how long servers that do not answer are not asked for what
// the replica holds, old as it may be.
const silentPause = 5 * time.Second

// View returns a searcher that asks live for what the replica does not hold.
func (r *Replica) View(live directory.Searcher) *View {
	return &View{replica: r, live: live}
}

// Replica returns what answers first.
func (v *View) Replica() *Replica { return v.replica }

// Search implements directory.Searcher.
func (v *View) Search(ctx context.Context, req directory.Request) ([]directory.Entry, error) {
	entries, held, err := v.replica.search(ctx, req)
	if !held {
		return v.live.Search(ctx, req)
	}
	if v.replica.tooOld() && time.Since(time.Unix(0, v.silent.Load())) > silentPause {
		fresh, liveErr := v.askBriefly(ctx, req)
		if liveErr == nil || errors.Is(liveErr, directory.ErrNoSuchBase) || errors.Is(liveErr, directory.ErrSizeLimit) {
			return fresh, liveErr
		}
		if ctx.Err() == nil {
			v.silent.Store(time.Now().UnixNano())
		}
	}
	return entries, err
}

// askBriefly asks the servers and leaves half of the time there is to those who
// go on with what the replica holds.
func (v *View) askBriefly(ctx context.Context, req directory.Request) ([]directory.Entry, error) {
	if end, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Until(end)/2)
		defer cancel()
	}
	return v.live.Search(ctx, req)
}

// Bind implements directory.Binder: passwords are the servers' to check.
func (v *View) Bind(ctx context.Context, dn, password string) error {
	binder, ok := v.live.(directory.Binder)
	if !ok {
		return status.Errorf(status.ConfigurationError, "directory %q verifies no passwords", v.replica.cfg.Name)
	}
	return binder.Bind(ctx, dn, password)
}

// Generation implements directory.Generational.
func (v *View) Generation() uint64 { return v.replica.generation.Load() }

// Distant implements directory.Distant: true while there is no replica.
func (v *View) Distant() bool { return v.replica.live.Load() == nil }

// Changed implements directory.Notifier. While there is no replica it tells
// after a minute, as content may change unseen.
func (v *View) Changed() <-chan struct{} { return v.replica.Changed() }

// Where implements directory.Explainer.
func (v *View) Where() string { return v.replica.Where() }

// Doubt implements directory.Aging.
func (v *View) Doubt() (directory.Searcher, error) {
	ask, err := v.replica.doubt()
	if !ask {
		return nil, err
	}
	return v.live, err
}

// Generation counts the changes of what is served.
func (r *Replica) Generation() uint64 { return r.generation.Load() }

// Changed implements directory.Notifier.
func (r *Replica) Changed() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.changed == nil {
		next := make(chan struct{})
		r.changed = next
		if r.live.Load() == nil {
			time.AfterFunc(time.Minute, func() { r.giveUp(next) })
		}
	}
	return r.changed
}

// giveUp ends the wait for a change that nobody may tell of.
func (r *Replica) giveUp(waiting chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.changed == waiting {
		close(waiting)
		r.changed = nil
	}
}

// Where implements directory.Explainer.
func (r *Replica) Where() string {
	if r.live.Load() == nil {
		return "the servers, as there is no replica"
	}
	st := r.Status()
	return fmt.Sprintf("replica generation %d, %s old", st.Generation, st.Age.Round(time.Second))
}
