package imapd

import (
	"context"
	"slices"
	"strconv"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/backend/mailstore"
	"github.com/postern-mail/postern/status"
)

const (
	// maxContexts is how many searches a session may have updated at a time.
	maxContexts = 16
	// maxContextResults is how many messages these may find together.
	maxContextResults = 500_000
)

// searchContext is a search whose result the client keeps, and is told the
// changes of: RETURN with UPDATE (RFC 5267 section 4.3).
type searchContext struct {
	tag string
	uid bool
	key searchKey
	// order is nil for SEARCH, whose result is in the order of the mailbox.
	order []sortCriterion
	// items are what the client wants to know of new messages (RFC 5465 section 7).
	items []fetchItem
	// result is what the client holds, in order; it is right for the View seen.
	result []imap.UID
	seen   mailstore.View
}

// mayUpdate refuses a second context with one tag: nobody could tell their
// updates apart.
func (s *session) mayUpdate(a *searchArgs) error {
	if a.returns.has(returnUpdate) && slices.ContainsFunc(s.box.contexts, func(c *searchContext) bool { return c.tag == s.tag }) {
		return syntax("tag is in use by another search with UPDATE")
	}
	return nil
}

// update begins a context where UPDATE was asked for. order is nil for SEARCH.
func (s *session) update(a *searchArgs, order []sortCriterion, found []int) {
	if !a.returns.has(returnUpdate) {
		return
	}
	if s.short != "" {
		s.noUpdate(s.tag, "Not all messages were searched")
		return
	}
	b, held := s.box, len(found)
	for _, c := range b.contexts {
		held += len(c.result)
	}
	if len(b.contexts) >= maxContexts || held > maxContextResults {
		s.noUpdate(s.tag, "Too many contexts")
		return
	}
	b.contexts = append(b.contexts, &searchContext{
		tag: s.tag, uid: a.uid, key: a.key, order: order, result: b.numbers(found, true), seen: b.now, items: a.returns.items.items,
	})
}

func (s *session) noUpdate(tag, text string) {
	s.response("*", "NO", string(appendText([]byte("NOUPDATE "), tag)), text)
}

// cancelUpdate is CANCELUPDATE (RFC 5267 section 4.3.5). A tag without a
// context may be that of a search that was refused one.
func (s *session) cancelUpdate(_ context.Context, tags []string) (result, error) {
	s.box.contexts = slices.DeleteFunc(s.box.contexts, func(c *searchContext) bool { return slices.Contains(tags, c.tag) })
	return result{}, nil
}

// parseCancelUpdate reads the quoted tags.
func parseCancelUpdate(p *parser) (tags []string, err error) {
	for p.take(' ') {
		tag, ok, err := p.text()
		if err != nil || !ok {
			return nil, orSyntax(err, "expected a tag in quotes")
		}
		tags = append(tags, tag)
	}
	if len(tags) == 0 {
		return nil, syntax("expected a tag in quotes")
	}
	return tags, nil
}

// contextsLose takes messages that are about to be told as expunged out of the
// results: REMOVEFROM comes before, while their numbers are good (RFC 5267
// section 4.3.4). gone are indexes of told.
func (s *session) contextsLose(gone []int) {
	if len(s.box.contexts) == 0 || len(gone) == 0 {
		return
	}
	uids := s.box.numbers(gone, true)
	for _, c := range s.box.contexts {
		u := contextUpdate{session: s, context: c}
		u.remove(func(uid imap.UID) bool { return has(uids, uid) })
		u.end()
	}
}

func has(sorted []imap.UID, uid imap.UID) bool {
	_, found := slices.BinarySearch(sorted, uid)
	return found
}

// contextsFollow brings every context to what the client was told last, and
// tells of new messages what the client asked for. The responses with what NOTIFY
// asked for stand behind those of the contexts (RFC 5465 section 5.2), others
// before (section 7).
func (s *session) contextsFollow(ctx context.Context) error {
	updates, err := s.contextUpdates(ctx)
	if err == nil && !s.tellsNew() {
		err = s.tellFresh(ctx)
	}
	if err != nil {
		return err
	}
	for _, write := range updates {
		write()
	}
	return s.tellFresh(ctx)
}

