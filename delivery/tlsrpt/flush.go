package tlsrpt

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/postern-mail/postern/internal/dns"
	"github.com/postern-mail/postern/store"
)

// batchOctets is where a commit of counts ends.
const batchOctets = store.MaxBatchOctets / 2

// flush writes what was counted about domains that want reports.
func (r *Reporter) flush(ctx context.Context) {
	fresh := r.take()
	if len(fresh) == 0 {
		return
	}
	r.dropUnwanted(ctx, fresh)
	if err := r.write(ctx, fresh); err != nil && ctx.Err() == nil {
		r.log.Error("counts of TLS sessions cannot be written", "err", err)
	}
}

// dropUnwanted forgets the domains that publish no TLSRPT record. Of one whose
// DNS does not answer the count is kept until it does.
func (r *Reporter) dropUnwanted(ctx context.Context, fresh map[subject]*count) {
	ctx, cancel := context.WithTimeout(ctx, flushTime)
	defer cancel()
	var unknown []subject
	for s := range fresh {
		if w, known := r.wants[s.domain]; !known || w.day != s.day {
			unknown = append(unknown, s)
		} else if !w.wants {
			delete(fresh, s)
		}
	}
	if len(r.wants)+len(unknown) > maxAsked {
		clear(r.wants)
	}
	found := make([]*wish, len(unknown))
	var lookups errgroup.Group
	lookups.SetLimit(maxLookups)
	for i, s := range unknown {
		lookups.Go(func() error {
			if receivers, err := r.receivers(ctx, s.domain); err == nil {
				found[i] = &wish{s.day, len(receivers) > 0}
			}
			return nil
		})
	}
	_ = lookups.Wait() // nobody returns an error
	for i, s := range unknown {
		if found[i] == nil {
			continue
		}
		if r.wants[s.domain] = *found[i]; !found[i].wants {
			delete(fresh, s)
		}
	}
}

// receivers asks where a domain wants its reports; nobody when it wants none.
// An error means that nobody knows.
func (r *Reporter) receivers(ctx context.Context, domain string) ([]Receiver, error) {
	answer, err := r.deps.Resolver.TXT(ctx, "_smtp._tls."+domain+".")
	if err != nil || answer.Outcome != dns.Found {
		return nil, err
	}
	return parseRecord(answer.Records), nil
}

// write adds fresh counts to what the store holds. What it cannot write it
// gives back.
func (r *Reporter) write(ctx context.Context, fresh map[subject]*count) error {
	subjects := slices.SortedFunc(maps.Keys(fresh), func(a, b subject) int { return bytes.Compare(a.key(), b.key()) })
	for len(subjects) > 0 {
		b := store.NewBatch()
		n, added, err := r.fill(ctx, b, subjects, fresh)
		if err == nil && len(b.Ops) > 0 {
			_, err = r.deps.Store.Commit(ctx, b)
		}
		if err != nil {
			unwritten := make(map[subject]*count)
			for _, s := range subjects {
				unwritten[s] = fresh[s]
			}
			r.giveBack(unwritten)
			return err
		}
		for d, domains := range added {
			r.kept[d] += domains
			r.wake.At(r.cfg.ReportTime(d))
		}
		subjects = subjects[n:]
	}
	return nil
}

// fill adds to b as many counts as have room in one commit. It returns how many
// subjects these are, and how many domains are new on which day.
func (r *Reporter) fill(ctx context.Context, b *store.Batch, subjects []subject, fresh map[subject]*count) (n int, added map[day]int, err error) {
	added = make(map[day]int)
	octets := 0
	for _, s := range subjects {
		if octets > batchOctets || len(b.Ops) >= store.MaxBatchOps {
			break
		}
		n++
		c, err := r.load(ctx, s)
		if err != nil {
			return 0, nil, err
		}
		if c == nil {
			if err := r.countKept(ctx, s.day); err != nil {
				return 0, nil, err
			}
			if r.kept[s.day]+added[s.day] >= maxDomains {
				r.counts.dropped.Inc()
				continue
			}
			added[s.day]++
			c = new(count)
		}
		r.counts.dropped.Add(float64(c.merge(fresh[s])))
		value, err := c.encode()
		if err != nil {
			return 0, nil, err
		}
		b.Put(s.key(), value)
		octets += len(value)
	}
	return n, added, nil
}

// load reads a count; nil when there is none, or none that can be read: it is
// begun anew.
func (r *Reporter) load(ctx context.Context, s subject) (*count, error) {
	var c *count
	err := r.deps.Store.View(ctx, func(v store.Snapshot) error {
		value, err := v.Get(s.key())
		if err != nil {
			return err
		}
		c, err = decode(value)
		return err
	})
	switch {
	case errors.Is(err, store.ErrNotFound):
		return nil, nil
	case errors.Is(err, errRecord):
		r.log.Error("counts of TLS sessions are damaged and begun anew", "domain", s.domain, "day", s.day.String(), "err", err)
		return nil, nil
	default:
		return c, err
	}
}

// countKept counts the domains of a day in the store, once.
func (r *Reporter) countKept(ctx context.Context, d day) error {
	return r.kept.Know(d, func() (n int, err error) {
		err = store.Scan(ctx, r.deps.Store, lo(d), lo(d+1), 1000, func(store.Snapshot, []byte, []byte) error {
			n++
			return nil
		})
		return n, err
	})
}
