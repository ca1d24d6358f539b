package queue

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
	"github.com/postern-mail/postern/store"
)

// Notices tells whom of us to tell what. Implemented by cmd/gateway from the
// configuration in force.
type Notices interface {
	// NoticeTo returns the postmaster for a class, and whether he wants it. It
	// must not block.
	NoticeTo(class mail.NoticeClass) (to mail.Address, wanted bool)
}

// noticeMark is where a notice was received from. No client is ever described
// so: smtpd replaces parentheses. A marked message is not reported on to
// anybody, or a postmaster's broken mailbox would make a loop.
const noticeMark = "(notice)"

// isNotice reports whether m is news of ours for the postmaster.
func (m *record) isNotice() bool { return m.receivedFrom == noticeMark }

// doubleBounces reports whether the postmaster is told when nobody takes m,
// which has a null reverse-path.
func (q *Queue) doubleBounces(m *message) bool {
	if m.isNotice() {
		return false
	}
	_, wanted := q.noticeTo(mail.NoticeDoubleBounce)
	return wanted
}

func (q *Queue) noticeTo(class mail.NoticeClass) (to mail.Address, wanted bool) {
	if q.deps.Notices == nil {
		return mail.Address{}, false
	}
	return q.deps.Notices.NoticeTo(class)
}

// owesFailure reports whether somebody is to be told that r did not get m: the
// sender by NOTIFY, or for the null reverse-path the postmaster if he asks.
func (r rules) owesFailure(m *record, n mail.Notify) bool {
	if m.envelope.ReversePath.IsNull() {
		return r.doubleBounces
	}
	return wantsFailure(n)
}

// noticeBudget bounds the notices of one class: a flood that fills the queue
// must not fill the postmaster's mailbox too.
type noticeBudget struct {
	left    int
	since   time.Time // when left was counted up last
	leftOut int
}

const (
	maxNotices  = 10
	noticeEvery = 6 * time.Minute
)

// take reports whether a notice may be sent now, and how many were not since
// the last one.
func (b *noticeBudget) take(now time.Time) (leftOut int, ok bool) {
	if b.since.IsZero() {
		b.left, b.since = maxNotices, now
	}
	if n := int(now.Sub(b.since) / noticeEvery); n > 0 {
		b.left = min(b.left+n, maxNotices)
		b.since = b.since.Add(time.Duration(n) * noticeEvery)
	}
	if b.left == 0 {
		b.leftOut++
		return 0, false
	}
	b.left--
	leftOut, b.leftOut = b.leftOut, 0
	return leftOut, true
}

// notices holds the budgets, and the news that nobody has written down yet.
type notices struct {
	waiting chan mail.Report

	mu      sync.Mutex
	budgets map[mail.NoticeClass]*noticeBudget
}

func newNotices() notices {
	return notices{waiting: make(chan mail.Report, 32), budgets: make(map[mail.NoticeClass]*noticeBudget)}
}

// address makes r a notice of a class, if the postmaster wants it and did not
// get too many of late.
func (q *Queue) address(r *mail.Report, class mail.NoticeClass, now time.Time) bool {
	to, wanted := q.noticeTo(class)
	if !wanted {
		return false
	}
	q.notices.mu.Lock()
	defer q.notices.mu.Unlock()
	b := q.notices.budgets[class]
	if b == nil {
		b = new(noticeBudget)
		q.notices.budgets[class] = b
	}
	leftOut, ok := b.take(now)
	r.Notice, r.Postmaster, r.LeftOut = class, to, leftOut
	return ok
}

// copyFor makes the postmaster's copy of a report, nil when there is to be
// none. That it cannot be made keeps nobody else's report back.
func (q *Queue) copyFor(r mail.Report, now time.Time) *outgoing {
	class, ok := map[mail.ReportKind]mail.NoticeClass{
		mail.ReportFailed: mail.NoticeBounce, mail.ReportDelayed: mail.NoticeDelay,
	}[r.Kind]
	if !ok || !q.address(&r, class, now) {
		return nil
	}
	out, err := q.composeDurably(r, now)
	if err != nil {
		q.log.Warn("copy of a report for the postmaster is left out", "qid", r.QueueID, "class", class.String(), "err", err)
		return nil
	}
	return out
}

