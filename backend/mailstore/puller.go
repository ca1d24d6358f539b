package mailstore

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/postern-mail/postern/internal/mutant"
	"github.com/postern-mail/postern/store"
)

// ErrStale means that the partner has operations of this node that it does not
// have itself: it was restored from a backup, and has to rejoin the pair.
var ErrStale = errors.New("the partner knows more of this node than the node itself")

// Puller merges the partner's state of an account into this node's: for the
// first time, after an outage longer than the journal, or after damage. It
// asks questions that the partner's Replica.Answer answers; who drives it
// carries them. Messages come INBOX first and the newest first. Each answer is
// merged in commits of its own, so that a merge that was broken off, at any
// point, is begun again with a new Puller and finds done what was done. It
// holds some 40 octets for each message of one mailbox. It is not safe for
// concurrent use, and no records of the partner's may be applied meanwhile.
type Puller struct {
	replica *Replica
	// Deep compares every mailbox message by message; otherwise those whose
	// kept digests are equal count as equal. Set it before the first Query.
	Deep bool

	asked question
	state pullState
	peer  stateHeader
	s0    []Dot // what the merge brings this node to
	mine  []Dot // what this node had when it began

	boxes  []pulledBox // yet to be merged, the last first
	box    GUID
	index  *index
	erased map[Dot]bool // expunged here, as far as is known; read when needed
	whole  bool         // the partner is sure of what it lacks
	ranges []dotRange   // yet to be asked for, the last first
	wanted []Dot        // messages to be asked for
	items  []stateItem  // waiting for bodies
	gone   []goneFrom   // to be removed at the end
	known  []Dot        // what the partner had applied when it sent them

	applied Applied
}

type pullState int

const (
	pullHeader pullState = iota
	pullMailboxes
	pullSubscriptions
	pullEntries
	pullMessages
	pullFinished
)

// pulledBox is a mailbox whose messages are to be compared.
type pulledBox struct {
	id     GUID
	modseq uint64
}

// Pull begins a state merge.
func (r *Replica) Pull(context.Context) (*Puller, error) {
	return &Puller{replica: r, asked: question{kind: askHeader}}, nil
}

// Applied tells what the merge has changed so far; Vector and what follows it
// are filled in when it is complete.
func (p *Puller) Applied() Applied { return p.applied }

// Query returns the next question, nil when the merge is complete. StoreDown;
// then a new Puller may be begun later.
func (p *Puller) Query(ctx context.Context) ([]byte, error) {
	if p.state == pullMessages {
		if err := p.next(ctx); err != nil {
			return nil, err
		}
	}
	if p.state == pullFinished {
		return nil, nil
	}
	return p.asked.encode(), nil
}

// next finds the next question about messages, and ends the merge when there
// is none.
func (p *Puller) next(ctx context.Context) error {
	for {
		switch {
		case len(p.wanted) > 0:
			n := min(len(p.wanted), maxAskedDots)
			p.asked = question{kind: askMessages, mailbox: p.box, known: p.s0, mine: p.mine, dots: slices.Clone(p.wanted[:n])}
			slices.SortFunc(p.asked.dots, compareDots)
			return nil
		case len(p.ranges) > 0:
			n := min(len(p.ranges), maxAskedRanges)
			p.asked = question{kind: askRanges, mailbox: p.box, known: p.s0, mine: p.mine, ranges: slices.Clone(p.ranges[len(p.ranges)-n:])}
			p.ranges = p.ranges[:len(p.ranges)-n]
			return nil
		case p.index != nil:
			if err := p.closeBox(ctx); err != nil {
				return err
			}
		case len(p.boxes) == 0:
			if err := p.finish(ctx); err != nil {
				return err
			}
			p.state = pullFinished
			return nil
		default:
			if err := p.openBox(ctx); err != nil {
				return err
			}
		}
	}
}

// closeBox ends a mailbox. One from which something was missing has all that
// the partner has now: what is kept of it is counted anew.
func (p *Puller) closeBox(ctx context.Context) error {
	damaged := !p.index.whole
	p.index = nil
	if !damaged || !p.whole {
		return nil
	}
	return p.change(ctx, func(t *txn) error {
		b := t.box(p.box)
		if b == nil || t.peek(b).gone {
			return nil
		}
		index, err := t.account.readIndex(t.ctx, p.box)
		if err != nil {
			return err
		}
		v := t.draft(b)
		c := &index.counted.mailboxRecord
		t.head.octets += c.octets + c.pendingOctets - v.octets - v.pendingOctets
		t.head.unsettled += uint64(c.pending + c.misplaced - v.pending - v.misplaced)
		v.messages, v.unseen, v.deleted, v.octets = c.messages, c.unseen, c.deleted, c.octets
		v.pending, v.pendingOctets, v.misplaced = c.pending, c.pendingOctets, c.misplaced
		v.digest, v.summed, v.quick, v.dirty = index.sum(0, len(index.items)), true, false, true
		return nil
	})
}

