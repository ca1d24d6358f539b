package smtp

import (
	"errors"
	"strings"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// mail begins a transaction.
func (s *serverSession) mail(arg string) error {
	if s.set.HeloRequired && s.client.Helo == "" {
		return s.refuse(status.New(status.HeloRequired, nil))
	}
	cmd, err := s.parseMail(arg)
	if err != nil {
		return s.refuse(err)
	}
	if err := s.pace(mail.ClientSendsMessage); err != nil {
		return s.refuse(err)
	}
	if cmd.DeclaredOctets > s.set.MaxMessageOctets {
		err := status.Errorf(status.MessageTooBig, "SIZE=%d", cmd.DeclaredOctets)
		s.set.notice(&s.client, mail.Event{
			Kind: mail.EventPolicy, Result: "refused", Reason: err.Reason.String(), Reply: err.Reason.Reply().String(), Detail: err.Error(),
			Phase: mail.PhaseMail.String(), From: &cmd.ReversePath, Helo: s.client.Helo, Protocol: s.client.Protocol(),
		})
		return s.refuse(err)
	}
	asked := cmd.Priority
	cmd.Priority = min(asked, s.set.MaxPriority)
	if !cmd.PriorityGiven {
		cmd.Priority = 0
	}
	policy, err := s.policy.Mail(s.ctx, cmd)
	if err != nil {
		return s.refuse(err)
	}
	s.tx = &transaction{policy: policy, smtpUTF8: cmd.SMTPUTF8}
	s.sayMail(&cmd, asked)
	return nil
}

// origin is the domain of a local-part that the client leaves alone, "" when it
// may not.
func (s *serverSession) origin() mail.Domain {
	if s.set.Origin == nil {
		return ""
	}
	return s.set.Origin(&s.client)
}

// parseMail reads "FROM:<reverse-path> parameters". Whether the path may hold
// UTF-8 is known only after the parameters.
func (s *serverSession) parseMail(arg string) (MailCommand, error) {
	var cmd MailCommand
	if s.set.LooseEnvelopes {
		arg = tightened(arg, "FROM:")
	}
	path, rest, err := parsePathArgument(arg, "FROM:", s.origin(), s.set.offers("SMTPUTF8"), status.BadSenderSyntax)
	if err != nil {
		return cmd, err
	}
	cmd.ReversePath = path
	if path.IsPostmaster() {
		cmd.ReversePath.Domain = s.origin()
	}
	if cmd.ReversePath.IsPostmaster() {
		// A reverse-path needs its domain: there is nowhere to send a report
		// (RFC 5321 section 4.5.1 exempts forward-paths only).
		return cmd, status.New(status.BadSenderSyntax, errors.New("postmaster without a domain"))
	}
	if err := eachParameter(rest, func(keyword, value string, given bool) (bool, error) {
		return s.setMailParameter(&cmd, keyword, value, given)
	}); err != nil {
		return cmd, err
	}
	if !cmd.SMTPUTF8 && !isASCIIText(arg) {
		return cmd, status.New(status.NeedSMTPUTF8, errors.New("UTF-8 without SMTPUTF8"))
	}
	return cmd, nil
}

func (s *serverSession) setMailParameter(cmd *MailCommand, keyword, value string, given bool) (known bool, err error) {
	switch keyword {
	case "SIZE":
		cmd.DeclaredOctets, err = parseSize(value)
		return s.set.offers("SIZE"), err
	case "BODY":
		cmd.Body = mail.Body(strings.ToUpper(value))
		if cmd.Body != mail.Body7Bit && cmd.Body != mail.Body8BitMIME {
			err = badValue(keyword, value)
		}
		return s.set.offers("8BITMIME"), err
	case "SMTPUTF8":
		cmd.SMTPUTF8 = true
		if given {
			err = badValue(keyword, value)
		}
		return s.set.offers("SMTPUTF8"), err
	case "RET":
		cmd.Return = mail.DSNReturn(strings.ToUpper(value))
		if cmd.Return != mail.ReturnFull && cmd.Return != mail.ReturnHeaders {
			err = badValue(keyword, value)
		}
		return s.set.offers("DSN"), err
	case "ENVID":
		cmd.EnvelopeID, err = boundedXtext(keyword, value, maxEnvelopeID)
		return s.set.offers("DSN"), err
	case "REQUIRETLS":
		cmd.RequireTLS = true
		if given {
			err = badValue(keyword, value)
		}
		return s.client.TLS != nil && s.set.offers("REQUIRETLS"), err
	case "MT-PRIORITY":
		cmd.PriorityGiven = true
		cmd.Priority, err = parsePriority(value)
		return s.offersPriority(), err
	case "AUTH":
		if len(s.mechanisms()) == 0 {
			return false, nil
		}
		cmd.Auth, err = parseAuthMailbox(value)
		return true, err
	case "DELIVERYID":
		if s.set.Mode != ModeLMTP || !s.set.offers("XPOSTERN") {
			return false, nil
		}
		cmd.DeliveryID, err = boundedXtext(keyword, value, maxDeliveryID)
		return true, err
	case "KEEP":
		if s.set.Mode != ModeLMTP || !s.set.offers("XPOSTERN") {
			return false, nil
		}
		cmd.Keep = true
		if given {
			err = badValue(keyword, value)
		}
		return true, err
	}
	return false, nil
}

func boundedXtext(keyword, value string, limit int) (string, error) {
	if value == "" || len(value) > limit {
		return "", badValue(keyword, value)
	}
	decoded, err := decodeXtext(value)
	if err != nil {
		return "", status.Errorf(status.ParameterSyntax, "value of %s: %w", keyword, err)
	}
	return decoded, nil
}

// rcpt adds one recipient.
func (s *serverSession) rcpt(arg string) error {
	cmd, err := s.parseRcpt(arg)
	if err != nil {
		return s.refuse(err)
	}
	if s.hasted {
		return s.refuse(status.New(status.PregreetReject, nil))
	}
	if err := s.pace(mail.ClientNamesRecipient); err != nil {
		return s.refuse(err)
	}
	tx := s.tx
	tx.offered++
	if tx.accepted >= s.set.MaxRecipients {
		return s.refuseSurplus(tx)
	}
	if err := tx.policy.Rcpt(s.ctx, cmd); err != nil {
		return s.refuse(err)
	}
	tx.accepted++
	s.say(status.RecipientOK)
	return nil
}

// refuseSurplus answers a recipient too many. A client is expected to deliver
// to those accepted and to come back with the others (RFC 5321 section
// 4.5.3.1.10), so these refusals are no errors until they are very many.
func (s *serverSession) refuseSurplus(tx *transaction) error {
	if tx.surplus++; tx.surplus > s.set.MaxSurplus {
		return s.refuse(status.New(status.TooManyRecipients, nil))
	}
	s.say(status.TooManyRecipients)
	return nil
}

func (s *serverSession) parseRcpt(arg string) (RcptCommand, error) {
	var cmd RcptCommand
	if s.set.LooseEnvelopes {
		arg = tightened(arg, "TO:")
	}
	path, rest, err := parsePathArgument(arg, "TO:", s.origin(), s.tx.smtpUTF8, status.BadAddressSyntax)
	if err != nil {
		return cmd, err
	}
	if path.IsNull() {
		return cmd, status.New(status.BadAddressSyntax, errors.New("null forward-path"))
	}
	cmd.ForwardPath = path
	err = eachParameter(rest, func(keyword, value string, _ bool) (known bool, err error) {
		switch keyword {
		case "NOTIFY":
			cmd.Notify, err = parseNotify(value)
		case "ORCPT":
			cmd.Original, err = parseOriginal(value)
		default:
			return false, nil
		}
		return s.set.offers("DSN"), err
	})
	return cmd, err
}
