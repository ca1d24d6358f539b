package replica

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"sort"
	"syscall"
	"time"

	"github.com/postern-mail/postern/backend/mailstore"
	"github.com/postern-mail/postern/status"
	"github.com/postern-mail/postern/store"
)

// receiving is the stream of the partner's operations to this node.
type receiving struct {
	origin  mailstore.Origin // the partner's
	applied uint64
	// held are records that wait for their bodies, for those before them, or
	// for room.
	held       []Record
	heldOctets int
	staged     map[store.Hash]store.Staged
	gone       Gone
	lacked     map[store.Hash]bool // by Apply: most often those of copies
	wants      map[store.Hash]*want
	ackDue     bool
	ack        receipt // of the last Apply
	blocked    bool    // the partner was told
	retryAt    time.Time
	tries      int
}

// want is a body that was asked for.
type want struct {
	ref    store.Ref
	asked  int64 // up to which octet
	spoilt int   // how often the parts were not those of the body
	// behind is the partner's last operation that was here when it was asked: an
	// answer that the body is gone says nothing of messages added after that.
	behind uint64
	// again: a later answer to a state merge names the body, too.
	again bool
}

func (r *receiving) reset() {
	discard(r.staged)
	*r = receiving{}
}

func (r *receiving) begin(origin mailstore.Origin, applied uint64) {
	discard(r.staged)
	*r = receiving{
		origin: origin, applied: applied, staged: make(map[store.Hash]store.Staged),
		gone: make(Gone), lacked: make(map[store.Hash]bool), wants: make(map[store.Hash]*want),
	}
}

const (
	// maxWants is how many bodies of an account are asked for at once, of small
	// ones as of large ones by maxWanted octets, and wantOctets how much of one:
	// enough for a link to be busy.
	maxWants   = 48
	maxWanted  = 4 << 20
	wantOctets = 1 << 20
	// heldWindows is how many windows a partner may send before it is cut off.
	heldWindows = 4
	// maxSpoilt is how often the parts of a body may be wrong.
	maxSpoilt = 3
)

// gotRecords keeps records and stages the bodies that came along.
func (c *Channel) gotRecords(ctx context.Context, payload []byte) error {
	o, err := parseOperations(payload)
	if err != nil {
		return err
	}
	r := &c.rx
	for _, rec := range o.records {
		if rec.Last <= r.applied {
			continue // once is enough
		}
		at := sort.Search(len(r.held), func(i int) bool { return r.held[i].First >= rec.First })
		if at < len(r.held) && r.held[at].First == rec.First {
			continue
		}
		r.held = append(r.held, Record{})
		copy(r.held[at+1:], r.held[at:])
		r.held[at] = rec
		r.heldOctets += len(rec.Raw)
	}
	if r.heldOctets > heldWindows*c.limits.WindowOctets || len(r.held) > heldWindows*c.limits.WindowRecords {
		return fmt.Errorf("%w: more than the window holds", errFrame)
	}
	return c.stage(ctx, o.bodies)
}

func (c *Channel) gotBodies(ctx context.Context, payload []byte) error {
	p := parser{b: payload}
	p.uvarint()
	bodies := p.bodies()
	if err := p.end(); err != nil {
		return err
	}
	return c.stage(ctx, bodies)
}

// stage takes in whole bodies. A body that is not what it is called is asked for
// when it is missed.
func (c *Channel) stage(ctx context.Context, bodies []body) error {
	for _, b := range bodies {
		if c.rx.staged[b.ref.Hash] != nil {
			continue
		}
		if len(c.rx.staged) >= heldWindows*c.limits.WindowRecords {
			return fmt.Errorf("%w: more bodies than the window holds", errFrame)
		}
		s, err := c.bodies.Stage(ctx, bytes.NewReader(b.octets))
		if err != nil {
			return c.refusedByStore(err)
		}
		if s.Ref() != b.ref {
			s.Discard()
			continue
		}
		c.rx.staged[b.ref.Hash] = s
		delete(c.rx.wants, b.ref.Hash)
	}
	return nil
}

// last is the partner's last operation that is here.
func (r *receiving) last() uint64 {
	if n := len(r.held); n > 0 {
		return max(r.applied, r.held[n-1].Last)
	}
	return r.applied
}

// isGone reports whether the body of a message that a record from first on adds
// is one that the partner has no more.
func (r *receiving) isGone(ref store.Ref, first uint64) bool {
	last, ok := r.gone[ref.Hash]
	return ok && first <= last
}

// unstage gives a body back that was linked, or is of no use.
func (r *receiving) unstage(hash store.Hash) {
	if s := r.staged[hash]; s != nil {
		s.Discard()
		delete(r.staged, hash)
	}
}

// ready reports whether records wait that may be applied now.
func (r *receiving) ready() bool {
	return len(r.held) > 0 && r.held[0].First <= r.applied+1
}

