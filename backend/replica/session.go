package replica

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/postern-mail/postern/backend/mailstore"
	"github.com/postern-mail/postern/mail"
)

// hello is what the nodes tell each other when a link is up.
type hello struct {
	// session numbers this node's links, over all its life; seen is the highest
	// number that it was told by the partner's origin seenOf. A node that gives
	// out a number which its partner knows already was brought back from the
	// past.
	session, seen uint64
	seenOf        mailstore.Origin
	joining       bool // it has not all accounts yet
	fresh         bool // not told: another incarnation of it was known here
}

func (h hello) encode() []byte {
	b := binary.AppendUvarint(nil, h.session)
	b = binary.AppendUvarint(b, h.seen)
	b = binary.LittleEndian.AppendUint64(b, uint64(h.seenOf))
	return append(b, boolByte(h.joining))
}

// parseHello leaves what a later version adds.
func parseHello(payload []byte) (h hello, err error) {
	p := parser{b: payload}
	h.session, h.seen = p.uvarint(), p.uvarint()
	h.seenOf = mailstore.Origin(p.uint64())
	h.joining = p.byte() != 0
	p.rest()
	return h, p.end()
}

// Up tells of a new link. It may send at once.
func (n *Node) Up(link Link) {
	n.mu.Lock()
	n.link, n.greeted, n.since, n.lastPeer, n.peerStale = link, false, n.now(), link.Peer(), ""
	n.mu.Unlock()
	session, err := n.memory.nextSession(n.ctx)
	if err != nil {
		n.log.Error("cannot number the session with the partner", "err", err)
		link.Close("this server's store failed")
		return
	}
	seen, seenOf := n.memory.partner()
	h := hello{session: session, seen: seen, seenOf: seenOf, joining: n.joining()}
	link.Push(Frame{Class: ClassOps, Kind: KindHello, Payload: h.encode()})
}

// Receive takes in a frame; done is called once when it takes no memory any
// more. It does not block for long.
func (n *Node) Receive(link Link, f Frame, done func()) {
	n.counts.received(f.Class, len(f.Payload))
	if f.Account == (mailstore.GUID{}) {
		defer done()
		if err := n.between(link, f); err != nil {
			n.log.Error("the partner sent what no version of us would", "kind", int(f.Kind), "err", err)
			link.Close("malformed frame")
		}
		return
	}
	n.mu.Lock()
	if n.link == link && !n.greeted {
		// The partner was greeted first.
		n.early = append(n.early, earlyFrame{f, done})
		n.mu.Unlock()
		return
	}
	r := n.runnerLocked(f.Account, nameIn(f))
	n.mu.Unlock()
	if r == nil {
		done() // it may not have an account now
		return
	}
	r.mu.Lock()
	if !r.scheduled || f.Class < r.class {
		r.class = f.Class
	}
	r.mu.Unlock()
	r.post(event{link: link, kind: f.Kind, payload: f.Payload, done: done})
}

// earlyFrame is one that came before the partner's hello was dealt with. The
// link bounds how many there are.
type earlyFrame struct {
	Frame
	done func()
}

// nameIn returns the account's name from the frames that may be the first.
func nameIn(f Frame) string {
	if f.Kind != KindAsk && f.Kind != KindAttach {
		return ""
	}
	g, err := parseGreeting(f.Payload)
	if err != nil {
		return ""
	}
	return g.name
}

// between takes in what the nodes tell each other.
func (n *Node) between(link Link, f Frame) error {
	switch f.Kind {
	case KindHello:
		h, err := parseHello(f.Payload)
		if err != nil {
			return err
		}
		n.job(func(ctx context.Context) { n.greet(ctx, link, h) })
	case KindWant:
		p, err := parsePart(f.Payload)
		if err != nil {
			return err
		}
		n.job(func(ctx context.Context) { n.servePart(ctx, link, p) })
	case KindData, KindGone:
		p, err := parsePart(f.Payload)
		if err != nil {
			return err
		}
		n.gotFetched(f.Kind, p)
	case KindList:
		return n.gotList(link, f.Payload)
	case KindListed:
		return n.gotListed(link, f.Payload)
	case KindJoined:
		n.gotJoined(link)
	}
	return nil // of a later version
}

