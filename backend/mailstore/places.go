package mailstore

import (
	"github.com/emersion/go-imap/v2"
)

// Messages of a mailbox by their dots, which is how a partner names them. The
// map is made when somebody first asks, and belongs to the account's leader.

// place notes where this commit shows a message, 0 for nowhere any more.
func (v *view) place(d Dot, u imap.UID) { v.places = append(v.places, dotUID{d, u}) }

// find returns the message with that dot, shown or hidden, or nil. Shown ones
// are found where the mailbox's index is in memory only: see load.
func (t *txn) find(b *box, d Dot) (*Message, error) {
	v := t.peek(b)
	if v.gone {
		return nil, nil
	}
	for i := len(v.places) - 1; i >= 0; i-- {
		if v.places[i].dot == d {
			return v.shown(v.places[i].uid, d), nil
		}
	}
	if v.pending > 0 {
		hidden, err := t.hidden(b)
		if err != nil {
			return nil, err
		}
		for _, m := range hidden {
			if m.Dot == d {
				return m, nil
			}
		}
	}
	if !v.loaded || v.messages == 0 {
		return nil, nil
	}
	if b.dots == nil {
		b.dots = b.current().byDot()
	}
	return t.peek(b).shown(b.dots[d], d), nil // a draft may have been made by hidden
}

// shown returns the message at u if it is the one with that dot.
func (v *view) shown(u imap.UID, d Dot) *Message {
	if u == 0 {
		return nil
	}
	if i, ok := v.list.find(u); ok && v.list.at(i).Dot == d {
		return v.list.at(i)
	}
	return nil
}

func (v *view) byDot() map[Dot]imap.UID {
	dots := make(map[Dot]imap.UID, v.list.len())
	for i := range v.list.len() {
		m := v.list.at(i)
		dots[m.Dot] = m.UID
	}
	return dots
}

// notePlaces keeps the map in step with a commit.
func (b *box) notePlaces(places []dotUID) {
	if b.dots == nil {
		return
	}
	for _, p := range places {
		if p.uid == 0 {
			delete(b.dots, p.dot)
		} else {
			b.dots[p.dot] = p.uid
		}
	}
}

// load brings the mailbox's index into memory, before the commit changes it.
// errTooLate when it has changed it already: then a new commit is needed.
func (t *txn) load(b *box) error {
	if t.peek(b).loaded {
		return nil
	}
	if t.drafts[b] == nil {
		return t.loadBox(b)
	}
	if t.drafts[b].messages > 0 && !t.isUntouched(b) {
		return errTooLate
	}
	v := t.draft(b)
	if err := t.account.loadMessages(t.ctx, v); err != nil {
		return err
	}
	b.dots = v.byDot() // the view that is published has no list yet
	return nil
}

// isUntouched reports whether a draft has the messages that are stored.
func (t *txn) isUntouched(b *box) bool {
	v := t.drafts[b]
	return len(v.places) == 0 && len(v.expunged) == 0 && v.messages == b.current().messages
}
