package imapd

import (
	"context"
	"slices"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/backend/mailstore"
)

// quiet reports whether the client wants to know nothing of the selected mailbox
// but what its own commands do: it keeps what it was told last (RFC 5465 section
// 3.1).
func (s *session) quiet() bool { return s.notify != nil && s.notify.selected == 0 }

// withoutFlags reports whether the client does not want to know of flags that
// others change.
func (s *session) withoutFlags() bool {
	return s.notify != nil && !s.notify.selected.has(eventFlagChange)
}

// stayBehind notes that the client is not told of flags: it knows no more than
// up to here.
func (b *selection) stayBehind() {
	if b.behind == 0 {
		b.behind = b.told.HighestModSeq()
	}
}

// noteFresh notes that messages from uid on are new to the client.
func (b *selection) noteFresh(uid imap.UID) {
	if b.fresh == 0 {
		b.fresh = uid
	}
}

// noteOwn notes messages that the client itself put into the selected mailbox:
// it knows them.
func (s *session) noteOwn(to *target, uids []imap.UID) {
	b := s.box
	if b == nil || b.info.GUID != to.info.GUID || b.account.GUID() != to.account.GUID() {
		return
	}
	if s.tellsNew() || slices.ContainsFunc(b.contexts, func(c *searchContext) bool { return len(c.items) > 0 }) {
		b.added = append(b.added, uids...)
	}
}

// extended is a View of what a client knows that was told of new messages, and
// not yet of messages that are gone.
type extended struct {
	mailstore.View // the present one
	list           []*mailstore.Message
	modSeq         uint64
}

func (e *extended) Len() int                    { return len(e.list) }
func (e *extended) At(i int) *mailstore.Message { return e.list[i] }
func (e *extended) HighestModSeq() uint64       { return e.modSeq }

func (e *extended) Find(uid imap.UID) (int, bool) {
	return slices.BinarySearchFunc(e.list, uid, func(m *mailstore.Message, uid imap.UID) int { return int(int64(m.UID) - int64(uid)) })
}

// tellAdded tells of new messages where expunges have to wait for a command:
// SELECTED-DELAYED (RFC 5465 section 6.1.2). gone is how many messages these are.
func (s *session) tellAdded(now mailstore.View, gone int) {
	b := s.box
	known := b.told.Len()
	from := known - gone
	if now.Len() <= from {
		return
	}
	e := &extended{View: now, modSeq: b.told.HighestModSeq(), list: make([]*mailstore.Message, 0, known+now.Len()-from)}
	for i := range known {
		e.list = append(e.list, b.told.At(i))
	}
	for i := from; i < now.Len(); i++ {
		e.list = append(e.list, now.At(i))
	}
	b.told = e
	s.exists(e)
	b.noteFresh(now.At(from).UID)
}

// tellsNew reports whether NOTIFY wants data items of new messages.
func (s *session) tellsNew() bool {
	return s.notify != nil && s.notify.selected.has(eventMessageNew) && len(s.notify.fetch.items) > 0
}

// tellFresh fetches what the client wants to know of new messages that it did
// not add itself: by NOTIFY (RFC 5465 section 5.2), and by searches with UPDATE
// (section 7). What both want of a message is one response.
func (s *session) tellFresh(ctx context.Context) error {
	b := s.box
	if b == nil || b.fresh == 0 && len(b.wanted) == 0 {
		return nil
	}
	first, added, wanted := b.fresh, b.added, b.wanted
	b.fresh, b.added, b.wanted = 0, nil, nil
	if b.readable() != nil {
		return nil
	}
	var uids []imap.UID
	if s.tellsNew() && first != 0 {
		for i, _ := b.told.Find(first); i < b.told.Len(); i++ {
			uids = append(uids, b.told.At(i).UID)
		}
	}
	for uid := range wanted {
		if !has(uids, uid) {
			uids = append(uids, uid)
		}
	}
	slices.Sort(uids)
	slices.Sort(added)
	for _, uid := range slices.Compact(uids) {
		i, found := b.told.Find(uid)
		if !found || has(added, uid) {
			continue
		}
		// \Seen is not set, whatever the items.
		if _, err := s.fetchSpan(ctx, newFetchPlan(s.freshItems(wanted[uid]), s.condstore), span{i, i + 1}); err != nil {
			return err
		}
	}
	return nil
}

// freshItems are the data items of NOTIFY, and those that searches want besides.
func (s *session) freshItems(wanted []fetchItem) (a fetchArgs) {
	if s.tellsNew() {
		a.items = slices.Clip(s.notify.fetch.items)
	}
	for _, it := range wanted {
		if !slices.ContainsFunc(a.items, it.same) {
			a.items = append(a.items, it)
		}
	}
	if s.qresync && !s.uidOnly && !a.has(fetchUID) { // RFC 7162 section 3.2.4
		a.items = slices.Insert(slices.Clone(a.items), 0, fetchItem{kind: fetchUID})
	}
	return a
}

// same reports whether two items are answered alike.
func (it fetchItem) same(o fetchItem) bool {
	return it.kind == o.kind && it.section.response == o.section.response && it.lazy == o.lazy
}
