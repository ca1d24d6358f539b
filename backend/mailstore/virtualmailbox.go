package mailstore

import (
	"cmp"
	"context"
	"slices"
	"sync/atomic"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/backend/mailstore/text"
	"github.com/postern-mail/postern/store"
)

// Virtual is a handle on a virtual mailbox. What is done with its messages is
// done with the real ones. It is safe for concurrent use until Close.
type Virtual struct {
	box *virtualBox
	// self stands for it where only account and identity count.
	self   *Mailbox
	closed atomic.Bool
}

// Virtual opens a virtual mailbox of the account; those who open it at the same
// time mean the same by its name. It brings the indexes of all mailboxes that it
// shows into memory. The caller closes it before the account.
func (a *Account) Virtual(ctx context.Context, d *VirtualMailbox) (*Virtual, error) {
	guid := a.VirtualInfo(d).GUID
	v := &Virtual{box: a.account.openVirtual(d, guid), self: &Mailbox{box: newBox(a.account, guid)}}
	if err := v.box.refresh(ctx); err != nil {
		v.Close()
		return nil, err
	}
	return v, nil
}

// Close gives the handle back. A second call does nothing.
func (v *Virtual) Close() {
	if v.closed.CompareAndSwap(false, true) {
		v.box.close()
	}
}

// Info describes the mailbox.
func (v *Virtual) Info() MailboxInfo {
	return MailboxInfo{Name: v.box.define.Name, GUID: v.box.guid, SpecialUse: v.box.define.SpecialUse, Exists: true}
}

// View returns the mailbox as it is now, with all that was done in the account
// until then. While the store cannot be written or read it stays as it was.
func (v *Virtual) View() View {
	b := v.box
	ctx, cancel := context.WithTimeout(context.Background(), b.account.store.cfg.CommitTimeout)
	defer cancel()
	if err := b.refresh(ctx); err != nil {
		b.account.store.log.Warn("virtual mailbox cannot follow", "account", b.account.name, "mailbox", b.define.Name, "err", err)
	}
	return b.current()
}

// Changed returns a channel that is closed at the next change of the account
// after the View then current, which may be none of this mailbox.
func (v *Virtual) Changed() <-chan struct{} {
	v.box.mu.Lock()
	defer v.box.mu.Unlock()
	return v.box.changed
}

// Status is what STATUS tells.
func (v *Virtual) Status() Status {
	v.View()
	return v.box.current().status()
}

// ExpungedSince is that of Mailbox.
func (v *Virtual) ExpungedSince(modseq uint64) (uids []imap.UID, complete bool) {
	b := v.box
	ctx, cancel := context.WithTimeout(context.Background(), b.account.store.cfg.CommitTimeout)
	defer cancel()
	uids, complete, err := b.expungedSince(ctx, modseq)
	if err != nil {
		b.account.store.log.Warn("expunge log of a virtual mailbox is unreadable", "account", b.account.name, "mailbox", b.define.Name, "err", err)
		return nil, false
	}
	return uids, complete
}

// Base is that of Mailbox.
func (v *Virtual) Base(presented uint64) uint64 { return v.self.Base(presented) }

// IsForeign is that of Mailbox.
func (v *Virtual) IsForeign(presented uint64) bool { return v.self.IsForeign(presented) }

// RaiseModSeq does nothing: who comes from the partner knows another
// UIDVALIDITY.
func (v *Virtual) RaiseModSeq(context.Context, uint64) error { return nil }

// TextHints is that of Mailbox.
func (v *Virtual) TextHints(ctx context.Context, needles []text.Needle) (*TextHints, error) {
	return v.self.TextHints(ctx, needles)
}

// virtualGroup are messages that lie in one real mailbox.
type virtualGroup struct {
	mailbox *Mailbox
	shown   []imap.UID // in the virtual mailbox
	real    []imap.UID
	// places are where they stood in the caller's list.
	places []int
}

// groups finds out where messages are; those that are gone are passed over.
func (v *Virtual) groups(uids []imap.UID) []*virtualGroup {
	now := v.box.current()
	var list []*virtualGroup
	of := make(map[*virtualPart]*virtualGroup)
	for i, uid := range uids {
		m, ok := now.member(uid)
		if !ok {
			continue
		}
		g := of[m.part]
		if g == nil {
			real := now.boxes[m.part]
			if real == nil || real.current().gone {
				continue // the mailbox was deleted after the view was made
			}
			g = &virtualGroup{mailbox: &Mailbox{box: real}}
			of[m.part], list = g, append(list, g)
		}
		g.shown, g.real, g.places = append(g.shown, uid), append(g.real, m.real), append(g.places, i)
	}
	return list
}

