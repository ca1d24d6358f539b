package replica

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/postern-mail/postern/backend/mailstore"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// Committed implements mailstore.Partner.
func (n *Node) Committed(account mailstore.GUID, name string, seq uint64) {
	r := n.runner(account, name)
	if r == nil {
		return // it is found when the link comes up
	}
	r.mu.Lock()
	r.committed = max(r.committed, seq)
	r.class = ClassOps
	r.mu.Unlock()
	r.schedule()
}

// waiter waits for the partner to have operations up to seq.
type waiter struct {
	seq  uint64
	done chan error // capacity 1
}

// Durable implements mailstore.Partner.
func (n *Node) Durable(ctx context.Context, account mailstore.GUID, seq uint64, mode Durability) error {
	if mode == mailstore.DurabilityDefault {
		mode = n.cfg.Mode.WithoutKeeper()
	}
	if mode == mailstore.DurabilityAsync || mode == mailstore.DurabilityShadow {
		return nil
	}
	begin := n.now()
	err := n.wait(ctx, account, seq, mode)
	n.counts.waited(mode, n.now().Sub(begin))
	switch {
	case err == nil:
		return nil
	case mode == mailstore.DurabilityStrict:
		return status.Errorf(status.StoreDown, "the partner cannot confirm: %w", err)
	}
	n.degraded(account, err)
	return nil
}

// wait waits for the partner as long as the mode does.
func (n *Node) wait(ctx context.Context, account mailstore.GUID, seq uint64, mode Durability) error {
	r := n.existing(account)
	if r == nil {
		if n.acked(ctx, account) >= seq {
			return nil
		}
		return errLinkDown
	}
	r.mu.Lock()
	if r.acked >= seq {
		r.mu.Unlock()
		return nil
	}
	if r.down {
		r.mu.Unlock()
		return errLinkDown
	}
	w := &waiter{seq: seq, done: make(chan error, 1)}
	r.waiters = append(r.waiters, w)
	r.mu.Unlock()
	defer r.leave(w)
	limit := n.cfg.SemiSyncWait
	if mode == mailstore.DurabilityStrict {
		limit = n.cfg.StrictWait
	}
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case err := <-w.done:
		return err
	case <-timer.C:
		return errSlow
	case <-ctx.Done():
		return ctx.Err()
	}
}

var errSlow = errors.New("the partner did not confirm in time")

// leave takes a waiter out.
func (r *runner) leave(w *waiter) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, other := range r.waiters {
		if other == w {
			r.waiters = append(r.waiters[:i], r.waiters[i+1:]...)
			return
		}
	}
}

// release ends every wait.
func (r *runner) release(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, w := range r.waiters {
		w.done <- err
	}
	r.waiters = nil
}

// degraded counts an answer that was given without the partner, and tells of the
// first since the last link came up.
func (n *Node) degraded(account mailstore.GUID, why error) {
	n.counts.degraded.Inc()
	n.mu.Lock()
	told := n.degrades
	n.degrades = true
	n.mu.Unlock()
	if told {
		return
	}
	name := n.nameOf(account)
	n.log.Warn("semi-sync is degraded: answers are given without the partner from now on", "account", name, "why", why)
	n.audit(mail.Event{Result: "degraded", Login: name, Detail: "answered without the partner: " + why.Error()})
}

// nameOf returns an account's name as far as it is known without a look.
func (n *Node) nameOf(account mailstore.GUID) string {
	if r := n.existing(account); r != nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.name != "" {
			return r.name
		}
	}
	return account.String()
}

// acked returns what the partner had of an account when it was last attached.
func (n *Node) acked(ctx context.Context, account mailstore.GUID) uint64 {
	head, err := n.deps.Mail.Head(ctx, account)
	if err != nil {
		return 0
	}
	return head.Acked
}

// Confirms says whether an answer that needs the partner can be given now, so
// that it may be refused before anything is stored: nil, or a transient
// *status.Error in strict mode while the partner is out of reach.
func (n *Node) Confirms(mode Durability) error {
	if mode == mailstore.DurabilityDefault {
		mode = n.cfg.Mode
	}
	if mode != mailstore.DurabilityStrict || n.Linked() {
		return nil
	}
	return status.Errorf(status.StoreDown, "%w, and strict mode waits for it", errLinkDown)
}

// Watermark reports whether the partner has the account's own operations up to
// seq: who keeps a message until then may let it go.
func (n *Node) Watermark(ctx context.Context, account mailstore.GUID, seq uint64) bool {
	if r := n.existing(account); r != nil {
		r.mu.Lock()
		acked := r.acked
		r.mu.Unlock()
		if acked >= seq {
			return true
		}
	}
	return n.acked(ctx, account) >= seq
}