// openBox begins with the next mailbox: with all of it as one range.
func (p *Puller) openBox(ctx context.Context) error {
	p.box = p.boxes[len(p.boxes)-1].id
	p.boxes = p.boxes[:len(p.boxes)-1]
	r := p.replica
	p.erased, p.whole = nil, false
	err := r.store.kv.View(ctx, func(snap store.Snapshot) (err error) {
		p.index, err = readIndex(snap, r.id, p.box)
		return err
	})
	if err != nil {
		return r.store.failure("read a mailbox for a state merge", err)
	}
	p.index.keep(p.s0, p.mine)
	p.ranges = []dotRange{{to: lastDot, count: uint64(len(p.index.items)), sum: p.index.sum(0, len(p.index.items))}}
	return nil
}

// Take merges the answer to the last Query. Bodies that are needed for that it
// asks for; then Give goes on. ErrMalformed, ErrStale, StoreDown.
func (p *Puller) Take(ctx context.Context, answer []byte) (need []store.Ref, err error) {
	d, known, err := openAnswer(answer, p.asked.kind)
	if err != nil {
		return nil, err
	}
	switch p.asked.kind {
	case askHeader:
		err = p.takeHeader(ctx, &d)
	case askMailboxes, askSubscriptions, askEntries:
		err = p.takePage(ctx, &d)
	case askRanges:
		err = p.takeRanges(&d)
	case askMessages:
		need, err = p.takeMessages(ctx, &d, known)
	}
	return need, err
}

// takeHeader fixes what the merge brings this node to, and whether it may.
func (p *Puller) takeHeader(ctx context.Context, d *decoder) error {
	p.peer = d.stateHeader()
	if d.end("header") != nil || p.peer.hlc >= maxHLC {
		return fmt.Errorf("%w: header", errState)
	}
	p.s0 = p.peer.position.Vector.Dots()
	p.state, p.asked = pullMailboxes, question{kind: askMailboxes}
	return p.change(ctx, func(t *txn) error {
		if seq := p.peer.position.Vector.Of(t.account.store.origin).Seq; seq > t.head.seq {
			return fmt.Errorf("%w: %d operations, here %d", ErrStale, seq, t.head.seq)
		}
		if t.account.headRecord == nil {
			t.batch.Put(accountKey(t.account.id, kindInfo), appendBlock([]byte{recordVersion}, t.account.name))
		}
		// What is written from now on comes after what is merged.
		p.mine = t.head.vector().Dots()
		t.head.hlc = max(t.head.hlc, p.peer.hlc)
		t.head.lastUIDValidity = max(t.head.lastUIDValidity, p.peer.lastUIDValidity)
		t.changed = true
		return nil
	})
}

// record is one of a page.
type pageRecord struct{ key, value []byte }

// takePage merges registers and asks for the next page, or the next kind.
func (p *Puller) takePage(ctx context.Context, d *decoder) error {
	var page []pageRecord
	end := d.byte()
	for ; end == 1 && !d.bad; end = d.byte() {
		page = append(page, pageRecord{bytes.Clone(d.block()), bytes.Clone(d.block())})
	}
	if d.end("page") != nil || end == 2 && len(page) == 0 {
		return fmt.Errorf("%w: page", errState)
	}
	for some := range slices.Chunk(page, maxPulledRecords) {
		if err := p.change(ctx, func(t *txn) error { return p.joinPage(t, some) }); err != nil {
			return err
		}
	}
	if end == 2 {
		p.asked.after = page[len(page)-1].key
		return nil
	}
	switch p.state++; p.state {
	case pullSubscriptions:
		p.asked = question{kind: askSubscriptions}
	case pullEntries:
		p.asked = question{kind: askEntries}
	case pullMessages:
		slices.SortFunc(p.boxes, func(a, b pulledBox) int { return cmp.Compare(a.modseq, b.modseq) })
	}
	return nil
}

// maxPulledRecords is how many registers share a commit: entries are large.
const maxPulledRecords = 20

