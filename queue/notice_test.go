package queue

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
	"github.com/postern-mail/postern/store"
	"github.com/postern-mail/postern/store/storetest"
)

// postmaster wants to be told of some classes.
type postmaster struct {
	mu      sync.Mutex
	classes []mail.NoticeClass
}

func (p *postmaster) NoticeTo(class mail.NoticeClass) (mail.Address, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return mail.MustAddress("postmaster@ours.example"), slices.Contains(p.classes, class)
}

// newNoticeRig has a postmaster who wants classes, and next hops that refuse
// everything for nobody@ and broken@ addresses.
func newNoticeRig(t *testing.T, cfg Config, classes ...mail.NoticeClass) *rig {
	t.Helper()
	kv, blobs := storetest.Open(t)
	r := noticeRigOn(t, cfg, kv, blobs, classes...)
	r.start()
	return r
}

// noticeRigOn is newNoticeRig on a store of the caller's, and does not run yet.
func noticeRigOn(t *testing.T, cfg Config, kv store.Store, blobs store.Blobs, classes ...mail.NoticeClass) *rig {
	t.Helper()
	r := newRigOn(t, cfg, kv, blobs)
	r.deps.Notices = &postmaster{classes: classes}
	r.transport.set(func(_ context.Context, _ mail.Delivery, to mail.Recipient) mail.Outcome {
		switch to.Address.Local {
		case "nobody", "forged":
			return never
		case "broken":
			return mail.Outcome{Class: mail.Deferred, Reply: status.ConfigurationError.Reply()}
		}
		return fine
	})
	return r
}

// summary tells of reports as "kind/class to whom".
func (r *rig) summary() []string {
	var list []string
	for _, made := range r.reports.all() {
		to := made.Envelope.ReversePath
		if made.Notice != mail.NoticeNone {
			to = made.Postmaster
		}
		list = append(list, []string{"failed", "delayed", "delivered", "relayed", "expanded"}[made.Kind]+"/"+made.Notice.String()+" "+to.Path())
	}
	return list
}

func (r *rig) wantReports(want ...string) {
	r.t.Helper()
	r.empty()
	if got := r.summary(); !slices.Equal(got, want) {
		r.t.Errorf("reports %q, want %q", got, want)
	}
}

func TestBounceCopies(t *testing.T) {
	t.Parallel()
	r := newNoticeRig(t, Config{}, mail.NoticeBounce)
	r.accept("s@far.example", "nobody@else.example", "fine@else.example")
	r.wantReports("failed/none <s@far.example>", "failed/bounce <postmaster@ours.example>")
	if r.transport.delivered("postmaster@ours.example") == nil {
		t.Error("the postmaster has no copy")
	}
}

// TestNoCopiesUnasked: by default the sender alone hears of what failed.
func TestNoCopiesUnasked(t *testing.T) {
	t.Parallel()
	r := newNoticeRig(t, Config{}, mail.NoticeResource, mail.NoticeSoftware)
	r.accept("s@far.example", "nobody@else.example")
	r.wantReports("failed/none <s@far.example>")
}

