package mailstore

import (
	"cmp"
	"slices"

	"github.com/postern-mail/postern/backend/mailstore/flagset"
	"github.com/postern-mail/postern/internal/mutant"
)

// flagState is the message's flags with the writes that the partner may not know.
func (m *Message) flagState() flagset.State {
	return flagset.State{Flags: uint8(m.Flags), Keywords: m.Keywords, Pending: m.moreOf().writes}
}

// withFlags is a copy of m with other flags.
func (m *Message) withFlags(s flagset.State) *Message {
	n := *m
	n.Flags, n.Keywords = Flags(s.Flags)&allFlags, s.Keywords
	more := m.moreOf()
	more.writes = s.Pending
	n.setMore(more)
	return &n
}

func (d Dot) inFlags() flagset.Dot { return flagset.Dot{Origin: uint64(d.Origin), Seq: d.Seq} }

func dotOfFlags(d flagset.Dot) Dot { return Dot{Origin(d.Origin), d.Seq} }

// change is what the operation does to each of its messages.
func (op *JournalOp) change() flagset.Change {
	return flagset.Change{
		Set: uint8(op.Set & allFlags), Clear: uint8(op.Clear &^ op.Set & allFlags),
		SetKeywords: op.SetKeywords, ClearKeywords: op.ClearKeywords,
	}
}

// applyFlags is the partner's change of flags, against those that this node
// made at the same time.
func (t *txn) applyFlags(op *JournalOp, r *remote, dot Dot) error {
	b := t.box(op.Mailbox)
	if b == nil || t.peek(b).gone {
		return nil
	}
	w := flagset.Write{Change: op.change(), HLC: r.HLC, Dot: dot.inFlags()}
	knows := func(d flagset.Dot) bool { return r.knows(dotOfFlags(d)) && !t.account.store.without(mutant.ClockOnly) }
	var changed []flagged
	conflicts := 0
	for _, d := range op.Dots {
		m, err := t.find(b, d)
		if err != nil {
			return err
		}
		if m == nil {
			continue // expunged; that wins
		}
		state, conflict := m.flagState().Remote(w, knows)
		if conflict {
			conflicts++
		}
		changed = append(changed, flagged{m, m.withFlags(state)})
	}
	t.setFlags(b, changed)
	if conflicts > 0 {
		t.conflict(ConflictFlags, t.peek(b).name, "%d messages", conflicts)
	}
	return nil
}

// flagged is a message before and after a change of its flags.
type flagged struct{ before, after *Message }

// setFlags puts in messages with other flags, shown and hidden ones, whatever
// the bounds for clients are. Those shown whose flags a client could tell apart
// get a MODSEQ. It uses changed up.
func (t *txn) setFlags(b *box, changed []flagged) {
	shown := changed[:0]
	inOrder := true
	var delta map[string]keyword
	var v *view
	for _, c := range changed {
		m, n := c.before, c.after
		visible := m.Flags != n.Flags || !slices.Equal(m.Keywords, n.Keywords)
		if !visible && len(m.moreOf().writes) == 0 && len(n.moreOf().writes) == 0 {
			continue
		}
		if v == nil {
			v = t.draft(b)
			v.dirty = true
			if len(changed) >= t.account.store.cfg.flagBlockWorth && t.maySumQuickly(v) {
				v.sumQuickly()
			}
		}
		if m.UID == 0 {
			t.rewriteHidden(b, n)
			continue
		}
		v.sumFlags(m, n)
		if visible {
			n.ModSeq = t.nextModSeq()
			v.modseq = n.ModSeq
			delta = addKeywords(addKeywords(delta, m.Keywords, -1), n.Keywords, 1)
			v.countFlags(m, -1)
			v.countFlags(n, 1)
		}
		inOrder = inOrder && (len(shown) == 0 || shown[len(shown)-1].after.UID < n.UID)
		shown = append(shown, c)
	}
	if len(shown) == 0 {
		return
	}
	v.countKeywords(delta)
	if !inOrder {
		slices.SortFunc(shown, func(x, y flagged) int { return cmp.Compare(x.after.UID, y.after.UID) })
	}
	v.list.replace(shown)
	t.putFlagged(b, shown)
}
