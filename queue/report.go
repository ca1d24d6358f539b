package queue

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
	"github.com/postern-mail/postern/store"
)

// maxReporters bounds the reports that are composed at once.
const maxReporters = 8

// told is a recipient that a report speaks of.
type told struct{ group, recipient int }

// reportKinds is in the order in which reports are sent.
var reportKinds = []mail.ReportKind{mail.ReportFailed, mail.ReportRelayed, mail.ReportDelivered, mail.ReportDelayed}

// reportIfOwedLocked starts the reports that are owed once every group of m is
// at rest: so one report tells of all that happened in a round.
func (q *Queue) reportIfOwedLocked(m *message) {
	if !q.running || m.moving > 0 || m.reporting || m.removed || !m.home.open() || !m.owesReports(q.rules(m), time.Now()) {
		return
	}
	m.reporting = true
	q.workers.Go(func() {
		q.reporters <- struct{}{}
		defer func() { <-q.reporters }()
		q.sendReports(m)
	})
}

// sendReports composes what is owed about m and queues it, in the same commit
// that marks it as told.
func (q *Queue) sendReports(m *message) {
	now := time.Now()
	var reports []*outgoing
	var all []told
	var err error
	for _, kind := range reportKinds {
		q.mu.Lock()
		about := m.toTell(kind, q.rules(m), now)
		report := q.newReport(m, kind, about)
		q.mu.Unlock()
		if len(about) == 0 {
			continue
		}
		var made []*outgoing
		if made, err = q.composeAll(report, now); err != nil {
			break
		}
		reports, all = append(reports, made...), append(all, about...)
	}
	if err != nil {
		discard(reports)
		q.log.Warn("report is put off", "qid", m.id, "err", err)
		q.changes <- &change{
			prepare: func(b *store.Batch) error { return q.putOffReports(b, m) },
			done:    func(error) { q.reported(m, nil) },
		}
		return
	}
	q.changes <- &change{
		outcomeOf: m, moot: errDeleted, // else what is in memory would be ahead of the store
		prepare: func(b *store.Batch) error { return q.queueReports(b, m, reports, all) },
		done: func(err error) {
			if err != nil {
				for _, out := range reports {
					q.drop(out)
				}
				reports = nil
			}
			if err != nil && !errors.Is(err, errDeleted) {
				q.log.Error("report is not queued", "qid", m.id, "err", err)
			}
			if lasting(err) {
				return // the next start finds the message as it was
			}
			q.reported(m, reports)
		},
	}
}

// composeAll makes a report and the postmaster's copy of it. There is none when
// nobody wants it; then it counts as sent.
func (q *Queue) composeAll(r mail.Report, now time.Time) ([]*outgoing, error) {
	if r.Envelope.ReversePath.IsNull() && !q.address(&r, mail.NoticeDoubleBounce, now) {
		return nil, nil
	}
	out, err := q.composeDurably(r, now)
	if errors.Is(err, mail.ErrNoReport) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	made := []*outgoing{out}
	if r.Notice == mail.NoticeNone {
		if out := q.copyFor(r, now); out != nil {
			made = append(made, out)
		}
	}
	return made, nil
}

// errDeleted means that an operator deleted the message meanwhile.
var errDeleted = errors.New("message was deleted")

func discard(reports []*outgoing) {
	for _, out := range reports {
		out.staged.Discard()
	}
}

// toTell lists the recipients that a report of a kind is owed about.
func (m *message) toTell(kind mail.ReportKind, r rules, now time.Time) (list []told) {
	for g := range m.work {
		s := m.work[g].state
		if s == nil {
			continue
		}
		warn := kind == mail.ReportDelayed && m.owesWarning(g, r, now)
		for i := range s.recipients {
			if rcpt := &s.recipients[i]; warn && rcpt.isLate() && wantsDelay(m.groups[g][i].Notify) ||
				rcpt.owed && kindOf(rcpt) == kind {
				list = append(list, told{g, i})
			}
		}
	}
	return list
}

// kindOf is what there is to report about a recipient who is done.
func kindOf(r *recipientState) mail.ReportKind {
	switch {
	case r.progress == failed:
		return mail.ReportFailed
	case r.last.Final:
		return mail.ReportDelivered
	default:
		return mail.ReportRelayed
	}
}

