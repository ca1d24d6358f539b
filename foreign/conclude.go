package foreign

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/postern-mail/postern/foreign/imap"
)

// doomed is a mailbox that one side said is gone.
type doomed struct {
	m     *mailbox
	gone  Side
	count int // of messages on both sides
}

// conclude removes what is gone, if that is not too much, and moves positions.
func (w *worker) conclude(ctx context.Context, views []*view, dooms []doomed) (again bool, err error) {
	removals := 0
	for _, v := range views {
		removals += len(v.gone[Left]) + len(v.gone[Right])
	}
	for _, d := range dooms {
		removals += d.count
	}
	allowed, err := w.allowed(ctx, removals)
	if err != nil {
		return false, err
	}
	if !allowed {
		w.hold(removals)
	} else {
		w.report.holds(0)
	}
	restore := w.record.Restore && removals > 0 && allowed
	for _, v := range views {
		if len(v.gone[Left])+len(v.gone[Right]) > 0 {
			switch {
			case !allowed:
				v.unfinished = true
			case restore:
				err = w.restore(ctx, v)
			default:
				err = w.expunge(ctx, v)
			}
		}
		if err == nil {
			err = w.advance(ctx, v)
		}
		if _, refused := imap.Refused(err); refused {
			err = w.trouble(ctx, v.m, err.Error())
		}
		if err != nil {
			return false, err
		}
		again = again || v.unfinished && allowed
	}
	for _, d := range dooms {
		if !allowed {
			continue
		}
		err := w.removeMailbox(ctx, d, restore)
		if _, refused := imap.Refused(err); refused {
			err = w.trouble(ctx, d.m, err.Error())
		}
		if err != nil {
			return false, err
		}
		again = true // another look at the list shows what stayed
		w.all = true
	}
	if allowed && (w.record.Confirmed > 0 || w.record.Restore) && removals > 0 {
		w.record.Confirmed, w.record.Restore = 0, false
		e := w.book.write()
		e.account(w.record)
		err = e.commit(ctx)
	}
	return again, err
}

// allowed is the guard: whether so much may be removed unasked.
func (w *worker) allowed(ctx context.Context, removals int) (bool, error) {
	if removals <= w.cfg.MinDeletions || removals <= w.record.Confirmed {
		return true, nil
	}
	var total int64
	for _, m := range w.boxes {
		n, err := w.book.count(ctx, m.ID)
		if err != nil {
			return false, err
		}
		total += n
	}
	return int64(removals)*100 <= total*int64(max(w.cfg.MaxDeletions, 0)), nil
}

func (w *worker) hold(removals int) {
	if w.report.holds(removals) {
		w.log.Error("too much is gone on one side: nothing is removed on the other until it is confirmed", "messages", removals)
		w.event("held", "", fmt.Sprintf("%d messages would be removed", removals))
	}
}

// expunge removes on each side what the other said is gone.
func (w *worker) expunge(ctx context.Context, v *view) error {
	for _, gone := range w.froms() {
		s := gone.Other()
		for pairs := range slices.Chunk(v.gone[gone], chunk) {
			sel, err := w.links[s].use(ctx, v.m.Raw[s])
			if err != nil {
				return err
			}
			if sel.UIDValidity != v.m.Validity[s] {
				v.unfinished = true
				return nil
			}
			uids := make([]uint32, len(pairs))
			for i, p := range pairs {
				uids[i] = p.uid[s]
			}
			if err := w.remove(ctx, s, imap.SetOf(uids)); err != nil {
				return err
			}
			w.step("expunged")
			if err := w.forgetPairs(ctx, v.m, pairs); err != nil {
				return err
			}
			w.count.expunged.WithLabelValues(s.String()).Add(float64(len(pairs)))
		}
	}
	return nil
}

func (w *worker) forgetPairs(ctx context.Context, m *mailbox, pairs []pair) error {
	e := w.book.write()
	for _, p := range pairs {
		e.parted(m.ID, p, nil, "")
	}
	return e.commit(ctx)
}

// restore lets what is gone on one side come back from the other.
func (w *worker) restore(ctx context.Context, v *view) error {
	e := w.book.write()
	for _, gone := range sides {
		stays := gone.Other()
		for _, p := range v.gone[gone] {
			e.parted(v.m.ID, p, &stays, "restored")
		}
	}
	w.event("restored", v.m.Name, fmt.Sprintf("%d gone left, %d gone right", len(v.gone[Left]), len(v.gone[Right])))
	w.all = true
	return e.commit(ctx)
}

// advance moves the position of a mailbox of which all is done.
func (w *worker) advance(ctx context.Context, v *view) error {
	if err := w.forgetPairs(ctx, v.m, v.both); err != nil {
		return err
	}
	if v.unfinished {
		return nil
	}
	m := v.m
	moved := m.Trouble != ""
	for _, s := range w.froms() {
		sel := v.sel[s]
		if m.ModSeq[s] != sel.ModSeq || m.Next[s] != sel.UIDNext {
			m.ModSeq[s], m.Next[s], moved = sel.ModSeq, sel.UIDNext, true
		}
	}
	m.InStep = time.Now()
	if !moved {
		return nil
	}
	if m.Trouble != "" {
		w.log.Info("mailbox", "mailbox", m.Name, "trouble", "over")
	}
	m.Trouble, m.Since = "", time.Time{}
	e := w.book.write()
	e.mailbox(m)
	w.step("advance")
	return e.commit(ctx)
}
