package mailstore

import (
	"context"
	"slices"

	"github.com/postern-mail/postern/backend/mailstore/tree"
	"github.com/postern-mail/postern/backend/mailstore/uid"
)

// Housekeep makes permanent, on the account's home while it is attached, what
// merges only show: of mailboxes that were made under one name on both nodes
// the messages are moved into one, and names with a suffix, or at the top
// because of a cycle, become the mailboxes' own. Apply and a state merge do it
// by themselves; repeated it does nothing.
func (r *Replica) Housekeep(ctx context.Context) (done Applied, err error) {
	err = r.with(ctx, func(a *account) error {
		if done.Conflicts, err = a.housekeep(ctx); err != nil {
			return err
		}
		return a.applied(ctx, &done)
	})
	return done, err
}

func (a *account) housekeep(ctx context.Context) (conflicts []Conflict, err error) {
	if a.link == nil || len(a.tree.Same)+len(a.tree.Suffixed)+len(a.tree.Cut) == 0 {
		return nil, nil
	}
	var pairs []tree.Pair
	err = a.changeAlone(ctx, func(t *txn) error {
		pairs = nil
		side := t.side()
		if side.Link != uid.Attached || !side.Home {
			return nil
		}
		pairs = slices.Clone(a.tree.Same)
		t.keepNames()
		return nil
	})
	for _, pair := range pairs {
		into, from := a.boxes[GUID(pair.Into)], a.boxes[GUID(pair.From)]
		if into == nil || from == nil {
			continue
		}
		merged, err := a.mergeInto(ctx, into, from)
		if err != nil {
			return conflicts, err
		}
		conflicts = append(conflicts, merged...)
	}
	return conflicts, err
}

// keepNames renames mailboxes to the names they are shown under, but for those
// that will be merged.
func (t *txn) keepNames() {
	names := &t.account.tree
	parents := t.parents(nil)
	for _, id := range append(slices.Clone(names.Cut), names.Suffixed...) {
		b := t.account.boxes[GUID(id)]
		if b == nil || slices.ContainsFunc(names.Same, func(p tree.Pair) bool { return p.From == id }) {
			continue
		}
		parent, leaf := placeFor(t.peek(b).name, parents)
		t.move(b, parent, leaf)
	}
}

// mergeInto moves the messages of one mailbox to another, with what hangs below
// it, and deletes it. It is broken off while messages wait for their UIDs, and
// goes on the next time.
func (a *account) mergeInto(ctx context.Context, into, from *box) (conflicts []Conflict, err error) {
	source, dest := &Mailbox{box: from}, &Mailbox{box: into}
	from.hold()
	defer from.drop()
	into.hold()
	defer into.drop()
	for _, b := range []*box{from, into} {
		if err := a.changeAlone(ctx, func(t *txn) error { return t.loadBox(b) }); err != nil {
			return nil, err
		}
	}
	name := into.current().name
	moved := from.current().list.len()
	// A twin may still be on its way here, and must find them where they go.
	var done transferred
	if done.deliveries, err = a.deliveriesIn(ctx, from.guid); err != nil {
		return nil, err
	}
	for chunk := range slices.Chunk(from.current().uidList(), copyPerCommit) {
		messages := from.current().present(chunk)
		records, err := from.readMeta(ctx, messages)
		if err != nil {
			return nil, err
		}
		if err := source.moveChunk(ctx, messages, records, dest, &done); err != nil {
			return nil, err
		}
	}
	err = a.changeAlone(ctx, func(t *txn) error {
		conflicts = nil
		v := t.peek(from)
		if v.gone || v.messages+v.pending > 0 {
			return nil
		}
		t.adopt(into, from)
		if v.subscribed && !t.peek(into).subscribed {
			t.subscribeBox(into, true)
		}
		t.buryEmpty(from)
		t.conflict(ConflictMerged, name, "%d messages of the mailbox that was made under the same name", moved)
		conflicts = t.conflicts
		return nil
	})
	return conflicts, err
}

// adopt hangs what is below one mailbox below another, but for those that will
// be merged with what is there: they go by themselves.
func (t *txn) adopt(into, from *box) {
	for _, b := range t.account.inOrder() {
		v := t.peek(b)
		if v.parent != from.guid || v.gone {
			continue
		}
		if slices.ContainsFunc(t.account.tree.Same, func(p tree.Pair) bool { return GUID(p.From) == b.guid }) {
			continue
		}
		t.move(b, into.guid, v.leaf)
	}
}

// buryEmpty deletes a mailbox that has no messages.
func (t *txn) buryEmpty(b *box) {
	observed := t.observed()
	t.log(&JournalOp{Code: OpDelete, Mailbox: b.guid, Observed: observed})
	v := t.draft(b)
	v.erased = unionOf(v.erased, observed)
	t.bury(b, v)
}
