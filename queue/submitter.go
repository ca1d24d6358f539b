package queue

import (
	"context"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// Submitters tells whose mail is not to go out any more. Implemented by
// directory.
type Submitters interface {
	// Barred reports whether it is certain that an account may not send: it is
	// disabled or gone. It answers within moments, and no when nobody knows.
	Barred(ctx context.Context, s mail.Submitter) bool
}

// barred reports whether mail of m's submitter is not to go out.
func (q *Queue) barred(m *message) bool {
	who := m.envelope.Submitter // nobody changes it
	return who.Name != "" && q.deps.Submitters != nil && q.deps.Submitters.Barred(m.home.deliver, who)
}

// putOff returns the outcomes of a group whose submitter is barred.
func (q *Queue) putOff(it item) []mail.Outcome {
	reply := status.PolicyDefer.Reply()
	reply.Text = "The account that submitted the message is disabled; the message is on hold"
	return q.deliverSafely(it.m.home.deliver, q.delivery(it), func(_ context.Context, d mail.Delivery) []mail.Outcome {
		outcomes := make([]mail.Outcome, len(d.Envelope.Recipients))
		for i := range outcomes {
			outcomes[i] = mail.Outcome{Class: mail.Deferred, Reply: reply}
		}
		return outcomes
	})
}

// holdBarred puts a message on hold: an operator decides what becomes of it.
func (q *Queue) holdBarred(m *message) {
	who := m.envelope.Submitter
	q.log.Warn("submitter's account is disabled: message put on hold", "qid", m.id, "login", who.Name, "directory", who.Source)
	if err := q.Hold(m.home.deliver, m.id); err != nil {
		q.log.Warn("message could not be put on hold; it waits for its next attempt", "qid", m.id, "err", err)
	}
}