// Whereabouts are messages that lie in one real mailbox.
type Whereabouts struct {
	Mailbox string
	UIDs    []imap.UID // there
}

// Whereabouts returns what tells where messages lie, or lay, that are in the
// mailbox now; of those that come later it knows the virtual mailbox only.
func (v *Virtual) Whereabouts() func(uids []imap.UID) []Whereabouts {
	now := v.box.current()
	return func(uids []imap.UID) (list []Whereabouts) {
		of := make(map[string]int)
		for _, uid := range uids {
			name, real := v.box.define.Name, uid
			if m, ok := now.member(uid); ok && now.boxes[m.part] != nil {
				name, real = now.boxes[m.part].current().name, m.real
			}
			k, known := of[name]
			if !known {
				k, of[name] = len(list), len(list)
				list = append(list, Whereabouts{Mailbox: name})
			}
			list[k].UIDs = append(list[k].UIDs, real)
		}
		for i := range list {
			slices.Sort(list[i].UIDs)
		}
		return list
	}
}

// shownAs returns what real UIDs are in the virtual mailbox.
func (g *virtualGroup) shownAs(real []imap.UID) []imap.UID {
	of := make(map[imap.UID]imap.UID, len(g.real))
	for i, uid := range g.real {
		of[uid] = g.shown[i]
	}
	shown := make([]imap.UID, 0, len(real))
	for _, uid := range real {
		if s, ok := of[uid]; ok {
			shown = append(shown, s)
		}
	}
	return shown
}

// StoreFlags is that of Mailbox, for each real mailbox on its own: after an error
// some may be done.
func (v *Virtual) StoreFlags(ctx context.Context, uids []imap.UID, c FlagsChange) (modified []imap.UID, err error) {
	if c.UnchangedSince != nil {
		// A message may have come here later than it was changed there.
		base, now := v.Base(*c.UnchangedSince), v.box.current()
		uids = slices.DeleteFunc(slices.Clone(uids), func(uid imap.UID) bool {
			i, ok := now.Find(uid)
			late := ok && now.At(i).ModSeq > base
			if late {
				modified = append(modified, uid)
			}
			return late
		})
	}
	for _, g := range v.groups(uids) {
		some, err := g.mailbox.StoreFlags(ctx, g.real, c)
		modified = append(modified, g.shownAs(some)...)
		if err != nil {
			return modified, err
		}
	}
	return modified, nil
}

// Expunge is that of Mailbox: the messages are gone from the real ones.
func (v *Virtual) Expunge(ctx context.Context, uids []imap.UID) (gone []imap.UID, err error) {
	if uids == nil {
		now := v.box.current()
		for i := range now.Len() {
			if m := now.At(i); m.Flags&FlagDeleted != 0 {
				uids = append(uids, m.UID)
			}
		}
	}
	for _, g := range v.groups(uids) {
		some, err := g.mailbox.Expunge(ctx, g.real)
		gone = append(gone, g.shownAs(some)...)
		if err != nil {
			slices.Sort(gone)
			return gone, err
		}
	}
	slices.Sort(gone)
	return gone, nil
}

// Copy is that of Mailbox. When it fails, what was copied is taken back.
func (v *Virtual) Copy(ctx context.Context, uids []imap.UID, dest *Mailbox) (CopyResult, error) {
	done, err := v.transfer(uids, dest, func(g *virtualGroup) (CopyResult, error) { return g.mailbox.Copy(ctx, g.real, dest) })
	if err == nil || len(done.Dest) == 0 {
		return done, err
	}
	undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), v.box.account.store.cfg.CommitTimeout)
	defer cancel()
	if _, undoErr := dest.remove(undo, sortedUIDs(done.Dest), false); undoErr != nil {
		v.box.account.store.log.Warn("copies of a COPY that failed are left", "account", dest.box.account.name, "err", undoErr)
	}
	return CopyResult{}, err
}

// Move is that of Mailbox: the messages leave the real ones. What lies in dest
// already is moved within it.
func (v *Virtual) Move(ctx context.Context, uids []imap.UID, dest *Mailbox) (CopyResult, error) {
	return v.transfer(uids, dest, func(g *virtualGroup) (CopyResult, error) { return g.mailbox.Move(ctx, g.real, dest) })
}