// receive applies what has come, one batch at a time.
func (c *Channel) receive(ctx context.Context) (more bool, err error) {
	r := &c.rx
	if !r.ready() || c.pull.active() {
		return false, nil
	}
	if c.now.Before(r.retryAt) {
		c.out.Wake(r.retryAt)
		return false, nil
	}
	n, missing, err := c.complete(ctx)
	if err != nil {
		return false, c.refusedByStore(err)
	}
	if n == 0 {
		err := c.ask(ctx, missing)
		return len(r.wants) == 0, err // what the spool had is staged now
	}
	raw := make([][]byte, n)
	for i, rec := range r.held[:n] {
		raw[i] = rec.Raw
	}
	applied, err := c.account.Apply(ctx, raw, r.staged, r.gone)
	if err != nil {
		return c.notApplied(ctx, err)
	}
	c.applied(n, &applied)
	return r.ready(), nil
}

// Bounds of what one Apply is given, so that others have their turn.
const (
	applyRecords = 256
	applyOctets  = 512 << 10
)

// complete counts the records at the front whose bodies are all here, and names
// the bodies that the one behind them lacks.
func (c *Channel) complete(ctx context.Context) (n int, missing []store.Ref, err error) {
	r := &c.rx
	octets, next := 0, r.held[0].First
	var refs []store.Ref
	for n < len(r.held) && n < applyRecords && octets < applyOctets && r.held[n].First <= next {
		rec := &r.held[n]
		for _, ref := range rec.Bodies {
			if r.staged[ref.Hash] == nil && !r.isGone(ref, rec.First) {
				refs = append(refs, ref)
			}
		}
		octets += len(rec.Raw)
		next = rec.Last + 1
		n++
	}
	if len(refs) == 0 {
		return n, nil, nil
	}
	if missing, err = c.account.Missing(ctx, refs); err != nil || len(missing) == 0 {
		return n, nil, err
	}
	lacks := make(map[store.Hash]bool, len(missing))
	for _, ref := range missing {
		lacks[ref.Hash] = true
	}
	for i, rec := range r.held[:n] {
		for _, ref := range rec.Bodies {
			if lacks[ref.Hash] && !r.isGone(ref, rec.First) {
				return i, missing, nil
			}
		}
	}
	return n, nil, nil
}

// applied takes note of a batch that is durable.
func (c *Channel) applied(n int, applied *Applied) {
	r := &c.rx
	for _, rec := range r.held[:n] {
		r.applied = max(r.applied, rec.Last)
		r.heldOctets -= len(rec.Raw)
		for _, ref := range rec.Bodies {
			// What is linked now needs no staging. One named again is found in
			// the store.
			r.unstage(ref.Hash)
			delete(r.wants, ref.Hash)
		}
	}
	for hash := range r.lacked {
		r.unstage(hash)
	}
	clear(r.lacked)
	maps.DeleteFunc(r.gone, func(_ store.Hash, last uint64) bool { return last <= r.applied })
	r.held = r.held[n:]
	if len(r.held) == 0 {
		r.held = nil
	}
	r.blocked, r.tries, r.retryAt = false, 0, time.Time{}
	c.tx.own = max(c.tx.own, applied.Seq)
	c.noteAck(applied)
	c.events.Applied(c.id, n, *applied)
}

// noteAck prepares what the partner is told next; floors add up until then.
func (c *Channel) noteAck(applied *Applied) {
	r := &c.rx
	floors := r.ack.ack.Floors
	if !r.ackDue {
		floors = nil
	}
	r.ack = receipt{digest: applied.Digest, hasDigest: applied.Settled, ack: Ack{
		ModSeq: applied.ModSeq, Vector: applied.Vector, Floors: append(floors, applied.Floors...),
	}}
	r.ackDue = true
}

// sendAck tells the partner what is durable.
func (c *Channel) sendAck(context.Context) (bool, error) {
	r := &c.rx
	if !r.ackDue {
		return false, nil
	}
	r.ackDue = false
	r.ack.attachment, r.ack.ack.Seq = c.attachment, r.applied
	c.out.Send(ClassOps, KindAck, r.ack.encode())
	return false, nil
}

// notApplied decides what follows from an error of Apply.
func (c *Channel) notApplied(ctx context.Context, err error) (more bool, _ error) {
	var missing *MissingBodies
	switch {
	case errors.As(err, &missing):
		for _, ref := range missing.Refs {
			c.rx.lacked[ref.Hash] = true
			c.rx.unstage(ref.Hash) // it could not be read
		}
		return false, c.ask(ctx, missing.Refs)
	case errors.Is(err, mailstore.ErrMalformed), errors.Is(err, mailstore.ErrChain):
		var raw []byte
		for _, rec := range c.rx.held {
			raw = append(raw, rec.Raw...)
			if len(raw) > c.limits.FrameOctets {
				break
			}
		}
		c.events.Quarantined(c.id, raw, err)
		c.Quarantine(ctx, err.Error())
		return false, nil
	}
	return false, c.refusedByStore(err)
}

