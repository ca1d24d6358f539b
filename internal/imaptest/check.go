package imaptest

import (
	"cmp"
	"fmt"
	"slices"
)

// Violation is a promise that a history shows broken.
type Violation struct {
	Invariant string // "S1" to "S6"
	Detail    string
}

func (v Violation) String() string { return v.Invariant + ": " + v.Detail }

// maxViolations bounds what Check returns: one fault often breaks a lot.
const maxViolations = 50

// Check holds a history against the invariants; see the package's comment.
func Check(events []Event) []Violation {
	c := &checker{
		bound: map[place]string{}, emails: map[[2]string]string{}, tally: map[[2]string]*tally{},
	}
	for i := range events {
		c.bind(&events[i])
		c.count(&events[i])
	}
	for i := range events {
		c.cacheIsRight(&events[i])
	}
	c.gone(events)
	c.order(events)
	c.ends(events)
	c.polls(events)
	if len(c.found) > maxViolations {
		c.found = c.found[:maxViolations]
	}
	return c.found
}

// place is a message number that must never stand for two contents.
type place struct {
	account, mailbox string
	uidValidity, uid uint32
}

func (e *Event) place(uid uint32) place { return place{e.Account, e.Mailbox, e.UIDValidity, uid} }

// tally counts what was done about one content of an account.
type tally struct {
	added, triedAdds     int // acknowledged, and all
	copied, triedCopies  int
	triedMoves           int
	expunged             map[string]map[place]bool // certain, by node
	triedExpunges        map[place]bool
	mayBeDeletedWithRest bool // lay in a mailbox that somebody tried to delete
}

type checker struct {
	found  []Violation
	bound  map[place]string
	emails map[[2]string]string // content by account and EMAILID
	tally  map[[2]string]*tally // by account and content
}

func (c *checker) fail(invariant, format string, args ...any) {
	c.found = append(c.found, Violation{invariant, fmt.Sprintf(format, args...)})
}

func (c *checker) of(account, content string) *tally {
	key := [2]string{account, content}
	t := c.tally[key]
	if t == nil {
		t = &tally{expunged: map[string]map[place]bool{}, triedExpunges: map[place]bool{}}
		c.tally[key] = t
	}
	return t
}

// bind notes which content a UID and an EMAILID stand for.
func (c *checker) bind(e *Event) {
	put := func(p place, content string) {
		if p.uid == 0 || p.uidValidity == 0 || content == "" {
			return
		}
		if before, known := c.bound[p]; known && before != content {
			c.fail("S3", "%s of %s, UIDVALIDITY %d, UID %d is %q and was %q (client %s at %s)",
				p.mailbox, p.account, p.uidValidity, p.uid, content, before, e.Client, e.Node)
		}
		c.bound[p] = content
	}
	if e.Kind == Add && e.Acked {
		put(e.place(e.UID), e.Content)
	}
	for _, pair := range e.Pairs {
		if e.Acked {
			put(place{e.Account, e.Dest, e.UIDNext, pair.Dest}, pair.Content)
		}
	}
	for _, m := range slices.Concat(e.Messages, e.Cached) {
		put(e.place(m.UID), m.Content)
		key := [2]string{e.Account, m.EmailID}
		if m.EmailID == "" || m.Content == "" {
			continue
		}
		if before, known := c.emails[key]; known && before != m.Content {
			c.fail("S3", "EMAILID %s of %s is %q and was %q", m.EmailID, e.Account, m.Content, before)
		}
		c.emails[key] = m.Content
	}
}

// count notes what was done about a content.
func (c *checker) count(e *Event) {
	switch e.Kind {
	case Add:
		t := c.of(e.Account, e.Content)
		t.triedAdds++
		if e.Acked {
			t.added++
		}
	case Copy, Move:
		for _, pair := range e.Pairs {
			t := c.of(e.Account, pair.Content)
			switch {
			case e.Kind == Move:
				t.triedMoves++
			case e.Acked && pair.Dest != 0:
				t.copied++
				fallthrough
			default:
				t.triedCopies++
			}
		}
	case Expunge:
		t := c.of(e.Account, e.Content)
		t.triedExpunges[e.place(e.UID)] = true
		if e.Acked && e.Certain {
			if t.expunged[e.Node] == nil {
				t.expunged[e.Node] = map[place]bool{}
			}
			t.expunged[e.Node][e.place(e.UID)] = true
		}
	}
}

