package replica

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/postern-mail/postern/backend/mailstore"
)

// verifying is the comparison of an account's digest with the partner's.
type verifying struct {
	number  uint64
	waiting map[uint64]func(standing, error)
}

// standing is where the partner says it stands.
type standing struct {
	vector  Vector
	digest  Digest
	settled bool
	damaged string // the mailboxes that are not what was kept of them, for people
}

// What the partner is asked to do before it answers where it stands.
const (
	askCompare byte = 1 << iota // compare everything
	askRecount                  // count and sum all messages anew
)

// Verify asks the partner where it stands, after it did what is asked for. done is called once, also when the attachment ends.
func (c *Channel) Verify(asked byte, done func(standing, error)) {
	v := &c.verify
	c.wanted = true
	if err := c.leftOut(); err != nil {
		done(standing{}, err)
		return
	}
	if c.state != Attached {
		done(standing{}, errNotAttached)
		return
	}
	c.pull.hurry()
	if v.waiting == nil {
		v.waiting = make(map[uint64]func(standing, error))
	}
	v.number++
	v.waiting[v.number] = done
	c.out.Send(ClassOps, KindVerify, stamped(c.attachment, numbered(v.number, []byte{asked})))
}

var errNotAttached = errors.New("the account is not attached")

// reset answers those who wait.
func (v *verifying) reset() {
	waiting := v.waiting
	v.waiting = nil
	for _, done := range waiting {
		done(standing{}, errNotAttached)
	}
}

// gotVerify answers the partner where this node stands.
func (c *Channel) gotVerify(ctx context.Context, payload []byte) error {
	p := parser{b: payload}
	p.uvarint()
	number, asked := p.uvarint(), p.byte()
	if err := p.end(); err != nil {
		return err
	}
	if asked&askCompare != 0 {
		c.pull.due, c.pull.deep, c.pull.after, c.pull.tries = true, true, time.Time{}, 0
	}
	c.pull.hurry()
	var damaged []string
	if asked&askRecount != 0 {
		var err error
		if damaged, err = c.account.Damaged(ctx); err != nil {
			return err
		}
	}
	position, err := c.account.Position(ctx)
	if err != nil {
		return err
	}
	b := appendVector(numbered(number, nil), position.Vector)
	b = append(b, boolByte(position.Settled && !c.pull.busy()))
	b = append(b, position.Digest[:]...)
	b = appendBlock(b, namesOf(damaged))
	c.out.Send(ClassOps, KindVerified, stamped(c.attachment, b))
	return nil
}

// namesOf writes a few names of mailboxes.
func namesOf(mailboxes []string) string {
	const most = 20
	slices.Sort(mailboxes)
	names := fmt.Sprintf("%q", mailboxes[:min(len(mailboxes), most)])
	switch {
	case len(mailboxes) == 0:
		return ""
	case len(mailboxes) > most:
		return fmt.Sprintf("%s and %d more", names, len(mailboxes)-most)
	}
	return names
}

// hurry has a merge that waits for its time begin now: somebody wants to know
// what comes of it.
func (p *pulling) hurry() {
	if p.due {
		p.after = time.Time{}
	}
}

// busy reports whether a merge is under way or about to be.
func (p *pulling) busy() bool { return p.due || p.puller != nil }

// gotVerified takes in where the partner stands.
func (c *Channel) gotVerified(payload []byte) error {
	p := parser{b: payload}
	p.uvarint()
	number := p.uvarint()
	s := standing{vector: p.vector()}
	s.settled = p.byte() != 0
	copy(s.digest[:], p.bytes(len(s.digest)))
	s.damaged = string(p.block())
	if err := p.end(); err != nil {
		return err
	}
	if done := c.verify.waiting[number]; done != nil {
		delete(c.verify.waiting, number)
		done(s, nil)
	}
	return nil
}

// Verified is the result of a comparison.
type Verified struct {
	Name string
	// Same: both sides know the same and hold the same.
	Same bool
	// Changed is what comparing everything put right here.
	Changed []Conflict
	Err     error // why there is no result
}

// Verify has both servers count and sum what they hold of the account anew, and
// compares the digests; whole has every
// message compared on both sides first, and what one lacks brought over. "" does
// it for all accounts, one after the other. report is told of each.
func (n *Node) Verify(ctx context.Context, name string, whole bool, report func(Verified)) error {
	one := func(head mailstore.Head) {
		v, err := n.verify(ctx, head, whole)
		v.Name, v.Err = head.Name, err
		report(v)
	}
	if name != "" {
		head, err := n.named(ctx, name)
		if err == nil {
			one(head)
		}
		return err
	}
	return n.deps.Mail.Heads(ctx, func(head mailstore.Head) error {
		one(head)
		return ctx.Err()
	})
}

