package mailstore

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/emersion/go-imap/v2"
)

// VirtualMailbox says which messages of an account's mailboxes stand together
// in one more, without being stored there.
type VirtualMailbox struct {
	Name       string
	SpecialUse imap.MailboxAttr // "" for none
	// Exclude are mailboxes whose messages are left out, and those of the
	// mailboxes below them.
	Exclude []string
	// Match picks messages by what a Message says, save UID and ModSeq; nil
	// takes all.
	Match func(*Message) bool
}

// excludes reports whether the messages of a mailbox are left out.
func (d *VirtualMailbox) excludes(name string) bool {
	return slices.ContainsFunc(d.Exclude, func(top string) bool {
		rest, ok := strings.CutPrefix(name, top)
		return ok && (rest == "" || strings.HasPrefix(rest, separator))
	})
}

// VirtualInfo describes a virtual mailbox of the account. It has an identity of
// its own, which is the same on both nodes of a pair.
func (a *Account) VirtualInfo(d *VirtualMailbox) MailboxInfo {
	return MailboxInfo{
		Name: d.Name, GUID: derive("virtual mailbox", a.account.id[:], []byte(d.Name)), SpecialUse: d.SpecialUse, Exists: true,
	}
}

// virtualBox is a virtual mailbox that somebody has open. It follows the real
// ones: whoever looks at it, after something changed in the account, has the
// leader compare them with what was shown, and give UIDs to what is new. The
// UIDs, and what went, are kept (see virtualIndex), in the same order of MODSEQs
// as all changes of the account; so its MODSEQs and expunges are as good as those
// of a real mailbox. Nothing is written for one that nobody has open.
type virtualBox struct {
	account *account
	guid    GUID
	define  *VirtualMailbox
	handles int // guarded by account.virtualMu

	// What follows is the leader's.
	index *virtualIndex // nil until it was read
	parts map[partID]*virtualPart

	// stale: something changed in the account since the view was made. reread:
	// what is in memory may differ from what is stored.
	stale, reread atomic.Bool

	mu      sync.Mutex
	view    *virtualView // nil until the first is made
	changed chan struct{}
}

// partID names a real mailbox for as long as its UIDs mean the same.
type partID struct {
	mailbox     GUID
	uidValidity uint32
}

// virtualPart is a real mailbox whose messages the virtual one has.
type virtualPart struct {
	id   partID
	box  *box // nil while it is not shown
	seen *view
	// uids are the UIDs in the virtual mailbox, by the real ones.
	uids map[imap.UID]imap.UID
}

// virtualMember is a message of a virtual mailbox.
type virtualMember struct {
	uid    imap.UID
	part   *virtualPart
	real   imap.UID
	joined uint64 // the MODSEQ of its coming
}

// virtualView is the virtual mailbox at one MODSEQ. It never changes.
type virtualView struct {
	*view
	members []virtualMember // of the messages, by UID
	// boxes are the real mailboxes of the parts.
	boxes map[*virtualPart]*box
}

func (v *virtualView) member(uid imap.UID) (virtualMember, bool) {
	at, ok := slices.BinarySearchFunc(v.members, uid, func(m virtualMember, uid imap.UID) int { return cmp.Compare(m.uid, uid) })
	if !ok {
		return virtualMember{}, false
	}
	return v.members[at], true
}

// wakeVirtual tells the virtual mailboxes that something changed.
func (a *account) wakeVirtual(reread bool) {
	list := a.virtual.Load()
	if list == nil {
		return
	}
	for _, b := range *list {
		if reread {
			b.reread.Store(true)
		}
		b.stale.Store(true)
		b.mu.Lock()
		close(b.changed)
		b.changed = make(chan struct{})
		b.mu.Unlock()
	}
}

// openVirtual returns the box of a virtual mailbox with one more handle on it.
func (a *account) openVirtual(d *VirtualMailbox, guid GUID) *virtualBox {
	a.virtualMu.Lock()
	defer a.virtualMu.Unlock()
	var list []*virtualBox
	if have := a.virtual.Load(); have != nil {
		list = *have
	}
	for i, b := range list {
		if b.guid != guid {
			continue
		}
		if b.handles > 0 || b.define == d {
			if b.handles == 0 {
				b.stale.Store(true) // it has to take hold of the real mailboxes
			}
			b.handles++
			return b
		}
		list = slices.Delete(slices.Clone(list), i, i+1) // of another configuration
		break
	}
	b := &virtualBox{account: a, guid: guid, define: d, handles: 1, parts: make(map[partID]*virtualPart), changed: make(chan struct{})}
	b.stale.Store(true)
	list = append(slices.Clip(list), b)
	a.virtual.Store(&list)
	return b
}

