package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/postern-mail/postern/admin"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/queue"
)

// commands is what the control socket answers.
func (s *server) commands() admin.Commands {
	c := admin.Commands{"reload": s.replyReload, "drain": s.replyDrain, "status": s.replyStatus, "debug/profile": admin.Profile}
	if s.queue != nil {
		c["queue/list"] = s.replyList
		c["queue/shape"] = s.replyShape
		c["queue/show"] = s.replyShow
		c["queue/cat"] = s.replyCat
		c["queue/summary"] = s.replySummary
		s.queueActions(c)
		c["route"] = s.replyRoute
		c["policy/test"] = s.replyPolicyTest
		s.dmarcReports().addTo(c, "dmarc")
		s.tlsReports().addTo(c, "tlsrpt")
	}
	s.mirrorCommands(c)
	s.directoryCommands(c)
	s.pairCommands(c)
	s.loginCommands(c)
	s.limitCommands(c)
	s.greylistCommands(c)
	s.sessionCommands(c)
	s.indexCommands(c)
	return s.audited(c)
}

func (s *server) replyStatus(_ context.Context, _ url.Values, out io.Writer) error {
	f := s.current.Load().file
	fmt.Fprintf(out, "%s on %s, up %s, configuration %s\n", versionText(), f.Hostname, time.Since(s.started).Round(time.Second), s.path)
	if err := s.ready(); err != nil {
		fmt.Fprintf(out, "NOT READY: %v\n", err)
	}
	if on, phase, sessions, _ := s.drain.state(); on {
		fmt.Fprintf(out, "DRAINING: %s; %d client(s)\n", phase, sessions)
	}
	table := newTable(out)
	fmt.Fprintln(table, "\nLISTENER\tADDRESS\tSESSIONS")
	for _, l := range s.listeners {
		sessions := ""
		if l.sessions != nil {
			sessions = fmt.Sprint(l.sessions())
		}
		fmt.Fprintf(table, "%s\t%s\t%s\n", l.name, l.Addr(), sessions)
	}
	s.tellSources(table)
	s.limits.tell(table)
	if s.queue != nil {
		q := s.queue.Stats()
		fmt.Fprintf(table, "\nQUEUE\t%d message(s), %d held, %d deliveries under way\n", q.Messages, q.Held, q.InFlight)
		fmt.Fprintf(table, "since start\t%d accepted; recipients: %d delivered, %d deferrals, %d bounced\n", q.Accepted, q.Delivered, q.Deferred, q.Bounced)
		tellIntake(table, q)
		for _, name := range q.Down {
			fmt.Fprintf(table, "unreachable\t%s\n", nextHop(name))
		}
	}
	s.policyState.tell(table)
	s.current.Load().tellServices(table)
	tellLists(table, s.current.Load().lists)
	s.current.Load().tellFilters(table, s.spool)
	return table.Flush()
}

// tellIntake tells why mail does not come in as it likes, if it does not.
func tellIntake(out io.Writer, q queue.Stats) {
	switch {
	case q.NoSpace:
		fmt.Fprintln(out, "intake\tput off with 452: the disk has less than queue_minfree")
	case q.Full:
		fmt.Fprintln(out, "intake\tput off with 452: max_queue_messages are queued")
	case q.Pressed:
		fmt.Fprintln(out, "intake\tslowed by in_flow_delay: mail comes in faster than it goes out")
	}
}

// tellSources tells how what the server stands on does: directories, disks.
func (s *server) tellSources(out io.Writer) {
	sources := s.current.Load().sources
	if len(sources) > 0 {
		fmt.Fprintln(out, "\nDIRECTORY\tSTATE")
	}
	for _, name := range slices.Sorted(maps.Keys(sources)) {
		state := "answers"
		if sources[name].Down() {
			state = "does not answer; known answers are served from the cache, the rest is deferred"
		}
		fmt.Fprintf(out, "%s\t%s\n", name, state)
	}
	fmt.Fprintln(out, "\nSTORE\tFREE")
	for _, e := range s.stores {
		free := "unknown"
		if octets, err := e.kv.Free(); err == nil {
			free = fmt.Sprintf("%d MiB", octets>>20)
		}
		fmt.Fprintf(out, "%s\t%s\n", e.name, free)
	}
	s.tellBodies(out)
}

