package smtp

import (
	"strconv"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// PriorityPolicy says which clients may ask for a priority (RFC 6710).
type PriorityPolicy int

// The policies. By RFC 6710 only who is trusted with it should get it.
const (
	PriorityNever     PriorityPolicy = iota // MT-PRIORITY is not offered
	PriorityForLogins                       // to clients who are known
	PriorityForAll
)

// offersPriority reports whether this client may ask for a priority now.
func (s *serverSession) offersPriority() bool {
	switch s.set.Priorities {
	case PriorityForAll:
	case PriorityForLogins:
		if s.client.Identity == nil {
			return false
		}
	default:
		return false
	}
	return s.set.offers("MT-PRIORITY")
}

// parsePriority reads MT-PRIORITY's value (RFC 6710): a digit, with a
// hyphen before it unless it is 0.
func parsePriority(value string) (int8, error) {
	digits := value
	if len(value) == 2 && value[0] == '-' && value[1] != '0' {
		digits = value[1:]
	}
	if len(digits) != 1 || digits[0] < '0' || digits[0] > '9' {
		return 0, badValue("MT-PRIORITY", value)
	}
	n := int8(digits[0] - '0')
	if len(value) == 2 {
		n = -n
	}
	return n, nil
}

// sayMail answers MAIL that was accepted; asked is the priority that was asked
// for.
func (s *serverSession) sayMail(cmd *MailCommand, asked int8) {
	if !cmd.PriorityGiven || cmd.Priority == asked {
		s.say(status.SenderOK)
		return
	}
	reply := status.PriorityChanged.Reply()
	reply.Text = strconv.Itoa(int(cmd.Priority)) + " " + reply.Text
	s.answer(reply)
}

// priorityParameter is what MAIL says of a priority to a peer that wants to
// know.
func (c *Client) priorityParameter(priority int8) string {
	if priority == 0 || priority < mail.LowestPriority || priority > mail.HighestPriority || !c.offers("MT-PRIORITY") {
		return ""
	}
	return " MT-PRIORITY=" + strconv.Itoa(int(priority))
}