func (p *Puller) joinPage(t *txn, page []pageRecord) error {
	for _, r := range page {
		var err error
		switch p.asked.kind {
		case askMailboxes:
			err = p.joinBox(t, r)
		case askSubscriptions:
			var s subscription
			if s, err = decodeSubscription(r.value); err == nil {
				t.joinSubscription(string(r.key), s)
			}
		case askEntries:
			var e entry
			if e, err = decodeEntry(r.value); err == nil && len(r.key) >= entryNameOctets && len(r.key) <= entryNameOctets+MaxEntryKeyOctets {
				err = t.joinEntry(r.key, e, func(d Dot) bool { return covers(p.s0, d) })
			}
			if err != nil && isSeenName(r.key) && isDamagedSeen(err) {
				t.account.noteDamagedSeen(r.key, fmt.Errorf("from the partner: %w", err))
				err = nil // what the partner has of it is unread there, too
			}
		}
		if err != nil {
			return fmt.Errorf("%w: %w", errState, err)
		}
	}
	return nil
}

// joinBox merges what the partner has of a mailbox, and notes it if its
// messages are to be compared.
func (p *Puller) joinBox(t *txn, r pageRecord) error {
	if len(r.key) != 16 {
		return errRecord
	}
	id := GUID(r.key)
	theirs, err := decodeMailbox(r.value)
	if err != nil {
		return err
	}
	if err := t.joinMailbox(id, &theirs); err != nil {
		return err
	}
	b := t.box(id)
	if !isWithin(theirs.used, t.peek(b).used) {
		v := t.draft(b)
		v.used, v.dirty = unionOf(v.used, theirs.used), true
	}
	if id != t.account.inboxID() {
		if err := t.erase(b, theirs.erased); err != nil {
			return err
		}
	}
	for _, d := range t.peek(b).used {
		if v := t.peek(b); v.removed && !covers(v.erased, d) {
			t.revive(b, d)
		}
	}
	v := t.peek(b)
	if floor := max(theirs.floor, theirs.allocated, theirs.uidNext-min(theirs.uidNext, 1)); floor > v.floor {
		v = t.draft(b)
		v.heard(floor)
		v.dirty = true
	}
	if v.removed {
		p.drop(id)
		return nil
	}
	if !p.Deep && theirs.forPartner() && v.forPartner() && theirs.digest == v.digest && theirs.messages+theirs.pending == v.messages+v.pending {
		p.drop(id)
		return nil
	}
	p.drop(id)
	modseq := theirs.modseq
	if id == t.account.inboxID() {
		modseq = 1<<64 - 1
	}
	p.boxes = append(p.boxes, pulledBox{id, modseq})
	return nil
}

// drop forgets a mailbox that a commit that was tried before has noted.
func (p *Puller) drop(id GUID) {
	p.boxes = slices.DeleteFunc(p.boxes, func(b pulledBox) bool { return b.id == id })
}

// takeRanges finds out which messages differ, divides what is too large for
// that, and notes what the partner has removed.
func (p *Puller) takeRanges(d *decoder) error {
	p.whole = d.byte() != 0
	var gone []Dot
	for _, asked := range p.asked.ranges {
		switch d.byte() {
		case rangeEqual:
		case rangeListed:
			theirs := make([]item, d.byte())
			for i := range theirs {
				theirs[i].dot = d.dot()
				copy(theirs[i].sum[:], d.bytes(16))
			}
			gone = append(gone, p.compare(asked, theirs)...)
		case rangeDivided:
			if err := p.divide(asked, d.ranges()); err != nil {
				return err
			}
		default:
			d.bad = true
		}
	}
	if d.end("ranges") != nil {
		return fmt.Errorf("%w: ranges", errState)
	}
	p.removeGone(gone)
	return nil
}

// compare looks at one range message by message: those the partner has and
// this node has not, or otherwise, are asked for; returned are those that the
// partner has not.
func (p *Puller) compare(asked dotRange, theirs []item) (gone []Dot) {
	from, to := p.index.part(asked.from, asked.to)
	mine := p.index.items[from:to]
	have := make(map[Dot][16]byte, len(mine))
	for _, it := range mine {
		have[it.dot] = it.sum
	}
	for _, it := range slices.Backward(theirs) {
		if sum, here := have[it.dot]; !here || sum != it.sum {
			p.wanted = append(p.wanted, it.dot)
		}
		delete(have, it.dot)
	}
	for d := range have {
		gone = append(gone, d)
	}
	slices.SortFunc(gone, compareDots)
	return gone
}

