package dailyreport

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-mail/postern/mail"
)

var us = Submitter{Organization: "Example", Contact: "a@example.com", From: mail.MustAddress("r@example.com"), Hostname: "mx.example.com"}

func TestDay(t *testing.T) {
	t.Parallel()
	d := DayOf(time.Date(2026, 11, 22, 23, 59, 59, 0, time.UTC))
	if d.String() != "2026-11-22" || DayOf(d.Last()) != d || DayOf(d.End()) != d+1 || !d.End().Equal((d + 1).Start()) || DayIn(d.Append(nil)) != d {
		t.Errorf("%s from %s to %s", d, d.Start(), d.End())
	}
	if bytes.Compare(d.Append(nil), (d+1).Append(nil)) >= 0 {
		t.Error("keys do not sort by days")
	}
	kept := Kept{d - 2: 7, d - 1: 5}
	broken := errors.New("broken")
	if err := kept.Know(d, func() (int, error) { return 0, broken }); !errors.Is(err, broken) || len(kept) != 2 {
		t.Errorf("%v, %v", kept, err)
	}
	for range 2 {
		if err := kept.Know(d, func() (int, error) { return 3 + len(kept) - 2, nil }); err != nil {
			t.Error(err)
		}
	}
	if fmt.Sprint(kept) != fmt.Sprint(Kept{d - 1: 5, d: 3}) {
		t.Errorf("kept %v", kept)
	}
}

func TestSubmitter(t *testing.T) {
	t.Parallel()
	if err := us.Check(); err != nil {
		t.Error(err)
	}
	for want, change := range map[string]func(*Submitter){
		"are required": func(s *Submitter) { s.Contact = "" }, "to send from": func(s *Submitter) { s.From = mail.Address{} },
		"control characters": func(s *Submitter) { s.Organization = "a\r\nBcc: b" },
	} {
		s := us
		change(&s)
		if err := s.Check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
	times := make(map[time.Duration]bool)
	for n := range 50 {
		s := us
		s.Hostname = fmt.Sprintf("mx%d.example.com", n)
		after := s.ReportTime(100).Sub(Day(101).Start())
		if after < MinDelay || after > MaxDelay || !s.ReportTime(100).Equal(s.Due(100, nil)) {
			t.Errorf("%s reports %v after the day", s.Hostname, after)
		}
		times[after] = true
	}
	if len(times) < 40 {
		t.Errorf("only %d times for 50 hosts", len(times))
	}
	next := time.Now()
	if !us.Due(100, &Sending{Next: next}).Equal(next) {
		t.Error("a report under way is due when it is tried again")
	}
	var b bytes.Buffer
	WriteParts(&b, "x", "text\r\n", Attachment{Type: "application/gzip", Filename: us.Filename(0, "a.example", "gz"), Octets: make([]byte, 100)})
	for line := range strings.SplitSeq(b.String(), "\r\n") {
		if strings.Contains(line, "\n") || len(line) > 78 {
			t.Errorf("line %q", line)
		}
	}
}

// TestSending: who has the report does not get it again, and after enough
// failures nobody tries any more.
func TestSending(t *testing.T) {
	t.Parallel()
	var s Sending
	long, broken := strings.Repeat("x", maxReceiver+1), errors.New("br\r\noken")
	var tried []int
	send := func(i int) error {
		if tried = append(tried, i); i == 1 {
			return broken
		}
		return nil
	}
	names := []string{"a", "b", long}
	for range 2 {
		if err := s.Try(names, send); !errors.Is(err, broken) {
			t.Error(err)
		}
	}
	if !slices.Equal(tried, []int{0, 1, 2, 1, 2}) || !slices.Equal(s.Done, []string{"a"}) {
		t.Errorf("tried %v, done %q", tried, s.Done)
	}
	now := time.Now()
	for n := 1; !s.Failed(broken, now); n++ {
		if s.Attempts != n || s.Last != "br??oken" || s.Next.Sub(now) > MaxRetry || n == 1 && s.Next.Sub(now) != FirstRetry {
			t.Fatalf("%+v", s)
		}
	}
	if s.Attempts != MaxAttempts {
		t.Errorf("%d attempts", s.Attempts)
	}
}

type one struct {
	day   Day
	state *Sending
}

// TestRound: what is due is sent, at most so many, and the earliest of the
// others is when somebody looks again.
func TestRound(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		var wake Wake
		all := []one{{state: &Sending{Next: now.Add(-time.Hour)}}, {state: &Sending{Next: now.Add(time.Minute), Last: "why"}}, {state: &Sending{Next: now}}}
		round := Round[*one]{
			Submitter: us, Wake: &wake, Most: 3, State: func(o *one) (Day, *Sending) { return o.day, o.state },
			Scan: func(_ context.Context, _ Day, look func(*one) error) error {
				for i := range all {
					if err := look(&all[i]); err != nil {
						return err
					}
				}
				return nil
			},
		}
		due, err := round.Due(t.Context(), now)
		if err != nil || !slices.Equal(due, []*one{&all[0], &all[2]}) {
			t.Errorf("due %v, %v", due, err)
		}
		if wake.Passed(now.Add(time.Minute-1)) || !wake.Passed(now.Add(time.Minute)) {
			t.Errorf("looks again at %v", wake.at)
		}
		n, err := round.Now(t.Context(), func(*one) bool { return true }, func(context.Context, []*one, time.Time) error { return nil })
		if n != 3 || err == nil || !strings.Contains(err.Error(), "why") || !wake.Passed(now) {
			t.Errorf("%d, %v: a full round is followed by another", n, err)
		}
		if settled := Each(due, 1, func(o *one) bool { return o == &all[2] }); !slices.Equal(settled, []bool{false, true}) {
			t.Errorf("settled %v", settled)
		}
	})
}

// TestLoop: a flush each minute and before each question, a last one at the end,
// and nobody waits for a loop that is over.
func TestLoop(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var heard []string
		note := func(what string) func(context.Context) {
			return func(context.Context) { heard = append(heard, what) }
		}
		l := NewLoop("reports")
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		failed := errors.New("disk full")
		go func() {
			ended <- l.Run(ctx, note("flush"), note("send"), func(ctx context.Context) error {
				note("last")(ctx)
				return errors.Join(failed, ctx.Err())
			})
		}()
		time.Sleep(Every + time.Second)
		if err := l.Do(t.Context(), func(ctx context.Context) error { note("asked")(ctx); return failed }); !errors.Is(err, failed) {
			t.Error(err)
		}
		stop()
		if err := <-ended; !errors.Is(err, failed) || errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		if want := []string{"flush", "send", "flush", "asked", "last"}; !slices.Equal(heard, want) {
			t.Errorf("heard %q, want %q", heard, want)
		}
		if err := l.Do(t.Context(), func(context.Context) error { return nil }); err == nil || !strings.Contains(err.Error(), "stopping") {
			t.Error(err)
		}
	})
}
