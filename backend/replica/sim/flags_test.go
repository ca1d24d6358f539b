package sim

import (
	"slices"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/backend/mailstore"
)

// flagOf is one flag of one message.
type flagOf struct {
	dot  mailstore.Dot
	flag mailstore.Flags
}

// write is one that a client made, and what the node knew then.
type write struct {
	set   bool
	by    mailstore.Dot // an operation of the commit, the last
	knows mailstore.Vector
}

// wrote notes which flags a client changed, for the end: the flag must then be
// as one of the writes left it that no other knew of.
func (w *world) wrote(n *node, before, after mailstore.View, uids []imap.UID, c mailstore.FlagsChange, err error) {
	if err != nil && refused(err) {
		return
	}
	vague := err != nil || c.Op == mailstore.FlagsSet
	var p mailstore.Position
	if !vague {
		if p, err = n.position(); err != nil {
			n.died("position", err)
			vague = true
		}
	}
	for _, u := range uids {
		i, ok := before.Find(u)
		if !ok {
			continue
		}
		old := before.At(i)
		if vague {
			w.mail.vague[old.Dot] = true
			continue
		}
		j, ok := after.Find(u)
		if !ok {
			continue
		}
		w.wroteOne(old, after.At(j), c, p)
	}
}

// wroteOne notes every flag that the change names, also those that were so
// before: the client has said what it wants. A message that is as it was is not
// in the journal at all.
func (w *world) wroteOne(old, changed *mailstore.Message, c mailstore.FlagsChange, p mailstore.Position) {
	if old.Flags == changed.Flags && slices.Equal(old.Keywords, changed.Keywords) {
		return
	}
	for bit := mailstore.FlagSeen; bit <= mailstore.FlagDraft; bit <<= 1 {
		if c.Flags&bit == 0 {
			continue
		}
		key := flagOf{old.Dot, bit}
		w.mail.writes[key] = append(w.mail.writes[key], write{
			set: changed.Flags&bit != 0, by: mailstore.Dot{Origin: p.Origin, Seq: p.Vector.Of(p.Origin).Seq}, knows: p.Vector,
		})
	}
}

// checkFlags holds the flags of both nodes, which are the same, against the
// writes.
func (w *world) checkFlags() {
	for dot := range w.nodes[0].seen.here {
		m := w.nodes[0].find(dot)
		if m == nil || w.mail.vague[dot] || w.letterOf(m).tried == [2]bool{true, true} {
			continue
		}
		for bit := mailstore.FlagSeen; bit <= mailstore.FlagDraft; bit <<= 1 {
			last := latest(w.mail.writes[flagOf{dot, bit}])
			if len(last) == 0 {
				continue
			}
			is := m.Flags&bit != 0
			if !slices.ContainsFunc(last, func(x write) bool { return x.set == is }) {
				w.fail("S6: flag %d of %v is %v, which every last write contradicts", bit, dot, is)
			}
			cleared := slices.ContainsFunc(last, func(x write) bool { return !x.set })
			if bit == mailstore.FlagDeleted && is && cleared {
				w.fail(`S6: \Deleted of %v is set against a concurrent clear`, dot)
			}
		}
	}
}

// latest returns the writes that no other write knew of.
func latest(all []write) []write {
	var last []write
	for i, x := range all {
		known := false
		for j, y := range all {
			known = known || i != j && y.knows.Covers(x.by) && !(x.knows.Covers(y.by) && i > j)
		}
		if !known {
			last = append(last, x)
		}
	}
	return last
}
