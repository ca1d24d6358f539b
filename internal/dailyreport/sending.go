package dailyreport

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
)

// Sending is how far the sending of a report has come. It is kept as JSON
// beside what was counted.
type Sending struct {
	Attempts int       `json:"attempts"`
	Next     time.Time `json:"next"`
	Done     []string  `json:"done,omitempty"` // receivers
	Last     string    `json:"last,omitempty"` // why the last attempt failed
}

const (
	// A report that a receiver does not take is tried again after FirstRetry,
	// then twice as long, up to MaxRetry; it is given up after MaxAttempts, about
	// a day.
	FirstRetry  = 5 * time.Minute
	MaxRetry    = 4 * time.Hour
	MaxAttempts = 12
	// maxReceiver is how long the name of a receiver may be to be remembered,
	// maxWhy the reason of a failure.
	maxReceiver = 500
	maxWhy      = 200
)

// Try calls send for every receiver that has not got the report, by the number
// of its name, and remembers those that have it now.
func (s *Sending) Try(receivers []string, send func(i int) error) error {
	var all error
	for i, name := range receivers {
		if slices.Contains(s.Done, name) {
			continue
		}
		err := send(i)
		if err == nil && len(name) <= maxReceiver {
			s.Done = append(s.Done, name)
		}
		all = errors.Join(all, err)
	}
	return all
}

// Failed notes that an attempt did, and reports whether it was the last.
func (s *Sending) Failed(why error, now time.Time) (last bool) {
	s.Attempts++
	s.Last = Plain(why.Error(), maxWhy)
	s.Next = now.Add(min(FirstRetry<<min(s.Attempts-1, 10), MaxRetry))
	return s.Attempts >= MaxAttempts
}

// Wake is when the next report is due: before, nobody looks. The zero Wake has
// somebody look at once. It belongs to one goroutine.
type Wake struct{ at time.Time }

// At makes a time the next, if it is earlier than the present one.
func (w *Wake) At(t time.Time) {
	if !w.at.IsZero() && t.Before(w.at) {
		w.at = t
	}
}

// Passed reports whether it is time to look.
func (w *Wake) Passed(now time.Time) bool { return !now.Before(w.at) }

// Round is how reports are chosen that are to be sent together.
type Round[R any] struct {
	Submitter Submitter
	Wake      *Wake
	Most      int
	// Scan goes through the reports about days before today.
	Scan func(ctx context.Context, today Day, look func(R) error) error
	// State returns a report's day, and its sending if that has begun.
	State func(R) (Day, *Sending)
}

// errFull ends a scan.
var errFull = errors.New("round is full")

// Collect returns up to Most reports for which pick says so, and notes in Wake
// when the earliest of the others is due.
func (o Round[R]) Collect(ctx context.Context, pick func(R) bool) (round []R, err error) {
	today := DayOf(time.Now())
	o.Wake.at = o.Submitter.ReportTime(today)
	err = o.Scan(ctx, today, func(one R) error {
		if pick(one) {
			round = append(round, one)
		} else {
			o.Wake.At(o.Submitter.Due(o.State(one)))
		}
		if len(round) == o.Most {
			o.Wake.at = time.Time{}
			return errFull
		}
		return nil
	})
	if errors.Is(err, errFull) {
		err = nil
	}
	return round, err
}

// Due returns those whose time has come.
func (o Round[R]) Due(ctx context.Context, now time.Time) ([]R, error) {
	return o.Collect(ctx, func(one R) bool { return !now.Before(o.Submitter.Due(o.State(one))) })
}

// Now sends the reports that pick chooses, and returns how many there were and
// what kept one from being sent.
func (o Round[R]) Now(ctx context.Context, pick func(R) bool, send func(context.Context, []R, time.Time) error) (n int, err error) {
	round, err := o.Collect(ctx, pick)
	if err != nil {
		return 0, err
	}
	if err := send(ctx, round, time.Now()); err != nil {
		return len(round), err
	}
	for _, one := range round {
		if day, state := o.State(one); state != nil && state.Last != "" {
			err = fmt.Errorf("report of %s: %s", day, state.Last)
		}
	}
	return len(round), err
}

// Each calls send for each report of a round, some at a time, and returns which
// of them are settled.
func Each[R any](round []R, atOnce int, send func(R) (settled bool)) []bool {
	settled := make([]bool, len(round))
	var senders errgroup.Group
	senders.SetLimit(atOnce)
	for i, one := range round {
		senders.Go(func() error {
			settled[i] = send(one)
			return nil
		})
	}
	_ = senders.Wait() // nobody returns an error
	return settled
}
