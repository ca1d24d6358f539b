package mailstore

import (
	"maps"
	"slices"
	"strings"

	"github.com/postern-mail/postern/backend/mailstore/tree"
	"github.com/postern-mail/postern/backend/mailstore/uid"
)

func (s stamp) inTree() tree.Stamp {
	return tree.Stamp{HLC: s.hlc, Origin: uint64(s.dot.Origin), Seq: s.dot.Seq}
}

func stampOf(s tree.Stamp) stamp { return stamp{s.HLC, Dot{Origin(s.Origin), s.Seq}} }

// register is where the mailbox stands.
func (r *mailboxRecord) register() tree.Register {
	return tree.Register{
		Parent: tree.ID(r.parent), Leaf: r.leaf, Created: r.created.inTree(), Moved: r.moved.inTree(), Deleted: r.removed,
	}
}

func (r *mailboxRecord) setRegister(to tree.Register) {
	r.parent, r.leaf, r.created, r.moved = GUID(to.Parent), to.Leaf, stampOf(to.Created), stampOf(to.Moved)
}

// nameAll gives every mailbox of an account the name that the registers make.
// Deleted ones keep what they were called.
func nameAll(account GUID, records map[GUID]mailboxRecord) tree.Names {
	registers := make(map[tree.ID]tree.Register, len(records))
	for id, r := range records {
		registers[tree.ID(id)] = r.register()
	}
	names := tree.Resolve(registers, tree.ID(configuredGUID(account, inbox)))
	for id, path := range names.Path {
		r := records[GUID(id)]
		r.name = path
		records[GUID(id)] = r
	}
	return names
}

// placeFor returns the register that gives a mailbox a name: below the nearest
// of parents.
func placeFor(name string, parents map[string]GUID) (parent GUID, leaf string) {
	for end := strings.LastIndex(name, separator); end > 0; end = strings.LastIndex(name[:end], separator) {
		if id, ok := parents[name[:end]]; ok {
			return id, name[end+len(separator):]
		}
	}
	return GUID{}, name
}

// parents are the mailboxes that others can hang below, by their names once
// moves are made.
func (t *txn) parents(moves map[*box]string) map[string]GUID {
	parents := make(map[string]GUID, len(t.account.names))
	for name, b := range t.account.names {
		if to := moves[b]; to != "" {
			name = to
		}
		parents[name] = b.guid
	}
	// What hangs below one that will be merged has its name from the other.
	for _, pair := range t.account.tree.Same {
		maps.DeleteFunc(parents, func(_ string, id GUID) bool { return id == GUID(pair.From) })
	}
	return parents
}

// box returns a mailbox, also one that this commit makes and one that was
// deleted; nil when there is no record of it.
func (t *txn) box(id GUID) *box {
	if b := t.made[id]; b != nil {
		return b
	}
	return t.account.boxes[id]
}

// makeBox adds a mailbox without messages.
func (t *txn) makeBox(id GUID, record mailboxRecord) *view {
	b := newBox(t.account, id)
	if t.made == nil {
		t.made = make(map[GUID]*box)
	}
	t.made[id] = b
	t.undo = append(t.undo, func() { delete(t.made, id) })
	v := t.draft(b)
	record.uidNext, record.modseq, record.summed = 1, t.nextModSeq(), true
	v.mailboxRecord, v.dirty, v.loaded = record, true, true
	if l := t.account.link; l != nil && l.floors[id] > 0 {
		side := t.side()
		v.allocate(func(m *uid.Mailbox) { m.Attach(side, l.floors[id]) })
	}
	t.retree = true
	return v
}

// nameMailboxes gives the mailboxes their names after a change of registers.
// Only what changed is stored: the names of those below follow from that.
func (t *txn) nameMailboxes() {
	if !t.retree {
		return
	}
	a := t.account
	boxes := maps.Clone(a.boxes)
	maps.Copy(boxes, t.made)
	maps.DeleteFunc(boxes, func(id GUID, _ *box) bool { return t.dropped[id] })
	records := make(map[GUID]mailboxRecord, len(boxes))
	for id, b := range boxes {
		records[id] = t.peek(b).mailboxRecord
	}
	before := a.tree
	resolved := nameAll(a.id, records)
	names := make(map[string]*box, len(boxes))
	for id, b := range boxes {
		r := records[id]
		if v := t.peek(b); v.name != r.name {
			v = t.draft(b)
			v.name, v.renamed = r.name, true
		}
		if !r.removed {
			names[r.name] = b
		}
	}
	t.registersChanged()
	t.reportTree(&before, &resolved, records)
	t.after = append(t.after, func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.boxes, a.names, a.tree = boxes, names, resolved
	})
}

// reportTree tells of conflicts that were not there before.
func (t *txn) reportTree(before, after *tree.Names, records map[GUID]mailboxRecord) {
	for _, id := range after.Cut {
		if !slices.Contains(before.Cut, id) {
			t.conflict(ConflictCycle, records[GUID(id)].name, "each was moved below the other; it stands at the top now")
		}
	}
	for _, id := range after.Suffixed {
		if !slices.Contains(before.Suffixed, id) {
			t.conflict(ConflictName, records[GUID(id)].name, "another mailbox has the name %s", records[GUID(id)].leaf)
		}
	}
}
