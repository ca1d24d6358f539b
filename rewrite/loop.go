package rewrite

import (
	"context"
	"time"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// LoopTransport is the route of recipients whose mail was forwarded here
// before: it goes nowhere, and the sender is told. It cannot be the name of a
// target.
const LoopTransport = "forwarding loop:"

// Loops is the transport of that name.
type Loops struct{}

// Deliver bounces every recipient.
func (Loops) Deliver(_ context.Context, d mail.Delivery) []mail.Outcome {
	outcomes := make([]mail.Outcome, len(d.Envelope.Recipients))
	for i, r := range d.Envelope.Recipients {
		reply := status.ForwardingLoop.Reply()
		reply.Text += " for " + r.Address.String()
		outcomes[i] = mail.Outcome{Recipient: r.Address, Class: mail.Bounced, Reply: reply, At: time.Now()}
	}
	return outcomes
}
