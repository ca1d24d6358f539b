package imap

import (
	"context"
	"errors"
	"os"
	"time"
)

// Notify asks the server to tell of everything in the personal mailboxes, until
// the connection ends. Refused where the server cannot.
func (c *Client) Notify(ctx context.Context) error {
	return c.do(ctx, nil, "NOTIFY SET (personal (MessageNew MessageExpunge FlagChange MailboxName SubscriptionChange))")
}

// Listen waits up to patience for the server to tell something by itself, after
// Notify. What it told is in Events.
func (c *Client) Listen(ctx context.Context, patience time.Duration) error {
	if c.broken != nil {
		return c.broken
	}
	defer c.begin(ctx)()
	for !c.events.Any() {
		told, err := c.await(ctx, patience)
		if err != nil {
			return c.fail(err)
		}
		if !told {
			return nil
		}
		if err := c.drain(); err != nil {
			return c.fail(err)
		}
	}
	return nil
}

// await waits for the first octet; told is false when patience ran out.
func (c *Client) await(ctx context.Context, patience time.Duration) (told bool, err error) {
	c.waking.Lock()
	_ = c.conn.SetReadDeadline(time.Now().Add(patience)) // an error shows when reading
	woken := c.woken
	c.awaiting = !woken
	c.waking.Unlock()
	defer c.awaited()
	if ctx.Err() != nil {
		return false, ctx.Err()
	}
	if woken {
		return false, nil
	}
	_, err = c.br.Peek(1)
	if errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() == nil {
		return false, nil
	}
	return err == nil, err
}

// drain reads what is there and is no answer to a command.
func (c *Client) drain() error {
	for {
		u, final, err := c.response()
		switch {
		case err != nil:
			return err
		case final != nil || u == nil:
			return errMalformed
		}
		if err := c.untagged(u); err != nil {
			return err
		}
		if c.br.Buffered() == 0 {
			return nil
		}
	}
}

// Idle waits up to patience for something to happen in the selected mailbox.
func (c *Client) Idle(ctx context.Context, patience time.Duration) error {
	if c.broken != nil {
		return c.broken
	}
	defer c.begin(ctx)()
	tag := c.nextTag()
	_, _ = c.bw.WriteString(tag + " IDLE\r\n") // bufio keeps the error for Flush
	if err := c.bw.Flush(); err != nil {
		return c.fail(err)
	}
	for idling := false; !c.events.Any(); {
		if idling {
			told, err := c.await(ctx, patience)
			if err != nil {
				return c.fail(err)
			}
			if !told {
				break
			}
		}
		u, final, err := c.response()
		switch {
		case err != nil:
			return c.fail(err)
		case final != nil && final.tag == tag:
			return c.asError(&final.untagged)
		case final != nil:
			return c.fail(errMalformed)
		case u == nil:
			idling = true
		default:
			err = c.untagged(u)
		}
		if err != nil {
			return c.fail(err)
		}
	}
	return c.done(tag)
}

// done ends IDLE.
func (c *Client) done(tag string) error {
	_, _ = c.bw.WriteString("DONE\r\n") // bufio keeps the error for Flush
	if err := c.bw.Flush(); err != nil {
		return c.fail(err)
	}
	for {
		// A continuation may still be under way where something happened first.
		u, final, err := c.response()
		switch {
		case err != nil:
			return c.fail(err)
		case final != nil && final.tag == tag:
			return c.asError(&final.untagged)
		case final != nil:
			return c.fail(errMalformed)
		case u != nil:
			if err := c.untagged(u); err != nil {
				return c.fail(err)
			}
		}
	}
}

// awaited ends the time in which a Wake cuts what the connection reads: what
// follows is an answer, which must be read whole.
func (c *Client) awaited() {
	c.waking.Lock()
	c.awaiting = false
	c.waking.Unlock()
}

// Arm prepares for a Wake: one that came before it is forgotten.
func (c *Client) Arm() {
	c.waking.Lock()
	defer c.waking.Unlock()
	c.woken = false
}

// Wake ends a Listen or Idle under way, or the next one, as if its patience ran
// out. It may be called by others than the client's user.
func (c *Client) Wake() {
	c.waking.Lock()
	defer c.waking.Unlock()
	c.woken = true
	if c.awaiting {
		_ = c.conn.SetReadDeadline(time.Unix(1, 0)) // an error shows when reading
	}
}
