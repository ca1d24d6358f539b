package mailstore

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/backend/mailstore/flagset"
	"github.com/postern-mail/postern/backend/mailstore/mime"
	"github.com/postern-mail/postern/backend/mailstore/uid"
	"github.com/postern-mail/postern/internal/mutant"
	"github.com/postern-mail/postern/store"
)

// prepareRemote readies the messages of a record: it does what must not be done
// within a commit. *MissingBodies when there are some that nobody has.
func (a *account) prepareRemote(ctx context.Context, r *remote, bodies map[store.Hash]store.Staged, gone Gone) error {
	missing := &MissingBodies{}
	for i := range r.Ops {
		op := &r.Ops[i]
		if op.Code != OpAdd {
			continue
		}
		hash := op.Message.Body.Hash
		if gone.covers(hash, r.First) {
			continue
		}
		p, err := a.prepareBody(ctx, op, bodies[hash])
		switch {
		case errors.Is(err, ErrMalformed), isOutage(err):
			return err
		case err != nil:
			// Damaged is as good as missing. One body that cannot be read must
			// not hold up the account.
			missing.Refs = append(missing.Refs, op.Message.Body)
			continue
		}
		if r.prepared == nil {
			r.prepared = make(map[Dot]preparedBody)
		}
		r.prepared[op.Message.Dot] = p
	}
	if len(missing.Refs) > 0 {
		return missing
	}
	return nil
}

// prepareBody finds the structure of a body that was sent, or is here already.
func (a *account) prepareBody(ctx context.Context, op *JournalOp, sent store.Staged) (p preparedBody, err error) {
	var found *mime.Result
	if sent != nil {
		if p.staged, found, err = a.store.content(sent); err != nil {
			return p, err
		}
		if ref := p.staged.Ref(); ref != op.Message.Body {
			return p, fmt.Errorf("%w: the body sent is %x, not %x", ErrMalformed, ref.Hash[:8], op.Message.Body.Hash[:8])
		}
	} else if found, err = scanBody(ctx, op.Message.Body, a.store.blobs.Open); err != nil {
		return p, err
	}
	p.meta = encodeMeta(op.Trace, found)
	return p, nil
}

// applyAdd adds a message of the partner's.
func (t *txn) applyAdd(op *JournalOp, r *remote) error {
	body, ok := r.prepared[op.Message.Dot]
	if removed, err := t.wasRemoved(op.Mailbox, op.Message.Dot); err != nil || removed {
		t.passOver(op)
		return err
	}
	b, err := t.boxFor(op, r)
	if err != nil || b == nil {
		return err
	}
	if op.Message.UID != 0 {
		t.draft(b).heard(op.Message.UID)
	}
	if !ok {
		return nil // the partner expunged it since, and says so further on
	}
	if here, err := t.find(b, op.Message.Dot); err != nil || here != nil {
		return err
	}
	replaced, err := t.mergeTwin(b, op, r)
	if err != nil || replaced {
		return err
	}
	if body.staged != nil {
		t.account.store.blobs.Link(t.batch, body.staged)
		t.bodies += op.Message.Body.Octets
	} else {
		t.account.store.blobs.Share(t.batch, op.Message.Body)
	}
	t.adds = true
	n := op.Message
	n.UID = 0
	n.setMore(more{uid: op.Message.UID})
	n.Keywords = t.peek(b).spell(n.Keywords)
	return t.insert(b, &n, body.meta)
}

// union is what a message is to have of the flags of its twin.
type union struct {
	box   *box
	dot   Dot
	other *Message
}

// uniteTwins sets the flags of twins that the record has brought together. It
// comes behind all the record's operations: these changes are this node's own,
// and the journal says of them that their writer knew the whole record.
func (t *txn) uniteTwins(r *remote) error {
	for _, u := range r.unions {
		m, err := t.find(u.box, u.dot)
		if err != nil {
			return err
		}
		if m == nil {
			continue
		}
		if op := unionOp(u.box.guid, m, u.other); op != nil {
			t.setFlags(u.box, []flagged{{m, t.united(m, op)}})
			t.log(op)
		}
	}
	return nil
}

// passOver takes note of what an Add tells beside its message.
func (t *txn) passOver(op *JournalOp) {
	if b := t.box(op.Mailbox); b != nil && op.Message.UID != 0 {
		t.draft(b).heard(op.Message.UID)
	}
	if op.mark != (deliveryMark{}) {
		t.noteDelivery(op.mark, twin{op.Mailbox, op.Message.Dot}, op.Message.SaveDate)
	}
}

// unionOp sets on m the flags that other has beside its own, nil for none.
func unionOp(mailbox GUID, m, other *Message) *JournalOp {
	op := &JournalOp{
		Code: OpFlags, Mailbox: mailbox, Dots: []Dot{m.Dot}, Set: other.Flags &^ m.Flags, SetKeywords: without(other.Keywords, m.Keywords),
	}
	if op.Set == 0 && len(op.SetKeywords) == 0 {
		return nil
	}
	return op
}