// close gives a handle back. With the last the box lets go of the real
// mailboxes; unless it is large, it stays in memory for the next, as they do.
func (b *virtualBox) close() {
	a := b.account
	a.virtualMu.Lock()
	defer a.virtualMu.Unlock()
	if b.handles--; b.handles > 0 {
		return
	}
	for _, p := range b.parts {
		p.release()
	}
	if now := b.current(); now != nil && now.Len() <= maxIdleLoaded {
		return
	}
	list := slices.DeleteFunc(slices.Clone(*a.virtual.Load()), func(o *virtualBox) bool { return o == b })
	if a.virtual.Store(&list); len(list) == 0 {
		a.virtual.Store(nil)
	}
}

// release ends the use of the real mailbox.
func (p *virtualPart) release() {
	if p.box != nil {
		p.box.drop()
		p.box = nil
	}
}

func (b *virtualBox) current() *virtualView {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.view
}

// refresh brings the view up to what the account shows.
func (b *virtualBox) refresh(ctx context.Context) error {
	for more := b.stale.Load() || b.current() == nil; more; {
		err := b.account.changeAlone(ctx, func(t *txn) (err error) {
			b.stale.Store(false)
			more, err = b.follow(t)
			return err
		})
		if err != nil || more {
			b.stale.Store(true)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// follow makes one step of a commit: all that changed, or as much as the commit
// holds. Nothing in memory changes but what it has read, until it is published.
func (b *virtualBox) follow(t *txn) (more bool, err error) {
	if b.reread.Load() || b.index == nil {
		if err = b.readIndex(t); err != nil {
			return false, err
		}
		b.reread.Store(false)
	}
	if b.index.uidNext > maxVirtualUID {
		b.resetIndex(t)
	}
	if err := b.include(t); err != nil {
		return false, err
	}
	s := b.compare()
	if more, err = b.store(t, s); err != nil {
		return false, err
	}
	if !more {
		b.show(s)
	}
	t.after = append(t.after, func() { b.install(s) })
	return more, nil
}

// include finds the mailboxes that are shown, and brings their indexes into
// memory.
func (b *virtualBox) include(t *txn) error {
	shown := make(map[partID]bool)
	for _, real := range b.account.boxes {
		v := real.current()
		if v.gone || v.removed || v.name == "" || b.define.excludes(v.name) {
			continue
		}
		id := partID{v.guid, v.uidValidity}
		p := b.part(id)
		if p.box == nil {
			real.hold()
			p.box = real
		}
		if shown[id] = true; v.loaded {
			continue
		}
		if err := t.loadBox(real); err != nil {
			return err
		}
	}
	for id, p := range b.parts {
		if !shown[id] {
			p.release()
			p.seen = nil
		}
	}
	return nil
}

func (b *virtualBox) part(id partID) *virtualPart {
	p := b.parts[id]
	if p == nil {
		p = &virtualPart{id: id, uids: make(map[imap.UID]imap.UID)}
		b.parts[id] = p
	}
	return p
}

// virtualStep is the difference between what a virtual mailbox shows and what
// it should show.
type virtualStep struct {
	seen    map[*virtualPart]*view
	removed []imap.UID // of the virtual mailbox, ascending
	fresh   []virtualFresh
	changed []virtualChange

	index *virtualIndex // with as much of it as the commit holds
	added []virtualMember
	view  *virtualView // nil while there is more to do
	same  bool         // as the view before, if that was of this index
}

// virtualFresh is a message that is to be given a UID.
type virtualFresh struct {
	part    *virtualPart
	message *Message
}

// virtualChange is a message of the virtual mailbox that is another now.
type virtualChange struct {
	uid     imap.UID
	message *Message // the real one
}

// compare looks at every mailbox that changed.
func (b *virtualBox) compare() *virtualStep {
	s := &virtualStep{seen: make(map[*virtualPart]*view)}
	for _, p := range b.parts {
		if p.box == nil {
			s.removed = slices.AppendSeq(s.removed, maps.Values(p.uids))
			continue
		}
		now := p.box.current()
		if s.seen[p] = now; now == p.seen {
			continue
		}
		before := &messages{}
		if p.seen != nil {
			before = &p.seen.list
		} else {
			for real, uid := range p.uids {
				if _, ok := now.list.find(real); !ok {
					s.removed = append(s.removed, uid)
				}
			}
		}
		b.comparePart(s, p, before, &now.list)
	}
	slices.Sort(s.removed)
	slices.SortFunc(s.changed, func(a, b virtualChange) int { return cmp.Compare(a.uid, b.uid) })
	slices.SortFunc(s.fresh, func(a, b virtualFresh) int {
		return cmp.Or(a.message.InternalDate.Compare(b.message.InternalDate), compareDots(a.message.Dot, b.message.Dot))
	})
	return s
}

// comparePart walks two states of a real mailbox.
func (b *virtualBox) comparePart(s *virtualStep, p *virtualPart, before, now *messages) {
	i, n := 0, before.len()
	gone := func(m *Message) {
		if uid, ok := p.uids[m.UID]; ok {
			s.removed = append(s.removed, uid)
		}
	}
	for k := range now.len() {
		m := now.at(k)
		for i < n && before.at(i).UID < m.UID {
			gone(before.at(i))
			i++
		}
		if i < n && before.at(i).UID == m.UID {
			if i++; before.at(i-1) == m {
				continue
			}
		}
		uid, member := p.uids[m.UID]
		switch match := b.define.Match == nil || b.define.Match(m); {
		case member && match:
			s.changed = append(s.changed, virtualChange{uid, m})
		case member:
			s.removed = append(s.removed, uid)
		case match:
			s.fresh = append(s.fresh, virtualFresh{p, m})
		}
	}
	for ; i < n; i++ {
		gone(before.at(i))
	}
}

// show makes the view of a step that is whole.
func (b *virtualBox) show(s *virtualStep) {
	x := s.index
	next := &view{guid: b.guid, loaded: true}
	if old := b.current(); old != nil && old.uidValidity == x.uidValidity {
		*next = *old.view
	}
	known := next.uidNext
	next.name, next.use = b.define.Name, b.define.SpecialUse
	next.uidNext, next.uidValidity, next.modseq = x.uidNext, x.uidValidity, x.modseq
	for _, v := range s.seen {
		next.modseq = max(next.modseq, v.modseq)
	}
	var delta map[string]keyword
	var gone []imap.UID
	if len(s.removed) > 0 || x.unshown {
		gone = x.missing(&next.list)
	}
	for _, uid := range gone {
		i, _ := next.list.find(uid)
		next.count(next.list.at(i), -1)
		delta = addKeywords(delta, next.list.at(i).Keywords, -1)
	}
	next.list.remove(gone)
	var changed []flagged
	for _, c := range s.changed {
		i, ok := next.list.find(c.uid)
		if !ok {
			continue // it is appended below
		}
		member := &x.members[x.at(c.uid)]
		old, m := next.list.at(i), member.show(c.message)
		next.countFlags(old, -1)
		next.countFlags(m, 1)
		delta = addKeywords(addKeywords(delta, old.Keywords, -1), m.Keywords, 1)
		changed = append(changed, flagged{old, m})
	}
	next.list.replace(changed)
	from, _ := slices.BinarySearchFunc(x.members, known, func(m virtualMember, uid imap.UID) int { return cmp.Compare(m.uid, uid) })
	slab := make([]Message, 0, len(x.members)-from)
	for _, member := range x.members[from:] {
		real := &s.seen[member.part].list
		i, _ := real.find(member.real)
		slab = append(slab, *member.show(real.at(i)))
		m := &slab[len(slab)-1]
		next.count(m, 1)
		delta = addKeywords(delta, m.Keywords, 1)
		next.list.append(m)
	}
	next.countKeywords(delta)
	s.view = &virtualView{view: next, members: x.members, boxes: make(map[*virtualPart]*box, len(s.seen))}
	for p := range s.seen {
		s.view.boxes[p] = p.box
	}
	s.same = len(s.removed)+len(s.added)+len(s.changed) == 0 && !x.unshown
	x.unshown = false
}

// show returns a real message as it is in the virtual mailbox.
func (m *virtualMember) show(real *Message) *Message {
	out := *real
	out.UID, out.ModSeq = m.uid, max(real.ModSeq, m.joined)
	return &out
}

// install takes over a step whose commit is done.
func (b *virtualBox) install(s *virtualStep) {
	for _, uid := range s.removed {
		if k := b.index.at(uid); k < len(b.index.members) && b.index.members[k].uid == uid {
			delete(b.index.members[k].part.uids, b.index.members[k].real)
		}
	}
	b.index = s.index
	for _, m := range s.added {
		m.part.uids[m.real] = m.uid
	}
	if s.view == nil {
		return
	}
	for id, p := range b.parts {
		if p.seen = s.seen[p]; p.box == nil && len(p.uids) == 0 {
			delete(b.parts, id)
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.view != nil && b.view.uidValidity == s.view.uidValidity && s.same {
		return
	}
	b.view = s.view
}