// transfer copies or moves from each real mailbox, and tells the pairs in the
// order of the virtual one.
func (v *Virtual) transfer(uids []imap.UID, dest *Mailbox, run func(*virtualGroup) (CopyResult, error)) (CopyResult, error) {
	type pair struct{ from, to imap.UID }
	var pairs []pair
	var failed error
	for _, g := range v.groups(uids) {
		done, err := run(g)
		for i, from := range g.shownAs(done.Source) {
			if i < len(done.Dest) {
				pairs = append(pairs, pair{from, done.Dest[i]})
			}
		}
		if err != nil {
			failed = err
			break
		}
	}
	slices.SortFunc(pairs, func(a, b pair) int { return cmp.Compare(a.from, b.from) })
	result := CopyResult{UIDValidity: dest.box.current().uidValidity}
	for _, p := range pairs {
		result.Source, result.Dest = append(result.Source, p.from), append(result.Dest, p.to)
	}
	return result, failed
}

// Replace is that of Mailbox.
func (v *Virtual) Replace(ctx context.Context, old imap.UID, dest *Mailbox, message Append) (imap.UID, error) {
	for _, g := range v.groups([]imap.UID{old}) {
		return g.mailbox.Replace(ctx, g.real[0], dest, message)
	}
	return 0, ErrNoMessage
}

// with calls fn with the real messages of a list, mailbox by mailbox.
func (v *Virtual) with(list []*Message, fn func(g *virtualGroup, real []*Message) error) error {
	uids := make([]imap.UID, len(list))
	for i, m := range list {
		uids[i] = m.UID
	}
	for _, g := range v.groups(uids) {
		real := make([]*Message, len(g.real))
		for i, uid := range g.real {
			m := *list[g.places[i]]
			m.UID = uid
			real[i] = &m
		}
		if err := fn(g, real); err != nil {
			return err
		}
	}
	return nil
}

// SomeOfMetas is that of Mailbox.
func (v *Virtual) SomeOfMetas(ctx context.Context, list []*Message, want MetaParts) ([]*Meta, error) {
	metas := make([]*Meta, len(list))
	err := v.with(list, func(g *virtualGroup, real []*Message) error {
		some, err := g.mailbox.SomeOfMetas(ctx, real, want)
		for i, meta := range some {
			metas[g.places[i]] = meta
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return metas, nil
}

// Meta is that of Mailbox.
func (v *Virtual) Meta(ctx context.Context, message *Message) (*Meta, error) {
	metas, err := v.SomeOfMetas(ctx, []*Message{message}, MetaAll)
	if err != nil {
		return nil, err
	}
	if metas[0] == nil {
		return nil, ErrNoMessage
	}
	return metas[0], nil
}

// CompletePreviews is that of Mailbox.
func (v *Virtual) CompletePreviews(ctx context.Context, list []*Message, metas []*Meta) error {
	return v.with(list, func(g *virtualGroup, real []*Message) error {
		some := make([]*Meta, len(real))
		for i, at := range g.places {
			some[i] = metas[at]
		}
		return g.mailbox.CompletePreviews(ctx, real, some)
	})
}

// Body is that of Mailbox.
func (v *Virtual) Body(ctx context.Context, message *Message) (body store.Body, err error) {
	err = ErrNoMessage
	_ = v.with([]*Message{message}, func(g *virtualGroup, real []*Message) error {
		body, err = g.mailbox.Body(ctx, real[0])
		return nil
	})
	return body, err
}

// BodyOf is that of Mailbox.
func (v *Virtual) BodyOf(ctx context.Context, message *Message, meta *Meta) (body store.Body, err error) {
	err = ErrNoMessage
	_ = v.with([]*Message{message}, func(g *virtualGroup, real []*Message) error {
		body, err = g.mailbox.BodyOf(ctx, real[0], meta)
		return nil
	})
	return body, err
}

// SortKeys tells none: keys are kept with the real mailboxes, by their UIDs.
func (v *Virtual) SortKeys(context.Context, string, imap.UID, imap.UID, func(SortKey) error) error {
	return nil
}

// KeepSortKeys keeps none.
func (v *Virtual) KeepSortKeys(context.Context, string, []SortKey) error { return nil }
