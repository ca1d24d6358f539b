package replica

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/postern-mail/postern/backend/mailstore"
	"github.com/postern-mail/postern/store"
)

// sending is the stream of this node's own operations to the partner.
type sending struct {
	own   uint64 // the last that is committed here
	sent  uint64
	acked uint64 // the last the partner has durably
	// flight holds the frames that are not acknowledged.
	flight       []flight
	flightOctets int
	truncated    bool      // the partner was told that the journal begins later
	peerBlocked  bool      // the partner has no room
	since        time.Time // when the partner began to lack something
	due          uint64    // own at that time
	success      time.Time // when it last had everything
	// parts are those that were asked for, to be sent as there is room.
	parts []part
}

type flight struct {
	last   uint64
	octets int
	slow   bool // it went by ClassBodies
}

func (s *sending) reset() {
	*s = sending{own: s.own, acked: s.acked, since: s.since, due: s.due, success: s.success}
}

// begin starts behind what the partner has.
func (s *sending) begin(own, acked uint64) {
	s.reset()
	s.own, s.sent, s.acked = own, acked, acked
}

// age keeps account of how long the partner has been behind.
func (s *sending) age(now time.Time) {
	switch {
	case s.acked >= s.own:
		if !s.since.IsZero() || s.success.IsZero() && s.own > 0 {
			s.success = now
		}
		s.since = time.Time{}
	case s.since.IsZero() || s.acked >= s.due:
		s.since, s.due = now, s.own
	}
}

// maxPartsAsked bounds what a partner may ask for at once.
const maxPartsAsked = 64

// sendRecords sends one frame of records, if there are any and the windows let
// it. Small bodies go along.
func (c *Channel) sendRecords(ctx context.Context) (more bool, err error) {
	s := &c.tx
	if s.sent >= s.own || s.truncated || s.peerBlocked || len(s.flight) > 0 && c.windowFull() {
		return false, nil
	}
	if !c.out.Room(ClassBodies) || !c.out.Room(ClassOps) {
		return false, nil
	}
	records, err := c.account.Journal(ctx, s.sent, c.limits.FrameOctets)
	if errors.Is(err, mailstore.ErrTruncated) {
		s.truncated = true
		c.out.Send(ClassOps, KindTruncated, stamped(c.attachment, nil))
		return false, nil
	} else if err != nil {
		return false, err
	}
	if len(records) == 0 {
		s.own = s.sent // told of what is not in the journal yet; it will tell again
		c.told = min(c.told, s.sent)
		return false, nil
	}
	o, err := c.pack(ctx, records)
	if err != nil {
		return false, err
	}
	payload := o.encode()
	class := ClassOps
	if len(o.bodies) > 0 || s.bodiesInFlight() {
		class = ClassBodies
	}
	s.sent = o.records[len(o.records)-1].Last
	s.own = max(s.own, s.sent)
	s.flight = append(s.flight, flight{s.sent, len(payload), class == ClassBodies})
	s.flightOctets += len(payload)
	c.out.Send(class, KindOps, payload)
	return s.sent < s.own, nil
}

// bodiesInFlight reports whether frames under way may be slower than operations
// without bodies: to overtake them helps nobody.
func (s *sending) bodiesInFlight() bool {
	for _, f := range s.flight {
		if f.slow {
			return true
		}
	}
	return false
}

func (c *Channel) windowFull() bool {
	s := &c.tx
	return s.flightOctets >= c.limits.WindowOctets || s.sent-s.acked >= uint64(c.limits.WindowRecords)
}

// pack takes as many records as a frame holds, and the small bodies they name
// that the partner was not sent lately.
func (c *Channel) pack(ctx context.Context, records []Record) (operations, error) {
	o := operations{attachment: c.attachment}
	octets := 0
	for i, r := range records {
		if i > 0 && octets+len(r.Raw) > c.limits.FrameOctets {
			break
		}
		o.records = append(o.records, r)
		octets += len(r.Raw)
		for _, ref := range r.Bodies {
			if ref.Octets == 0 || ref.Octets > c.limits.SmallOctets || c.bodies.Sent(ref.Hash) {
				continue
			}
			content, err := c.readBody(ctx, ref)
			if err != nil {
				continue // the partner asks for it, and is answered why not
			}
			if octets > 0 && octets+len(content) > c.limits.FrameOctets && len(o.bodies) > 0 {
				c.sendBodies(o.bodies)
				o.bodies, octets = nil, 0
			}
			o.bodies = append(o.bodies, body{ref, content})
			octets += len(content)
		}
	}
	return o, nil
}

// sendBodies sends bodies ahead of the records that name them.
func (c *Channel) sendBodies(bodies []body) {
	n := 32
	for _, b := range bodies {
		n += len(b.octets) + 40
	}
	payload := appendBodies(stamped(c.attachment, make([]byte, 0, n)), bodies)
	c.tx.flight = append(c.tx.flight, flight{c.tx.sent, len(payload), true})
	c.tx.flightOctets += len(payload)
	c.out.Send(ClassBodies, KindBodies, payload)
}