// greet begins the exchange once the partner said who it is.
func (n *Node) greet(ctx context.Context, link Link, h hello) {
	peer := link.Peer()
	own := n.deps.Mail.Origin()
	if h.seenOf == own && h.seen >= n.memory.session() {
		n.setStale(ctx, fmt.Sprintf("the partner knows of %d links of this server, which itself knows of %d: its data is from a backup", h.seen, n.memory.session()-1))
	}
	if n.memory.isForgotten(peer.Origin) {
		n.refuseForgotten(link)
		return
	}
	peerStale := ""
	seen, of := n.memory.partner()
	h.fresh = of != 0 && of != peer.Origin
	if of == peer.Origin && h.session <= seen {
		peerStale = "the partner's data is from a backup, and it serves nothing until postern replica rejoin was run there"
	} else if err := n.memory.notePartner(ctx, peer.Origin, h.session); err != nil {
		n.log.Error("cannot note the session with the partner", "err", err)
		link.Close("this server's store failed")
		return
	}
	n.mu.Lock()
	if n.link != link || n.closed {
		n.mu.Unlock()
		return
	}
	// A stale partner confirms nothing: nobody is to wait for it.
	n.greeted, n.hello, n.degrades, n.peerStale = peerStale == "", h, false, peerStale
	early := n.early
	n.early = nil
	left := make([]*runner, 0, len(n.runners))
	for _, r := range n.runners {
		left = append(left, r)
	}
	stale := n.stale
	n.mu.Unlock()
	if stale != "" || peerStale != "" {
		for _, f := range early {
			f.done()
		}
	}
	if peerStale != "" {
		n.audit(mail.Event{Result: "refused", Peer: peer.Remote, Detail: "stale incarnation of the partner"})
		n.log.Error(peerStale, "remote", peer.Remote)
		return
	}
	if stale != "" {
		n.log.Error("this server does not replicate: stale incarnation; see postern replica rejoin", "why", stale)
		return
	}
	for _, r := range left {
		r.mu.Lock()
		up := r.up(link)
		r.mu.Unlock()
		r.post(up)
	}
	for _, f := range early {
		n.Receive(link, f.Frame, f.done)
	}
	n.audit(mail.Event{Result: "connected", Peer: peer.Remote})
	n.startBootstrap(link)
	n.job(func(ctx context.Context) { n.attachDirty(ctx, link, h) })
}

// forgottenTime is how long a partner that was forgotten is kept on the link, so
// that it does not come back at once.
const forgottenTime = 10 * time.Second

// refuseForgotten leaves the link without a greeting, and ends it later.
func (n *Node) refuseForgotten(link Link) {
	n.mu.Lock()
	n.peerStale = "the partner was forgotten by postern replica forget; run postern replica rejoin there"
	n.mu.Unlock()
	n.audit(mail.Event{Result: "refused", Peer: link.Peer().Remote, Detail: "a partner that was forgotten"})
	n.log.Error("refused a partner that postern replica forget was for: run postern replica rejoin there", "remote", link.Peer().Remote)
	time.AfterFunc(forgottenTime, func() { link.Close(textForgotten) })
}

// textForgotten is the goodbye to a partner that was forgotten.
const textForgotten = "this server was told to forget the partner (postern replica forget); run postern replica rejoin on that one, and start it again"

// attachDirty attaches the accounts that changed while the link was down, and
// all for a partner whose data is not what it was: what it had confirmed counts
// no more. Those of a partner that joins come in its own order.
func (n *Node) attachDirty(ctx context.Context, link Link, h hello) {
	if h.joining {
		return
	}
	err := n.deps.Mail.Heads(ctx, func(head mailstore.Head) error {
		if !n.isLink(link) {
			return errLinkDown
		}
		if head.Seq > head.Acked || h.fresh {
			n.want(head.Account, head.Name)
		}
		return nil
	})
	if err != nil && !errors.Is(err, errLinkDown) && ctx.Err() == nil {
		n.log.Error("cannot look for accounts that the partner lacks", "err", err)
		link.Close("this server's store failed")
	}
}

func (n *Node) isLink(link Link) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.link == link
}

// want attaches an account, if there is a link.
func (n *Node) want(id mailstore.GUID, name string) {
	if r := n.runner(id, name); r != nil {
		r.do(func(_ context.Context, c *Channel) { c.Want() })
	}
}

// Down tells that a link ended: all accounts go their own way.
func (n *Node) Down(link Link, reason error) {
	n.mu.Lock()
	if n.link != link {
		n.mu.Unlock()
		return
	}
	n.link, n.since, n.peerStale = nil, n.now(), ""
	clear(n.parked)
	early, was := n.early, n.greeted
	n.early, n.greeted = nil, false
	runners := make([]*runner, 0, len(n.runners))
	for _, r := range n.runners {
		runners = append(runners, r)
	}
	n.mu.Unlock()
	for _, f := range early {
		f.done()
	}
	if was {
		n.audit(mail.Event{Result: "disconnected", Peer: link.Peer().Remote, Detail: fmt.Sprint(reason)})
	}
	n.endFetches(errLinkDown)
	n.spool.forgetSent()
	for _, r := range runners {
		r.lost()
	}
	n.log.Debug("accounts are detached", "accounts", len(runners), "reason", reason)
}

var errLinkDown = errors.New("there is no link to the partner")

// setStale has this node refuse service until it rejoins.
func (n *Node) setStale(ctx context.Context, why string) {
	n.mu.Lock()
	first := n.stale == ""
	if first {
		n.stale = why
	}
	n.mu.Unlock()
	if !first {
		return
	}
	n.counts.stale.Inc()
	n.audit(mail.Event{Result: "refused", Detail: "stale incarnation: " + why})
	n.log.Error("stale incarnation: this server serves no mailboxes until it rejoins; run postern replica rejoin", "why", why)
	if err := n.memory.setStale(ctx, why); err != nil {
		n.log.Error("cannot remember that this incarnation is stale", "err", err)
	}
}

func (n *Node) audit(e mail.Event) {
	e.Kind = mail.EventReplica
	n.deps.Audit.Record(e)
}

func (n *Node) now() time.Time { return time.Now() }
