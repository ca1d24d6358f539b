package replica

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/postern-mail/postern/backend/mailstore"
)

// ErrNoAccount means that there is no such account on this node.
var ErrNoAccount = errors.New("no such account")

// named returns the account of that name.
func (n *Node) named(ctx context.Context, name string) (mailstore.Head, error) {
	head, err := n.deps.Mail.Head(ctx, mailstore.AccountGUID(name))
	if err == nil && head.Name == "" && n.existing(head.Account) != nil {
		head.Name = name // it is on its way here
	}
	if err == nil && head.Name == "" {
		err = fmt.Errorf("%q: %w", name, ErrNoAccount)
	}
	return head, err
}

// linkSoon is how long an operator's command waits for a link that is just being
// made.
const linkSoon = 6 * time.Second

// AwaitLink returns once there is a link, or an error when there is none soon.
func (n *Node) AwaitLink(ctx context.Context) error {
	limit := time.NewTimer(linkSoon)
	defer limit.Stop()
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	for !n.Linked() {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-n.ctx.Done():
			return errStopping
		case <-limit.C:
			return errLinkDown
		case <-look.C:
		}
	}
	return nil
}

// ask has an account's channel do something and waits until that is done.
func (n *Node) ask(ctx context.Context, id mailstore.GUID, name string, fn func(ctx context.Context, c *Channel) error) error {
	r := n.runner(id, name)
	if r == nil {
		return errLinkDown
	}
	done := make(chan error, 1)
	r.do(func(ctx context.Context, c *Channel) { done <- fn(ctx, c) })
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	case <-n.ctx.Done():
		return errStopping
	}
}

// Pause leaves an account out until Resume, also after a restart; "" all of
// them. Both servers go on to take its mail.
func (n *Node) Pause(ctx context.Context, name string) error {
	if name == "" {
		if err := n.memory.pause(ctx, nil, true); err != nil {
			return err
		}
		for _, r := range n.all() {
			r.do(func(ctx context.Context, c *Channel) { c.Pause(ctx) })
		}
		return nil
	}
	head, err := n.named(ctx, name)
	if err != nil {
		return err
	}
	if err := n.memory.pause(ctx, &head.Account, true); err != nil {
		return err
	}
	if r := n.existing(head.Account); r != nil {
		r.do(func(ctx context.Context, c *Channel) { c.Pause(ctx) })
	}
	return nil
}

// Resume ends a pause or a quarantine, and has what waits tried again at once;
// "" of all accounts.
func (n *Node) Resume(ctx context.Context, name string) error {
	if name != "" {
		head, err := n.named(ctx, name)
		if err != nil {
			return err
		}
		return n.resume(ctx, head.Account, name)
	}
	_, paused, poisoned := n.memory.kept()
	if err := n.memory.pause(ctx, nil, false); err != nil {
		return err
	}
	for id := range poisoned {
		if err := n.memory.quarantine(ctx, id, ""); err != nil {
			return err
		}
	}
	for _, r := range n.all() {
		r.do(func(_ context.Context, c *Channel) { c.Resume() })
	}
	for id := range paused {
		n.want(id, "")
	}
	n.mu.Lock()
	link, h := n.link, n.hello
	n.mu.Unlock()
	if link != nil {
		n.job(func(ctx context.Context) { n.attachDirty(ctx, link, h) })
	}
	return nil
}

func (n *Node) resume(ctx context.Context, id mailstore.GUID, name string) error {
	if err := n.memory.pause(ctx, &id, false); err != nil {
		return err
	}
	if err := n.memory.quarantine(ctx, id, ""); err != nil {
		return err
	}
	if r := n.runner(id, name); r != nil {
		r.do(func(_ context.Context, c *Channel) { c.Resume() })
	}
	return nil
}

// Replicate sends now what the partner lacks of an account, whatever it waits
// for; whole has everything compared and brought over. It returns when that is
// done or ctx ends.
func (n *Node) Replicate(ctx context.Context, name string, whole bool) error {
	head, err := n.named(ctx, name)
	if err != nil {
		return err
	}
	if n.memory.isPaused(head.Account) {
		return fmt.Errorf("%s is paused; see postern replica resume", name)
	}
	if err := n.resume(ctx, head.Account, name); err != nil {
		return err
	}
	if !whole {
		return n.wait(ctx, head.Account, head.Seq, mailstore.DurabilityStrict)
	}
	_, err = n.verify(ctx, head, true)
	return err
}

// Rehome hands the account over to the node of a class, which gives out its UIDs
// from then on. Only the present home can.
func (n *Node) Rehome(ctx context.Context, name string, class uint8) error {
	head, err := n.named(ctx, name)
	if err != nil {
		return err
	}
	err = n.ask(ctx, head.Account, name, func(ctx context.Context, c *Channel) error { return c.Rehome(ctx, class) })
	if errors.Is(err, mailstore.ErrNotHome) {
		return &elsewhereError{home: head.Home.Class, err: err}
	}
	return err
}

// elsewhereError tells where a home can be handed over.
type elsewhereError struct {
	home uint8
	err  error
}

func (e *elsewhereError) Error() string {
	return fmt.Sprintf("the account is at home on node %d, and only that one can hand it over: run the command there", e.home)
}

func (e *elsewhereError) Unwrap() error { return e.err }

// Rehome hands the account's home over. The attachment goes on, and is made
// anew once the partner knows.
func (c *Channel) Rehome(ctx context.Context, class uint8) error {
	if err := c.account.SetHome(ctx, class); err != nil {
		return err
	}
	position, err := c.account.Position(ctx)
	if err != nil {
		return err
	}
	c.home = position.Home
	c.tx.own = max(c.tx.own, seqOf(position.Vector, position.Origin))
	c.rehomed = c.tx.own
	return nil
}

// turnOver attaches anew to the new home, once it has been told that it is.
func (c *Channel) turnOver(ctx context.Context) (bool, error) {
	if c.rehomed == 0 || c.tx.acked < c.rehomed {
		return false, nil
	}
	c.rehomed = 0
	if c.home.Class != c.class {
		c.begin(ctx, unknownHome)
	}
	return false, nil
}
