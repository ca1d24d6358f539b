package mailstore

import (
	"slices"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/backend/mailstore/tree"
	"github.com/postern-mail/postern/internal/mutant"
)

// unionOf returns the higher dot of each origin, in another slice.
func unionOf(a, b []Dot) []Dot {
	out := slices.Clone(a)
	for _, d := range b {
		if i := slices.IndexFunc(out, func(have Dot) bool { return have.Origin == d.Origin }); i < 0 {
			out = append(out, d)
		} else if d.Seq > out[i].Seq {
			out[i] = d
		}
	}
	slices.SortFunc(out, compareDots)
	return out
}

// applyCreate makes a mailbox of the partner's, or where both have made the
// same, joins the two.
func (t *txn) applyCreate(op *JournalOp, r *remote, dot Dot) error {
	return t.joinMailbox(op.Mailbox, &mailboxRecord{
		parent: op.Parent, leaf: op.Leaf, created: stamp{r.HLC, dot},
		use: op.SpecialUse, subscribed: op.Subscribed, uidValidity: op.UIDValidity,
	})
}

// joinMailbox joins what the partner has of a mailbox, without its messages,
// with what is here.
func (t *txn) joinMailbox(id GUID, theirs *mailboxRecord) error {
	t.head.lastUIDValidity = max(t.head.lastUIDValidity, theirs.uidValidity)
	if !isSpecialUse(theirs.use) {
		theirs.use = ""
	}
	b := t.box(id)
	if b == nil {
		t.makeBox(id, mailboxRecord{
			parent: theirs.parent, leaf: theirs.leaf, created: theirs.created, moved: theirs.moved, use: theirs.use,
			subscribed: theirs.subscribed, subscribing: theirs.subscribing, uidValidity: theirs.uidValidity,
		})
		return nil
	}
	v := t.peek(b)
	joined := v.register().Merge(theirs.register())
	subscribed, subscribing := v.subscribed, v.subscribing
	switch c := theirs.subscribing.compare(subscribing); {
	case c > 0:
		subscribed, subscribing = theirs.subscribed, theirs.subscribing
	case c == 0:
		subscribed = subscribed || theirs.subscribed
	}
	uidValidity := max(v.uidValidity, theirs.uidValidity)
	if joined == v.register() && subscribed == v.subscribed && subscribing == v.subscribing && uidValidity == v.uidValidity {
		return nil
	}
	v = t.draft(b)
	v.setRegister(joined)
	v.subscribed, v.subscribing, v.uidValidity, v.dirty = subscribed, subscribing, uidValidity, true
	t.retree = true
	return nil
}

// applyMove is the partner's rename of a mailbox; the later wins.
func (t *txn) applyMove(op *JournalOp, r *remote, dot Dot) error {
	b := t.box(op.Mailbox)
	if b == nil || op.Mailbox == t.account.inboxID() {
		return nil
	}
	at := stamp{r.HLC, dot}
	joined := t.peek(b).register().Merge(tree.Register{Parent: tree.ID(op.Parent), Leaf: op.Leaf, Moved: at.inTree()})
	if joined == t.peek(b).register() {
		return nil
	}
	v := t.draft(b)
	v.setRegister(joined)
	v.dirty, t.retree = true, true
	return nil
}

func (a *account) inboxID() GUID { return configuredGUID(a.id, inbox) }

// applyDelete removes what the one who deleted a mailbox had seen of it. With
// messages that it had not seen the mailbox stays.
func (t *txn) applyDelete(op *JournalOp, _ *remote, _ Dot) error {
	b := t.box(op.Mailbox)
	if b == nil || op.Mailbox == t.account.inboxID() {
		return nil
	}
	observed := op.Observed
	if t.account.store.without(mutant.DeleteAll) {
		observed = unionOf(observed, t.observed())
	}
	return t.erase(b, observed)
}

