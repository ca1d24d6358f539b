package queue

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/store"
	"github.com/postern-mail/postern/store/lease"
)

// shards is into how many parts the queue is divided. Its number is settled
// when the queue is created.
type shards int

// Bounds of the number of shards. A queue of one process has one; of several,
// enough that each gets its part and few enough that all can be looked at every
// second.
const (
	maxShards    = 1024
	sharedShards = 64
)

// of returns the shard of a message, for as long as it lives: the FNV-1a hash of
// its id, whoever looks.
func (n shards) of(id mail.QueueID) uint16 {
	if n <= 1 {
		return 0
	}
	const offset, prime = 2166136261, 16777619
	h := uint32(offset)
	for i := 0; i < len(id); i++ {
		h = (h ^ uint32(id[i])) * prime
	}
	return uint16(h % uint32(n))
}

func (n shards) newMessage(id mail.QueueID, r *record) *message {
	return &message{id: id, shard: n.of(id), record: r, work: make([]group, len(r.groups))}
}

// shard is a part of the queue that this process serves. It is guarded by
// Queue.mu.
type shard struct {
	number uint16
	// cursor is the place in the due index before which everything is in
	// memory; nextDue is the time of the first entry behind it, as far as
	// known.
	cursor  []byte
	nextDue time.Time
	// ahead is the place before which nothing with a raised priority waits
	// unseen; see loadAhead.
	ahead []byte
	// unread is the lowest due entry whose message the store did not give, nil
	// for none; from unreadAt on it is read again.
	unread   []byte
	unreadAt time.Time

	// lease is what makes the shard this process's; nil where nobody else has
	// the store.
	lease *lease.Lease
	// deliver is for the deliveries of the shard; stop ends it.
	deliver context.Context
	stop    context.CancelFunc
	leaving bool // nothing new begins, it is to be given back
	lost    bool // another process's by now; what is under way is of no avail
}

func newShard(number uint16) *shard {
	return &shard{number: number, cursor: dueTimeKey(number, time.UnixMilli(0))}
}

// servedNow returns the shards that this process serves.
func (q *Queue) servedNow() []*shard {
	q.mu.Lock()
	defer q.mu.Unlock()
	served := make([]*shard, 0, len(q.served))
	for _, s := range q.served {
		if s != nil {
			served = append(served, s)
		}
	}
	return served
}

// layoutVersion begins the record of how the queue is laid out.
const layoutVersion = 1

// readLayout returns into how many shards the queue in a store is divided. One
// without a record of that is empty, or of the first release: that had one
// shard, and no counts.
func readLayout(v store.Snapshot) (n shards, counted bool, err error) {
	value, err := v.Get(layoutKey())
	if errors.Is(err, store.ErrNotFound) {
		return 1, false, nil
	}
	if err != nil {
		return 0, false, err
	}
	d := decoder{buf: value}
	if version := d.byte(); d.err == nil && version != layoutVersion {
		return 0, false, fmt.Errorf("the queue has layout %d, this program knows %d", version, layoutVersion)
	}
	n = shards(d.uvarint())
	if err := d.end(); err != nil || n < 1 || n > maxShards {
		return 0, false, fmt.Errorf("%w: layout %x", errRecord, value)
	}
	return n, true, nil
}

// openLayout makes q know its shards and how much is in them. A queue that has
// no record of that yet gets one, with as many shards as are wanted if it is
// empty. Where the disk has no room for it, one shard needs none: a start finds
// the queue as it is then, and counts it.
func (q *Queue) openLayout(ctx context.Context, wanted int) error {
	for {
		counted, empty := false, true
		err := q.deps.Store.View(ctx, func(v store.Snapshot) (err error) {
			if q.shards, counted, err = readLayout(v); err != nil || counted {
				return err
			}
			lo, hi := kindRange('m')
			for _, err := range v.Range(lo, hi, 1, false) {
				empty = false
				return err
			}
			return nil
		})
		if err != nil {
			return err
		}
		if counted {
			return q.loadCounts(ctx)
		}
		b := store.NewBatch()
		b.UseReserve = true
		b.IfAbsent(layoutKey())
		if empty {
			q.shards = shards(wanted)
		} else if err := q.countOnce(ctx, b); err != nil {
			return err
		}
		b.Put(layoutKey(), binary.AppendUvarint([]byte{layoutVersion}, uint64(q.shards)))
		switch _, err := q.deps.Store.Commit(ctx, b); {
		case err == nil:
			return q.loadCounts(ctx)
		case errors.Is(err, store.ErrFull) && q.shards == 1:
			q.log.Warn("no room to record how the queue is laid out; the next start tries again", "err", err)
			return q.scanCounts(ctx)
		case !errors.Is(err, store.ErrConflict):
			return err
		} // another process was quicker
	}
}

