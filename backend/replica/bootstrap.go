package replica

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/postern-mail/postern/backend/mailstore"
	"github.com/postern-mail/postern/mail"
)

// bootstrap is the way of a node that has not all its partner has: it asks for
// the list of accounts, the most recently used first, and brings over some at a
// time. What is complete is remembered with each account, so that it goes on
// after a crash where it stopped.
type bootstrap struct {
	mu      sync.Mutex
	link    Link // of the present attempt
	waiting []listed
	running map[mailstore.GUID]listed
	// stuck are those whose place others were given: they go on by themselves,
	// when what stops them ends.
	stuck    map[mailstore.GUID]listed
	told     bool // that only they are left
	asked    bool // the rest of the list is on its way
	whole    bool // the list is complete
	accounts int  // of the list so far
	done     int
	octets   int64 // of the accounts of the list
	moved    int64 // of those done
	began    time.Time
}

// listed is an account as the partner tells of it.
type listed struct {
	id     mailstore.GUID
	name   string
	octets int64
}

// BootstrapProgress is how far the filling of an empty node has come.
type BootstrapProgress struct {
	Running  bool
	Accounts int // that the partner has, as far as it told
	Done     int
	Octets   int64
	Moved    int64
	Rate     float64 // octets in a second
	Left     time.Duration
	// Stuck names accounts that something stops, a few of them; StuckAccounts
	// is how many there are. Until they are complete, or gone from the partner
	// and listed anew, this node is joining.
	Stuck         []string
	StuckAccounts int
}

func (b *bootstrap) progress(now time.Time) BootstrapProgress {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := BootstrapProgress{Running: b.link != nil, Accounts: b.accounts, Done: b.done, Octets: b.octets, Moved: b.moved}
	if passed := now.Sub(b.began).Seconds(); b.link != nil && passed > 0 && b.moved > 0 {
		p.Rate = float64(b.moved) / passed
		p.Left = time.Duration(float64(b.octets-b.moved) / p.Rate * float64(time.Second)).Round(time.Second)
	}
	p.StuckAccounts, p.Stuck = len(b.stuck), b.stuckNamesLocked()
	return p
}

// maxStuckNames is how many accounts are named where many may be stuck.
const maxStuckNames = 10

func (b *bootstrap) stuckNamesLocked() []string {
	names := make([]string, 0, len(b.stuck))
	for _, l := range b.stuck {
		names = append(names, l.name)
	}
	slices.Sort(names)
	return names[:min(len(names), maxStuckNames)]
}

func (n *Node) joining() bool { return n.deps.Mail.Joining() }

// startBootstrap asks for the list of accounts, when this node lacks some.
func (n *Node) startBootstrap(link Link) {
	if !n.joining() {
		return
	}
	b := &n.strap
	b.mu.Lock()
	b.link, b.waiting, b.running = link, nil, make(map[mailstore.GUID]listed)
	b.stuck, b.told = make(map[mailstore.GUID]listed), false
	b.asked, b.whole, b.accounts, b.done, b.octets, b.moved, b.began = true, false, 0, 0, 0, 0, n.now()
	b.mu.Unlock()
	link.Push(Frame{Class: ClassBulk, Kind: KindList, Payload: binary.AppendUvarint(nil, 0)})
}

// listPage is how many accounts a page of the list has.
const listPage = 500

// gotList answers with a page of the accounts, the most recently used first.
func (n *Node) gotList(link Link, payload []byte) error {
	p := parser{b: payload}
	from := p.uvarint()
	if err := p.end(); err != nil {
		return err
	}
	n.job(func(ctx context.Context) {
		all, err := n.listAccounts(ctx, link, from == 0)
		if err != nil {
			n.log.Error("cannot list accounts for the partner", "err", err)
			link.Close("this server's store failed")
			return
		}
		at := min(from, uint64(len(all)))
		page := all[at:min(at+listPage, uint64(len(all)))]
		next := at + uint64(len(page))
		b := binary.AppendUvarint(nil, next)
		b = append(b, boolByte(next >= uint64(len(all))))
		b = binary.AppendUvarint(b, uint64(len(page)))
		for _, l := range page {
			b = append(b, l.id[:]...)
			b = appendBlock(b, l.name)
			b = binary.AppendUvarint(b, uint64(l.octets))
		}
		_ = link.Send(ctx, Frame{Class: ClassBulk, Kind: KindListed, Payload: b})
	})
	return nil
}

// accountList is the list that pages are cut from; made once for a link.
type accountList struct {
	link Link
	all  []listed
}

