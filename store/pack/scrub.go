package pack

import (
	"context"
	"time"

	"github.com/postern-mail/postern/store"
)

// Scrub reads every body, octetsPerSecond of them (negative: as fast as it can),
// and tells damaged of those that are not what their names say; the length is
// negative when nobody can tell. It changes nothing and may run beside
// everything else. Bodies whose keys are lost it does not miss: who refers to
// them does.
func (b *Blobs) Scrub(ctx context.Context, octetsPerSecond int64, damaged func(store.Ref, error), p *Progress) error {
	var length int64
	v := verifier{blobs: b, progress: p, report: func(f Finding) {
		if f.Kind == FoundDamaged && f.Body != (store.Hash{}) {
			damaged(store.Ref{Hash: f.Body, Octets: length}, f.Err)
		}
	}}
	return v.each(ctx, 'h', func(ctx context.Context, pair store.Pair) error {
		length = lengthOf(pair.Value)
		if err := v.body(ctx, pair); err != nil {
			return err
		}
		return wait(ctx, max(length, 0), octetsPerSecond)
	})
}

// lengthOf returns how long a body is by its key, -1 when that cannot be read.
func lengthOf(value []byte) int64 {
	inline, pieces, err := parseBody(value)
	if err != nil {
		return -1
	}
	octets := int64(len(inline))
	for _, p := range pieces {
		octets += p.octets
	}
	return octets
}

// wait lets as much time pass as so many octets may take.
func wait(ctx context.Context, octets, perSecond int64) error {
	if perSecond < 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(time.Duration(float64(octets) / float64(perSecond) * float64(time.Second)))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