// Notify tells the postmaster of trouble, if he asked for its class and the
// queue runs. It returns at once and may be called under Queue.mu; what cannot
// be queued is in the log.
func (q *Queue) Notify(class mail.NoticeClass, detail string) {
	r := mail.Report{Detail: detail}
	if !q.address(&r, class, time.Now()) {
		return
	}
	select {
	case q.notices.waiting <- r:
	default:
		q.log.Warn("notice to the postmaster is left out", "class", class.String(), "detail", detail)
	}
}

// sendNotices queues what Notify was told, until ctx ends.
func (q *Queue) sendNotices(ctx context.Context) {
	for {
		select {
		case r := <-q.notices.waiting:
			q.sendNotice(ctx, r, time.Now())
		case <-ctx.Done():
			return
		}
	}
}

// sendNotice queues a notice. The keeper does it, who may use the reserve of a
// disk that is full. A queue that ends waits for room for outcomes, but not for
// what it says of itself.
func (q *Queue) sendNotice(ctx context.Context, r mail.Report, now time.Time) {
	out, err := q.composeDurably(r, now)
	if err != nil {
		q.log.Error("notice to the postmaster cannot be made", "class", r.Notice.String(), "err", err)
		return
	}
	q.changes <- &change{
		prepare: func(b *store.Batch) error {
			if ctx.Err() != nil {
				return errStopped
			}
			if err := q.addReport(b, out); err != nil {
				return err
			}
			if !q.announce(b, out.m) {
				return fmt.Errorf("queue id %s is in use", out.m.id)
			}
			return nil
		},
		done: func(err error) {
			if err != nil {
				q.drop(out)
				q.log.Error("notice to the postmaster is not queued", "class", r.Notice.String(), "err", err)
				return
			}
			q.queued(out, "notice of class "+r.Notice.String())
		},
	}
}

// ourFault reports whether an outcome tells of a fault or a setting of ours:
// what RFC 3463 calls mail system status other or not specified, and
// incorrectly configured.
func ourFault(o *mail.Outcome) bool {
	if o.Class == mail.Delivered || o.FromPeer || o.Reply.Enhanced[1] != 3 {
		return false
	}
	detail := o.Reply.Enhanced[2]
	return detail == 0 || detail == 5
}

// tellFault tells the postmaster of an outcome that is our own fault.
func (q *Queue) tellFault(m *message, o *mail.Outcome) {
	if ourFault(o) {
		q.Notify(mail.NoticeSoftware, fmt.Sprintf("Message %s to %s was %s for a reason of this system: %s. The log tells more under the same id.",
			m.id, o.Recipient, o.Class, o.Reply))
	}
}

// tellLost warns of a notice that nobody took: it is given up.
func (q *Queue) tellLost(m *message) {
	if m.isNotice() && m.result == "" && m.outcome() == mail.Bounced.String() {
		q.log.Warn("notice to the postmaster is undeliverable and given up", "qid", m.id)
	}
}

// expansion is the report to who asked to be told of success at aliases and
// groups of several, whose members are not told of one by one (RFC 3461 section
// 5.2.7). nil when nobody asked, or it cannot be made: the message counts for
// more.
func (q *Queue) expansion(m *message, s *Submission) *outgoing {
	if len(s.Expanded) == 0 || m.envelope.ReversePath.IsNull() {
		return nil
	}
	now := time.Now()
	r := mail.Report{
		Kind: mail.ReportExpanded, QueueID: m.id, Envelope: m.envelope, Arrived: m.arrived, ReceivedFrom: m.receivedFrom,
		Open: func() (mail.Content, error) { return opened(s.Content.Open()) },
	}
	r.Envelope.Recipients = s.Expanded
	for _, to := range s.Expanded {
		r.Outcomes = append(r.Outcomes, mail.Outcome{Recipient: to.Address, At: now})
	}
	out, err := q.compose(r, now)
	if err != nil {
		q.log.Warn("report of an expansion is left out", "qid", m.id, "err", err)
		return nil
	}
	return out
}