// listed is a queued message in JSON; the names are those of postqueue -j.
type listed struct {
	Queue      queue.State       `json:"queue_name"`
	ID         mail.QueueID      `json:"queue_id"`
	Arrived    int64             `json:"arrival_time"`
	Octets     int64             `json:"message_size"`
	Expired    bool              `json:"forced_expire"` // given up, but for a delivery under way
	Priority   int8              `json:"priority,omitempty"`
	Sender     mail.Address      `json:"sender"`
	Recipients []listedRecipient `json:"recipients"`
	Damage     string            `json:"damage,omitempty"` // why all else is empty
}

type listedRecipient struct {
	Address  mail.Address `json:"address"`
	Original mail.Address `json:"orig_address,omitzero"` // what RCPT named, where that is another one
	Next     *time.Time   `json:"next_attempt,omitempty"`
	Attempts int          `json:"attempts"`
	Reason   string       `json:"delay_reason,omitempty"`
	Route    string       `json:"destination"`
}

func asListed(m queue.Message) listed {
	l := listed{Queue: m.State, ID: m.ID, Arrived: m.Arrived.Unix(), Octets: m.Octets, Expired: m.Expired,
		Priority: m.Envelope.Priority, Sender: m.Envelope.ReversePath, Recipients: []listedRecipient{}, Damage: m.Damage}
	for _, r := range m.Recipients {
		if r.Done {
			continue
		}
		to := listedRecipient{Address: r.Address, Attempts: r.Attempts, Route: nextHop(r.Destination)}
		if r.Accepted != r.Address {
			to.Original = r.Accepted
		}
		if !r.Last.At.IsZero() {
			to.Reason = reason(r.Last)
		}
		if !r.Next.IsZero() {
			to.Next = &r.Next
		}
		l.Recipients = append(l.Recipients, to)
	}
	return l
}

// reason tells what came of an attempt, and whose words these are.
func reason(o mail.Outcome) string {
	if o.Kept() {
		return "delivered to " + o.Remote + ", kept until its partner has it"
	}
	if o.FromPeer && o.Remote != "" {
		return o.Remote + " said: " + o.Reply.String()
	}
	if o.Remote != "" {
		return o.Remote + ": " + o.Reply.String()
	}
	return o.Reply.String()
}

// nextHop is a destination as operators know it: a target, and behind it the
// domain where the target finds the host by that.
func nextHop(destination string) string { return strings.TrimSuffix(destination, "/") }

// listBuffer is how much of a list is sent at once.
const listBuffer = 64 << 10

func (s *server) replyList(ctx context.Context, args url.Values, out io.Writer) error {
	sel, err := selectionOf(args)
	if err != nil {
		return err
	}
	n, octets := 0, int64(0)
	buffered := bufio.NewWriterSize(out, listBuffer)
	lines := json.NewEncoder(buffered)
	for m, err := range s.selected(ctx, sel) {
		if err != nil {
			return errors.Join(err, buffered.Flush())
		}
		n++
		octets += m.Octets
		if wantsJSON(args) {
			err = lines.Encode(asListed(m))
		} else {
			err = printMessage(buffered, m)
		}
		if err != nil {
			return err
		}
	}
	if err := buffered.Flush(); err != nil || wantsJSON(args) {
		return err
	}
	switch {
	case n == 0 && sel.all():
		_, err = fmt.Fprintln(out, "The queue is empty.")
	case n == 0 && sel == selection{state: sel.state}:
		_, err = fmt.Fprintf(out, "No message is in state %s.\n", sel.state)
	case n == 0:
		_, err = fmt.Fprintln(out, "No message is like that.")
	default:
		_, err = fmt.Fprintf(out, "%d message(s), %d octets\n", n, octets)
	}
	return err
}