func (q *Queue) newReport(m *message, kind mail.ReportKind, about []told) mail.Report {
	r := mail.Report{
		Kind: kind, QueueID: m.id, Envelope: m.envelope, Arrived: m.arrived, ReceivedFrom: m.receivedFrom,
		Until: m.arrived.Add(max(q.rules(m).lifetime, 0)),
		Open:  func() (mail.Content, error) { return q.open(context.Background(), m.ref) },
	}
	for _, t := range about {
		r.Envelope.Recipients = append(r.Envelope.Recipients, m.groups[t.group][t.recipient])
		r.Outcomes = append(r.Outcomes, m.work[t.group].state.recipients[t.recipient].last)
	}
	return r
}

// outgoing is a report that is ready to be queued.
type outgoing struct {
	m      *message
	staged store.Staged
	link   *store.Batch // makes the body the message's; nil before composeDurably
}

// resolve asks who the addressees of a report stand for. One that is not ours
// stays as it is; so does one that is ours but nobody's, or about whom nobody
// knew anything for so long that it is given up: the next hop refuses it then,
// and that is the end of the report.
func (q *Queue) resolve(ctx context.Context, recipients []mail.Recipient, giveUp bool) ([]mail.Recipient, error) {
	if q.deps.Recipients == nil {
		return recipients, nil
	}
	var all []mail.Recipient
	for _, r := range recipients {
		found, err := q.deps.Recipients.Resolve(ctx, r.Address)
		if err != nil && !giveUp && !status.Of(err).Permanent() {
			return nil, fmt.Errorf("resolve %s: %w", r.Address, err)
		}
		if err != nil || len(found) == 0 {
			found = nil
			all = append(all, r)
		}
		for _, f := range found {
			f.Accepted, f.Notify = r.Address, r.Notify
			all = append(all, f)
		}
	}
	return all, nil
}

// queueReports adds to b the reports and the mark that they were made.
func (q *Queue) queueReports(b *store.Batch, m *message, reports []*outgoing, about []told) error {
	for _, out := range reports { // of which nobody else knows yet
		if err := q.addReport(b, out); err != nil {
			return err
		}
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if m.removed {
		return errDeleted
	}
	if err := q.ownLocked(b, m); err != nil {
		return err
	}
	for _, out := range reports {
		out.m.busy, out.m.home = true, m.home
		q.active[out.m.id] = out.m
	}
	touched := make(map[int]bool)
	for _, t := range about {
		s := m.work[t.group].state
		if r := &s.recipients[t.recipient]; r.progress == pending {
			s.warned = true
		} else {
			r.owed = false
		}
		touched[t.group] = true
	}
	for g := range touched {
		w := &m.work[g]
		w.finished = w.state.finished()
	}
	for g := range touched {
		if !m.removed {
			q.storeLocked(b, m, g)
		}
	}
	return nil
}

// putOffReports has the reports tried again after the minimal backoff.
func (q *Queue) putOffReports(b *store.Batch, m *message) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if err := q.ownLocked(b, m); err != nil {
		return err
	}
	again := time.Now().Add(q.cfg.MinimalBackoff)
	for g := range m.work {
		if s := m.work[g].state; s != nil && s.owed() && s.pending() == 0 && !m.removed {
			s.due = again
			q.storeLocked(b, m, g)
		}
	}
	return nil
}

// reported ends the reporting on m and schedules the reports.
func (q *Queue) reported(m *message, reports []*outgoing) {
	for _, out := range reports {
		to := "sender"
		if out.m.isNotice() {
			to = "postmaster"
		}
		q.log.Info("reported to "+to, "qid", m.id, "report", out.m.id, "octets", out.m.ref.Octets)
		q.queued(out, "report on "+string(m.id))
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	m.reporting = false
	for g := range m.work {
		if w := &m.work[g]; w.place == idle && !w.entry.IsZero() {
			q.noteDueLocked(w.entry, m.entryKey(g))
		}
	}
	if m.removed {
		q.endLocked(m)
	}
	q.forgetIfIdleLocked(m)
}