// Available implements mailstore.Partner: it attaches the account, so that what
// follows gets its UIDs in order, and says whether clients may have it.
func (n *Node) Available(account mailstore.GUID, name string) error {
	n.mu.Lock()
	stale := n.stale
	n.mu.Unlock()
	if stale != "" {
		return status.Errorf(status.StoreDown, "stale incarnation, see postern replica rejoin: %s", stale)
	}
	n.strap.hurry(account)
	if r := n.runner(account, name); r != nil {
		r.attachNow(n.cfg.AttachWait)
		r.mu.Lock()
		stale := r.shown.Stale
		r.mu.Unlock()
		if stale {
			return status.Errorf(status.StoreDown, "account %s is older here than the partner knows; see postern replica rejoin", name)
		}
	}
	return nil
}

// attachNow has the account attached and waits a little for it.
func (r *runner) attachNow(wait time.Duration) {
	r.mu.Lock()
	if r.attached || r.down {
		r.mu.Unlock()
		return
	}
	first := r.changed == nil
	if first {
		r.changed = make(chan struct{})
	}
	changed := r.changed
	tried := r.shown.Tries > 0
	r.mu.Unlock()
	if first {
		r.do(func(_ context.Context, c *Channel) { c.Want() })
	}
	if wait <= 0 || tried {
		return // it was waited for already
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-changed:
	case <-timer.C:
	}
}

// Durable implements Events.
func (e channelEvents) Durable(account mailstore.GUID, seq uint64) {
	r := e.existing(account)
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.acked = seq
	kept := r.waiters[:0]
	for _, w := range r.waiters {
		if w.seq <= seq {
			w.done <- nil
		} else {
			kept = append(kept, w)
		}
	}
	clear(r.waiters[len(kept):])
	r.waiters = kept
	if len(kept) == 0 {
		r.waiters = nil
	}
}

// channelEvents is the node as its channels see it.
type channelEvents struct{ *Node }

// Applied implements Events.
func (e channelEvents) Applied(account mailstore.GUID, records int, applied Applied) {
	e.counts.records.Add(float64(records))
	e.conflicts(account, applied.Conflicts)
}

// Pulled implements Events.
func (e channelEvents) Pulled(account mailstore.GUID, applied Applied) {
	e.counts.merges.Inc()
	e.conflicts(account, applied.Conflicts)
}

func (n *Node) conflicts(account mailstore.GUID, all []Conflict) {
	for _, c := range all {
		n.counts.conflicts.WithLabelValues(string(c.Kind)).Inc()
		n.audit(mail.Event{
			Result: "resolved", Login: n.nameOf(account), Mailbox: c.Mailbox, Detail: fmt.Sprintf("%s: %s", c.Kind, c.Detail),
		})
	}
}

// Joined implements Events.
func (e channelEvents) Joined(account mailstore.GUID) {
	if e.strap.finished(account) {
		e.audit(mail.Event{Result: "complete", Login: e.nameOf(account), Detail: "the account was taken over from the partner"})
		e.job(e.bringNext)
	}
}

// Quarantined implements Events.
func (e channelEvents) Quarantined(account mailstore.GUID, raw []byte, why error) {
	e.counts.quarantined.Inc()
	place, err := e.spool.keepRecord(account, raw, e.now())
	if err != nil {
		e.log.Error("cannot keep the record that could not be applied", "account", e.nameOf(account), "err", err)
	}
	if err := e.memory.quarantine(e.ctx, account, why.Error()); err != nil {
		e.log.Error("cannot remember a quarantine", "account", e.nameOf(account), "err", err)
	}
	e.log.Error("an account is not replicated any more: a record of the partner cannot be applied; others go on",
		"account", e.nameOf(account), "record", place, "err", why)
	e.audit(mail.Event{Result: "quarantined", Login: e.nameOf(account), Detail: why.Error()})
}

// Stale implements Events.
func (e channelEvents) Stale(account mailstore.GUID, own bool) {
	name := e.nameOf(account)
	if own {
		e.setStale(e.ctx, "account "+name+": the partner has operations of this server that it does not have itself")
		return
	}
	e.log.Error("the partner's incarnation is stale: it must rejoin", "account", name)
	e.audit(mail.Event{Result: "refused", Login: name, Detail: "stale incarnation of the partner"})
}

// Differs implements Events.
func (e channelEvents) Differs(account mailstore.GUID) {
	e.counts.mismatches.Inc()
	e.log.Error("an account is not the same on both servers though both know the same; it is compared item by item", "account", e.nameOf(account))
	e.audit(mail.Event{Result: "differs", Login: e.nameOf(account), Detail: "digest mismatch"})
}

// Failed implements Events.
func (n *Node) Failed(account mailstore.GUID, doing string, err error) {
	n.counts.failures.Inc()
	n.log.Warn("replication is tried again", "account", n.nameOf(account), "doing", doing, "err", err)
	if r := n.existing(account); r != nil {
		r.mu.Lock()
		r.shown.Failure, r.shown.FailedAt = doing+": "+err.Error(), n.now()
		r.mu.Unlock()
	}
}
