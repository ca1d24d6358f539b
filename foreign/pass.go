package foreign

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/postern-mail/postern/foreign/imap"
)

// view is what a pass sees of one mailbox.
type view struct {
	m       *mailbox
	sel     [2]*imap.Selected
	fresh   [2][]uint32 // not on the other side yet
	changed []meeting
	gone    [2][]pair // said to be gone by this side, and there on the other
	both    []pair    // gone on both sides
	// unfinished keeps the position where it is: something was not done.
	unfinished bool
}

// meeting is a pair of which a side told flags; nil for the other.
type meeting struct {
	pair
	flags [2][]string
	told  [2]bool
}

// froms are the sides from which changes go to the other.
func (w *worker) froms() []Side {
	if w.cfg.Direction == LeftToRight {
		return []Side{Left}
	}
	return sides[:]
}

// pass looks at what may have changed and brings it over. again is true when
// something was left to be done at once.
func (w *worker) pass(ctx context.Context) (again bool, err error) {
	w.full = [2]bool{}
	// What is held back is held as long as it is gone, and a pass that looks
	// elsewhere alone would not see that.
	w.all = w.all || w.report.held() > 0
	var doomed []doomed
	if w.all {
		w.all = false
		if doomed, err = w.lists(ctx); err != nil {
			w.all = true
			return false, err
		}
		w.lastFull = time.Now()
	}
	todo := w.todo()
	w.dirty = make(map[uint64]bool)
	w.seen = make(map[uint64][2]imap.Status)
	var views []*view
	for _, m := range todo {
		v, err := w.visit(ctx, m)
		if err != nil {
			w.all = true
			return false, err
		}
		if v != nil {
			views = append(views, v)
		}
	}
	if again, err = w.conclude(ctx, views, doomed); err != nil {
		w.all = true
	}
	return again || w.all, err
}

// todo lists the mailboxes to look at, INBOX first.
func (w *worker) todo() []*mailbox {
	var todo []*mailbox
	for id := range w.dirty {
		if m := w.boxes[id]; m != nil {
			todo = append(todo, m)
		}
	}
	slices.SortFunc(todo, func(a, b *mailbox) int {
		if (a.Name == "INBOX") != (b.Name == "INBOX") {
			if a.Name == "INBOX" {
				return -1
			}
			return 1
		}
		return cmp.Compare(a.Name, b.Name)
	})
	return todo
}

// visit does all in a mailbox but the removing. What a server refuses is noted
// with the mailbox; others go on.
func (w *worker) visit(ctx context.Context, m *mailbox) (*view, error) {
	v, err := w.look(ctx, m)
	if err == nil {
		err = w.mergeFlags(ctx, v)
	}
	for _, from := range w.froms() {
		if err == nil {
			err = w.bring(ctx, v, from)
		}
	}
	if _, refused := imap.Refused(err); refused {
		w.count.refused.Inc()
		w.log.Debug("refused", "mailbox", m.Name, "err", err)
		return nil, w.trouble(ctx, m, err.Error())
	}
	return v, err
}

// look asks both sides what happened in a mailbox.
func (w *worker) look(ctx context.Context, m *mailbox) (*view, error) {
	for attempt := 0; ; attempt++ {
		if !m.Paired {
			if err := w.compare(ctx, m); err != nil {
				return nil, err
			}
		}
		v := &view{m: m}
		same := true
		for _, s := range sides {
			var since *imap.Position
			if s == Left || w.cfg.Direction == Both {
				since = &imap.Position{UIDValidity: m.Validity[s], ModSeq: m.ModSeq[s]}
			}
			sel, err := w.links[s].open(ctx, m.Raw[s], since)
			if err != nil {
				return nil, err
			}
			v.sel[s] = sel
			if sel.UIDValidity != m.Validity[s] {
				same = false
				w.log.Warn("UIDVALIDITY is another one: the mailbox is compared as a whole, nothing is removed", "mailbox", m.Name, "side", s, "was", m.Validity[s], "is", sel.UIDValidity)
				w.event("uidvalidity-changed", m.Name, fmt.Sprintf("%s: %d became %d", s, m.Validity[s], sel.UIDValidity))
			}
		}
		if same {
			w.saw(v)
			return v, w.sort(ctx, v)
		}
		m.Paired = false
		if attempt == 2 {
			return nil, &imap.Error{Status: "NO", Text: "UIDVALIDITY changes each time the mailbox is selected"}
		}
	}
}

func (w *worker) saw(v *view) {
	var was [2]imap.Status
	for _, s := range sides {
		was[s] = imap.Status{UIDValidity: v.sel[s].UIDValidity, UIDNext: v.sel[s].UIDNext, ModSeq: v.sel[s].ModSeq}
	}
	w.seen[v.m.ID] = was
}