// TestDoubleBounce: what nobody takes and has nobody to report to goes to the
// postmaster where he asked for it, once; if he does not take it either, that
// is the end.
func TestDoubleBounce(t *testing.T) {
	t.Parallel()
	t.Run("report", func(t *testing.T) {
		t.Parallel()
		r := newNoticeRig(t, Config{}, mail.NoticeDoubleBounce)
		r.accept("forged@far.example", "nobody@else.example")
		r.wantReports("failed/none <forged@far.example>", "failed/2bounce <postmaster@ours.example>")
	})
	t.Run("mail of others", func(t *testing.T) {
		t.Parallel()
		r := newNoticeRig(t, Config{}, mail.NoticeDoubleBounce)
		r.accept("", "nobody@else.example")
		r.wantReports("failed/2bounce <postmaster@ours.example>")
	})
	t.Run("not asked for", func(t *testing.T) {
		t.Parallel()
		r := newNoticeRig(t, Config{})
		r.accept("", "nobody@else.example")
		r.wantReports()
	})
	t.Run("postmaster refuses", func(t *testing.T) {
		t.Parallel()
		r := newNoticeRig(t, Config{}, mail.NoticeDoubleBounce, mail.NoticeBounce)
		r.transport.set(func(context.Context, mail.Delivery, mail.Recipient) mail.Outcome { return never })
		r.accept("s@far.example", "nobody@else.example")
		r.wantReports("failed/none <s@far.example>", "failed/bounce <postmaster@ours.example>", "failed/2bounce <postmaster@ours.example>")
	})
	t.Run("expires", func(t *testing.T) {
		t.Parallel()
		r := newNoticeRig(t, Config{BounceLifetime: -1}, mail.NoticeDoubleBounce)
		r.accept("", "broken@else.example")
		r.wantReports("failed/2bounce <postmaster@ours.example>")
	})
	t.Run("given up by command", func(t *testing.T) {
		t.Parallel()
		r := newNoticeRig(t, Config{}, mail.NoticeDoubleBounce)
		r.transport.set(func(_ context.Context, _ mail.Delivery, to mail.Recipient) mail.Outcome {
			if to.Address.Local == "postmaster" {
				return fine
			}
			return later
		})
		id := r.accept("", "slow@else.example")
		r.until("deferred", func() bool { return r.Stats().Deferred == 1 })
		if err := r.Expire(context.Background(), id); err != nil {
			t.Fatal(err)
		}
		r.wantReports("failed/2bounce <postmaster@ours.example>")
	})
}

// TestDoubleBounceSurvivesRestart: a notice that is owed is made by the next
// process.
func TestDoubleBounceSurvivesRestart(t *testing.T) {
	t.Parallel()
	r := newNoticeRig(t, Config{MinimalBackoff: time.Millisecond, MaximalBackoff: time.Millisecond}, mail.NoticeDoubleBounce)
	r.reports.mu.Lock()
	r.reports.fail = errors.New("not now")
	r.reports.mu.Unlock()
	r.accept("", "nobody@else.example")
	r.until("refused", func() bool { return r.Stats().Bounced == 1 })
	r.stop()
	r.reports.fail = nil
	deps := r.deps
	r.reopen()
	r.deps.Notices = deps.Notices
	r.start()
	r.wantReports("failed/2bounce <postmaster@ours.example>")
}

// TestDelayCopies: the postmaster's copy comes with the sender's warning, once.
func TestDelayCopies(t *testing.T) {
	t.Parallel()
	r := newNoticeRig(t, Config{DelayWarning: time.Nanosecond}, mail.NoticeDelay)
	r.transport.set(func(_ context.Context, d mail.Delivery, to mail.Recipient) mail.Outcome {
		if to.Address.Local == "slow" {
			return later
		}
		return fine
	})
	id := r.accept("s@far.example", "slow@else.example")
	want := []string{"delayed/none <s@far.example>", "delayed/delay <postmaster@ours.example>"}
	r.until("warned", func() bool { return slices.Equal(r.summary(), want) && r.Stats().Messages == 1 })
	if err := r.Delete(context.Background(), id); err != nil {
		t.Fatal(err)
	}
	r.empty()
}

// TestNoReportWanted: what the composer finds nobody wants counts as told.
func TestNoReportWanted(t *testing.T) {
	t.Parallel()
	r := newNoticeRig(t, Config{})
	r.reports.mu.Lock()
	r.reports.fail = mail.ErrNoReport
	r.reports.mu.Unlock()
	r.accept("s@far.example", "nobody@else.example")
	r.wantReports()
}

// TestSoftwareNotice: a fault of ours is told, but not by every message it hits.
func TestSoftwareNotice(t *testing.T) {
	t.Parallel()
	r := newNoticeRig(t, Config{BounceLifetime: -1}, mail.NoticeSoftware)
	for range 3 * maxNotices {
		r.accept("", "broken@else.example")
	}
	// The messages may be gone before the last notice is written.
	r.until("all notices", func() bool { return len(r.transport.delivered("postmaster@ours.example")) >= maxNotices })
	r.empty()
	var told int
	for _, made := range r.reports.all() {
		if told++; made.Notice != mail.NoticeSoftware || !strings.Contains(made.Detail, "broken@else.example was deferred for a reason of this system: 451 4.3.5") {
			t.Errorf("%+v", made)
		}
	}
	if told != maxNotices {
		t.Errorf("%d notices of %d", told, maxNotices)
	}
}

