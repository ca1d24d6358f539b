package mailstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sort"
	"sync"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/store"
)

// indexCache keeps the index of the mailbox that is being compared: a
// comparison asks many questions of one mailbox.
type indexCache struct {
	mu      sync.Mutex
	mailbox GUID
	mine    []Dot
	index   *index
}

// get returns the index of a mailbox for a question, with all that its known
// covers. It may be
// older than the mailbox is now: what came since is the journal's to tell.
func (c *indexCache) get(snap store.Snapshot, account GUID, q *question) (*index, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.index != nil && c.mailbox == q.mailbox && isWithin(q.known, c.index.known) && slices.Equal(q.mine, c.mine) {
		return c.index, nil
	}
	x, err := readIndex(snap, account, q.mailbox)
	if err != nil {
		return nil, err
	}
	h, err := readHead(snap, account)
	if err != nil {
		return nil, err
	}
	x.known = h.vector().Dots()
	x.keep(q.known, q.mine)
	c.mailbox, c.mine, c.index = q.mailbox, q.mine, x
	return x, nil
}

func (c *indexCache) drop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.index = nil
}

// keep drops what is not to be compared, having noted whether all is there.
func (x *index) keep(known, mine []Dot) {
	x.whole = x.isWhole()
	kept := x.items[:0]
	for _, it := range x.items {
		if covers(known, it.dot) || covers(mine, it.dot) {
			kept = append(kept, it)
		}
	}
	x.items = kept
}

// part returns where the items of a range begin and end.
func (x *index) part(from, to Dot) (int, int) {
	at := func(d Dot) int {
		return sort.Search(len(x.items), func(i int) bool { return compareDots(x.items[i].dot, d) >= 0 })
	}
	return at(from), at(to)
}

// Answer answers a question of the partner's state merge, with 256 KiB or
// little more. ErrMalformed, StoreDown.
func (r *Replica) Answer(ctx context.Context, query []byte) (answer []byte, err error) {
	answer, begins, err := r.answer(ctx, query)
	if err == nil && begins {
		// What the merge covers is not replayed, and so not what was asked of home.
		err = r.askAgain(ctx)
	}
	return answer, err
}

func (r *Replica) answer(ctx context.Context, query []byte) (answer []byte, begins bool, err error) {
	q, err := decodeQuestion(query)
	if err != nil {
		return nil, false, err
	}
	if q.kind == askHeader {
		r.cache.drop()
	}
	err = r.store.kv.View(ctx, func(snap store.Snapshot) error {
		h, err := readHead(snap, r.id)
		if err != nil {
			return err
		}
		if h.origin == 0 {
			h.origin = r.store.origin
		}
		answer = beginAnswer(q.kind, h.vector().Dots())
		switch q.kind {
		case askHeader:
			answer = r.answerHeader(answer, &h)
		case askMailboxes:
			answer, err = r.answerPage(answer, snap, kindMailbox, q.after)
		case askSubscriptions:
			answer, err = r.answerPage(answer, snap, kindSubscription, q.after)
		case askEntries:
			answer, err = r.answerPage(answer, snap, kindEntry, q.after)
		case askRanges:
			answer, err = r.answerRanges(answer, snap, &q)
		case askMessages:
			answer, err = r.answerMessages(answer, snap, &q)
		}
		return err
	})
	return answer, q.kind == askHeader, r.store.failure("answer a state merge", err)
}

func (r *Replica) answerHeader(b []byte, h *head) []byte {
	out := stateHeader{hlc: h.hlc, lastUIDValidity: h.lastUIDValidity}
	out.position = Position{Origin: r.store.origin, Vector: h.vector(), Home: h.home}
	return out.append(b)
}

// answerPage answers with records as they are stored: 1 and a key's end and
// value for each, then 0 at the end or 2 when there are more.
func (r *Replica) answerPage(b []byte, snap store.Snapshot, kind byte, after []byte) ([]byte, error) {
	prefix := accountKey(r.id, kind)
	from := prefix
	if len(after) > 0 {
		from = append(append(bytes.Clone(prefix), after...), 0)
	}
	for pair, err := range snap.Range(from, above(prefix), 0, false) {
		if err != nil {
			return nil, err
		}
		if len(b) > maxAnswerOctets {
			return append(b, 2), nil
		}
		value := pair.Value
		if kind == kindMailbox {
			if value, err = mailboxForPartner(value); err != nil {
				return nil, err
			}
		}
		b = appendBlock(append(b, 1), pair.Key[len(prefix):])
		b = appendBlock(b, value)
	}
	return append(b, 0), nil
}