// united is m after op, which is logged next: a change of this node's own that
// the partner does not know.
func (t *txn) united(m *Message, op *JournalOp) *Message {
	at := t.stamp()
	w := flagset.Write{Change: op.change(), HLC: at.hlc, Dot: at.dot.inFlags()}
	return m.withFlags(m.flagState().Settle(t.partnerKnows).Local(w))
}

// insert stores a message that has not been here, at its highest UID or, if it
// cannot be shown there, hidden until it has another.
func (t *txn) insert(b *box, m *Message, meta []byte) error {
	v := t.draft(b)
	side := t.side()
	t.head.octets += m.Octets
	alloc := v.allocator()
	u := imap.UID(0)
	switch alloc.Decide(side, 0, uint32(m.register())) {
	case uid.Expose:
		u = m.register()
		v.allocate(func(a *uid.Mailbox) { a.Expose(uint32(u)) })
	case uid.Allocate:
		var err error
		if u, err = t.nextUID(v); err != nil {
			return err
		}
		if u != 0 {
			v.given = append(v.given, dotUID{m.Dot, u})
		}
	case uid.Ask:
		v.wanted = append(v.wanted, m.Dot)
	}
	if u == 0 {
		t.hide(b, m, meta)
		return nil
	}
	n := m.placed(u, t.nextModSeq())
	v.countKeywords(addKeywords(nil, n.Keywords, 1))
	t.append(b, v, n, meta)
	return nil
}

// putMessage stores the record of a message that is shown.
func (t *txn) putMessage(b *box, m *Message) {
	t.batch.Put(messageKey(t.account.id, kindMessage, b.guid, m.UID), m.encode())
}

// applyExpunge removes messages, those that are here.
func (t *txn) applyExpunge(op *JournalOp) error {
	b := t.box(op.Mailbox)
	if b == nil {
		return nil
	}
	return t.removeDots(b, op.Dots, false)
}

// removeDots removes those of the messages that are here. logged has the
// partner told of it.
func (t *txn) removeDots(b *box, dots []Dot, logged bool) error {
	var shown []*Message
	for _, d := range dots {
		m, err := t.find(b, d)
		switch {
		case err != nil:
			return err
		case m == nil:
		case m.UID == 0:
			t.removeHidden(b, m)
			if logged {
				t.log(&JournalOp{Code: OpExpunge, Mailbox: b.guid, Dots: []Dot{d}})
			}
		default:
			shown = append(shown, m)
		}
	}
	if len(shown) == 0 {
		return nil
	}
	slices.SortFunc(shown, func(x, y *Message) int { return int(int64(x.UID) - int64(y.UID)) })
	shown = slices.Compact(shown)
	t.takeOut(b, shown, false)
	if logged {
		t.logExpunge(b, shown)
	}
	return nil
}

// applyUIDs gives messages the UIDs that the partner gave them, if those are
// higher than what they have.
func (t *txn) applyUIDs(op *JournalOp) error {
	b := t.box(op.Mailbox)
	if b == nil {
		return nil
	}
	for i, d := range op.Dots {
		v := t.draft(b)
		v.heard(op.UIDs[i])
		m, err := t.find(b, d)
		if err != nil {
			return err
		}
		if m == nil || op.UIDs[i] <= m.register() {
			continue
		}
		if err := t.raise(b, m, op.UIDs[i]); err != nil {
			return err
		}
	}
	return nil
}

// raise gives a message a higher UID than it has, and shows it there if that
// can be.
func (t *txn) raise(b *box, m *Message, u imap.UID) error {
	v := t.draft(b)
	alloc := v.allocator()
	switch alloc.Decide(t.side(), uint32(m.UID), uint32(u)) {
	case uid.Expose:
		if m.UID == 0 {
			return t.expose(b, m, u)
		}
		return t.renumber(b, m, u)
	case uid.Ask:
		v.wanted = append(v.wanted, m.Dot)
	}
	// What home may allocate it does when the commit is settled.
	n := *m
	more := m.moreOf()
	more.uid = u
	n.setMore(more)
	t.rewrite(b, m, &n)
	return nil
}

// rewrite stores a message with another register or another wish for a UID.
func (t *txn) rewrite(b *box, m, n *Message) {
	if m.UID == 0 {
		t.rewriteHidden(b, n)
		return
	}
	v := t.draft(b)
	if was, is := m.isMisplaced(), n.isMisplaced(); is && !was {
		v.misplaced++
		t.head.unsettled++
	} else if was && !is {
		v.misplaced--
		t.head.unsettled--
	}
	v.sum(m, -1)
	v.sum(n, 1)
	t.putMessage(b, n)
	v.list.replace([]flagged{{after: n}})
	v.dirty = true
}