// sort files what the sides told.
func (w *worker) sort(ctx context.Context, v *view) error {
	met := make(map[uint32]*meeting) // by UID on the left
	for _, s := range w.froms() {
		if err := w.sortSide(ctx, v, s, met); err != nil {
			return err
		}
	}
	left := make(map[uint32]bool)
	for _, p := range v.gone[Left] {
		left[p.uid[Left]] = true
	}
	// What is gone on both sides needs nothing but to be forgotten.
	v.gone[Right] = slices.DeleteFunc(v.gone[Right], func(p pair) bool {
		if left[p.uid[Left]] {
			v.both = append(v.both, p)
			return true
		}
		return false
	})
	for _, p := range v.both {
		v.gone[Left] = slices.DeleteFunc(v.gone[Left], func(q pair) bool { return q.uid == p.uid })
	}
	for _, s := range sides {
		for _, p := range v.gone[s] {
			delete(met, p.uid[Left])
		}
	}
	for _, m := range met {
		v.changed = append(v.changed, *m)
	}
	slices.SortFunc(v.changed, func(a, b meeting) int { return cmp.Compare(a.uid[Left], b.uid[Left]) })
	return nil
}

func (w *worker) sortSide(ctx context.Context, v *view, s Side, met map[uint32]*meeting) error {
	sel := v.sel[s]
	uids := make([]uint32, len(sel.Changed))
	for i, c := range sel.Changed {
		uids[i] = c.UID
	}
	pairs, err := w.book.find(ctx, v.m.ID, s, uids)
	if err != nil {
		return err
	}
	waits, err := w.book.waitings(ctx, v.m.ID, s)
	if err != nil {
		return err
	}
	var marked []uint32
	for _, c := range sel.Changed {
		p, paired := pairs[c.UID]
		if paired && slices.Contains(c.Flags, pendingKeyword) {
			marked = append(marked, c.UID) // a session ended before it took that back
		}
		_, held := waits[c.UID]
		switch {
		case sel.Vanished.Contains(c.UID) || held:
		case !paired && slices.Contains(c.Flags, pendingKeyword):
			if err := w.straggler(ctx, v, s, c); err != nil {
				return err
			}
		case !paired:
			v.fresh[s] = append(v.fresh[s], c.UID)
		default:
			m := met[p.uid[Left]]
			if m == nil {
				m = &meeting{pair: p}
				met[p.uid[Left]] = m
			}
			m.flags[s], m.told[s] = c.Flags, true
		}
	}
	e := w.book.write()
	for uid, wait := range waits {
		switch {
		case sel.Vanished.Contains(uid):
			e.waitsNoMore(v.m.ID, s, uid)
		case !time.Now().Before(wait.Next):
			v.fresh[s] = append(v.fresh[s], uid)
		}
	}
	slices.Sort(v.fresh[s])
	if err := e.commit(ctx); err != nil {
		return err
	}
	if err := w.unmark(ctx, v.m.Raw[s], s, marked); err != nil {
		return err
	}
	v.gone[s], err = w.book.within(ctx, v.m.ID, s, sel.Vanished)
	return err
}

// mergeFlags brings flags together.
func (w *worker) mergeFlags(ctx context.Context, v *view) error {
	keeps := [2]func(string) bool{v.sel[Left].Keeps, v.sel[Right].Keeps}
	todo := [2]*stores{{}, {}}
	var settled []pair
	for i := range v.changed {
		m := &v.changed[i]
		for _, s := range sides {
			if !m.told[s] {
				m.flags[s] = m.agreed // it did not change there
			}
		}
		agreed, changes := merge(m.agreed, m.flags, keeps)
		if slices.Equal(agreed, m.agreed) && changes[Left].none() && changes[Right].none() {
			continue
		}
		for _, s := range sides {
			todo[s].add(changes[s], m.uid[s])
		}
		m.agreed = agreed
		settled = append(settled, m.pair)
	}
	failed := make(map[uint32]bool) // by UID on the left
	for _, s := range sides {
		if s == Left && w.cfg.Direction == LeftToRight {
			continue
		}
		modified, err := w.store(ctx, v.sel[s], todo[s], s)
		if err != nil {
			return err
		}
		for _, p := range settled {
			if modified.Contains(p.uid[s]) {
				failed[p.uid[Left]] = true
			}
		}
	}
	e := w.book.write()
	for _, p := range settled {
		if failed[p.uid[Left]] {
			v.unfinished = true // it changed meanwhile: merged anew
			continue
		}
		e.agreed(v.m.ID, p)
	}
	w.step("flags")
	return e.commit(ctx)
}

// stores collects messages that need the same changes.
type stores struct {
	order []string
	by    map[string]*storing
}

type storing struct {
	change
	uids []uint32
}