// refusedByStore waits when the store has no room or is down; the partner is
// told to send no more. Other errors stay errors.
func (c *Channel) refusedByStore(err error) error {
	var known *status.Error
	full := errors.As(err, &known) && (known.Reason == status.MailSystemFull || known.Reason == status.StoreDown) ||
		errors.Is(err, store.ErrFull) || errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) // of parts
	if !full {
		return err
	}
	r := &c.rx
	c.events.Failed(c.id, "store the partner's operations", err)
	r.retryAt = c.now.Add(max(time.Second, backOff(c.limits, r.tries)))
	r.tries++
	c.out.Wake(r.retryAt)
	if !r.blocked {
		r.blocked = true
		c.out.Send(ClassOps, KindBlocked, stamped(c.attachment, nil))
	}
	return nil
}

// ask asks for bodies, a few at a time.
func (c *Channel) ask(ctx context.Context, missing []store.Ref) error {
	r := &c.rx
	wanted := int64(0)
	for _, w := range r.wants {
		wanted += min(w.ref.Octets, wantOctets)
	}
	for _, ref := range missing {
		if r.wants[ref.Hash] != nil || r.staged[ref.Hash] != nil {
			continue
		}
		if len(r.wants) >= maxWants || wanted >= maxWanted {
			return nil
		}
		wanted += min(ref.Octets, wantOctets)
		w := &want{ref: ref, behind: r.last()}
		r.wants[ref.Hash] = w
		if err := c.askMore(ctx, w, c.bodies.Parts(ref)); err != nil {
			return err
		}
	}
	return nil
}

// askMore asks for what follows behind have octets, or stages the whole.
func (c *Channel) askMore(ctx context.Context, w *want, have int64) error {
	if w.ref.Octets == 0 {
		delete(c.rx.wants, w.ref.Hash)
		return c.stage(ctx, []body{{ref: w.ref}})
	}
	if have >= w.ref.Octets {
		return c.join(ctx, w)
	}
	if have < w.asked {
		return nil // more of it is on its way
	}
	p := part{attachment: c.attachment, ref: w.ref, offset: have, asked: wantOctets}
	w.asked = min(have+wantOctets, w.ref.Octets)
	c.out.Send(ClassOps, KindWant, p.encode())
	return nil
}

func (c *Channel) join(ctx context.Context, w *want) error {
	s, err := c.bodies.Join(ctx, w.ref)
	if errors.Is(err, ErrParts) {
		if w.spoilt++; w.spoilt >= maxSpoilt {
			return fmt.Errorf("%w: %w", errFrame, err)
		}
		w.asked = 0
		return c.askMore(ctx, w, 0)
	}
	if err != nil {
		delete(c.rx.wants, w.ref.Hash)
		return c.refusedByStore(err)
	}
	delete(c.rx.wants, w.ref.Hash)
	c.rx.staged[w.ref.Hash] = s
	return nil
}

// gotPart keeps a part of a body that was asked for.
func (c *Channel) gotPart(ctx context.Context, payload []byte) error {
	p, err := parsePart(payload)
	if err != nil {
		return err
	}
	w := c.rx.wants[p.ref.Hash]
	if w == nil || w.ref != p.ref {
		return nil // it came another way meanwhile
	}
	have, err := c.bodies.Part(p.ref, p.offset, p.octets)
	if err != nil {
		delete(c.rx.wants, p.ref.Hash)
		return c.refusedByStore(err)
	}
	if have < w.asked && p.offset+int64(len(p.octets)) >= w.asked {
		// All that was asked for came, but another account that had the same body
		// took the parts in between.
		w.asked = have
	}
	return c.askMore(ctx, w, have)
}

// gotGone takes in that the partner has a body no more, or cannot read it.
func (c *Channel) gotGone(ctx context.Context, payload []byte) error {
	p, err := parsePart(payload)
	if err != nil {
		return err
	}
	w := c.rx.wants[p.ref.Hash]
	if w == nil {
		return nil
	}
	delete(c.rx.wants, p.ref.Hash)
	switch {
	case p.damaged:
	case w.again:
		return c.ask(ctx, []store.Ref{w.ref})
	default:
		c.rx.gone[p.ref.Hash] = w.behind
		return nil
	}
	c.events.Failed(c.id, "get a body of the partner", fmt.Errorf("body %x is damaged there", p.ref.Hash[:8]))
	c.rx.retryAt = c.now.Add(max(time.Second, backOff(c.limits, c.rx.tries)))
	c.rx.tries++
	c.out.Wake(c.rx.retryAt)
	return nil
}

// gotTruncated takes in that the partner's journal begins behind what is here.
func (c *Channel) gotTruncated(context.Context) error {
	c.pull.due = true
	return nil
}

// discard gives back staged bodies that were not used.
func discard(staged map[store.Hash]store.Staged) {
	for _, s := range staged {
		s.Discard()
	}
	clear(staged)
}
