package replica

import (
	"context"
	"errors"
	"fmt"

	"github.com/postern-mail/postern/store"
)

// fetch is a body that is brought over because it is missing or damaged here.
type fetch struct {
	ref    store.Ref
	asked  int64
	spoilt int
	ended  chan struct{}
	err    error // once ended
}

// ErrNotThere means that the partner has no good copy of a body either.
var ErrNotThere = errors.New("the partner has no good copy")

// maxFetches bounds the bodies fetched at once.
const maxFetches = 64

// Fetch implements mailstore.Partner: it brings in a body that is missing or
// damaged here, and returns when it can be read again.
func (n *Node) Fetch(ctx context.Context, ref store.Ref) error {
	n.mu.Lock()
	link := n.link
	if link == nil || !n.greeted {
		n.mu.Unlock()
		return errLinkDown
	}
	f := n.fetches[ref.Hash]
	first := f == nil
	if first {
		if len(n.fetches) >= maxFetches {
			n.mu.Unlock()
			return errors.New("too many bodies are fetched already")
		}
		f = &fetch{ref: ref, ended: make(chan struct{})}
		n.fetches[ref.Hash] = f
	}
	n.mu.Unlock()
	if first {
		n.fetchMore(link, f, n.spool.size(ref))
	}
	select {
	case <-f.ended:
		return f.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// fetchMore asks for what follows behind have octets, or takes in the whole.
func (n *Node) fetchMore(link Link, f *fetch, have int64) {
	if have >= f.ref.Octets {
		n.job(func(ctx context.Context) { n.restore(ctx, link, f) })
		return
	}
	n.mu.Lock()
	if have < f.asked {
		n.mu.Unlock()
		return
	}
	f.asked = min(have+wantOctets, f.ref.Octets)
	n.mu.Unlock()
	p := part{ref: f.ref, offset: have, asked: wantOctets}
	link.Push(Frame{Class: ClassBodies, Kind: KindWant, Payload: p.encode()})
}

// gotFetched takes in a part of a body that was asked for, or that there is
// none.
func (n *Node) gotFetched(kind Kind, p part) {
	n.mu.Lock()
	f, link := n.fetches[p.ref.Hash], n.link
	n.mu.Unlock()
	switch {
	case f == nil || f.ref != p.ref || link == nil:
	case kind == KindGone:
		n.endFetch(f, ErrNotThere)
	default:
		have, err := n.spool.keep(p.ref, p.offset, p.octets)
		if err != nil {
			n.endFetch(f, err)
			return
		}
		n.mu.Lock()
		if have < f.asked && p.offset+int64(len(p.octets)) >= f.asked {
			f.asked = have // an account that had the same body took the parts
		}
		n.mu.Unlock()
		n.fetchMore(link, f, have)
	}
}

// restore puts a body that is complete into the store.
func (n *Node) restore(ctx context.Context, link Link, f *fetch) {
	staged, err := n.Join(ctx, f.ref)
	if errors.Is(err, ErrParts) && f.spoilt == 0 {
		f.spoilt++ // an earlier link's parts, perhaps
		n.mu.Lock()
		f.asked = 0
		n.mu.Unlock()
		n.fetchMore(link, f, 0)
		return
	}
	if err == nil {
		err = n.deps.Mail.Restore(ctx, staged)
		staged.Discard()
	}
	if err == nil {
		n.counts.mended.Inc()
		n.log.Warn("a body that was damaged here came back from the partner", "body", fmt.Sprintf("%x", f.ref.Hash[:8]))
	}
	n.endFetch(f, err)
}

func (n *Node) endFetch(f *fetch, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.endFetchLocked(f, err)
}

func (n *Node) endFetchLocked(f *fetch, err error) {
	if n.fetches[f.ref.Hash] == f {
		delete(n.fetches, f.ref.Hash)
		f.err = err
		close(f.ended)
	}
}

// endFetches ends all that wait for the partner.
func (n *Node) endFetches(err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, f := range n.fetches {
		n.endFetchLocked(f, err)
	}
}

// servePart answers the partner's request for a part of a body. What cannot be
// read here is never said to be gone.
func (n *Node) servePart(ctx context.Context, link Link, p part) {
	for p.asked > 0 && p.offset < p.ref.Octets {
		octets, err := readPart(ctx, n, &p, n.cfg.Limits.PartOctets)
		answer := part{ref: p.ref, offset: p.offset, octets: octets}
		kind := KindData
		if err != nil {
			kind, answer = KindGone, part{ref: p.ref, damaged: true}
			p.asked = 0
		}
		if link.Send(ctx, Frame{Class: ClassBodies, Kind: kind, Payload: answer.encode()}) != nil {
			return
		}
		p.offset += int64(len(octets))
		p.asked -= int64(len(octets))
	}
}
