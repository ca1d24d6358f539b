package sim

import (
	"context"
	"fmt"
	"slices"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/backend/mailstore"
	"github.com/postern-mail/postern/internal/mutant"
)

// client is an IMAP client that keeps what it saw and asks for changes since
// (RFC 7162), at either node.
type client struct {
	id    int
	node  int
	boxes map[boxID]*cached
	// snapshots are for the oldest way of all: to poll for UIDs from the UIDNEXT
	// it knows on.
	snapshots []snapshot
}

// cached is a client's copy of a mailbox.
type cached struct {
	modseq   uint64
	messages map[imap.UID]string
	hopped   bool // it was filled at more than one node, or by one that was restored
	node     int
	life     uint64
}

type snapshot struct {
	box  boxID
	next uint32
	seen map[mailstore.Dot]bool
}

func newClient(id int) *client { return &client{id: id, node: id % 2, boxes: map[boxID]*cached{}} }

func describe(m *mailstore.Message) string {
	return fmt.Sprint(m.Flags, m.Keywords, m.EmailID)
}

// sync brings the copies up to date at the node, nil for the one it was at.
func (c *client) sync(w *world, to *node) {
	if to == nil {
		to = w.nodes[c.node]
	}
	if !to.up || to.stale {
		return
	}
	a, err := to.open()
	if to.died("sync", err) || err != nil {
		return
	}
	defer a.Close()
	c.node = to.id
	if len(c.snapshots) < 200 {
		c.poll(to)
	}
	list, err := a.List(context.Background())
	if to.died("sync", err) || err != nil {
		return
	}
	for _, info := range list {
		if !info.Exists {
			continue
		}
		m, err := a.Mailbox(context.Background(), info.Name)
		if to.died("sync", err) || err != nil {
			return
		}
		err = c.select_(w, to, info, m)
		m.Close()
		if to.died("sync", err) {
			return
		}
	}
}

// select_ is SELECT with QRESYNC of one mailbox, and what a client makes of the
// answer.
func (c *client) select_(w *world, n *node, info mailstore.MailboxInfo, m *mailstore.Mailbox) error {
	v := m.View()
	box := boxID{info.GUID, v.UIDValidity()}
	have := c.boxes[box]
	if have == nil {
		have = &cached{messages: map[imap.UID]string{}, node: n.id, life: uint64(n.ms.Origin())}
		c.boxes[box] = have
		for i := range v.Len() {
			have.messages[v.At(i).UID] = describe(v.At(i))
		}
		have.modseq = v.HighestModSeq()
		return nil
	}
	if have.node != n.id || have.life != uint64(n.ms.Origin()) {
		have.hopped, have.node, have.life = true, n.id, uint64(n.ms.Origin())
	}
	base := m.Base(have.modseq)
	exact := base == have.modseq && !m.IsForeign(have.modseq)
	if w.without(mutant.OwnModSeq) {
		base, exact = have.modseq, true
	}
	if err := m.RaiseModSeq(context.Background(), have.modseq); err != nil {
		return err
	}
	v = m.View()
	for i := range v.Len() {
		if msg := v.At(i); msg.ModSeq > base {
			have.messages[msg.UID] = describe(msg)
		}
	}
	vanished(have, v, m, base, exact)
	have.modseq = v.HighestModSeq()
	have.hopped = have.hopped && base > 0
	if !have.hopped {
		if wrong := have.differs(v); wrong != "" {
			w.fail("S5: client %d at %v, %s: %s", c.id, n, info.Name, wrong)
		}
	}
	w.tracef("client %d at %v, %s: %d messages above %d", c.id, n, info.Name, len(have.messages), base)
	return nil
}

// vanished takes out what the server says is gone: where the client's MODSEQ is
// one of this node's, what the log of expunges has; else what the node does not
// hold of what the client knows.
func vanished(have *cached, v mailstore.View, m *mailstore.Mailbox, base uint64, exact bool) {
	gone, complete := m.ExpungedSince(base)
	for u := range have.messages {
		if _, there := v.Find(u); there {
			continue
		}
		if _, found := slices.BinarySearch(gone, u); found || !complete || !exact {
			delete(have.messages, u)
		}
	}
}

func (h *cached) differs(v mailstore.View) string {
	for i := range v.Len() {
		msg := v.At(i)
		if got, ok := h.messages[msg.UID]; !ok {
			return fmt.Sprintf("UID %d was not told of", msg.UID)
		} else if got != describe(msg) {
			return fmt.Sprintf("UID %d is %s, the client has %s", msg.UID, describe(msg), got)
		}
	}
	if len(h.messages) > v.Len() {
		return fmt.Sprintf("the client has %d messages, the node %d", len(h.messages), v.Len())
	}
	return ""
}

// poll remembers what a client without any extension has seen.
func (c *client) poll(n *node) {
	for _, shown := range n.views {
		s := snapshot{box: shown.box(), next: uint32(shown.UIDNext()), seen: map[mailstore.Dot]bool{}}
		for i := range shown.Len() {
			s.seen[shown.At(i).Dot] = true
		}
		c.snapshots = append(c.snapshots, s)
	}
}
