package sim

import (
	"context"
	"io"

	"github.com/postern-mail/postern/backend/mailstore"
)

// end checks what can only be said when all is quiet and both nodes are the
// same.
func (w *world) end() {
	if w.failure != nil {
		return
	}
	w.checkLetters()
	w.checkFlags()
	w.checkBodies()
	for _, c := range w.clients {
		w.checkClient(c)
	}
	for _, n := range w.nodes {
		if strays := n.disk.Strays(); strays > 0 {
			w.fail("%v ended %d references that it did not have", n, strays)
		}
	}
}

// checkLetters counts the instances of each mail: S1 and S2.
func (w *world) checkLetters() {
	present, killed := map[int]int{}, map[int]int{}
	for dot := range w.nodes[0].seen.here {
		m := w.nodes[0].find(dot)
		if m == nil {
			continue
		}
		present[w.letterOf(m).token]++
		if w.mail.killed[dot] {
			w.fail("S2: %v, mail %d, was removed by a client and is there", dot, w.letterOf(m).token)
		}
	}
	for dot := range w.mail.perhaps { // which the killed are among
		if token, ok := w.mail.tokens[w.mail.content[dot]]; ok {
			killed[token]++
		}
	}
	for _, l := range w.mail.mails {
		if l.excused {
			continue
		}
		if have, want := present[l.token], l.acked-killed[l.token]; have < want {
			w.fail("S1: mail %d: %d of at least %d instances are there (%d acknowledged, %d removed)",
				l.token, have, want, l.acked, killed[l.token])
		}
		if have := present[l.token]; have > l.adds && !(w.wild && l.tried == [2]bool{true, true}) {
			w.fail("S2: mail %d: %d instances of %d that were ever added", l.token, have, l.adds)
		}
	}
}

// checkBodies reads every message whole on both nodes: what is damaged is
// brought in from the partner when it is read.
func (w *world) checkBodies() {
	for _, n := range w.nodes {
		a, err := n.open()
		if err != nil {
			w.fail("%v: %v", n, err)
			return
		}
		for name, v := range n.views {
			m, err := a.Mailbox(context.Background(), name)
			if err != nil {
				w.fail("%v: %s: %v", n, name, err)
				continue
			}
			for i := range v.Len() {
				if err := read(m, v.At(i)); err != nil {
					w.fail("S7: %v, %s: UID %d: %v", n, name, v.At(i).UID, err)
				}
			}
			m.Close()
		}
		a.Close()
	}
}

func read(m *mailstore.Mailbox, msg *mailstore.Message) error {
	body, err := m.Body(context.Background(), msg)
	if err != nil {
		return err
	}
	defer body.Close()
	_, err = io.Copy(io.Discard, body)
	return err
}

// checkClient has a client look once more, at each node: S5 and S4b.
func (w *world) checkClient(c *client) {
	for _, n := range w.nodes {
		c.sync(w, n)
		for name, v := range n.views {
			have := c.boxes[v.box()]
			if have == nil {
				w.fail("S5: client %d did not see %s at %v", c.id, name, n)
			} else if wrong := have.differs(v.View); wrong != "" {
				w.fail("S5: client %d, which hopped, at %v, %s: %s", c.id, n, name, wrong)
			}
		}
	}
	for _, s := range c.snapshots {
		for _, v := range w.nodes[0].views {
			if v.box() != s.box {
				continue
			}
			for i := range v.Len() {
				if m := v.At(i); !s.seen[m.Dot] && uint32(m.UID) < s.next {
					w.fail("S4b: %v is at UID %d, and a client that had UIDNEXT %d never saw it", m.Dot, m.UID, s.next)
				}
			}
		}
	}
}