// printMessage writes a message as mailq would, with the reason behind each
// recipient that waits for one.
func printMessage(out io.Writer, m queue.Message) error {
	if m.State == queue.StateDamaged {
		_, err := fmt.Fprintf(out, "%s  %-8s\n      (%s)\n", m.ID, m.State, m.Damage)
		return err
	}
	sender := m.Envelope.ReversePath.String()
	_, err := fmt.Fprintf(out, "%s  %-8s  %8d  %s  %s\n", m.ID, m.State, m.Octets, m.Arrived.Format("Mon Jan _2 15:04:05"), cmp.Or(sender, "<>"))
	for _, r := range m.Recipients {
		if r.Done {
			continue
		}
		if !r.Last.At.IsZero() {
			_, e := fmt.Fprintf(out, "      (%s)\n", reason(r.Last))
			err = errors.Join(err, e)
		}
		next := ""
		if time.Until(r.Next) > 0 {
			next = ", next attempt in "
			if r.Last.Kept() {
				next = ", asked again in "
			}
			next += time.Until(r.Next).Round(time.Second).String()
		}
		_, e := fmt.Fprintf(out, "      %s  via %s%s\n", r.Address, nextHop(r.Destination), next)
		err = errors.Join(err, e)
	}
	return err
}

func (s *server) replyShow(ctx context.Context, args url.Values, out io.Writer) error {
	id := queueID(args.Get("id"))
	m, err := s.readable(ctx, id)
	if err != nil {
		return err
	}
	if err := printEnvelope(out, m); err != nil {
		return err
	}
	if args.Get("envelope") == "true" {
		return nil
	}
	content, err := s.queue.Content(ctx, id)
	if err != nil {
		return err
	}
	defer func() { _ = content.Close() }() // only read
	fmt.Fprintln(out)
	_, err = io.Copy(out, content)
	return err
}

// printEnvelope writes everything about a message but its content.
func printEnvelope(w io.Writer, m queue.Message) error {
	out := bufio.NewWriter(w)
	fmt.Fprintf(out, "queue id:      %s\nstate:         %s\narrived:       %s\noctets:        %d\n", m.ID, m.State, m.Arrived.Format(time.RFC3339), m.Octets)
	if p := m.Envelope.Priority; p != 0 {
		fmt.Fprintf(out, "priority:      %d\n", p)
	}
	fmt.Fprintf(out, "reverse-path:  %s\nreceived from: %s\n", m.Envelope.ReversePath.Path(), cmp.Or(m.ReceivedFrom, "this server"))
	for _, r := range m.Recipients {
		fmt.Fprintf(out, "recipient:     %s\n", r.Address.Path())
		if r.Accepted != r.Address {
			fmt.Fprintf(out, "  sent to:     %s\n", r.Accepted.Path())
		}
		fmt.Fprintf(out, "  destination: %s\n  delivery id: %s\n  state:       %s\n  attempts:    %d\n", nextHop(r.Destination), r.Delivery, progress(r), r.Attempts)
		if !r.Last.At.IsZero() {
			fmt.Fprintf(out, "  last:        %s, %s: %s\n", r.Last.At.Format(time.RFC3339), className(r.Last), reason(r.Last))
		}
		if !r.Next.IsZero() {
			fmt.Fprintf(out, "  next:        %s\n", r.Next.Format(time.RFC3339))
		}
	}
	return out.Flush()
}

// progress tells what became of a recipient so far. Of those delivered at once
// the queue keeps no reply.
func progress(r queue.Recipient) string {
	switch {
	case !r.Done && r.Last.Kept():
		return "kept"
	case !r.Done:
		return "waiting"
	case r.Moved:
		return "moved"
	case r.Last.At.IsZero():
		return mail.Delivered.String()
	default:
		return r.Last.Class.String()
	}
}

// className is what the outcome of an attempt is called.
func className(o mail.Outcome) string {
	if o.Kept() {
		return "kept"
	}
	return o.Class.String()
}

// queueID reads an id as people type it.
func queueID(s string) mail.QueueID { return mail.QueueID(strings.ToUpper(strings.TrimSpace(s))) }
