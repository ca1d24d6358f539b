package delivery

import (
	"strconv"
	"strings"
	"time"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// builtIn returns what the transports that need no target say of every mail;
// false for any other name.
func builtIn(route mail.Route) (mail.OutcomeClass, status.Reply, bool) {
	switch route.Transport {
	case TransportError:
		return mail.Bounced, worded(status.RouteRefused, route.NextHop), true
	case TransportRetry:
		return mail.Deferred, worded(status.RouteDeferred, route.NextHop), true
	case TransportDiscard:
		return mail.Delivered, worded(status.RouteDiscarded, route.NextHop), true
	default:
		return 0, status.Reply{}, false
	}
}

// worded is the reason's reply with the operator's text, which may begin with
// an enhanced status code. Its class is the reason's whatever stands there.
func worded(reason status.Reason, text string) status.Reply {
	reply := reason.Reply()
	word, rest, _ := strings.Cut(strings.TrimSpace(text), " ")
	parts := strings.Split(word, ".")
	if len(parts) == 3 && strings.Contains("245", parts[0]) && len(parts[0]) == 1 {
		subject, err1 := strconv.ParseUint(parts[1], 10, 8)
		detail, err2 := strconv.ParseUint(parts[2], 10, 8)
		if err1 == nil && err2 == nil {
			reply.Enhanced[1], reply.Enhanced[2] = int(subject), int(detail)
			text = rest
		}
	}
	if text = strings.TrimSpace(text); text != "" {
		reply.Text = text
	}
	return reply
}

// without gives every recipient what a transport without a target says.
func without(d mail.Delivery, class mail.OutcomeClass, reply status.Reply) []mail.Outcome {
	outcomes := make([]mail.Outcome, len(d.Envelope.Recipients))
	now := time.Now()
	for i, rcpt := range d.Envelope.Recipients {
		outcomes[i] = mail.Outcome{Recipient: rcpt.Address, Class: class, Reply: reply, Final: class == mail.Delivered, At: now}
	}
	return outcomes
}

// Refusal returns why mail from a sender to a recipient would bounce without
// being sent anywhere, nil when it would not: who asks before taking it need
// not report it later.
func (r *Router) Refusal(from mail.Address, to mail.Recipient) error {
	route := r.Route(from, to)
	if r.transports[route.Transport] != nil {
		return nil
	}
	if class, reply, ok := builtIn(route); ok && class == mail.Bounced {
		return &status.Error{Reason: status.RouteRefused, Wire: &reply}
	}
	return nil
}