// cacheIsRight is S5, and that a client knows as many messages as there are.
func (c *checker) cacheIsRight(e *Event) {
	if (e.Kind == View || e.Kind == Saw) && len(e.Messages) != e.Exists {
		c.fail("S5", "%s at %s knows %d messages of %s, and is told that there are %d", e.Client, e.Node, len(e.Messages), e.Mailbox, e.Exists)
	}
	if e.Kind != Resync {
		return
	}
	if d := differ(e.Cached, e.Messages, true); d != "" {
		c.fail("S5", "%s at %s, %s, cache against node: %s", e.Client, e.Node, e.Mailbox, d)
	}
}

// differ tells the first difference of two listings, "" for none.
func differ(a, b []Message, emails bool) string {
	for i := range max(len(a), len(b)) {
		switch {
		case i >= len(b) || i < len(a) && a[i].UID < b[i].UID:
			return fmt.Sprintf("UID %d (%s) only on the left", a[i].UID, a[i].Content)
		case i >= len(a) || b[i].UID < a[i].UID:
			return fmt.Sprintf("UID %d (%s) only on the right", b[i].UID, b[i].Content)
		case a[i].Content != b[i].Content:
			return fmt.Sprintf("UID %d is %q and %q", a[i].UID, a[i].Content, b[i].Content)
		case emails && a[i].EmailID != b[i].EmailID:
			return fmt.Sprintf("EMAILID of UID %d is %s and %s", a[i].UID, a[i].EmailID, b[i].EmailID)
		case !slices.Equal(a[i].Flags, b[i].Flags):
			return fmt.Sprintf("flags of UID %d are %q and %q", a[i].UID, a[i].Flags, b[i].Flags)
		}
	}
	return ""
}

// gone is the first half of S2: what a node expunged, it does not show again.
func (c *checker) gone(events []Event) {
	type there struct {
		node string
		place
	}
	since := map[there]uint64{}
	for i := range events {
		e := &events[i]
		if e.Kind == Expunge && e.Acked && e.Certain {
			since[there{e.Node, e.place(e.UID)}] = e.End
		}
		if e.Kind == Delete {
			c.mayGo(e)
		}
	}
	for i := range events {
		e := &events[i]
		for _, m := range e.Messages {
			if at, ok := since[there{e.Node, e.place(m.UID)}]; ok && e.Begin > at {
				c.fail("S2", "%s shows UID %d (%s) of %s to %s after it was expunged there", e.Node, m.UID, m.Content, e.Mailbox, e.Client)
			}
		}
	}
}

// mayGo exempts what was ever in a mailbox that somebody tried to delete.
func (c *checker) mayGo(e *Event) {
	for p, content := range c.bound {
		if p.account == e.Account && p.mailbox == e.Mailbox {
			c.of(p.account, content).mayBeDeletedWithRest = true
		}
	}
}

// order is S4: what appears on a node lies at or above the UIDNEXT told before.
func (c *checker) order(events []Event) {
	type box struct {
		node string
		place
	}
	views := map[box][]*Event{}
	for i := range events {
		if e := &events[i]; e.Kind == View && e.UIDNext != 0 {
			key := box{e.Node, e.place(0)}
			views[key] = append(views[key], e)
		}
	}
	for _, list := range views {
		byEnd := slices.SortedFunc(slices.Values(list), func(a, b *Event) int { return cmp.Compare(a.End, b.End) })
		byBegin := slices.SortedFunc(slices.Values(list), func(a, b *Event) int { return cmp.Compare(a.Begin, b.Begin) })
		next := 0
		var before *Event
		for _, now := range byBegin {
			for ; next < len(byEnd) && byEnd[next].End < now.Begin; next++ {
				before = byEnd[next]
			}
			if before != nil {
				c.follows(before, now)
			}
		}
	}
}

