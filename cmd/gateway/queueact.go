package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/postern-mail/postern/admin"
	"github.com/postern-mail/postern/delivery"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/queue"
)

// action is what an operator does to messages, each on its own.
type action struct {
	done string // what became of a message: "held"
	// do does it, and returns what there is to say beyond that.
	do func(context.Context, queue.Message) (string, error)
	// spares are messages that only naming them reaches.
	spares func(queue.Message) bool
}

// actionMaker makes an action of a command's arguments.
type actionMaker func(args url.Values, sel selection) (action, error)

// queueActions adds the commands that change what is queued.
func (s *server) queueActions(c admin.Commands) {
	plain := func(done string, do func(context.Context, mail.QueueID) error, spares func(queue.Message) bool) actionMaker {
		one := func(ctx context.Context, m queue.Message) (string, error) { return "", do(ctx, m.ID) }
		return func(url.Values, selection) (action, error) { return action{done, one, spares}, nil }
	}
	for name, of := range map[string]actionMaker{
		"retry":    plain("due now", s.queue.Retry, func(m queue.Message) bool { return isDamaged(m) || m.State == queue.StateHeld }),
		"hold":     plain("held", s.queue.Hold, isDamaged),
		"release":  plain("released", s.queue.Release, func(m queue.Message) bool { return m.State != queue.StateHeld }),
		"expire":   plain("given up", s.queue.Expire, isDamaged),
		"delete":   plain("deleted", s.queue.Delete, nil),
		"requeue":  s.requeue,
		"redirect": s.redirect,
		"priority": s.prioritize,
	} {
		c["queue/"+name] = s.onMessages(of)
	}
}

func isDamaged(m queue.Message) bool { return m.State == queue.StateDamaged }

// requeue is `queue requeue`.
func (s *server) requeue(url.Values, selection) (action, error) {
	return action{done: "requeued", spares: isDamaged, do: func(ctx context.Context, m queue.Message) (string, error) {
		n, err := s.queue.Requeue(ctx, m.ID)
		note := "as " + string(n.ID)
		if n.ID == "" {
			note = "for nobody: who it stands for by now has it"
		}
		return note + stays(n.UnderWay, "stay with the old message"), err
	}}, nil
}

// redirect is `queue redirect`.
func (s *server) redirect(args url.Values, sel selection) (action, error) {
	var to queue.Redirection
	switch address, err := addressFlag(args, "to"); {
	case err != nil:
		return action{}, err
	case (address == nil) == (args.Get("via") == ""):
		return action{}, errors.New("say where to: --via TARGET or --via TARGET/NEXTHOP, or --to ADDRESS")
	case address == nil:
		if to.Route, err = s.routeFlag(args.Get("via")); err != nil {
			return action{}, err
		}
	default:
		if address.IsNull() {
			return action{}, errors.New("--to is an address")
		}
		to.To, _ = mail.ParseAddress(strings.Trim(args.Get("to"), "<>")) // as it is written; it was read before
	}
	to.Pick = sel.picks
	return action{done: "redirected", spares: isDamaged, do: func(ctx context.Context, m queue.Message) (string, error) {
		n, err := s.queue.Redirect(ctx, m.ID, to)
		note := fmt.Sprintf("(%d recipient(s))", n.Moved+n.UnderWay)
		return note + stays(n.UnderWay, "go there if that fails"), err
	}}, nil
}

// stays tells of recipients who were being delivered.
func stays(n int, what string) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf("; %d being delivered now %s", n, what)
}

// routeFlag reads a target, and perhaps its next hop, that the configuration
// knows.
func (s *server) routeFlag(text string) (mail.Route, error) {
	name, host, _ := strings.Cut(strings.TrimPrefix(text, "target."), "/")
	route := mail.Route{Transport: name, NextHop: host}
	if targets := s.current.Load().router.Targets(); !slices.Contains(targets, name) {
		return route, fmt.Errorf("no target is called %q; there are %s", name, strings.Join(targets, ", "))
	}
	if host != "" {
		if _, err := delivery.ParseNextHop(host); err != nil {
			return route, err
		}
	}
	return route, nil
}

// prioritize is `queue priority`.
func (s *server) prioritize(args url.Values, _ selection) (action, error) {
	p, err := priorityFlag(args, "set")
	if err == nil && p == nil {
		err = errors.New("no priority is given")
	}
	if err != nil {
		return action{}, err
	}
	return action{done: fmt.Sprintf("given priority %d", *p), spares: isDamaged, do: func(ctx context.Context, m queue.Message) (string, error) {
		return "", s.queue.SetPriority(ctx, m.ID, *p)
	}}, nil
}