// countOnce counts what a program that kept no counts left.
func (q *Queue) countOnce(ctx context.Context, b *store.Batch) error {
	n, err := countMessages(ctx, q.deps.Store, q.shards)
	for s := range n {
		b.Put(countKey(uint16(s), countedMessages), store.EncodeCounter(n[s].messages))
		b.Put(countKey(uint16(s), countedHeld), store.EncodeCounter(n[s].held))
	}
	return err
}

// tally is how much there is in a shard.
type tally struct{ messages, held int64 }

// countMessages reads every message's key and counts, by shard.
func countMessages(ctx context.Context, kv store.Store, n shards) ([]tally, error) {
	counted := make([]tally, n)
	for _, kind := range []byte{'m', 'h'} {
		lo, hi := kindRange(kind)
		err := store.Scan(ctx, kv, lo, hi, 10_000, func(_ store.Snapshot, key, _ []byte) error {
			id := mail.QueueID(key[2:])
			switch t := &counted[n.of(id)]; {
			case !validID(id):
			case kind == 'm':
				t.messages++
			default:
				t.held++
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return counted, nil
}

// count adds to b that messages came into a shard, of which some are on hold;
// or, below 0, that they went.
func count(b *store.Batch, shard uint16, messages, held int64) {
	if messages != 0 {
		b.Add(countKey(shard, countedMessages), messages)
	}
	if held != 0 {
		b.Add(countKey(shard, countedHeld), held)
	}
}

// readCounts returns what is counted in a shard.
func readCounts(v store.Snapshot, shard uint16) (t tally, err error) {
	if t.messages, err = v.Counter(countKey(shard, countedMessages)); err != nil {
		return t, err
	}
	t.held, err = v.Counter(countKey(shard, countedHeld))
	return t, err
}

// loadCounts makes Stats know how much is in all shards.
func (q *Queue) loadCounts(ctx context.Context) error {
	return q.deps.Store.View(ctx, func(v store.Snapshot) error {
		var sum tally
		for s := range q.shards {
			t, err := readCounts(v, uint16(s))
			if err != nil {
				return err
			}
			sum.messages += t.messages
			sum.held += t.held
		}
		q.counts.queued.Store(sum.messages)
		q.counts.held.Store(sum.held)
		return nil
	})
}

// scanCounts does as loadCounts, where the store has no counts to be relied on.
func (q *Queue) scanCounts(ctx context.Context) error {
	n, err := countMessages(ctx, q.deps.Store, q.shards)
	var sum tally
	for _, t := range n {
		sum.messages += t.messages
		sum.held += t.held
	}
	q.counts.queued.Store(sum.messages)
	q.counts.held.Store(sum.held)
	return err
}

// foldCounts makes one of additions to the same counter in ops, in place.
func foldCounts(ops []store.Op) []store.Op {
	folded := ops[:0]
	var counters []int // where they are in folded
next:
	for _, op := range ops {
		if op.Kind == store.OpAdd && len(op.Key) == countKeyOctets && op.Key[1] == 'c' {
			for _, i := range counters {
				if string(folded[i].Key) == string(op.Key) {
					folded[i].N += op.N
					continue next
				}
			}
			counters = append(counters, len(folded))
		}
		folded = append(folded, op)
	}
	return folded
}
