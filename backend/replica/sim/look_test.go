package sim

import (
	"context"
	"maps"
	"runtime/debug"

	"github.com/postern-mail/postern/backend/mailstore"
	"github.com/postern-mail/postern/store"
)

func stack() string { return string(debug.Stack()) }

// boxID is what a UID is good for.
type boxID struct {
	guid     mailstore.GUID
	validity uint32
}

// seen is what a node's clients were shown, ever.
type seen struct {
	exposed map[boxID]uint32         // the highest UID
	next    map[boxID]uint32         // UIDNEXT
	modseq  map[boxID]uint64         // HIGHESTMODSEQ
	here    map[mailstore.Dot]placed // what is shown now
	gone    map[mailstore.Dot]bool   // what was, and is not any more
}

type placed struct {
	box boxID
	uid uint32
}

func newSeen() seen {
	return seen{map[boxID]uint32{}, map[boxID]uint32{}, map[boxID]uint64{}, map[mailstore.Dot]placed{}, map[mailstore.Dot]bool{}}
}

func (s seen) clone() seen {
	return seen{maps.Clone(s.exposed), maps.Clone(s.next), maps.Clone(s.modseq), maps.Clone(s.here), maps.Clone(s.gone)}
}

// ledger is what is known of all mail, on both nodes.
type ledger struct {
	tokens  map[store.Hash]int // which mail a body is
	bound   map[boundTo]mailstore.Dot
	named   map[namedTo]store.Hash
	content map[mailstore.Dot]store.Hash
	killed  map[mailstore.Dot]bool // by a client, who knew what it did
	perhaps map[mailstore.Dot]bool // by a client who was not told the outcome
	mails   []*letter
	spoilt  map[store.Hash]bool
	writes  map[flagOf][]write
	vague   map[mailstore.Dot]bool // its flags were changed in ways that are not followed
}

type boundTo struct {
	box boxID
	uid uint32
}

type namedTo struct {
	name          string
	validity, uid uint32
}

// letter is one mail and the instances of it.
type letter struct {
	token   int
	hash    store.Hash
	text    []byte
	adds    int     // instances that may have been made
	acked   int     // instances that somebody was told of
	excused bool    // its mailbox was removed while it had no UID
	tried   [2]bool // it was brought to that node; to both: one has the flags of two
}

func newLedger() ledger {
	return ledger{
		tokens: map[store.Hash]int{}, bound: map[boundTo]mailstore.Dot{}, named: map[namedTo]store.Hash{},
		content: map[mailstore.Dot]store.Hash{}, killed: map[mailstore.Dot]bool{}, perhaps: map[mailstore.Dot]bool{},
		spoilt: map[store.Hash]bool{}, writes: map[flagOf][]write{}, vague: map[mailstore.Dot]bool{},
	}
}

// look compares what the nodes show now with what they showed before.
func (w *world) look() {
	for _, n := range w.nodes {
		if n.up && !n.stale && w.failure == nil {
			n.look()
		}
	}
}

func (n *node) look() {
	a, err := n.open()
	if n.died("look", err) {
		return
	}
	if err != nil {
		n.w.tracef("%v does not serve: %v", n, err)
		return
	}
	defer a.Close()
	list, err := a.List(context.Background())
	if n.died("look", err) || err != nil {
		return
	}
	views := map[string]shown{}
	changed := false
	for _, info := range list {
		if !info.Exists {
			continue
		}
		m, err := a.Mailbox(context.Background(), info.Name)
		if n.died("look into "+info.Name, err) {
			return
		}
		if err != nil {
			n.w.tracef("%v: look into %s: %v", n, info.Name, err)
			return
		}
		now := shown{m.View(), info.GUID}
		views[info.Name] = now
		m.Close()
		if n.views[info.Name] != now {
			changed = true
			n.lookAt(info.Name, now)
		}
	}
	if changed || len(views) != len(n.views) {
		n.views = views
		n.lookAround()
	}
}

// shown is a mailbox as a node shows it.
type shown struct {
	mailstore.View
	guid mailstore.GUID
}

func (s shown) box() boxID { return boxID{s.guid, s.UIDValidity()} }

// lookAt checks one mailbox: S3 and S4.
func (n *node) lookAt(name string, v shown) {
	w, box := n.w, v.box()
	top := n.seen.exposed[box]
	for i := range v.Len() {
		m := v.At(i)
		u := uint32(m.UID)
		if i > 0 && v.At(i-1).UID >= m.UID || u == 0 || u >= uint32(v.UIDNext()) {
			w.fail("S4: %v, %s: UID %d at %d of a view with UIDNEXT %d", n, name, u, i, v.UIDNext())
		}
		if dot, ok := w.mail.bound[boundTo{box, u}]; ok && dot != m.Dot {
			w.fail("S3: %v, %s: UID %d names %v and %v", n, name, u, dot, m.Dot)
		}
		w.mail.bound[boundTo{box, u}] = m.Dot
		under := namedTo{name, v.UIDValidity(), u}
		if hash, ok := w.mail.named[under]; ok && hash != m.Body.Hash {
			w.fail("S3: %v, %s: UID %d has two contents", n, name, u)
		}
		w.mail.named[under] = m.Body.Hash
		if hash, ok := w.mail.content[m.Dot]; ok && hash != m.Body.Hash {
			w.fail("S3: %v has two contents", m.Dot)
		}
		w.mail.content[m.Dot] = m.Body.Hash
		if n.seen.gone[m.Dot] {
			w.fail("S2: %v, %s: %v was gone and is back at UID %d", n, name, m.Dot, u)
		}
		if was, ok := n.seen.here[m.Dot]; (!ok || was != placed{box, u}) && u <= top {
			w.fail("S4: %v, %s: %v appears at UID %d below %d", n, name, m.Dot, u, top)
		}
		n.seen.exposed[box] = max(n.seen.exposed[box], u)
	}
	if next := uint32(v.UIDNext()); next < n.seen.next[box] || next <= n.seen.exposed[box] {
		w.fail("S4: %v, %s: UIDNEXT %d after %d, with UID %d shown", n, name, next, n.seen.next[box], n.seen.exposed[box])
	} else {
		n.seen.next[box] = next
	}
	if h := v.HighestModSeq(); h < n.seen.modseq[box] {
		w.fail("S5: %v, %s: HIGHESTMODSEQ %d after %d", n, name, h, n.seen.modseq[box])
	} else {
		n.seen.modseq[box] = h
	}
}

// lookAround finds what is gone: S2.
func (n *node) lookAround() {
	here := map[mailstore.Dot]placed{}
	for name, v := range n.views {
		for i := range v.Len() {
			m := v.At(i)
			if was, twice := here[m.Dot]; twice {
				n.w.fail("S3: %v shows %v twice: %v and %s %d", n, m.Dot, was, name, m.UID)
			}
			here[m.Dot] = placed{v.box(), uint32(m.UID)}
		}
	}
	for dot := range n.seen.here {
		if _, ok := here[dot]; !ok {
			n.seen.gone[dot] = true
		}
	}
	n.seen.here = here
}

// find returns a message a node shows.
func (n *node) find(dot mailstore.Dot) *mailstore.Message {
	for _, v := range n.views {
		for i := range v.Len() {
			if m := v.At(i); m.Dot == dot {
				return m
			}
		}
	}
	return nil
}