// contextUpdates works out what changes in every context, and returns what
// writes it.
func (s *session) contextUpdates(ctx context.Context) (updates []func(), err error) {
	b := s.box
	if b == nil || len(b.contexts) == 0 || b.now != b.told || b.readable() != nil {
		return nil, nil
	}
	var failed []string
	for _, c := range b.contexts {
		if c.seen == b.told {
			continue
		}
		update, err := s.follow(ctx, c)
		switch {
		case ends(err), err != nil && ctx.Err() != nil:
			return nil, err
		case err != nil:
			s.log.Warn("cannot update a search", "sid", s.client.Session, "login", s.login(), "reason", status.Of(err), "error", err)
			s.noUpdate(c.tag, "No more updates")
			failed = append(failed, c.tag)
		default:
			updates = append(updates, update)
		}
	}
	b.contexts = slices.DeleteFunc(b.contexts, func(c *searchContext) bool { return slices.Contains(failed, c.tag) })
	return updates, nil
}

// follow examines the messages that are new or were changed, and returns what
// writes the update.
func (s *session) follow(ctx context.Context, c *searchContext) (func(), error) {
	g := &s.box.ground
	changed := changedIn(g.told, c.seen)
	var matching []imap.UID
	if len(changed) > 0 {
		c.key.follow(g)
		r := &searchRun{who: &sessionSearch{session: s}, ground: g}
		r.cheap, r.dear = c.key.split()
		defer r.close()
		if err := r.over(ctx, g.spans(g.runsOf(changed))); err != nil {
			return nil, err
		}
		slices.Sort(r.found)
		matching = g.numbers(r.found, true)
	}
	examined := g.numbers(changed, true)
	held := make(map[imap.UID]bool)
	for _, uid := range c.result {
		if has(examined, uid) {
			held[uid] = true
		}
	}
	gone := func(uid imap.UID) bool { return held[uid] && !has(matching, uid) }
	fresh := slices.DeleteFunc(slices.Clone(matching), func(uid imap.UID) bool { return held[uid] })
	// The response is begun when nothing can fail or write any more.
	ordered, err := s.inOrder(ctx, c, gone, fresh)
	if err != nil {
		return nil, err
	}
	c.wants(s.box, fresh)
	c.seen = g.told
	return func() {
		u := contextUpdate{session: s, context: c}
		u.remove(gone)
		u.add(fresh, ordered)
		u.end()
	}, nil
}

// wants notes what the client wants to know of messages that are new to it, not
// only to the result.
func (c *searchContext) wants(b *selection, fresh []imap.UID) {
	if len(c.items) == 0 {
		return
	}
	for _, uid := range fresh {
		if uid < c.seen.UIDNext() {
			continue
		}
		if b.wanted == nil {
			b.wanted = make(map[imap.UID][]fetchItem)
		}
		b.wanted[uid] = append(b.wanted[uid], c.items...)
	}
}

// changedIn returns the indexes in v of messages that seen has otherwise, or
// has not.
func changedIn(v, seen mailstore.View) []int {
	var changed []int
	at := 0
	for i := range v.Len() {
		uid := mailstore.UIDAt(v, i)
		for at < seen.Len() && mailstore.UIDAt(seen, at) < uid {
			at++
		}
		if at == seen.Len() || !mailstore.SameAt(seen, at, v, i) && differ(seen.At(at), v.At(i)) {
			changed = append(changed, i)
		}
	}
	return changed
}

// differ reports whether a message is another than it was. Views of readers make
// their messages anew each time they are asked for one.
func differ(before, after *mailstore.Message) bool {
	return before != after && (before.UID != after.UID || before.ModSeq != after.ModSeq)
}

// follow resolves again what depends on how far the mailbox goes: sets of UIDs
// with "*". Sequence numbers and "$" keep naming the messages that they named
// when the client gave them.
func (k *searchKey) follow(g *ground) {
	if k.op == searchUID && !k.set.isSaved() {
		k.runs = g.runs(k.set.uids(g.told))
	}
	for i := range k.kids {
		k.kids[i].follow(g)
	}
}