// follows holds two views of one mailbox of one node against each other.
func (c *checker) follows(before, now *Event) {
	if now.UIDNext < before.UIDNext {
		c.fail("S4", "UIDNEXT of %s at %s was %d and is %d", now.Mailbox, now.Node, before.UIDNext, now.UIDNext)
	}
	for _, m := range now.Messages {
		if m.UID >= before.UIDNext {
			return
		}
		if _, known := slices.BinarySearchFunc(before.Messages, m.UID, byUID); !known {
			c.fail("S4", "UID %d (%s) appeared in %s at %s after UIDNEXT was %d", m.UID, m.Content, now.Mailbox, now.Node, before.UIDNext)
		}
	}
}

func byUID(m Message, uid uint32) int { return cmp.Compare(m.UID, uid) }

// ends holds what is there in the end against what was done: S1, the second
// half of S2, and S6.
func (c *checker) ends(events []Event) {
	type where struct{ account, node string }
	counts := map[where]map[string]int{}
	first := map[[2]string]*Event{}
	for i := range events {
		e := &events[i]
		if e.Kind != View || !e.Final {
			continue
		}
		at := where{e.Account, e.Node}
		if counts[at] == nil {
			counts[at] = map[string]int{}
		}
		for _, m := range e.Messages {
			counts[at][m.Content]++
		}
		key := [2]string{e.Account, e.Mailbox}
		if other := first[key]; other == nil {
			first[key] = e
		} else {
			c.alike(other, e)
		}
	}
	for at, found := range counts {
		for key, t := range c.tally {
			if key[0] == at.account && key[1] != "" {
				c.balance(at.node, key, t, found[key[1]])
			}
		}
		for content, n := range found {
			if c.tally[[2]string{at.account, content}] == nil {
				c.fail("S2", "%d times %q at %s, which nobody added", n, content, at.node)
			}
		}
	}
}

// balance compares how often a content is there with how often it was added.
func (c *checker) balance(node string, key [2]string, t *tally, n int) {
	least := t.added + t.copied - len(t.triedExpunges)
	if n < least && !t.mayBeDeletedWithRest {
		c.fail("S1", "%q of %s is %d times at %s; %d were acknowledged and %d may have been expunged",
			key[1], key[0], n, node, t.added+t.copied, len(t.triedExpunges))
	}
	most, gone := t.triedAdds+t.triedCopies+t.triedMoves, t.surelyGone()
	if n > max(most-gone, 0) {
		c.fail("S2", "%q of %s is %d times at %s; at most %d were added and %d of them are expunged", key[1], key[0], n, node, most, gone)
	}
}

// surelyGone is how many instances were expunged at least. Two nodes that were
// apart may have expunged the same one under two UIDs.
func (t *tally) surelyGone() int {
	n := 0
	for _, places := range t.expunged {
		n = max(n, len(places))
	}
	return n
}

// alike is S6, of one mailbox.
func (c *checker) alike(a, b *Event) {
	if a.Node == b.Node {
		return
	}
	if a.UIDValidity != b.UIDValidity {
		c.fail("S6", "UIDVALIDITY of %s is %d at %s and %d at %s", a.Mailbox, a.UIDValidity, a.Node, b.UIDValidity, b.Node)
	} else if d := differ(a.Messages, b.Messages, true); d != "" {
		c.fail("S6", "%s at %s and at %s: %s", a.Mailbox, a.Node, b.Node, d)
	}
}

// polls is S4b: what is there in the end was seen by who only looked for new.
func (c *checker) polls(events []Event) {
	type poller struct {
		client string
		place
	}
	seen := map[poller]map[string]bool{}
	for i := range events {
		e := &events[i]
		if e.Kind != Poll {
			continue
		}
		key := poller{e.Client, e.place(0)}
		if seen[key] == nil {
			seen[key] = map[string]bool{}
		}
		for _, m := range e.Messages {
			seen[key][m.Content] = true
		}
		if e.Final {
			c.sawAll(events, e, seen[key])
		}
	}
}

// sawAll compares a poller with the final views of the mailbox.
func (c *checker) sawAll(events []Event, poll *Event, seen map[string]bool) {
	for i := range events {
		e := &events[i]
		if e.Kind != View || !e.Final || e.place(0) != poll.place(0) {
			continue
		}
		for _, m := range e.Messages {
			if !seen[m.Content] {
				c.fail("S4b", "%s never saw UID %d (%s) of %s, which is there at %s", poll.Client, m.UID, m.Content, e.Mailbox, e.Node)
			}
		}
	}
}
