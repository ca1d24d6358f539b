package queue

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
	"github.com/postern-mail/postern/store"
	"github.com/postern-mail/postern/store/storetest"
)

// lines counts the log lines that hold a text.
func lines(log *strings.Builder, text string) int { return strings.Count(log.String(), text) }

// TestFullQueue: at max_queue_messages mail is put off, but for what its next
// hop takes at once; reports find a place, and it lasts until some have left.
func TestFullQueue(t *testing.T) {
	t.Parallel()
	var log strings.Builder
	kv, blobs := storetest.Open(t)
	r := noticeRigOn(t, Config{MaxMessages: 20}, kv, blobs, mail.NoticeResource)
	r.log = hclog.New(&hclog.LoggerOptions{Output: &log})
	r.transport.set(func(_ context.Context, _ mail.Delivery, to mail.Recipient) mail.Outcome {
		switch to.Address.Domain {
		case "slow.example":
			return later
		case "no.example":
			return never
		}
		return fine
	})
	r.start()
	var ids []mail.QueueID
	for range 20 {
		ids = append(ids, r.accept("s@far.example", "a@slow.example"))
	}
	envelope := mail.Envelope{ReversePath: mail.MustAddress("s@far.example"), Recipients: []mail.Recipient{{Address: mail.MustAddress("b@else.example")}}}
	for range 3 {
		if err := r.Admit(&envelope); status.Of(err) != status.QueueFull {
			t.Errorf("admitted: %v", err)
		}
	}
	s := r.submit("s@far.example", "b@else.example")
	if _, err := r.Submit(context.Background(), s); status.Of(err) != status.QueueFull {
		t.Errorf("accepted: %v", err)
	}
	if !r.Stats().Full || !r.Stats().Pressed {
		t.Errorf("%+v", r.Stats())
	}
	// The notice came in all the same, and left.
	r.until("the notice is delivered", func() bool { return r.transport.delivered("postmaster@ours.example") != nil })
	if err := r.Delete(context.Background(), ids[0]); err != nil {
		t.Fatal(err)
	}
	r.until("one left", func() bool { return r.Stats().Messages == 19 })
	if err := r.Delete(context.Background(), ids[1]); err != nil {
		t.Fatal(err)
	}
	r.until("two left", func() bool { return r.Stats().Messages <= 19 && !r.Stats().Full })
	if err := r.Admit(&envelope); err != nil {
		t.Error(err)
	}
	// So does that of the places; until it has come the queue may be empty once
	// before it really is.
	r.until("the other notice is delivered", func() bool { return len(r.transport.delivered("postmaster@ours.example")) == 2 })
	for _, id := range ids[2:] {
		if err := r.Delete(context.Background(), id); err != nil {
			t.Fatal(err)
		}
	}
	r.empty()
	r.stop()
	if lines(&log, "the queue is full") != 1 || lines(&log, "the queue has places again") != 1 {
		t.Errorf("log\n%s", log.String())
	}
}

// TestReportFromFullQueue: a message that fails while the queue is full is
// reported on.
func TestReportFromFullQueue(t *testing.T) {
	t.Parallel()
	r := newNoticeRig(t, Config{MaxMessages: 1})
	r.transport.set(func(_ context.Context, _ mail.Delivery, to mail.Recipient) mail.Outcome {
		if to.Address.Domain == "no.example" {
			return never
		}
		return fine
	})
	r.accept("s@far.example", "a@no.example")
	r.wantReports("failed/none <s@far.example>")
}

// direct is a next hop that takes mail while the client waits.
type directly struct {
	*transport
	to string
}

func (d directly) Direct(destination string) bool { return destination == d.to }

// TestFullQueueLetsDirectMailPass: other destinations' mail does not keep out
// what our own backend takes at once.
func TestFullQueueLetsDirectMailPass(t *testing.T) {
	t.Parallel()
	kv, blobs := storetest.Open(t)
	r := noticeRigOn(t, Config{MaxMessages: 1}, kv, blobs)
	r.transport.set(func(_ context.Context, _ mail.Delivery, to mail.Recipient) mail.Outcome {
		if to.Address.Domain == "slow.example" {
			return later
		}
		return fine
	})
	r.deps.Transport = directly{r.transport, "near.example"}
	r.startWhole()
	id := r.accept("s@far.example", "a@slow.example")
	admit := func(to ...mail.Recipient) error {
		return r.Admit(&mail.Envelope{ReversePath: mail.MustAddress("s@far.example"), Recipients: to})
	}
	near, also, far := mail.Recipient{Address: mail.MustAddress("b@near.example")}, mail.Recipient{Address: mail.MustAddress("c@near.example")}, mail.Recipient{Address: mail.MustAddress("d@far.example")}
	asks := near
	asks.Notify = mail.NotifySuccess
	if err := admit(near, also); err != nil {
		t.Error(err)
	}
	for _, to := range [][]mail.Recipient{{near, far}, {far}, {asks}} {
		if err := admit(to...); status.Of(err) != status.QueueFull {
			t.Errorf("%v: %v", to, err)
		}
	}
	if taken, err := r.Submit(context.Background(), r.submit("s@far.example", "b@near.example")); err != nil || !taken {
		t.Errorf("%v, %v", taken, err)
	}
	if err := r.Delete(context.Background(), id); err != nil {
		t.Fatal(err)
	}
	r.empty()
}

