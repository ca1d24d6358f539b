package main

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/queue"
)

// selection is which messages a command speaks of; all that is given must
// hold.
type selection struct {
	state         queue.State
	sender        *mail.Address
	recipient     *mail.Address
	destination   string
	before, after time.Time // when they arrived; zero: whenever
	larger        int64     // octets; 0 for any size
	smaller       int64
	reason        string // in lower case
	priority      *int8
}

// selectionOf reads the flags that selectionFlags defines.
func selectionOf(args url.Values) (sel selection, err error) {
	sel.state, sel.destination = queue.State(args.Get("state")), args.Get("destination")
	sel.reason = strings.ToLower(args.Get("reason"))
	states := []queue.State{"", queue.StateActive, queue.StateDeferred, queue.StateKept, queue.StateHeld, queue.StateDamaged}
	if !slices.Contains(states, sel.state) {
		return sel, fmt.Errorf("--state is active, deferred, kept, hold or damaged, not %q", sel.state)
	}
	for _, read := range []func() error{
		func() (err error) { sel.sender, err = addressFlag(args, "sender"); return err },
		func() (err error) { sel.recipient, err = addressFlag(args, "recipient"); return err },
		func() (err error) { sel.before, err = ageFlag(args, "older"); return err },
		func() (err error) { sel.after, err = ageFlag(args, "younger"); return err },
		func() (err error) { sel.larger, err = sizeFlag(args, "larger"); return err },
		func() (err error) { sel.smaller, err = sizeFlag(args, "smaller"); return err },
		func() (err error) { sel.priority, err = priorityFlag(args, "priority"); return err },
	} {
		if err := read(); err != nil {
			return sel, err
		}
	}
	return sel, nil
}

// addressFlag reads an address, or "<>" for the null reverse-path.
func addressFlag(args url.Values, name string) (*mail.Address, error) {
	text := args.Get(name)
	if !args.Has(name) {
		return nil, nil
	}
	if text == "<>" {
		return &mail.Address{}, nil
	}
	a, err := mail.ParseAddress(strings.TrimSuffix(strings.TrimPrefix(text, "<"), ">"))
	if err != nil {
		return nil, fmt.Errorf("--%s: %w", name, err)
	}
	a = a.Fold()
	return &a, nil
}

// ageFlag reads an age and returns when what is that old arrived.
func ageFlag(args url.Values, name string) (time.Time, error) {
	text := args.Get(name)
	if text == "" {
		return time.Time{}, nil
	}
	days, isDays := strings.CutSuffix(text, "d")
	d, err := time.ParseDuration(text)
	if n, e := strconv.Atoi(days); isDays && e == nil {
		d, err = time.Duration(n)*24*time.Hour, nil
	}
	if err != nil || d < 0 {
		return time.Time{}, fmt.Errorf("--%s is a time such as 90m or 24h, not %q", name, text)
	}
	return time.Now().Add(-d), nil
}

// sizeFlag reads a number of octets, with k, M or G behind it for their
// multiples of 1024.
func sizeFlag(args url.Values, name string) (int64, error) {
	text := args.Get(name)
	if text == "" {
		return 0, nil
	}
	unit := map[byte]int64{'k': 1 << 10, 'K': 1 << 10, 'm': 1 << 20, 'M': 1 << 20, 'g': 1 << 30, 'G': 1 << 30}[text[len(text)-1]]
	number := text
	if unit == 0 {
		unit = 1
	} else {
		number = text[:len(text)-1]
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n <= 0 || n > 1<<62/unit {
		return 0, fmt.Errorf("--%s is a number of octets such as 20000, 64k or 10M, not %q", name, text)
	}
	return n * unit, nil
}

// priorityFlag reads a priority of RFC 6710.
func priorityFlag(args url.Values, name string) (*int8, error) {
	text := args.Get(name)
	if text == "" {
		return nil, nil
	}
	n, err := strconv.ParseInt(text, 10, 8)
	if err != nil || n < mail.LowestPriority || n > mail.HighestPriority {
		return nil, fmt.Errorf("a priority is a number from %d to %d, not %q", mail.LowestPriority, mail.HighestPriority, text)
	}
	p := int8(n)
	return &p, nil
}

// all reports whether nothing restricts the selection.
func (sel selection) all() bool { return sel == selection{} }

func (sel selection) selects(m queue.Message) bool {
	if m.State == queue.StateDamaged {
		// Nothing else is known of these.
		return sel == selection{state: sel.state}
	}
	return (sel.state == "" || sel.state == m.State) &&
		(sel.sender == nil || *sel.sender == m.Envelope.ReversePath.Fold()) &&
		(sel.before.IsZero() || m.Arrived.Before(sel.before)) &&
		(sel.after.IsZero() || m.Arrived.After(sel.after)) &&
		m.Octets >= sel.larger && (sel.smaller == 0 || m.Octets <= sel.smaller) &&
		(sel.priority == nil || *sel.priority == m.Envelope.Priority) &&
		(!sel.aboutRecipients() || slices.ContainsFunc(m.Recipients, sel.picks))
}

// aboutRecipients reports whether a message is meant only for the sake of some
// of its recipients.
func (sel selection) aboutRecipients() bool {
	return sel.recipient != nil || sel.destination != "" || sel.reason != ""
}

// picks reports whether a recipient is one of those meant, who still waits.
func (sel selection) picks(r queue.Recipient) bool {
	return !r.Done && sel.isBound(r) &&
		(sel.reason == "" || !r.Last.At.IsZero() && strings.Contains(strings.ToLower(reason(r.Last)), sel.reason))
}

// isBound reports whether a recipient is the one asked for, by the address that
// was named or the one it stands for, and goes where was asked for: to a
// domain, a target, or a target's next hop.
func (sel selection) isBound(r queue.Recipient) bool {
	if sel.recipient != nil && r.Address.Fold() != *sel.recipient && r.Accepted.Fold() != *sel.recipient {
		return false
	}
	target, host, _ := strings.Cut(r.Destination, "/")
	name := strings.TrimPrefix(sel.destination, "target.")
	return name == "" || strings.EqualFold(string(r.Address.Domain), name) ||
		strings.EqualFold(nextHop(r.Destination), name) || strings.EqualFold(target, name) || strings.EqualFold(host, name)
}

// selected yields the queued messages of a selection, oldest first.
func (s *server) selected(ctx context.Context, sel selection) iter.Seq2[queue.Message, error] {
	return func(yield func(queue.Message, error) bool) {
		for m, err := range s.queue.List(ctx, queue.Filter{State: sel.state}) {
			if (err != nil || sel.selects(m)) && !yield(m, err) {
				return
			}
		}
	}
}

// named yields the messages with the ids given that are in the selection, and
// for each that is not there, or not in it, an error that names it.
func (s *server) named(ctx context.Context, ids []string, sel selection) iter.Seq2[queue.Message, error] {
	return func(yield func(queue.Message, error) bool) {
		for _, arg := range ids {
			m, err := s.queue.Show(ctx, queueID(arg))
			if err == nil && !sel.all() && !sel.selects(m) {
				err = errNotSelected
			}
			if err != nil && !errors.Is(err, queue.ErrNoMessage) {
				err = fmt.Errorf("%s: %w", queueID(arg), err)
			}
			if !yield(m, err) {
				return
			}
		}
	}
}

var errNotSelected = errors.New("is not like that")
