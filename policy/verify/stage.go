package verify

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/policy"
	"github.com/postern-mail/postern/status"
)

// The names of the restrictions.
const (
	Sender    = "reject_unverified_sender"
	Recipient = "reject_unverified_recipient"
)

// stage is one of the two.
type stage struct {
	verifier *Verifier
	name     string
	class    string
	reason   status.Reason
	needs    mail.Phase
	// code answers for addresses that are refused, deferCode for those of which
	// it is not known; 250 lets them pass.
	code, deferCode int
	tempfail        mail.Action
	text            string // in the place of what was found out
}

// Stages returns the restrictions, by name, for policy.Deps.Stages.
func (v *Verifier) Stages() map[string]func(policy.Spec) (policy.Stage, error) {
	return map[string]func(policy.Spec) (policy.Stage, error){
		Sender: func(spec policy.Spec) (policy.Stage, error) {
			return v.stage(spec, stage{name: Sender, class: "Sender address", reason: status.SenderUnverified, needs: mail.PhaseMail})
		},
		Recipient: func(spec policy.Spec) (policy.Stage, error) {
			return v.stage(spec, stage{name: Recipient, class: "Recipient address", reason: status.RecipientUnverified, needs: mail.PhaseRecipient})
		},
	}
}

func (v *Verifier) stage(spec policy.Spec, s stage) (policy.Stage, error) {
	known := []string{"code", "defer_code", "tempfail_action", "reason"}
	for name := range spec.Args {
		if name != "on_error" && !slices.Contains(known, name) {
			return nil, fmt.Errorf("it does not know the attribute %q; it takes %s", name, strings.Join(known, ", "))
		}
	}
	s.verifier, s.tempfail, s.text = v, mail.DeferIfPermit, strings.Join(spec.Args["reason"], " ")
	var err error
	if s.code, err = code(spec, "code", 599); err != nil {
		return nil, err
	}
	if s.deferCode, err = code(spec, "defer_code", 499); err != nil {
		return nil, err
	}
	switch value := strings.Join(spec.Args["tempfail_action"], " "); value {
	case "", "defer_if_permit":
	case "defer":
		s.tempfail = mail.Reject
	default:
		return nil, fmt.Errorf("tempfail_action is %q: use defer_if_permit or defer", value)
	}
	return &s, nil
}

// code reads a reply code from 400 to most, or 250.
func code(spec policy.Spec, attribute string, most int) (int, error) {
	values, given := spec.Args[attribute]
	if !given {
		return status.SenderUnverified.Reply().Code, nil
	}
	n, err := strconv.Atoi(strings.Join(values, " "))
	if err != nil || n != status.OK.Reply().Code && (n < 400 || n > most) {
		return 0, fmt.Errorf("%s is %q: use a code from 400 to %d, or 250 to let the mail pass", attribute, strings.Join(values, " "), most)
	}
	return n, nil
}

// Name returns the restriction's name.
func (s *stage) Name() string { return s.name }

// Needs implements policy.Placed.
func (s *stage) Needs() mail.Phase { return s.needs }

// Input implements policy.Informed.
func (s *stage) Input(tx *mail.Transaction) string { return "<" + s.address(tx).String() + ">" }

func (s *stage) address(tx *mail.Transaction) mail.Address {
	switch {
	case s.name == Sender:
		return tx.Envelope.ReversePath
	case tx.Recipient != nil:
		return tx.Recipient.Address
	default:
		return mail.Address{}
	}
}

// Evaluate looks the address up, or has its next hop asked.
func (s *stage) Evaluate(ctx context.Context, tx *mail.Transaction) (mail.Verdict, error) {
	address := s.address(tx)
	if address.IsNull() || address.Domain == "" {
		return mail.Verdict{}, nil
	}
	var r record
	if policy.IsRehearsal(ctx) {
		known, found := s.verifier.remembered(address.Fold().String(), time.Now())
		if !found {
			return mail.Verdict{Detail: "nothing is known of the address, and its next hop is asked for real mail only"}, nil
		}
		r = known
	} else {
		r = s.verifier.look(ctx, address)
	}
	switch r.State {
	case deliverable:
		return mail.Verdict{}, nil
	case undeliverable:
		return s.refuse(address, s.code, r.Reason), nil
	default:
		return s.refuse(address, s.deferCode, r.Reason), nil
	}
}

func (s *stage) refuse(address mail.Address, code int, why string) mail.Verdict {
	if s.text != "" {
		why = s.text
	}
	reply := s.reason.Reply()
	reply.Code = code
	reply.Enhanced[0] = code / 100
	v := mail.Verdict{Action: s.tempfail, Reason: s.reason, Reply: &reply, Detail: why}
	found := "unverified"
	switch code / 100 {
	case 2:
		return mail.Verdict{}
	case 5:
		v.Action, found = mail.Reject, "undeliverable"
	}
	reply.Text = address.Path() + ": " + s.class + " rejected: " + found + " address: " + why
	return v
}