// contextUpdate is one ESEARCH response with changes of a result. Nothing is
// written when nothing changed.
type contextUpdate struct {
	session *session
	context *searchContext
	begun   bool
}

func (u *contextUpdate) begin() {
	if u.begun {
		return
	}
	u.begun = true
	w := &u.session.w
	w.str("* ESEARCH (TAG ")
	w.text(u.context.tag)
	w.char(')')
	if u.context.uid {
		w.str(" UID")
	}
}

func (u *contextUpdate) end() {
	if u.begun {
		u.session.w.line("")
	}
}

// remove takes messages out of the result. In one that SORT made the client
// counts positions: what is behind goes first, so that none shifts another.
func (u *contextUpdate) remove(gone func(imap.UID) bool) {
	c := u.context
	var runs []span // positions of what goes
	for i, uid := range c.result {
		switch n := len(runs); {
		case !gone(uid):
		case n > 0 && runs[n-1].hi == i:
			runs[n-1].hi++
		default:
			runs = append(runs, span{i, i + 1})
		}
	}
	if len(runs) == 0 {
		return
	}
	var parts []contextPart
	if c.order == nil {
		var all []imap.UID
		for _, r := range runs {
			all = append(all, c.result[r.lo:r.hi]...)
		}
		parts = append(parts, contextPart{uids: all})
	} else {
		for _, r := range slices.Backward(runs) {
			parts = append(parts, contextPart{position: r.lo + 1, uids: c.result[r.lo:r.hi]})
		}
	}
	u.write("REMOVEFROM", parts)
	c.result = slices.DeleteFunc(c.result, gone)
}

// add puts messages, by ascending UID, into the result. ordered is the result
// with them, if it is one that SORT made.
func (u *contextUpdate) add(uids, ordered []imap.UID) {
	c := u.context
	if len(uids) == 0 {
		return
	}
	if c.order == nil {
		c.result = append(c.result, uids...)
		slices.Sort(c.result)
		u.write("ADDTO", []contextPart{{uids: uids}})
		return
	}
	var parts []contextPart
	for i := 0; i < len(ordered); i++ {
		from := i
		for i < len(ordered) && has(uids, ordered[i]) {
			i++
		}
		if from < i {
			parts = append(parts, contextPart{position: from + 1, uids: ordered[from:i]})
		}
	}
	c.result = ordered
	u.write("ADDTO", parts)
}

// inOrder returns the result of a SORT without what is gone and with fresh
// messages in their places; nil when there are none, or it is not of a SORT.
func (s *session) inOrder(ctx context.Context, c *searchContext, gone func(imap.UID) bool, fresh []imap.UID) ([]imap.UID, error) {
	if c.order == nil || len(fresh) == 0 {
		return nil, nil
	}
	g := &s.box.ground
	var found []int
	for _, uid := range slices.Concat(c.result, fresh) {
		if i, ok := g.told.Find(uid); ok && !gone(uid) {
			found = append(found, i)
		}
	}
	slices.Sort(found)
	if err := s.order(ctx, g, c.order, found); err != nil {
		return nil, err
	}
	return g.numbers(found, true), nil
}

// contextPart is a context-position, 0 for the order of the mailbox, and the
// messages that come or go there.
type contextPart struct {
	position int
	uids     []imap.UID
}

func (u *contextUpdate) write(item string, parts []contextPart) {
	u.begin()
	w, g := &u.session.w, &u.session.box.ground
	w.str(" " + item)
	sep := byte('(')
	for _, p := range parts {
		w.char(' ')
		if sep == '(' {
			w.char(sep)
			sep = ' '
		}
		w.buf = strconv.AppendInt(w.buf, int64(p.position), 10)
		w.char(' ')
		w.raw(appendSet(nil, g.named(p.uids, u.context.uid)))
	}
	w.char(')')
}

// named is what the client calls messages: their UIDs, or else their numbers.
func (g *ground) named(uids []imap.UID, uid bool) []imap.UID {
	if uid {
		return uids
	}
	nums := make([]imap.UID, len(uids))
	for k, u := range uids {
		i, _ := g.told.Find(u)
		nums[k] = imap.UID(i + 1)
	}
	return nums
}