// divide asks for those parts of a range that differ, the last first.
func (p *Puller) divide(whole dotRange, parts []dotRange) error {
	at := whole.from
	for _, part := range parts {
		if part.from != at {
			return fmt.Errorf("%w: parts of a range", errState)
		}
		at = part.to
		from, to := p.index.part(part.from, part.to)
		if sum := p.index.sum(from, to); uint64(to-from) != part.count || sum != part.sum {
			p.ranges = append(p.ranges, dotRange{from: part.from, to: part.to, count: uint64(to - from), sum: sum})
		}
	}
	if at != whole.to || len(parts) < 2 {
		return fmt.Errorf("%w: parts of a range", errState)
	}
	return nil
}

// goneFrom are messages of one mailbox that the partner has removed.
type goneFrom struct {
	box  GUID
	dots []Dot
}

// removeGone notes what the partner does not have although it has applied its
// adding: it was expunged there. A partner that is not sure of what it lacks
// removes nothing. The removal comes last: what the partner has moved needs the
// body that is here.
func (p *Puller) removeGone(gone []Dot) {
	gone = slices.DeleteFunc(gone, func(d Dot) bool { return !covers(p.s0, d) })
	if p.whole || p.replica.store.without(mutant.AbsenceDeletes) {
		for some := range slices.Chunk(gone, expungePerCommit) {
			p.gone = append(p.gone, goneFrom{p.box, some})
		}
	}
}

func (p *Puller) remove(ctx context.Context, gone goneFrom) error {
	return p.change(ctx, func(t *txn) error {
		b := t.box(gone.box)
		if b == nil || t.peek(b).removed {
			return nil
		}
		if err := t.load(b); err != nil {
			return err
		}
		return t.removeDots(b, gone.dots, false)
	})
}

// takeMessages merges messages, at once when their bodies are here.
func (p *Puller) takeMessages(ctx context.Context, d *decoder, known []Dot) (need []store.Ref, err error) {
	done, found := int(d.byte()), int(d.byte())
	items := make([]stateItem, 0, found)
	for range found {
		it := d.stateItem()
		if !d.bad && !slices.Contains(p.asked.dots, it.op.Message.Dot) {
			d.bad = true
		}
		items = append(items, it)
	}
	if done == 0 || done > len(p.asked.dots) || found > done || d.end("messages") != nil {
		return nil, fmt.Errorf("%w: messages", errState)
	}
	settled := p.asked.dots[:done]
	p.wanted = slices.DeleteFunc(p.wanted, func(d Dot) bool { return slices.Contains(settled, d) })
	p.items, p.known = items, known
	var refs []store.Ref
	for i := range items {
		if _, here := p.index.find(items[i].op.Message.Dot); !here {
			refs = append(refs, items[i].op.Message.Body)
		}
	}
	if need, err = p.replica.Missing(ctx, refs); err != nil || len(need) > 0 {
		return need, err
	}
	return nil, p.Give(ctx, nil, nil)
}

// Give merges the messages whose bodies Take asked for. Those whose bodies are
// gone, the partner having been asked after it gave the answer, are left out. The caller discards the bodies. *MissingBodies when some
// are in neither; then Give may be called again.
func (p *Puller) Give(ctx context.Context, bodies map[store.Hash]store.Staged, gone Gone) error {
	var fresh []remote
	var here []stateItem
	for i := range p.items {
		it := &p.items[i]
		if _, found := p.index.find(it.op.Message.Dot); found {
			here = append(here, *it)
			continue
		}
		r := remote{JournalRecord: &JournalRecord{Ops: []JournalOp{it.op}}}
		err := p.replica.with(ctx, func(a *account) error { return a.prepareRemote(ctx, &r, bodies, gone) })
		if err != nil {
			return err
		}
		fresh = append(fresh, r)
	}
	if err := p.joinFlags(ctx, here); err != nil {
		return err
	}
	if err := p.insert(ctx, fresh); err != nil {
		return err
	}
	p.items = nil
	return nil
}

// change runs fn in a commit of its own, and keeps what it tells of conflicts.
func (p *Puller) change(ctx context.Context, fn func(t *txn) error) error {
	return p.replica.with(ctx, func(a *account) error {
		if a.link == nil {
			return ErrAlone
		}
		var conflicts []Conflict
		err := a.changeAlone(ctx, func(t *txn) error {
			t.adds, t.head.merging = true, true
			if err := fn(t); err != nil {
				return err
			}
			t.nameMailboxes()
			conflicts = t.conflicts
			return nil
		})
		if err == nil {
			p.applied.Conflicts = append(p.applied.Conflicts, conflicts...)
		}
		return err
	})
}