// applyNeedUID notes that the partner cannot show messages at their UIDs. Home
// gives them others, above all that the partner has shown.
func (t *txn) applyNeedUID(op *JournalOp) error {
	b := t.box(op.Mailbox)
	if b == nil {
		return nil
	}
	t.draft(b).heard(op.UID)
	if !t.isHome() {
		return nil
	}
	for _, d := range op.Dots {
		m, err := t.find(b, d)
		if err != nil {
			return err
		}
		// One that has a higher UID by now was answered already.
		if m == nil || m.register() > op.UID || m.asked() {
			continue
		}
		n := *m
		more := m.moreOf()
		more.asked = true
		n.setMore(more)
		t.rewrite(b, m, &n)
	}
	return nil
}

// applyHome follows the account's home.
func (t *txn) applyHome(h Home) {
	if !t.adoptHome(h) || !t.isHome() {
		return
	}
	side := t.side()
	for _, b := range t.account.boxes {
		t.draft(b).allocate(func(m *uid.Mailbox) { m.Attach(side, m.PeerFloor()) })
	}
}

// twin is where a delivery went that was made before.
type twin struct {
	mailbox GUID
	dot     Dot
}

// twinOf returns the message that a delivery was stored as here, if the Add is
// of the same delivery and another instance.
func (t *txn) twinOf(op *JournalOp) (w twin, err error) {
	if op.mark == (deliveryMark{}) || t.account.store.without(mutant.NoDeliveryMerge) {
		return w, nil
	}
	if made, ok := t.ids[op.mark]; ok {
		w = made
	} else if !t.account.delivered.isNew(op.mark) {
		var d delivery
		if d, err = t.readDelivery(op.mark); err != nil {
			return w, err
		}
		w = d.twin
	}
	if w.dot == op.Message.Dot {
		return twin{}, nil
	}
	return w, nil
}

// mergeTwin looks whether a delivery of the partner's was made here, too. Each
// node keeps the message with the lower dot and expunges the other, and tells
// its partner, which may have done so already: were it home's work alone, twins
// that meet while the home changes would stay. The delivery is remembered in any
// case. replaced: the partner's message is not stored.
func (t *txn) mergeTwin(b *box, op *JournalOp, r *remote) (replaced bool, err error) {
	if op.mark == (deliveryMark{}) {
		return false, nil
	}
	other, err := t.twinOf(op)
	if err != nil {
		return false, err
	}
	mine := twin{b.guid, op.Message.Dot}
	otherBox := t.box(other.mailbox)
	if other.dot == (Dot{}) || otherBox == nil {
		t.noteDelivery(op.mark, mine, op.Message.SaveDate)
		return false, nil
	}
	m, err := t.find(otherBox, other.dot)
	if err != nil {
		return false, err
	}
	if m == nil {
		if replaced, err = t.buryTwin(otherBox, other.dot, b, op); err != nil || replaced {
			return replaced, err
		}
	}
	// Home has moved it, into the mailbox that another was merged with; the next
	// operation removes what it was.
	succeeds := op.Source == other.dot
	if succeeds || compareDots(mine.dot, other.dot) < 0 {
		t.noteDelivery(op.mark, mine, op.Message.SaveDate)
	}
	if succeeds || m == nil || m.Body != op.Message.Body {
		return false, nil
	}
	t.conflict(ConflictTwins, t.peek(b).name, "delivery %s", op.Delivery)
	if compareDots(mine.dot, other.dot) < 0 {
		r.unions = append(r.unions, union{b, mine.dot, m})
		return false, t.removeDots(otherBox, []Dot{other.dot}, true)
	}
	r.unions = append(r.unions, union{otherBox, other.dot, &op.Message})
	t.log(&JournalOp{Code: OpExpunge, Mailbox: b.guid, Dots: []Dot{mine.dot}})
	return true, nil
}

// buryTwin is for a delivery whose message is gone here. Where it was expunged,
// so is the partner's: to who did it they are one message, and it must not come
// back. Where that is not known it stays.
func (t *txn) buryTwin(otherBox *box, other Dot, b *box, op *JournalOp) (buried bool, err error) {
	expunged, err := t.wasExpunged(otherBox, other)
	if err != nil || !expunged {
		return false, err
	}
	t.conflict(ConflictTwins, t.peek(b).name, "delivery %s, which was expunged", op.Delivery)
	t.log(&JournalOp{Code: OpExpunge, Mailbox: b.guid, Dots: []Dot{op.Message.Dot}})
	return true, nil
}

// wasExpunged looks a message up in what was expunged from the mailbox, as far
// as that is remembered.
func (t *txn) wasExpunged(b *box, d Dot) (found bool, err error) {
	if slices.Contains(t.peek(b).expungedDots, d) {
		return true, nil
	}
	prefix := mailboxKey(t.account.id, kindExpunged, b.guid)
	err = store.Scan(t.ctx, t.account.store.kv, prefix, above(prefix), checkAtOnce, func(_ store.Snapshot, _, value []byte) error {
		_, _, dots, err := decodeExpungedDots(value)
		found = found || slices.Contains(dots, d)
		return err
	})
	return found, err
}

func compareDots(a, b Dot) int {
	return stamp{dot: a}.compare(stamp{dot: b})
}
