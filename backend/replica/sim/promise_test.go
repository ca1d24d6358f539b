package sim

import (
	"slices"

	"github.com/postern-mail/postern/backend/mailstore"
	"github.com/postern-mail/postern/backend/replica"
)

// promised is what a client was answered, or will be once the partner has it:
// semi-synchronous, as a pair is by default. It is lost with the node's disk as
// long as it is there only, and only then.
type promised struct {
	seq    uint64 // the node's own operation that the partner must have
	told   bool
	letter *letter
	dot    mailstore.Dot // killed by it; zero for none
}

// promise notes what a client is to be told that has just added a letter.
func (w *world) promise(n *node, l *letter) { w.promises(n, promised{letter: l}) }

// promiseRemoval notes that a client has just removed an instance.
func (w *world) promiseRemoval(n *node, dots ...mailstore.Dot) {
	for _, d := range dots {
		w.promises(n, promised{dot: d})
	}
}

func (w *world) promises(n *node, p promised) {
	n.tell()
	p.seq = n.committed
	if n.up && n.ch.State() == replica.Attached && w.conn.usable(n.id) {
		n.promised = append(n.promised, p)
		return
	}
	w.keepPromise(&p)
	n.promised = append(n.promised, p)
}

// keepPromise is the answer to the client.
func (w *world) keepPromise(p *promised) {
	switch {
	case p.told:
		return
	case p.letter != nil:
		p.letter.acked++
	default:
		w.mail.killed[p.dot] = true
	}
	p.told = true
}

// durable says that the partner of n has its operations up to seq: it answers
// those who waited for that, and their mail survives this node's disk.
func (w *world) durable(n *node, seq uint64) {
	w.tracef("%v: the partner has %d", n, seq)
	n.promised = slices.DeleteFunc(n.promised, func(p promised) bool {
		if p.seq <= seq {
			w.keepPromise(&p)
		}
		return p.seq <= seq
	})
}

// alone answers those who waited for a partner that is out of reach.
func (w *world) alone(n *node) {
	for i := range n.promised {
		w.keepPromise(&n.promised[i])
	}
}

// unanswered drops those who waited at a process that is gone.
func (w *world) unanswered(n *node) {
	n.promised = slices.DeleteFunc(n.promised, func(p promised) bool { return !p.told })
}
