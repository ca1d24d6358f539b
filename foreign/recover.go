package foreign

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/postern-mail/postern/foreign/imap"
)

// lateKept is how long an intent that was not found is remembered: a server may
// finish an APPEND long after the agent that asked for it was killed.
const lateKept = 24 * time.Hour

// recover finds out what became of intents that a former session left.
func (w *worker) recover(ctx context.Context) error {
	open, err := load[intent](ctx, w.book, keyIntent)
	if err != nil {
		return err
	}
	e := w.book.write()
	open = slices.DeleteFunc(open, func(in *intent) bool {
		if w.boxes[in.Mailbox] == nil || in.Late && time.Since(in.At) > lateKept {
			e.intendsNoMore(in.ID)
			return true
		}
		return in.Late
	})
	if err := e.commit(ctx); err != nil || len(open) == 0 {
		return err
	}
	newest := slices.MaxFunc(open, func(a, b *intent) int { return a.At.Compare(b.At) })
	if rest := w.cfg.Settle - time.Since(newest.At); rest > 0 {
		if err := sleep(ctx, min(rest, w.cfg.Settle)); err != nil {
			return err
		}
	}
	w.log.Info("looking for what a former session appended", "messages", len(open))
	return w.settle(ctx, open)
}

// settle looks on the servers for what intents made. What is not found is late:
// the message is copied once more, and should the first copy still come, it is
// known by its keyword.
func (w *worker) settle(ctx context.Context, open []*intent) error {
	type place struct {
		box    uint64
		to     Side
		copies bool
	}
	groups := make(map[place][]*intent)
	for _, in := range open {
		at := place{in.Mailbox, in.To, in.Copy}
		groups[at] = append(groups[at], in)
	}
	for at, group := range groups {
		err := w.settleIn(ctx, w.boxes[at.box], at.to, group)
		if _, refused := imap.Refused(err); refused {
			err = w.drop(ctx, group) // the mailbox is gone; so is what was appended
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (w *worker) drop(ctx context.Context, group []*intent) error {
	e := w.book.write()
	for _, in := range group {
		e.intendsNoMore(in.ID)
	}
	return e.commit(ctx)
}

func (w *worker) settleIn(ctx context.Context, m *mailbox, to Side, group []*intent) error {
	sel, err := w.links[to].open(ctx, m.Raw[to], nil)
	if err != nil {
		return err
	}
	if !m.Paired || sel.UIDValidity != group[0].BoxID {
		return w.drop(ctx, group) // the mailbox is compared as a whole
	}
	candidates, err := w.candidates(ctx, m, to, group)
	if err != nil {
		return err
	}
	e := w.book.write()
	var marked []uint32
	copies := make(map[uint32][]string)
	for _, in := range group {
		at := slices.IndexFunc(candidates, func(c imap.Message) bool { return in.made(c) })
		if at < 0 {
			in.Late = true
			if e.intends(in); !in.Marked {
				e.intendsNoMore(in.ID)
			}
			continue
		}
		c := candidates[at]
		candidates = slices.Delete(candidates, at, at+1)
		p := in.pair(c.UID)
		if p.id[to] == "" {
			p.id[to] = c.ID
		}
		e.paired(m.ID, p, in.ID)
		if in.Marked {
			marked = append(marked, c.UID)
		}
		if in.Copy {
			copies[c.UID] = in.Flags
		}
	}
	err = w.alignCopies(ctx, m.Raw[to], to, copies)
	if _, refused := imap.Refused(err); err != nil && !refused {
		return err
	}
	if err := e.commit(ctx); err != nil {
		return err
	}
	return w.unmark(ctx, m.Raw[to], to, marked)
}

// candidates are the messages that intents may have made and that the state does
// not know. Those with the keyword that it knows lose it.
func (w *worker) candidates(ctx context.Context, m *mailbox, to Side, group []*intent) ([]imap.Message, error) {
	first := group[0].First
	for _, in := range group {
		first = min(first, in.First)
	}
	set := fmt.Sprintf("%d:*", first)
	if group[0].Marked {
		uids, err := w.links[to].Search(ctx, pendingKeyword, first)
		if err != nil {
			return nil, on(to, fmt.Errorf("SEARCH: %w", err))
		}
		if len(uids) == 0 {
			return nil, nil
		}
		set = imap.SetOf(uids).String()
	}
	var all []imap.Message
	var uids []uint32
	err := w.links[to].Fetch(ctx, set, func(c imap.Message) error {
		if c.Date != "" && c.UID >= first && !slices.Contains(uids, c.UID) {
			all, uids = append(all, c), append(uids, c.UID)
		}
		return nil
	})
	if err != nil {
		return nil, on(to, fmt.Errorf("FETCH: %w", err))
	}
	known, err := w.book.find(ctx, m.ID, to, uids)
	if err != nil {
		return nil, err
	}
	var marked []uint32
	all = slices.DeleteFunc(all, func(c imap.Message) bool {
		_, found := known[c.UID]
		if found && slices.Contains(c.Flags, pendingKeyword) {
			marked = append(marked, c.UID)
		}
		return found
	})
	return all, w.unmark(ctx, m.Raw[to], to, marked)
}

// made reports whether a message can be what the intent asked for.
func (in *intent) made(c imap.Message) bool {
	if in.Copy {
		return in.DstID != "" && c.ID == in.DstID
	}
	return c.UID >= in.First && printOf(c) == in.Print
}

// straggler deals with a message that has our keyword and is not in the state:
// an APPEND that came through after it was given up, or that a lost state knew
// of. The first is our own doing and is taken back, the second is somebody's
// mail.
func (w *worker) straggler(ctx context.Context, v *view, s Side, c imap.Message) error {
	var found *imap.Message
	err := w.links[s].Fetch(ctx, fmt.Sprint(c.UID), func(m imap.Message) error {
		if m.UID == c.UID && m.Date != "" {
			found = &m
		}
		return nil
	})
	if err != nil || found == nil {
		return on(s, err)
	}
	all, err := load[intent](ctx, w.book, keyIntent)
	if err != nil {
		return err
	}
	at := slices.IndexFunc(all, func(in *intent) bool {
		return in.Late && in.Mailbox == v.m.ID && in.To == s && in.BoxID == v.sel[s].UIDValidity && in.made(*found)
	})
	if at < 0 {
		v.fresh[s] = append(v.fresh[s], c.UID)
		return w.unmark(ctx, v.m.Raw[s], s, []uint32{c.UID})
	}
	in := all[at]
	pairs, err := w.book.find(ctx, v.m.ID, s.Other(), []uint32{in.UID})
	if err != nil {
		return err
	}
	e := w.book.write()
	if _, again := pairs[in.UID]; again {
		w.log.Info("a copy came through after it was made once more: taken back", "mailbox", v.m.Name, "side", s, "uid", c.UID)
		if err := w.remove(ctx, s, imap.SetOf([]uint32{c.UID})); err != nil {
			return err
		}
		e.intendsNoMore(in.ID)
		return e.commit(ctx)
	}
	p := in.pair(c.UID)
	p.id[s] = c.ID
	e.paired(v.m.ID, p, in.ID)
	if err := e.commit(ctx); err != nil {
		return err
	}
	v.unfinished = true
	return w.unmark(ctx, v.m.Raw[s], s, []uint32{c.UID})
}

// remove expunges messages of the selected mailbox.
func (w *worker) remove(ctx context.Context, s Side, set imap.Set) error {
	if _, err := w.links[s].Store(ctx, set, 0, true, []string{`\Deleted`}); err != nil {
		return on(s, fmt.Errorf("STORE: %w", err))
	}
	w.step("expunge")
	return on(s, w.links[s].Expunge(ctx, set))
}