func TestNoticeBudget(t *testing.T) {
	t.Parallel()
	var b noticeBudget
	now := time.Now()
	sent := 0
	for range 100 {
		if _, ok := b.take(now); ok {
			sent++
		}
	}
	if sent != maxNotices {
		t.Errorf("%d at once", sent)
	}
	if leftOut, ok := b.take(now.Add(noticeEvery)); !ok || leftOut != 100-maxNotices {
		t.Errorf("after %v: %v, %d left out", noticeEvery, ok, leftOut)
	}
	if _, ok := b.take(now.Add(noticeEvery)); ok {
		t.Error("two for the time of one")
	}
	sent = 0
	for range 100 {
		if _, ok := b.take(now.Add(1000 * noticeEvery)); ok {
			sent++
		}
	}
	if sent != maxNotices {
		t.Errorf("%d after a long silence", sent)
	}
}

// TestExpanded: who asked for success at a group hears that it was reached, in
// the commit that accepts the message.
func TestExpanded(t *testing.T) {
	t.Parallel()
	r := newNoticeRig(t, Config{})
	group := mail.Recipient{Address: mail.MustAddress("staff@ours.example"), Notify: mail.NotifySuccess, Original: "rfc822;staff@ours.example"}
	s := r.submit("s@far.example", "a@else.example", "b@else.example")
	s.Expanded = []mail.Recipient{group}
	if _, err := r.Submit(context.Background(), s); err != nil {
		t.Fatal(err)
	}
	r.wantReports("expanded/none <s@far.example>")
	if made := r.reports.all()[0]; len(made.Envelope.Recipients) != 1 || made.Envelope.Recipients[0] != group || made.Outcomes[0].Recipient != group.Address {
		t.Errorf("%+v", made)
	}
	if r.transport.delivered("s@far.example") == nil || r.transport.delivered("a@else.example") == nil {
		t.Error("not delivered")
	}
}

// TestExpandedIsNoBackscatter: mail without a reverse-path, and mail that was
// not accepted, is not reported on; a report that cannot be made does not keep
// the message out.
func TestExpandedIsNoBackscatter(t *testing.T) {
	t.Parallel()
	kv, blobs := storetest.Open(t)
	faulty := &faultyStore{Store: kv}
	r := noticeRigOn(t, Config{}, faulty, blobs)
	r.start()
	group := []mail.Recipient{{Address: mail.MustAddress("staff@ours.example"), Notify: mail.NotifySuccess}}
	s := r.submit("", "a@else.example", "b@else.example")
	s.Expanded = group
	if _, err := r.Submit(context.Background(), s); err != nil {
		t.Fatal(err)
	}
	r.wantReports()
	r.reports.mu.Lock()
	r.reports.fail = errors.New("no")
	r.reports.mu.Unlock()
	s = r.submit("s@far.example", "a@else.example", "b@else.example")
	s.Expanded = group
	if _, err := r.Submit(context.Background(), s); err != nil {
		t.Fatal(err)
	}
	r.wantReports()
	r.reports.mu.Lock()
	r.reports.fail = nil
	r.reports.mu.Unlock()
	full := func(*store.Batch) error { return store.ErrFull }
	faulty.refuse.Store(&full)
	s = r.submit("s@far.example", "a@else.example", "b@else.example")
	s.Expanded = group
	if _, err := r.Submit(context.Background(), s); status.Of(err) != status.MailSystemFull {
		t.Errorf("%v", err)
	}
	r.until("nothing", func() bool { return r.Stats().Messages == 0 })
	r.nothingStored()
}