// spacious is a store whose disk can be full.
type spacious struct {
	store.Store
	free *atomic.Int64
}

func (s spacious) CheckSpace(octets int64) error {
	if s.free.Load() < octets {
		return store.ErrFull
	}
	return nil
}

func (s spacious) Free() (int64, error) { return s.free.Load(), nil }

// TestFullDisk: is told once when it begins and once when it ends, to the log
// and to the postmaster; a message that is too large for what is left is none.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	var log strings.Builder
	var free atomic.Int64
	free.Store(1 << 40)
	kv, blobs := storetest.Open(t)
	r := newRigOn(t, Config{}, kv, blobs)
	r.deps.Store = spacious{kv, &free}
	r.deps.Notices = &postmaster{classes: []mail.NoticeClass{mail.NoticeResource}}
	r.log = hclog.New(&hclog.LoggerOptions{Output: &log})
	r.start()
	if err := r.CheckSpace(1 << 41); status.Of(err) != status.MailSystemFull || r.Stats().NoSpace {
		t.Errorf("%v, %+v", err, r.Stats())
	}
	free.Store(-1)
	for range 10 {
		if err := r.CheckSpace(100); status.Of(err) != status.MailSystemFull {
			t.Error(err)
		}
	}
	if !r.Stats().NoSpace {
		t.Error("not told to be full")
	}
	free.Store(1 << 40)
	for range 10 {
		if err := r.CheckSpace(100); err != nil {
			t.Error(err)
		}
	}
	r.until("both notices", func() bool { return len(r.transport.delivered("postmaster@ours.example")) == 2 })
	r.empty()
	r.stop()
	if lines(&log, "no room for mail") != 1 || lines(&log, "room for mail again") != 1 {
		t.Errorf("log\n%s", log.String())
	}
}

// TestBriefReports: with little room beyond the reserve a report is brief, and
// one that is not waits instead of holding everything up.
func TestBriefReports(t *testing.T) {
	t.Parallel()
	var free atomic.Int64
	free.Store(reportRoom - 1)
	kv, blobs := storetest.Open(t)
	r := newRigOn(t, Config{}, kv, blobs)
	r.deps.Store = spacious{kv, &free}
	report := mail.Report{Envelope: mail.Envelope{ReversePath: mail.MustAddress("s@far.example")}}
	out, err := r.compose(report, time.Now())
	if err != nil || !r.reports.all()[0].Brief {
		t.Fatalf("%v, %+v", err, r.reports.all())
	}
	out.staged.Discard()
	r.reports.long = briefOctets
	if _, err := r.compose(report, time.Now()); status.Of(err) != status.MailSystemFull {
		t.Errorf("%v", err)
	}
	free.Store(1 << 40)
	out, err = r.compose(report, time.Now())
	if err != nil || r.reports.all()[2].Brief {
		t.Fatalf("%v, %+v", err, r.reports.all())
	}
	out.staged.Discard()
}

// TestPressed: mail presses in while memory is crowded, and near
// max_queue_messages; it is looked at now and then only, and told once.
func TestPressed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		r := newRig(t, Config{MaxMessages: 100})
		r.log = hclog.New(&hclog.LoggerOptions{Output: &log})
		look := func(want bool) {
			t.Helper()
			time.Sleep(pressureEvery)
			for range 3 {
				if got := r.Pressed(); got != want {
					t.Errorf("pressed: %v", got)
				}
			}
		}
		look(false)
		r.mu.Lock()
		r.crowded = true
		r.mu.Unlock()
		if r.Pressed() {
			t.Error("looked too often")
		}
		look(true)
		r.mu.Lock()
		r.crowded = false
		r.mu.Unlock()
		look(false)
		for _, step := range []struct {
			n    int64
			want bool
		}{{79, false}, {80, true}, {75, true}, {70, true}, {69, false}, {75, false}, {99, true}, {0, false}} {
			r.counts.queued.Store(step.n)
			look(step.want)
		}
		r.cfg.MaxMessages = 3
		r.counts.queued.Store(2)
		look(false)
		if lines(&log, "mail comes in faster") != 3 || lines(&log, "mail comes in no faster") != 3 {
			t.Errorf("log\n%s", log.String())
		}
	})
}
