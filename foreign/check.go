package foreign

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
)

// Finding is what a check found out about one side as one account.
type Finding struct {
	Side      Side
	Err       error  // why it cannot be mirrored; nil when it can
	Watch     string // notify, idle or poll
	MessageID bool   // messages have ids, so that copies and moves need not be sent again
	MailboxID bool   // mailboxes have ids
	Keyword   bool   // INBOX takes the keyword that marks what is being copied
	Mailboxes int
	Messages  int64
	LeftAlone []string // mailboxes that are not mirrored, and why
}

// Check logs an account in to both sides of a mirror and tells what it finds. It
// changes nothing.
func Check(ctx context.Context, m Config, acct Account) [2]Finding {
	m = m.withDefaults()
	var found [2]Finding
	for _, s := range sides {
		found[s] = checkSide(ctx, m, s, acct)
	}
	return found
}

func checkSide(ctx context.Context, m Config, s Side, acct Account) Finding {
	f := Finding{Side: s}
	l, err := connect(ctx, m.Servers[s], s, acct.Logins[s])
	if err != nil {
		f.Err = err
		return f
	}
	defer l.Logout(ctx)
	f.Watch, f.MessageID = l.watch.String(), l.Identifies()
	boxes, err := l.List(ctx, l.space.prefix)
	if err != nil {
		f.Err = on(s, err)
		return f
	}
	for _, b := range boxes {
		name, ok := l.space.name(b.Name)
		switch {
		case !b.Selectable:
		case !ok:
			f.LeftAlone = append(f.LeftAlone, b.Name+": its name cannot be had on the other side")
		case excluded(m.Exclude, name):
			f.LeftAlone = append(f.LeftAlone, name+": excluded")
		default:
			f.Mailboxes++
			f.Messages += int64(b.Messages)
			f.MailboxID = b.ID != ""
			if b.ModSeq == 0 {
				f.LeftAlone = append(f.LeftAlone, name+": keeps no MODSEQ")
			}
		}
	}
	sel, err := l.open(ctx, "INBOX", nil)
	if err != nil {
		f.Err = err
		return f
	}
	f.Keyword = sel.Keeps(pendingKeyword)
	if sel.ReadOnly {
		f.Err = on(s, errors.New("INBOX can only be read"))
	}
	return f
}

// Once brings every account of the mirrors in step, once, some at a time, and
// returns what failed. Not while Run runs.
func (a *Agent) Once(ctx context.Context) error {
	var mu sync.Mutex
	var failed []error
	for _, m := range a.mirrors {
		accounts, err := m.Accounts(ctx)
		if err != nil {
			return fmt.Errorf("mirror %s: %w", m.Name, err)
		}
		places := make(chan struct{}, min(m.MaxAccounts, 16))
		var all sync.WaitGroup
		for _, acct := range accounts {
			places <- struct{}{}
			all.Go(func() {
				defer func() { <-places }()
				if err := a.bringInStep(ctx, m, acct); err != nil {
					mu.Lock()
					defer mu.Unlock()
					failed = append(failed, fmt.Errorf("%s: %w", acct.Name, err))
				}
			})
		}
		all.Wait()
	}
	slices.SortFunc(failed, func(x, y error) int { return strings.Compare(x.Error(), y.Error()) })
	return errors.Join(failed...)
}

// bringInStep is a session that ends when nothing is left to do, or when all that
// is left was refused or held.
func (a *Agent) bringInStep(ctx context.Context, m Config, acct Account) error {
	w := a.worker(m, acct, a.deps.Log.With("mirror", m.Name))
	if err := w.session(ctx, func() bool { return true }); err != nil {
		return err
	}
	var left []string
	s := w.report.status()
	if s.Held > 0 {
		left = append(left, fmt.Sprintf("the removal of %d messages waits to be confirmed", s.Held))
	}
	for _, b := range s.Mailboxes {
		if b.Trouble != "" {
			left = append(left, b.Name+": "+b.Trouble)
		}
	}
	if len(left) > 0 {
		return errors.New(strings.Join(left, "; "))
	}
	return nil
}
