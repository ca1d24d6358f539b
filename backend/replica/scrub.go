package replica

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/postern-mail/postern/backend/mailstore"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/store"
	"github.com/postern-mail/postern/store/pack"
)

// scrubber is a store of bodies that can read all of them; see pack.Blobs.
type scrubber interface {
	Scrub(ctx context.Context, octetsPerSecond int64, damaged func(store.Ref, error), p *pack.Progress) error
	References(ctx context.Context, ref store.Ref) (int64, error)
}

// scrubbing is the reading of all bodies, which is done once at a time.
type scrubbing struct {
	one sync.Mutex // held while it goes on

	mu      sync.Mutex
	running bool
	began   time.Time
	last    time.Time // of the last that came to its end
	read    *pack.Progress
	found   int
	mended  int
}

// ScrubProgress is how far the reading of all bodies has come, or how the last
// one ended.
type ScrubProgress struct {
	Running        bool
	Began, Last    time.Time
	Bodies, Octets int64
	Damaged        int
	Mended         int
}

func (s *scrubbing) progress() ScrubProgress {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := ScrubProgress{Running: s.running, Began: s.began, Last: s.last, Damaged: s.found, Mended: s.mended}
	if s.read != nil {
		p.Bodies, p.Octets = s.read.Bodies.Load(), s.read.Octets.Load()
	}
	return p
}

// scrubNowAndThen reads all bodies once in each interval.
func (n *Node) scrubNowAndThen(ctx context.Context) {
	if _, can := n.deps.Blobs.(scrubber); !can || n.cfg.ScrubInterval < 0 {
		return
	}
	for {
		wait := n.cfg.ScrubInterval - n.now().Sub(n.memory.lastScrub(n.now()))
		timer := time.NewTimer(max(wait, time.Minute))
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
		if err := n.Scrub(ctx, nil); err != nil && ctx.Err() == nil {
			n.log.Error("reading all bodies was broken off", "err", err)
		}
	}
}

// Damage is a body that is not whole.
type Damage struct {
	Body   store.Ref
	Err    error // what is wrong
	Mended error // nil: it came back from the partner
}

// Scrub reads all bodies, at the configured speed, and brings back from the
// partner what is damaged or missing; report, unless nil, is told of each.
// Nothing is ever removed. Only one goes on at a time.
func (n *Node) Scrub(ctx context.Context, report func(Damage)) error {
	blobs, can := n.deps.Blobs.(scrubber)
	if !can {
		return errors.New("this store cannot be read as a whole")
	}
	s := &n.scrub
	if !s.one.TryLock() {
		return errors.New("all bodies are being read already")
	}
	defer s.one.Unlock()
	s.mu.Lock()
	s.running, s.began, s.read, s.found, s.mended = true, n.now(), new(pack.Progress), 0, 0
	s.mu.Unlock()
	err := n.scrubAll(ctx, blobs, report)
	s.mu.Lock()
	s.running = false
	if err == nil {
		s.last = n.now()
	}
	n.counts.scrubbed.Add(float64(s.read.Octets.Load()))
	s.mu.Unlock()
	if err == nil {
		err = n.memory.noteScrub(ctx, n.now())
	}
	return err
}

func (n *Node) scrubAll(ctx context.Context, blobs scrubber, report func(Damage)) error {
	damaged := make(map[store.Hash]Damage)
	note := func(ref store.Ref, why error) {
		if _, known := damaged[ref.Hash]; !known && len(damaged) < maxDamaged {
			damaged[ref.Hash] = Damage{Body: ref, Err: why}
		}
	}
	if err := blobs.Scrub(ctx, n.cfg.ScrubOctets, note, n.scrub.read); err != nil {
		return err
	}
	err := n.deps.Mail.EachBody(ctx, func(ref store.Ref) error {
		if d, known := damaged[ref.Hash]; known {
			d.Body = ref // its key may not have told how long it is
			damaged[ref.Hash] = d
			return nil
		}
		references, err := blobs.References(ctx, ref)
		if err == nil && references == 0 && ref.Octets > 0 {
			note(ref, store.ErrNotFound)
		}
		return err
	})
	if err != nil {
		return err
	}
	for _, d := range damaged {
		if err := ctx.Err(); err != nil {
			return err
		}
		n.mend(ctx, d, report)
	}
	return nil
}

// maxDamaged bounds what one reading finds; the next finds more.
const maxDamaged = 100_000

// mendTime is how long the partner may take for one body.
const mendTime = 2 * time.Minute

// mend brings a body back from the partner.
func (n *Node) mend(ctx context.Context, d Damage, report func(Damage)) {
	limited, cancel := context.WithTimeout(ctx, mendTime)
	defer cancel()
	d.Mended = n.Fetch(limited, d.Body)
	if errors.Is(d.Mended, mailstore.ErrNoMessage) {
		return // it is needed no more
	}
	n.counts.damaged.Inc()
	n.scrub.mu.Lock()
	n.scrub.found++
	if d.Mended == nil {
		n.scrub.mended++
	}
	n.scrub.mu.Unlock()
	body := fmt.Sprintf("%x", d.Body.Hash[:8])
	if d.Mended != nil {
		n.log.Error("a body is damaged here and did not come back from the partner; its messages stay", "body", body, "err", d.Err, "partner", d.Mended)
		n.audit(mail.Event{Result: "damaged", Octets: d.Body.Octets, Detail: "body " + body + ": " + d.Err.Error()})
	} else {
		n.audit(mail.Event{Result: "mended", Octets: d.Body.Octets, Detail: "body " + body + ": " + d.Err.Error()})
	}
	if report != nil {
		report(d)
	}
}

// lastScrub is when all bodies were last read; at the first question it is now.
func (m *memory) lastScrub(now time.Time) time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.scrubbed.IsZero() {
		m.scrubbed = now
	}
	return m.scrubbed
}

func (m *memory) noteScrub(ctx context.Context, at time.Time) error {
	m.mu.Lock()
	m.scrubbed = at
	m.mu.Unlock()
	return m.put(ctx, []byte{memoryTag, 's'}, binary.LittleEndian.AppendUint64([]byte{memoryVersion}, uint64(at.Unix())))
}
