package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"slices"
	"time"

	"github.com/postern-mail/postern/queue"
)

// summary is what an operator wants to know first.
type summary struct {
	Messages     int                   `json:"messages"`
	Octets       int64                 `json:"octets"`
	Recipients   int                   `json:"recipients"` // who wait
	Oldest       *time.Time            `json:"oldest,omitempty"`
	States       map[queue.State]int   `json:"states"`
	Priorities   map[int8]int          `json:"priorities,omitempty"` // but for the usual one
	Destinations []*summaryOf          `json:"destinations"`         // fullest first
	by           map[string]*summaryOf // of all destinations
	reasons      map[summaryReason]int // recipients who wait for it
}

type summaryReason struct{ destination, text string }

// summaryOf is what waits for one destination.
type summaryOf struct {
	Name       string     `json:"name"`
	Recipients int        `json:"recipients"`
	Oldest     time.Time  `json:"oldest"`
	Next       *time.Time `json:"next_attempt,omitempty"` // the first
	Reason     string     `json:"delay_reason,omitempty"` // the most frequent
	Times      int        `json:"delay_reason_recipients,omitempty"`
}

// Bounds of a summary, which looks at every message.
const (
	maxSummaryReasons = 10_000
	shownDestinations = 20
)

func (s *summary) add(m queue.Message) {
	s.Messages++
	s.Octets += m.Octets
	s.States[m.State]++
	if m.State == queue.StateDamaged {
		return
	}
	if s.Oldest == nil || m.Arrived.Before(*s.Oldest) {
		s.Oldest = &m.Arrived
	}
	if p := m.Envelope.Priority; p != 0 {
		s.Priorities[p]++
	}
	for i := range m.Recipients {
		if r := &m.Recipients[i]; !r.Done {
			s.addRecipient(m.Arrived, r)
		}
	}
}

func (s *summary) addRecipient(arrived time.Time, r *queue.Recipient) {
	s.Recipients++
	name := nextHop(r.Destination)
	d := s.by[name]
	if d == nil {
		d = &summaryOf{Name: name, Oldest: arrived}
		s.by[name] = d
	}
	d.Recipients++
	if arrived.Before(d.Oldest) {
		d.Oldest = arrived
	}
	if !r.Next.IsZero() && (d.Next == nil || r.Next.Before(*d.Next)) {
		next := r.Next
		d.Next = &next
	}
	if r.Last.At.IsZero() {
		return
	}
	key := summaryReason{name, reason(r.Last)}
	if _, known := s.reasons[key]; !known && len(s.reasons) == maxSummaryReasons {
		return
	}
	s.reasons[key]++
}

// end sorts what was found.
func (s *summary) end() {
	for key, n := range s.reasons {
		d := s.by[key.destination]
		if n > d.Times || n == d.Times && key.text < d.Reason {
			d.Reason, d.Times = key.text, n
		}
	}
	s.Destinations = make([]*summaryOf, 0, len(s.by))
	for _, d := range s.by {
		s.Destinations = append(s.Destinations, d)
	}
	slices.SortFunc(s.Destinations, func(a, b *summaryOf) int {
		return cmp.Or(b.Recipients-a.Recipients, cmp.Compare(a.Name, b.Name))
	})
}

func (s *server) replySummary(ctx context.Context, args url.Values, out io.Writer) error {
	sel, err := selectionOf(args)
	if err != nil {
		return err
	}
	sum := summary{
		States: make(map[queue.State]int), Priorities: make(map[int8]int),
		by: make(map[string]*summaryOf), reasons: make(map[summaryReason]int),
	}
	for m, err := range s.selected(ctx, sel) {
		if err != nil {
			return err
		}
		sum.add(m)
	}
	sum.end()
	if wantsJSON(args) {
		return json.NewEncoder(out).Encode(sum)
	}
	return sum.print(out, time.Now())
}

func (s *summary) print(out io.Writer, now time.Time) error {
	if s.Messages == 0 {
		_, err := fmt.Fprintln(out, "No messages.")
		return err
	}
	table := newTable(out)
	fmt.Fprintf(table, "messages\t%d, %s\n", s.Messages, octetsText(s.Octets))
	for _, state := range []queue.State{queue.StateActive, queue.StateDeferred, queue.StateKept, queue.StateHeld, queue.StateDamaged} {
		if n := s.States[state]; n > 0 {
			fmt.Fprintf(table, "  %s\t%d\n", state, n)
		}
	}
	for p := int8(9); p >= -9; p-- {
		if n := s.Priorities[p]; n > 0 {
			fmt.Fprintf(table, "  priority %d\t%d\n", p, n)
		}
	}
	fmt.Fprintf(table, "recipients\t%d still to be delivered\n", s.Recipients)
	if s.Oldest != nil {
		fmt.Fprintf(table, "oldest\t%s\n", ageText(now.Sub(*s.Oldest)))
	}
	if len(s.Destinations) == 0 {
		return table.Flush()
	}
	fmt.Fprintln(table, "\nDESTINATION\tRECIPIENTS\tOLDEST\tNEXT ATTEMPT\tMOST FREQUENT REASON")
	for _, d := range s.Destinations[:min(len(s.Destinations), shownDestinations)] {
		next := "held"
		if d.Next != nil {
			if next = "now"; d.Next.After(now) {
				next = "in " + ageText(d.Next.Sub(now))
			}
		}
		why := ""
		if d.Times > 0 {
			why = fmt.Sprintf("%s (%d)", d.Reason, d.Times)
		}
		fmt.Fprintf(table, "%s\t%d\t%s\t%s\t%s\n", d.Name, d.Recipients, ageText(now.Sub(d.Oldest)), next, why)
	}
	if more := len(s.Destinations) - shownDestinations; more > 0 {
		fmt.Fprintf(table, "and %d more; --json tells all\n", more)
	}
	return table.Flush()
}

// octetsText is a size for people.
func octetsText(n int64) string {
	switch {
	case n < 10<<10:
		return fmt.Sprintf("%d octets", n)
	case n < 10<<20:
		return fmt.Sprintf("%d KiB", n>>10)
	case n < 10<<30:
		return fmt.Sprintf("%d MiB", n>>20)
	default:
		return fmt.Sprintf("%d GiB", n>>30)
	}
}

// ageText is an age for people, in its two biggest units.
func ageText(d time.Duration) string {
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", max(int(d.Seconds()), 0))
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 24*time.Hour:
		return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
	default:
		return fmt.Sprintf("%dd%dh", int(d.Hours())/24, int(d.Hours())%24)
	}
}
