package dmarcrpt

import (
	"context"
	"errors"
	"fmt"

	"github.com/postern-mail/postern/store"
)

// batchOctets is where a commit of counts ends.
const batchOctets = store.MaxBatchOctets / 2

// flush writes what was counted.
func (r *Reporter) flush(ctx context.Context) {
	taken := r.take()
	if len(taken) == 0 {
		return
	}
	if err := r.write(ctx, taken); err != nil && ctx.Err() == nil {
		r.log.Error("counts for DMARC reports cannot be written", "err", err)
	}
}

// piece is a shard that is to be written.
type piece struct {
	subject
	shard byte
	rows  *rows
	fresh *fresh
}

// write adds what was counted to what the store holds. What it cannot write it
// gives back.
func (r *Reporter) write(ctx context.Context, taken map[subject]*fresh) error {
	var pieces []piece
	for s, f := range taken {
		for shard, c := range f.shards {
			pieces = append(pieces, piece{s, shard, c, f})
		}
	}
	for len(pieces) > 0 {
		b := store.NewBatch()
		n, added, err := r.fill(ctx, b, pieces)
		if err == nil && len(b.Ops) > 0 {
			_, err = r.deps.Store.Commit(ctx, b)
		}
		if err != nil {
			for _, p := range pieces {
				r.giveBack(p.subject, p.shard, p.rows, p.fresh.published)
			}
			return err
		}
		for d, domains := range added {
			r.kept[d] += domains
			r.wake.At(r.cfg.ReportTime(d))
		}
		pieces = pieces[n:]
	}
	return nil
}

// fill adds to b as many shards as have room in one commit, with the heads of
// their reports. It returns how many these are, and how many domains are new on
// which day.
func (r *Reporter) fill(ctx context.Context, b *store.Batch, pieces []piece) (n int, added map[day]int, err error) {
	added = make(map[day]int)
	heads := make(map[subject]bool) // whether there is room for it
	octets := 0
	for _, p := range pieces {
		if octets > batchOctets || len(b.Ops)+2 > store.MaxBatchOps {
			break
		}
		n++
		room, seen := heads[p.subject]
		if !seen {
			if room, err = r.putHead(ctx, b, p, added); err != nil {
				return 0, nil, err
			}
			heads[p.subject] = room
		}
		if !room {
			r.counts.dropped.Add(float64(p.rows.messages()))
			continue
		}
		value, err := r.merged(ctx, p)
		if err != nil {
			return 0, nil, err
		}
		b.Put(p.key(p.shard), value)
		octets += len(value)
	}
	return n, added, nil
}

// putHead writes the policy in force. It reports false for a domain more than a
// day has room for.
func (r *Reporter) putHead(ctx context.Context, b *store.Batch, p piece, added map[day]int) (room bool, err error) {
	value, err := r.get(ctx, p.key(headShard))
	if err != nil {
		return false, err
	}
	h := &head{}
	if value != nil {
		if h, err = decodeHead(value); err != nil {
			r.log.Error("record of a DMARC report is damaged and begun anew", "domain", p.domain, "day", p.day.String(), "err", err)
			h = &head{}
		}
	} else {
		if err := r.countKept(ctx, p.day); err != nil {
			return false, err
		}
		if r.kept[p.day]+added[p.day] >= maxDomains {
			return false, nil
		}
		added[p.day]++
	}
	h.Published = p.fresh.published
	if value, err = h.encode(); err != nil {
		return false, err
	}
	b.Put(p.key(headShard), value)
	return true, nil
}

// merged returns a shard as it is to be stored.
func (r *Reporter) merged(ctx context.Context, p piece) ([]byte, error) {
	value, err := r.get(ctx, p.key(p.shard))
	if err != nil {
		return nil, err
	}
	c := &rows{}
	if value != nil {
		if c, err = decodeRows(value); err != nil {
			r.log.Error("counts for a DMARC report are damaged and begun anew", "domain", p.domain, "day", p.day.String(), "err", err)
			c = &rows{}
		}
	}
	// The rows are shared with what is given back when the commit fails.
	for _, one := range p.rows.Rows {
		counted := *one
		c.add(&counted)
	}
	value, dropped, err := c.encode()
	r.counts.dropped.Add(float64(dropped))
	return value, err
}

// get reads a value; nil when there is none.
func (r *Reporter) get(ctx context.Context, key []byte) (value []byte, err error) {
	err = r.deps.Store.View(ctx, func(v store.Snapshot) error {
		got, err := v.Get(key)
		value = append(value, got...)
		return err
	})
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	return value, err
}

// countKept counts the domains of a day in the store, once.
func (r *Reporter) countKept(ctx context.Context, d day) error {
	return r.kept.Know(d, func() (n int, err error) {
		err = store.Scan(ctx, r.deps.Store, lo(d), lo(d+1), 1000, func(_ store.Snapshot, key, _ []byte) error {
			if _, shard, err := parseKey(key); err == nil && shard == headShard {
				n++
			}
			return nil
		})
		if err != nil {
			err = fmt.Errorf("count the reports of %s: %w", d, err)
		}
		return n, err
	})
}