func (n *Node) listAccounts(ctx context.Context, link Link, fresh bool) ([]listed, error) {
	n.mu.Lock()
	kept := n.list
	n.mu.Unlock()
	if kept.link == link && !fresh {
		return kept.all, nil
	}
	type used struct {
		listed
		at time.Time
	}
	var all []used
	err := n.deps.Mail.Heads(ctx, func(h mailstore.Head) error {
		all = append(all, used{listed{h.Account, h.Name, h.Octets}, h.Time})
		return nil
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(all, func(a, b used) int { return cmp.Or(b.at.Compare(a.at), cmp.Compare(a.name, b.name)) })
	list := make([]listed, len(all))
	for i, u := range all {
		list[i] = u.listed
	}
	n.mu.Lock()
	n.list = accountList{link, list}
	n.mu.Unlock()
	return list, nil
}

// gotListed takes in a page of the list.
func (n *Node) gotListed(link Link, payload []byte) error {
	p := parser{b: payload}
	next, whole := p.uvarint(), p.byte() != 0
	var page []listed
	for range p.count(16 + 2) {
		l := listed{id: p.guid(), name: string(p.block()), octets: p.size()}
		if len(l.name) > maxNameOctets {
			p.bad = true
		}
		page = append(page, l)
	}
	if err := p.end(); err != nil {
		return err
	}
	n.job(func(ctx context.Context) { n.bringOver(ctx, link, page, next, whole) })
	return nil
}

// bringOver queues those of a page that are not complete here.
func (n *Node) bringOver(ctx context.Context, link Link, page []listed, next uint64, whole bool) {
	b := &n.strap
	for _, l := range page {
		head, err := n.deps.Mail.Head(ctx, l.id)
		if err != nil {
			n.log.Error("cannot see which accounts are here", "err", err)
			link.Close("this server's store failed")
			return
		}
		b.mu.Lock()
		if b.link != link {
			b.mu.Unlock()
			return
		}
		b.accounts++
		b.octets += l.octets
		if head.Joined {
			b.done++
			b.moved += l.octets
		} else {
			b.waiting = append(b.waiting, l)
		}
		b.mu.Unlock()
		if head.Joined {
			// Clients use it here; it may have changed there while the link was
			// down.
			n.want(l.id, l.name)
		}
	}
	b.mu.Lock()
	b.asked, b.whole = !whole, whole
	b.mu.Unlock()
	if !whole {
		link.Push(Frame{Class: ClassBulk, Kind: KindList, Payload: binary.AppendUvarint(nil, next)})
	}
	n.bringNext(ctx)
}

// bringNext begins with accounts until enough are under way, and ends joining
// with the last.
func (n *Node) bringNext(ctx context.Context) {
	b := &n.strap
	for {
		b.mu.Lock()
		link := b.link
		if link == nil {
			b.mu.Unlock()
			return
		}
		if len(b.waiting) == 0 && len(b.running) == 0 && b.whole {
			tell := len(b.stuck) > 0 && !b.told
			accounts, names := len(b.stuck), b.stuckNamesLocked()
			if b.told = b.told || tell; len(b.stuck) == 0 {
				b.link = nil
			}
			b.mu.Unlock()
			if tell {
				n.onlyStuck(accounts, names)
			} else if accounts == 0 {
				n.joined(ctx, link)
			}
			return
		}
		if len(b.waiting) == 0 || len(b.running) >= n.cfg.Bootstraps {
			b.mu.Unlock()
			return
		}
		l := b.waiting[0]
		b.waiting = b.waiting[1:]
		b.running[l.id] = l
		b.mu.Unlock()
		if r := n.runner(l.id, l.name); r != nil {
			r.mu.Lock()
			r.class = ClassBulk
			r.mu.Unlock()
			r.do(func(_ context.Context, c *Channel) { c.Want(); c.Join() })
		}
	}
}

// hurry brings an account to the front that a client waits for.
func (b *bootstrap) hurry(id mailstore.GUID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	at := slices.IndexFunc(b.waiting, func(l listed) bool { return l.id == id })
	if at > 0 {
		l := b.waiting[at]
		copy(b.waiting[1:at+1], b.waiting[:at])
		b.waiting[0] = l
	}
}

// maxStuck bounds the accounts that gave their place to others: where a server
// is at fault and not single accounts, the others would fare no better.
const maxStuck = 200

// giveWay gives the place of an account that something stops to the next one; it
// reports whether it had one.
func (b *bootstrap) giveWay(id mailstore.GUID) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	l, was := b.running[id]
	if !was || len(b.stuck) >= maxStuck {
		return false
	}
	delete(b.running, id)
	b.stuck[id] = l
	return true
}

// stopped has others take the place of an account that is on its way to a node
// that joins, and that something stops.
func (n *Node) stopped(id mailstore.GUID) {
	if n.strap.giveWay(id) {
		n.job(n.bringNext)
	}
}

// onlyStuck tells the operator what keeps this node from having joined.
func (n *Node) onlyStuck(accounts int, names []string) {
	n.log.Error("all accounts of the partner are here but some that something stops: postern replica status names the reason of each; "+
		"once it is mended, postern replica resume tries again. Until then this server serves no account that it has not got",
		"stopped", accounts, "accounts", strings.Join(names, " "))
	n.audit(mail.Event{Result: "stuck", Detail: fmt.Sprintf("%d account(s) do not come from the partner: %s", accounts, strings.Join(names, " "))})
}

// finished takes note that an account is complete.
func (b *bootstrap) finished(id mailstore.GUID) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	l, was := b.running[id]
	if !was {
		l, was = b.stuck[id]
	}
	if was {
		delete(b.running, id)
		delete(b.stuck, id)
		b.done++
		b.moved += l.octets
	}
	return was
}

// joined ends the time in which this node lacks something, and says so to the
// partner.
func (n *Node) joined(ctx context.Context, link Link) {
	if err := n.deps.Mail.Join(ctx); err != nil {
		n.log.Error("cannot note that all accounts are here", "err", err)
		return
	}
	n.audit(mail.Event{Result: "joined", Detail: "all accounts of the partner are here"})
	n.log.Info("all accounts of the partner are here: this server serves all of them")
	link.Push(Frame{Class: ClassOps, Kind: KindJoined})
}

// gotJoined takes in that the partner has joined: what changed here and was not
// on its list follows.
func (n *Node) gotJoined(link Link) {
	n.mu.Lock()
	joined := n.link == link && n.greeted && n.hello.joining
	if joined {
		n.hello.joining, n.hello.fresh = false, false
	}
	h := n.hello
	n.mu.Unlock()
	if joined {
		n.audit(mail.Event{Result: "joined", Peer: link.Peer().Remote, Detail: "the partner has all accounts"})
		n.job(func(ctx context.Context) { n.attachDirty(ctx, link, h) })
	}
}