// mailboxForPartner is a mailbox's record without what is this store's own:
// where it has flags, and a digest that it has not made the common one yet.
func mailboxForPartner(value []byte) ([]byte, error) {
	r, err := decodeMailbox(value)
	if err != nil || !r.blocks && !r.quick {
		return value, err
	}
	r.blocks, r.summed = false, r.forPartner()
	return r.encode(), nil
}

// answerRanges answers whether this node is sure of what it lacks, and for each
// range that it is equal, or what is in it, or in its parts.
func (r *Replica) answerRanges(b []byte, snap store.Snapshot, q *question) ([]byte, error) {
	x, err := r.cache.get(snap, r.id, q)
	if errors.Is(err, store.ErrNotFound) {
		x, err = &index{}, nil // never sure
	}
	if err != nil {
		return nil, err
	}
	b = append(b, boolByte(x.whole))
	for _, asked := range q.ranges {
		from, to := x.part(asked.from, asked.to)
		switch sum := x.sum(from, to); {
		case uint64(to-from) == asked.count && sum == asked.sum:
			b = append(b, rangeEqual)
		case to-from <= maxListed:
			b = append(b, rangeListed, byte(to-from))
			for _, it := range x.items[from:to] {
				b = append(b, it.dot.bytes()...)
				b = append(b, it.sum[:]...)
			}
		default:
			b = appendRanges(append(b, rangeDivided), x.divide(asked, from, to))
		}
	}
	return b, nil
}

// divide makes of a range some with about as many messages each.
func (x *index) divide(whole dotRange, from, to int) []dotRange {
	var parts []dotRange
	at := whole.from
	for i := range divisor {
		begin, end := from+(to-from)*i/divisor, from+(to-from)*(i+1)/divisor
		part := dotRange{from: at, to: whole.to, count: uint64(end - begin), sum: x.sum(begin, end)}
		if i < divisor-1 {
			part.to = x.items[end].dot
		}
		at = part.to
		parts = append(parts, part)
	}
	return parts
}

// answerMessages answers with messages: how many of the dots it has dealt with,
// and those of them that are there. The rest is to be asked for again.
func (r *Replica) answerMessages(b []byte, snap store.Snapshot, q *question) ([]byte, error) {
	x, err := r.cache.get(snap, r.id, q)
	if errors.Is(err, store.ErrNotFound) {
		return append(b, byte(len(q.dots)), 0), nil
	}
	if err != nil {
		return nil, err
	}
	var list []byte
	n, found := 0, 0
	fresh := false
	for _, d := range q.dots {
		if len(list) > maxAnswerOctets {
			break
		}
		n++
		it, err := r.readItem(snap, q.mailbox, x, d)
		if errors.Is(err, store.ErrNotFound) && !fresh {
			// It may be at another UID than the index says.
			fresh = true
			r.cache.drop()
			if x, err = r.cache.get(snap, r.id, q); err != nil {
				return nil, err
			}
			it, err = r.readItem(snap, q.mailbox, x, d)
		}
		if errors.Is(err, store.ErrNotFound) {
			continue
		} else if err != nil {
			return nil, err
		}
		list = it.append(list)
		found++
	}
	return append(append(b, byte(n), byte(found)), list...), nil
}

// readItem reads a message and its trace header. ErrNotFound also when it is
// somewhere else by now; who asks learns that from the journal.
func (r *Replica) readItem(snap store.Snapshot, mailbox GUID, x *index, d Dot) (*stateItem, error) {
	i, found := x.find(d)
	if !found {
		return nil, store.ErrNotFound
	}
	uid := imap.UID(x.items[i].at)
	key, meta := messageKey(r.id, kindMessage, mailbox, uid), messageKey(r.id, kindMeta, mailbox, uid)
	if uid == 0 {
		key, meta = dotKey(r.id, kindPending, mailbox, d), dotKey(r.id, kindPendingMeta, mailbox, d)
	}
	value, err := snap.Get(key)
	if err != nil {
		return nil, err
	}
	var m Message
	if err := decodeInstance(&m, uid, value); err != nil {
		return nil, err
	}
	if m.Dot != d {
		return nil, store.ErrNotFound
	}
	if uid != 0 && x.record.blocks {
		if _, err := x.blocks.apply(snap, mailbox, &m); err != nil {
			return nil, err
		}
	}
	it := &stateItem{op: JournalOp{Code: OpAdd, Mailbox: mailbox, Message: m}, writes: m.moreOf().writes}
	it.op.Message.UID = m.register()
	if m.Trace() > 0 {
		value, err := snap.Get(meta)
		if err != nil {
			return nil, fmt.Errorf("structure of message %d: %w", uid, err)
		}
		if it.op.Trace, _, err = decodeMeta(value); err != nil {
			return nil, err
		}
		it.op.Trace = bytes.Clone(it.op.Trace)
	}
	return it, nil
}
