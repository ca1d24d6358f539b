package queue

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/store"
)

// report describes a notification about some of a group's recipients.
func (q *Queue) report(j job, kind mail.ReportKind, which []int, outcomes []mail.Outcome, until time.Time) mail.Report {
	envelope := j.message.envelope
	r := mail.Report{
		Kind: kind, QueueID: j.ref.id, Arrived: j.message.arrived, Until: until, ReceivedFrom: j.message.from,
		Open: func() (mail.Content, error) { return q.open(context.Background(), j.message.content) },
	}
	for _, i := range which {
		envelope.Recipients = append(envelope.Recipients, j.group.recipients[i])
		r.Outcomes = append(r.Outcomes, outcomes[i])
	}
	r.Envelope = envelope
	return r
}

// queuedReport is a report of ours on its way into the queue.
type queuedReport struct {
	message *message
	groups  []*group
	about   mail.QueueID
}

// addReports composes reports and adds them, as messages from the null
// reverse-path, to the batch that ends what they report.
func (q *Queue) addReports(ctx context.Context, b *store.Batch, reports []mail.Report) ([]queuedReport, error) {
	var queued []queuedReport
	for _, r := range reports {
		var text bytes.Buffer
		if err := q.Reports.Compose(&text, r); err != nil {
			return nil, fmt.Errorf("compose report on %s: %w", r.QueueID, err)
		}
		staged, err := q.Stage(ctx, &text)
		if err != nil {
			return nil, fmt.Errorf("stage report on %s: %w", r.QueueID, err)
		}
		m, groups := q.split(Submission{
			ID:      q.NewID(),
			Content: staged,
			Envelope: mail.Envelope{
				Body:       mail.Body8BitMIME,
				SMTPUTF8:   r.Envelope.SMTPUTF8,
				Recipients: []mail.Recipient{{Address: r.Envelope.ReversePath, Accepted: r.Envelope.ReversePath, Notify: mail.NotifyNever}},
			},
		})
		m.report = true
		q.addMessage(b, m, groups, staged)
		queued = append(queued, queuedReport{m, groups, r.QueueID})
	}
	return queued, nil
}

// offerReports schedules reports that were committed.
func (q *Queue) offerReports(queued []queuedReport) {
	for _, r := range queued {
		q.counts.messages.Add(1)
		q.counts.reports.Add(1)
		for n, g := range r.groups {
			q.ready.offer(groupRef{r.message.id, uint32(n)}, r.message, g)
		}
		to := r.groups[0].recipients[0].Address
		q.Log.Info("sender notified", "qid", r.about, "report", r.message.id, "to", to)
		if q.Audit != nil {
			q.Audit.Record(mail.Event{
				Kind: mail.EventAccept, Result: "ok", Reason: "report", Queue: r.message.id,
				From: &mail.Address{}, To: []mail.Address{to}, Octets: r.message.content.Octets,
				Detail: "about " + string(r.about),
			})
		}
	}
}