// TestFullDiskKeepsNobodyFromStopping: outcomes are worth waiting for until
// somebody makes room, notices are not.
func TestFullDiskKeepsNobodyFromStopping(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		kv, blobs := storetest.Open(t)
		faulty := &faultyStore{Store: kv}
		r := noticeRigOn(t, Config{Grace: time.Hour}, faulty, blobs, mail.NoticeResource)
		r.startWhole()
		full := func(*store.Batch) error { return store.ErrFull }
		faulty.refuse.Store(&full)
		r.reports.mu.Lock() // the notice is being composed when the queue is to end
		r.Notify(mail.NoticeResource, "no room")
		for len(r.notices.waiting) > 0 {
			runtime.Gosched()
		}
		stopped := time.Now()
		ended := make(chan struct{})
		go func() { r.stop(); close(ended) }()
		for runs := true; runs; runtime.Gosched() {
			r.mu.Lock()
			runs = r.running
			r.mu.Unlock()
		}
		r.reports.mu.Unlock()
		<-ended
		if took := time.Since(stopped); took > time.Minute {
			t.Errorf("took %s to stop", took)
		}
	})
}

// TestNotifyMatrix: which report each NOTIFY causes for each fate (RFC 3461
// section 4.1, 5.2, 6).
func TestNotifyMatrix(t *testing.T) {
	t.Parallel()
	final, relayed, reports := fine, fine, fine
	final.Final, relayed.Relayed = true, true
	fates := []struct {
		name    string
		outcome mail.Outcome
		kind    string // of the report
		wants   func(mail.Notify) bool
	}{
		{"delivered at the end of the way", final, "delivered", func(n mail.Notify) bool { return n&mail.NotifySuccess != 0 }},
		{"relayed to a hop without DSN", relayed, "relayed", func(n mail.Notify) bool { return n&mail.NotifySuccess != 0 }},
		{"relayed to a hop with DSN", reports, "", func(mail.Notify) bool { return false }},
		{"refused", never, "failed", func(n mail.Notify) bool { return n == 0 || n&mail.NotifyFailure != 0 }},
		{"given up", later, "failed", func(n mail.Notify) bool { return n == 0 || n&mail.NotifyFailure != 0 }},
		{"late", later, "delayed", func(n mail.Notify) bool { return n == 0 || n&mail.NotifyDelay != 0 }},
	}
	for _, fate := range fates {
		for _, notify := range []mail.Notify{
			0, mail.NotifyNever, mail.NotifySuccess, mail.NotifyFailure, mail.NotifyDelay,
			mail.NotifySuccess | mail.NotifyFailure, mail.NotifySuccess | mail.NotifyDelay, mail.NotifyFailure | mail.NotifyDelay,
			mail.NotifySuccess | mail.NotifyFailure | mail.NotifyDelay,
		} {
			for _, from := range []string{"s@far.example", ""} {
				m := &record{arrived: time.Now().Add(-time.Hour)}
				if from != "" {
					m.envelope.ReversePath = mail.MustAddress(from)
				}
				to := []mail.Recipient{{Address: mail.MustAddress("a@else.example"), Notify: notify}}
				m.groups = [][]mail.Recipient{to}
				r := rules{minimalBackoff: time.Minute, maximalBackoff: time.Minute, lifetime: 24 * time.Hour}
				if fate.name == "given up" {
					r.lifetime = 0
				}
				if fate.name == "late" {
					r.delayWarning = time.Minute
				}
				state := newGroupState(1)
				state.settle(m, to, []mail.Outcome{fate.outcome}, r, time.Now(), 0)
				whole := &message{record: m, work: []group{{state: &state}}}
				var got []string
				for i, kind := range []mail.ReportKind{mail.ReportFailed, mail.ReportDelayed, mail.ReportDelivered, mail.ReportRelayed} {
					if len(whole.toTell(kind, r, time.Now())) > 0 {
						got = append(got, []string{"failed", "delayed", "delivered", "relayed"}[i])
					}
				}
				var want []string
				if from != "" && fate.wants(notify) {
					want = []string{fate.kind}
				}
				if !slices.Equal(got, want) {
					t.Errorf("%s, NOTIFY %v, from <%s>: reports %q, want %q", fate.name, notify, from, got, want)
				}
			}
		}
	}
}