// erase takes out of a mailbox what observed covers, and the mailbox with it
// unless something else was ever added. What is stored of the messages is left
// to the sweep, which knows them by the same dots.
func (t *txn) erase(b *box, observed []Dot) error {
	v := t.peek(b)
	if isWithin(observed, v.erased) {
		return nil
	}
	t.registersChanged()
	if v.removed {
		v = t.draft(b)
		v.erased, v.dirty = unionOf(v.erased, observed), true
		return nil
	}
	if err := t.load(b); err != nil {
		return err
	}
	hidden, err := t.hidden(b)
	if err != nil {
		return err
	}
	v = t.draft(b)
	v.erased, v.dirty = unionOf(v.erased, observed), true
	t.eraseShown(v)
	t.eraseHidden(v, hidden)
	if isWithin(v.used, v.erased) && v.messages == 0 && v.pending == 0 {
		t.bury(b, v)
		return nil
	}
	// Which UIDs went is not written down one by one: a client is told that
	// whatever it knows and is not there may have gone.
	v.modseq = t.nextModSeq()
	v.expungeFloor = v.modseq
	t.batch.Put(mailboxKey(t.account.id, kindGarbage, b.guid), garbage{}.encode())
	t.after = append(t.after, func() { b.dots = nil })
	t.conflict(ConflictDeleted, v.name, "it was deleted by somebody who had not seen %d of its messages", v.messages+v.pending)
	t.account.store.wakeSweep()
	return nil
}

func (t *txn) eraseShown(v *view) {
	var uids []imap.UID
	var delta map[string]keyword
	for i := range v.list.len() {
		m := v.list.at(i)
		if !covers(v.erased, m.Dot) {
			continue
		}
		uids = append(uids, m.UID)
		v.count(m, -1)
		t.head.octets -= m.Octets
		delta = addKeywords(delta, m.Keywords, -1)
		if m.isMisplaced() {
			v.misplaced--
			t.head.unsettled--
		}
	}
	v.countKeywords(delta)
	v.list.remove(uids)
}

func (t *txn) eraseHidden(v *view, hidden []*Message) {
	var kept []*Message
	for _, m := range hidden {
		if !covers(v.erased, m.Dot) {
			kept = append(kept, m)
			continue
		}
		v.pending--
		v.pendingOctets -= m.Octets
		t.head.octets -= m.Octets
		t.head.unsettled--
		v.sum(m, -1)
		t.tell(m.Dot, 0)
	}
	v.hiddenList = kept
}

// noteUse remembers that a message was added: a mailbox to which something was
// added that its deletion had not seen lives on, also once that is gone again.
func (v *view) noteUse(d Dot) { v.used = unionOf(v.used, []Dot{d}) }

// revive brings a deleted mailbox back for a message that its deletion had not
// seen.
func (t *txn) revive(b *box, d Dot) {
	v := t.draft(b)
	v.removed, v.gone, v.summed, v.dirty = false, false, true, true
	v.list, v.keywords, v.loaded = messages{}, nil, true
	t.after = append(t.after, func() { b.dots = nil })
	t.retree = true
	t.conflict(ConflictDeleted, v.name, "it was deleted by somebody who had not seen message %x.%d", uint64(d.Origin), d.Seq)
}

// boxFor returns the mailbox that an Add of the partner's is for, nil when it
// was deleted by somebody who had seen the message.
func (t *txn) boxFor(op *JournalOp, r *remote) (*box, error) {
	b := t.box(op.Mailbox)
	if b == nil {
		// Nobody writes to a mailbox that it did not make first; what this
		// node has lost of it the next state merge brings.
		t.makeBox(op.Mailbox, mailboxRecord{
			leaf: "Recovered " + op.Mailbox.String()[:8], uidValidity: configuredUIDValidity(t.account.id, op.Mailbox.String()),
		})
		b = t.box(op.Mailbox)
	}
	d := op.Message.Dot
	if covers(t.peek(b).erased, d) {
		return nil, nil
	}
	if t.peek(b).removed {
		t.revive(b, d)
	}
	t.draft(b).noteUse(d)
	return b, nil
}