func (s *stores) add(c change, uid uint32) {
	if c.none() {
		return
	}
	if s.by == nil {
		s.by = make(map[string]*storing)
	}
	key := strings.Join(c.add, " ") + "\x00" + strings.Join(c.remove, " ")
	if s.by[key] == nil {
		s.by[key] = &storing{change: c}
		s.order = append(s.order, key)
	}
	s.by[key].uids = append(s.by[key].uids, uid)
}

// chunk is how many UIDs one command names.
const chunk = 500

// store changes flags but where a message changed after it was looked at.
func (w *worker) store(ctx context.Context, sel *imap.Selected, todo *stores, s Side) (modified imap.Set, err error) {
	for _, key := range todo.order {
		t := todo.by[key]
		for uids := range slices.Chunk(t.uids, chunk) {
			set, since := imap.SetOf(uids), sel.ModSeq
			for _, change := range []struct {
				add   bool
				flags []string
			}{{true, t.add}, {false, t.remove}} {
				if len(change.flags) == 0 || len(set) == 0 {
					continue
				}
				w.step("store")
				late, err := w.links[s].Store(ctx, set, since, change.add, change.flags)
				if err != nil {
					return nil, on(s, fmt.Errorf("STORE: %w", err))
				}
				w.count.flags.WithLabelValues(s.String()).Add(float64(len(uids)))
				modified = append(modified, late...)
				uids = slices.DeleteFunc(slices.Clone(uids), late.Contains)
				set, since = imap.SetOf(uids), 0 // our own change is newer than what was looked at
			}
		}
	}
	return modified.Sorted(), nil
}

// compare pairs the messages of a mailbox by what they are.
func (w *worker) compare(ctx context.Context, m *mailbox) error {
	w.report.phase(StatePairing)
	defer w.report.phase(StateSyncing)
	var faces [2][]face
	var sel [2]*imap.Selected
	var err error
	for _, s := range sides {
		if sel[s], err = w.links[s].open(ctx, m.Raw[s], nil); err != nil {
			return err
		}
		if sel[s].ModSeq == 0 {
			return &imap.Error{Status: "NO", Text: s.String() + ": the mailbox keeps no MODSEQ (NOMODSEQ), so what changes in it cannot be told"}
		}
		if faces[s], err = w.faces(ctx, s, "1:*"); err != nil {
			return err
		}
	}
	w.step("compared")
	pairs, alone := match(faces[Left], faces[Right])
	e := w.book.write()
	e.forget(m.ID, false)
	keeps := [2]func(string) bool{sel[Left].Keeps, sel[Right].Keeps}
	todo := [2]*stores{{}, {}}
	for _, ij := range pairs {
		l, r := faces[Left][ij[0]], faces[Right][ij[1]]
		p := pair{uid: [2]uint32{l.uid, r.uid}, id: [2]string{l.id, r.id}, print: l.exact}
		flags := [2][]string{l.flags, r.flags}
		agreed, changes := merge(firstBase(flags), flags, keeps)
		if p.agreed = agreed; w.cfg.Direction == LeftToRight {
			p.agreed, changes[Left] = slices.DeleteFunc(slices.Clone(l.flags), func(f string) bool {
				return !keeps[Right](f) && !slices.Contains(r.flags, f)
			}), change{}
		}
		for _, s := range sides {
			todo[s].add(changes[s], p.uid[s])
		}
		e.paired(m.ID, p, 0)
	}
	for _, s := range sides {
		for _, i := range alone[s] {
			e.waits(m.ID, s, faces[s][i].uid, waiting{Reason: "first copy"}, 0)
		}
		m.Validity[s], m.Next[s], m.ModSeq[s] = sel[s].UIDValidity, sel[s].UIDNext, sel[s].ModSeq
	}
	if err := e.commit(ctx); err != nil {
		return err
	}
	// Cut short before this, the flags are merged by comparing once more.
	for _, s := range sides {
		modified, err := w.store(ctx, sel[s], todo[s], s)
		if err != nil {
			return err
		}
		if len(modified) > 0 {
			w.all = true
			return &imap.Error{Status: "NO", Text: "flags changed while the sides were compared: compared once more"}
		}
	}
	m.Paired = true
	m.Pairings++
	e = w.book.write()
	e.mailbox(m)
	w.event("paired", m.Name, fmt.Sprintf("%d on both sides, %d only left, %d only right", len(pairs), len(alone[Left]), len(alone[Right])))
	return e.commit(ctx)
}

// faces reads what messages are matched by.
func (w *worker) faces(ctx context.Context, s Side, set string) ([]face, error) {
	var all []face
	seen := make(map[uint32]bool)
	err := w.links[s].Fetch(ctx, set, func(m imap.Message) error {
		if m.Date != "" && !seen[m.UID] {
			seen[m.UID] = true
			all = append(all, faceOf(m))
		}
		return nil
	})
	slices.SortFunc(all, func(a, b face) int { return cmp.Compare(a.uid, b.uid) })
	return all, on(s, err)
}