// onMessages does one thing to the messages that are named, or selected, and
// goes on past failures of single ones.
func (s *server) onMessages(of actionMaker) admin.Command {
	return func(ctx context.Context, args url.Values, out io.Writer) error {
		sel, err := selectionOf(args)
		if err != nil {
			return err
		}
		a, err := of(args, sel)
		if err != nil {
			return err
		}
		ids := args["id"]
		if len(ids) == 0 && sel.all() && args.Get("all") != "true" {
			return errors.New("name queue ids, or ALL, or say which messages: --sender, --recipient, --destination and so on")
		}
		r := acting{action: a, dry: args.Get("dry-run") == "true", each: len(ids) > 0, out: bufio.NewWriterSize(out, 32<<10)}
		if args.Get("progress") == "true" {
			r.progress = out
		}
		messages := s.selected(ctx, sel)
		if len(ids) > 0 {
			messages = s.named(ctx, ids, sel)
		}
		return r.over(ctx, messages)
	}
}

// acting is an action on many messages.
type acting struct {
	action
	dry      bool // only tell
	each     bool // tell of each message, as was asked for each
	progress io.Writer

	mu     sync.Mutex
	out    *bufio.Writer
	n      int
	failed error
	failures,
	seen int
	told time.Time
}

const (
	// actionsAtOnce is how many actions wait for the disk together.
	actionsAtOnce = 64
	// maxFailures is how many failures are told one by one.
	maxFailures = 20
)

func (r *acting) over(ctx context.Context, messages iter.Seq2[queue.Message, error]) error {
	r.told = time.Now()
	work, within := errgroup.WithContext(ctx)
	work.SetLimit(actionsAtOnce)
	began := time.Now().Truncate(time.Millisecond)
	for m, err := range messages {
		if err != nil {
			r.note(m, "", err)
			if !r.each {
				break // the list ended early
			}
			continue
		}
		// What came since is not meant: requeued messages would be met again.
		if !r.each && (!m.Arrived.Before(began) || r.spares != nil && r.spares(m)) {
			continue
		}
		if r.dry {
			r.note(m, "", nil)
			continue
		}
		work.Go(func() error {
			note, err := r.do(within, m)
			if !r.each && (errors.Is(err, queue.ErrNoMessage) || errors.Is(err, queue.ErrNobody)) {
				return nil // it left the queue meanwhile, or whom it waits for
			}
			r.note(m, note, err)
			return within.Err()
		})
	}
	err := work.Wait()
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	return r.end(err)
}

// note tells what became of one message.
func (r *acting) note(m queue.Message, note string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seen++
	switch {
	case err != nil:
		if r.failures++; r.failures <= maxFailures {
			r.failed = errors.Join(r.failed, err)
		}
	case r.dry:
		r.n++
		fmt.Fprintf(r.out, "%s  %-8s  %8d  %s  %s\n", m.ID, m.State, m.Octets, cmp.Or(m.Envelope.ReversePath.String(), "<>"), waitingNames(m))
	default:
		r.n++
		if r.each {
			fmt.Fprintln(r.out, strings.TrimSpace(fmt.Sprintf("%s: %s %s", m.ID, r.done, note)))
		}
	}
	if r.progress != nil && time.Since(r.told) >= time.Second {
		r.told = time.Now()
		_ = r.out.Flush() // told below or not at all, as the rest
		fmt.Fprintf(r.progress, "%s%d message(s) %s\n", progressMark, r.n, r.done)
	}
}

// waitingNames names a few of the recipients who wait.
func waitingNames(m queue.Message) string {
	const few = 3
	var names []string
	more := 0
	for _, r := range m.Recipients {
		switch {
		case r.Done:
		case len(names) < few:
			names = append(names, r.Address.String())
		default:
			more++
		}
	}
	text := strings.Join(names, " ")
	if more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

// end tells the sum.
func (r *acting) end(err error) error {
	switch {
	case r.dry:
		fmt.Fprintf(r.out, "%d message(s); nothing was done\n", r.n)
	case !r.each:
		fmt.Fprintf(r.out, "%d message(s) %s\n", r.n, r.done)
	}
	if flushErr := r.out.Flush(); err == nil {
		err = flushErr
	}
	if r.failures > maxFailures {
		r.failed = errors.Join(r.failed, fmt.Errorf("and %d more failure(s)", r.failures-maxFailures))
	}
	return errors.Join(r.failed, err)
}