// How often, and how long apart, the two sides are asked until they know the
// same: mail comes in meanwhile.
const (
	verifyTries = 100
	verifyPause = 50 * time.Millisecond
	// maxCompare is how long comparing everything of one account may take.
	maxCompare = 30 * time.Minute
)

func (n *Node) verify(ctx context.Context, head mailstore.Head, whole bool) (v Verified, err error) {
	if n.memory.isPaused(head.Account) {
		return v, errPaused
	}
	if why, is := n.memory.quarantined(head.Account); is {
		return v, quarantineError(why)
	}
	r := n.runner(head.Account, head.Name)
	if r == nil {
		return v, errLinkDown
	}
	r.attachNow(n.cfg.Limits.AnswerTimeout)
	if whole {
		if v.Changed, err = n.compare(ctx, r); err != nil {
			return v, err
		}
	}
	if err := n.recount(ctx, head); err != nil {
		return v, err
	}
	asked := askRecount
	if whole {
		asked |= askCompare
	}
	var last error = errUnsettled
	for range verifyTries {
		same, known, err := n.sameNow(ctx, r, asked)
		var leftOut *leftOutError
		var damaged *damagedError
		switch {
		case errors.As(err, &leftOut):
			return v, err
		case errors.As(err, &damaged):
			return v, errors.Join(err, n.memory.noteVerified(ctx, head.Account, Verification{At: n.now()}))
		case err == nil:
			asked = 0 // once is enough
		}
		if err != nil {
			last = err
		} else if known {
			v.Same = same
			return v, n.memory.noteVerified(ctx, head.Account, Verification{At: n.now(), Same: same})
		} else {
			last = errUnsettled
		}
		timer := time.NewTimer(verifyPause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return v, ctx.Err()
		case <-timer.C:
		}
	}
	return v, last
}

// recount counts and sums what this node holds of the account.
func (n *Node) recount(ctx context.Context, head mailstore.Head) error {
	account, err := n.openAccount(ctx, head.Account, head.Name)
	if err != nil {
		return err
	}
	defer account.Close()
	damaged, err := account.Damaged(ctx)
	if err != nil || len(damaged) == 0 {
		return err
	}
	err = &damagedError{"here", namesOf(damaged)}
	return errors.Join(err, n.memory.noteVerified(ctx, head.Account, Verification{At: n.now()}))
}

// damagedError means that mailboxes are not what was kept of them.
type damagedError struct{ where, names string }

func (e *damagedError) Error() string {
	return fmt.Sprintf("%s, mailbox %s does not hold what was counted into it: stop that server and run postern fsck --repair", e.where, e.names)
}

var errUnsettled = errors.New("the two sides did not come to know the same: one of them is busy or behind")

// compare has everything compared, and waits for it.
func (n *Node) compare(ctx context.Context, r *runner) ([]Conflict, error) {
	limited, cancel := context.WithTimeout(ctx, maxCompare)
	defer cancel()
	type result struct {
		applied Applied
		err     error
	}
	done := make(chan result, 1)
	r.do(func(_ context.Context, c *Channel) {
		c.Compare(func(applied Applied, err error) { done <- result{applied, err} })
	})
	select {
	case res := <-done:
		return res.applied.Conflicts, res.err
	case <-limited.Done():
		return nil, fmt.Errorf("compare everything: %w", limited.Err())
	case <-n.ctx.Done():
		return nil, errStopping
	}
}

// sameNow compares digests; known is false while the two do not know the same.
func (n *Node) sameNow(ctx context.Context, r *runner, asked byte) (same, known bool, err error) {
	type answer struct {
		same, known bool
		err         error
	}
	done := make(chan answer, 1)
	r.do(func(ctx context.Context, c *Channel) {
		c.Verify(asked, func(theirs standing, err error) {
			if err == nil && theirs.damaged != "" {
				err = &damagedError{"at the partner", theirs.damaged}
			}
			if err != nil {
				done <- answer{err: err}
				return
			}
			mine, err := c.account.Position(ctx)
			a := answer{err: err}
			a.known = err == nil && mine.Settled && theirs.settled && !c.pull.busy() && sameSeqs(mine.Vector, theirs.vector)
			a.same = a.known && !differ(&mine, theirs.vector, theirs.digest, true)
			done <- a
		})
	})
	select {
	case a := <-done:
		return a.same, a.known, a.err
	case <-ctx.Done():
		return false, false, ctx.Err()
	case <-n.ctx.Done():
		return false, false, errStopping
	}
}