func (c *Channel) readBody(ctx context.Context, ref store.Ref) ([]byte, error) {
	b, err := c.bodies.Open(ctx, ref)
	if err != nil {
		return nil, err
	}
	defer b.Close()
	content := make([]byte, ref.Octets)
	if _, err := io.ReadFull(b, content); err != nil {
		return nil, err
	}
	return content, nil
}

// gotAck takes in what the partner has.
func (c *Channel) gotAck(ctx context.Context, payload []byte) error {
	r, err := parseReceipt(payload)
	if err != nil {
		return err
	}
	s := &c.tx
	if r.ack.Seq < s.acked || r.ack.Seq > max(s.own, s.sent) {
		return fmt.Errorf("%w: acknowledged %d of %d", errFrame, r.ack.Seq, s.own)
	}
	s.acked, s.peerBlocked, c.tries = r.ack.Seq, false, 0
	if s.sent < s.acked {
		s.sent, s.truncated = s.acked, false // by a state merge
	}
	for len(s.flight) > 0 && s.flight[0].last <= s.acked {
		s.flightOctets -= s.flight[0].octets
		s.flight = s.flight[1:]
	}
	if len(s.flight) == 0 {
		s.flight = nil
	}
	if err := c.account.Acked(ctx, r.ack); err != nil {
		return err
	}
	c.events.Durable(c.id, s.acked)
	return c.compareDigests(ctx, &r)
}

// compareDigests looks whether the two sides are the same where they say they
// are. It costs something only when everything is quiet.
func (c *Channel) compareDigests(ctx context.Context, r *receipt) error {
	if !r.hasDigest || c.tx.acked < c.tx.own || len(c.rx.held) > 0 || seqOf(r.ack.Vector, c.rx.origin) != c.rx.applied {
		return nil
	}
	mine, err := c.account.Position(ctx)
	if err != nil {
		return err
	}
	if differ(&mine, r.ack.Vector, r.digest, true) {
		c.differs()
	}
	return nil
}

// gotWant notes which part of a body the partner asks for.
func (c *Channel) gotWant(payload []byte) error {
	p, err := parsePart(payload)
	if err != nil || len(c.tx.parts) >= maxPartsAsked {
		return errors.Join(err, tooMany(len(c.tx.parts) >= maxPartsAsked))
	}
	c.tx.parts = append(c.tx.parts, p)
	return nil
}

func tooMany(is bool) error {
	if is {
		return fmt.Errorf("%w: too many at once", errFrame)
	}
	return nil
}

// sendParts sends one part of a body that was asked for.
func (c *Channel) sendParts(ctx context.Context) (more bool, err error) {
	s := &c.tx
	if len(s.parts) == 0 || !c.out.Room(ClassBodies) {
		return false, nil
	}
	p := &s.parts[0]
	octets, err := c.readPart(ctx, p)
	if err != nil {
		gone, err := c.whyGone(ctx, p.ref, err)
		if err != nil {
			return false, err
		}
		s.parts = s.parts[1:]
		answer := part{attachment: c.attachment, ref: p.ref, damaged: !gone}
		c.out.Send(ClassBodies, KindGone, answer.encode())
		return len(s.parts) > 0, nil
	}
	answer := part{attachment: c.attachment, ref: p.ref, offset: p.offset, octets: octets}
	c.out.Send(ClassBodies, KindData, answer.encode())
	p.offset += int64(len(octets))
	p.asked -= int64(len(octets))
	if p.asked <= 0 || p.offset >= p.ref.Octets {
		s.parts = s.parts[1:]
	}
	return len(s.parts) > 0, nil
}

// whyGone tells a body that nobody needs any more from one that is lost. Only
// the former may be called gone: what is damaged here is never given up there.
func (c *Channel) whyGone(ctx context.Context, ref store.Ref, cause error) (gone bool, err error) {
	if errors.Is(cause, store.ErrNotFound) {
		needed, err := c.account.Refers(ctx, ref)
		if err != nil || !needed {
			return true, err
		}
	}
	if ctx.Err() != nil {
		return false, ctx.Err()
	}
	c.events.Failed(c.id, "read a body for the partner", cause)
	return false, nil
}

func (c *Channel) readPart(ctx context.Context, p *part) ([]byte, error) {
	return readPart(ctx, c.bodies, p, c.limits.PartOctets)
}

// readPart reads the next octets of what was asked for.
func readPart(ctx context.Context, bodies Bodies, p *part, most int64) ([]byte, error) {
	b, err := bodies.Open(ctx, p.ref)
	if err != nil {
		return nil, err
	}
	defer b.Close()
	octets := make([]byte, max(0, min(p.asked, most, p.ref.Octets-p.offset)))
	if n, err := b.ReadAt(octets, p.offset); err != nil && (!errors.Is(err, io.EOF) || n < len(octets)) {
		return nil, err
	}
	return octets, nil
}