// drop takes back a report that was announced; nil is none.
func (q *Queue) drop(out *outgoing) {
	if out != nil {
		q.withdraw(out.m)
		out.staged.Discard()
	}
}

// reportRoom is the free space, beyond what is kept, below which reports are
// brief: more than a new file of bodies takes.
const reportRoom = 128 << 20

// briefOctets is what a report may have then. Such a body travels in its commit,
// which may use the reserve.
const briefOctets = 12 << 10

// brief reports whether reports have to be brief.
func (q *Queue) brief() bool { return q.CheckSpace(reportRoom) != nil }

// compose writes the report as a message of its own, which the composer keeps
// small, and finds its way to the reader.
func (q *Queue) compose(r mail.Report, now time.Time) (*outgoing, error) {
	ctx := context.Background()
	id := q.newIDLike(r.QueueID)
	r.Brief = q.brief()
	var text bytes.Buffer
	env, err := q.deps.Reports.Compose(&text, r, now, string(id))
	if err != nil {
		return nil, fmt.Errorf("compose report: %w", err)
	}
	if r.Brief && text.Len() > briefOctets {
		return nil, status.Errorf(status.MailSystemFull, "a report of %d octets has no room", text.Len())
	}
	giveUp := len(r.Outcomes) > 0 && now.Sub(r.Outcomes[0].At) > max(q.cfg.BounceLifetime, 0)
	if env.Recipients, err = q.resolve(ctx, env.Recipients, giveUp); err != nil {
		return nil, err
	}
	staged, err := q.Stage(ctx, &text)
	if err != nil {
		return nil, fmt.Errorf("stage report: %w", err)
	}
	env.Priority = r.Envelope.Priority
	s := Submission{ID: id, Envelope: env, Content: staged}
	if r.Notice != mail.NoticeNone {
		s.ReceivedFrom = noticeMark
	}
	m, err := q.newMessage(s)
	if err != nil {
		staged.Discard()
		return nil, err
	}
	return &outgoing{m: m, staged: staged}, nil
}

// composeDurably is compose for what the keeper queues: the body is durable
// already. The keeper records much else in the same commit, and a disk that
// does not take this one body must not keep it from that.
func (q *Queue) composeDurably(r mail.Report, now time.Time) (*outgoing, error) {
	out, err := q.compose(r, now)
	if err != nil {
		return nil, err
	}
	out.m.ref, out.link = out.staged.Ref(), store.NewBatch()
	q.deps.Blobs.Link(out.link, out.staged)
	for _, before := range out.link.Before {
		if err := before(context.Background()); err != nil {
			out.staged.Discard()
			return nil, fmt.Errorf("store report: %w", err)
		}
	}
	return out, nil
}

// addReport adds to b what makes a report of composeDurably queued.
func (q *Queue) addReport(b *store.Batch, out *outgoing) error {
	if err := q.addRecord(b, out.m); err != nil {
		return err
	}
	b.Ops = append(b.Ops, out.link.Ops...)
	return nil
}

// queued accounts for a report or notice that is on stable storage, and
// schedules it.
func (q *Queue) queued(out *outgoing, what string) {
	q.counts.accepted.Add(1)
	q.audit(mail.Event{
		Kind: mail.EventAccept, Result: "ok", Service: "report", Queue: out.m.id, From: &mail.Address{},
		To: addresses(out.m.groups[0]), Octets: out.m.ref.Octets, Detail: what,
	})
	q.activate(out.m)
}
