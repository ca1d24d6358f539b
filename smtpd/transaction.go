package smtpd

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/policy"
	"github.com/postern-mail/postern/queue"
	"github.com/postern-mail/postern/smtp"
	"github.com/postern-mail/postern/status"
	"github.com/postern-mail/postern/store"
)

// transaction is one message. Its tx is what policy sees: recipients as RCPT
// named them; what they stand for is in the envelope for the queue.
type transaction struct {
	session  *session
	tx       mail.Transaction
	envelope recipientSet
	// expanded are the recipients who turned out to be several, and of whom
	// the sender wants to hear.
	expanded []mail.Recipient
	decision mail.Decision // the last one that refused nothing
	refused  int           // recipients
	audited  bool          // the chain has recorded the present refusal
	// delivered tells that the next hop has the message already.
	delivered bool
	// messageID is the Message-ID the message goes on with, for the audit.
	messageID string
	rewritten rewritten
	quota     Allowance
	changed   changed
	// steps are what policy went through for what it accepted, as the audit
	// wants to know it.
	steps []mail.PolicyStep
}

// maxSteps is about how many steps the audit of one message names.
const maxSteps = 500

func newTransaction(s *session, from smtp.MailCommand) *transaction {
	if !from.PriorityGiven {
		from.Priority = s.handler.cfg.Priority
	}
	return &transaction{
		session: s,
		tx: mail.Transaction{
			Client:  *s.client,
			Phase:   mail.PhaseMail,
			Started: time.Now(),
			Envelope: mail.Envelope{
				ReversePath:    from.ReversePath,
				Body:           from.Body,
				SMTPUTF8:       from.SMTPUTF8,
				DeclaredOctets: from.DeclaredOctets,
				Return:         from.Return,
				EnvelopeID:     from.EnvelopeID,
				RequireTLS:     from.RequireTLS,
				Priority:       from.Priority,
				Submitter:      submitterOf(s.client.Identity),
			},
		},
	}
}

// submitterOf is who logged in, as his directory knows him.
func submitterOf(id *mail.Identity) mail.Submitter {
	if id == nil || id.Source == "" {
		return mail.Submitter{}
	}
	return mail.Submitter{Name: id.Authentication, Source: id.Source}
}

// Rcpt implements smtp.Transaction.
func (t *transaction) Rcpt(ctx context.Context, to smtp.RcptCommand) error {
	named := mail.Recipient{Address: to.ForwardPath, Accepted: to.ForwardPath, Original: to.Original, Notify: to.Notify}
	if err := t.accept(ctx, named); err != nil {
		t.refused++
		t.session.handler.count.recipient(false)
		t.recordRefusal(err, []mail.Address{named.Address})
		return err
	}
	t.session.handler.count.recipient(true)
	if t.tx.QueueID == "" {
		t.tx.QueueID = t.session.handler.newID()
	}
	t.tx.Envelope.Recipients = append(t.tx.Envelope.Recipients, named)
	return nil
}

func (t *transaction) accept(ctx context.Context, named mail.Recipient) error {
	d, err := t.ask(ctx, mail.PhaseRecipient, &named)
	if err != nil {
		return err
	}
	if !d.Discard {
		if err := t.quota.Take(); err != nil {
			t.session.policy.Undo()
			return err
		}
		final, err := t.resolve(ctx, named, d.Resolved)
		expanded := expand(named, final)
		if err == nil {
			err = t.session.handler.refusal(t.tx.Envelope.ReversePath, final)
		}
		if err == nil {
			err = t.envelope.add(final, t.session.handler.cfg.MaxEnvelope)
		}
		if err != nil {
			t.quota.Return()
			t.session.policy.Undo()
			return err
		}
		if expanded {
			t.expanded = append(t.expanded, named)
		}
	}
	t.decision = d
	return nil
}

// expand reports whether a recipient whose sender wants to hear of success
// stands for several. He hears that it was reached, once, and not who they are
// and how each fared (RFC 3461 section 5.2.7.3).
func expand(named mail.Recipient, final []mail.Recipient) bool {
	if len(final) < 2 || named.Notify&mail.NotifySuccess == 0 {
		return false
	}
	for i := range final {
		if final[i].Notify &^= mail.NotifySuccess; final[i].Notify == 0 {
			final[i].Notify = mail.NotifyNever
		}
	}
	return true
}

// ask puts a step of the transaction to the chain.
func (t *transaction) ask(ctx context.Context, phase mail.Phase, about *mail.Recipient) (mail.Decision, error) {
	t.tx.Phase, t.tx.Recipient, t.session.phase = phase, about, phase
	d := t.session.evaluate(ctx, &t.tx)
	if !d.Refused && len(t.steps) < maxSteps {
		t.steps = append(t.steps, t.session.policy.Audited(&t.tx)...)
	}
	t.tx.Recipient = nil
	t.audited = d.Refused
	if d.Refused {
		return d, policy.Error(d)
	}
	return d, nil
}

// askAll is ask after the recipients are known: policy sees one only when
// there is no other.
func (t *transaction) askAll(ctx context.Context, phase mail.Phase) error {
	var only *mail.Recipient
	if len(t.tx.Envelope.Recipients) == 1 {
		only = &t.tx.Envelope.Recipients[0]
	}
	d, err := t.ask(ctx, phase, only)
	if err != nil {
		return err
	}
	granted := t.decision.PermittedBy // known at RCPT only
	t.decision = d
	t.decision.PermittedBy = granted
	return nil
}

// resolve returns where mail for a recipient goes. What the policy chain found
// out while it decided is taken over.
func (t *transaction) resolve(ctx context.Context, named mail.Recipient, found []mail.Recipient) ([]mail.Recipient, error) {
	if found == nil {
		var err error
		if found, err = t.session.handler.lookup(ctx, named.Address, t.session.policy.Poster(&t.tx)); err != nil {
			return nil, refusable(err)
		}
	}
	if t.session.handler.cfg.KeepAddresses {
		found = itself(found, named.Address)
	}
	final := make([]mail.Recipient, len(found))
	for i, r := range found {
		r.Accepted, r.Original, r.Notify = named.Accepted, named.Original, named.Notify
		final[i] = r
	}
	return final, nil
}

// itself returns the one of the recipients that has the address, or all when
// none has.
func itself(all []mail.Recipient, address mail.Address) []mail.Recipient {
	at := slices.IndexFunc(all, func(r mail.Recipient) bool { return r.Address.Fold() == address.Fold() })
	if at < 0 {
		return all
	}
	return all[at : at+1]
}

// refusal returns why nobody of those an address stands for could get any mail:
// said now, nothing has to be reported later.
func (h *Handler) refusal(from mail.Address, final []mail.Recipient) (err error) {
	if h.deps.Routes == nil {
		return nil
	}
	for _, r := range final {
		if err = h.deps.Routes.Refusal(from, r); err == nil {
			return nil
		}
	}
	return err
}

func (h *Handler) lookup(ctx context.Context, address mail.Address, from *mail.Poster) ([]mail.Recipient, error) {
	if address.IsPostmaster() {
		return h.postmaster(ctx)
	}
	if h.deps.Rewrite != nil {
		var err error
		if address, err = h.deps.Rewrite.Recipient(ctx, address); err != nil {
			return nil, err
		}
	}
	if h.deps.Recipients == nil || h.deps.Domains.Class(address.Domain) == policy.Other {
		return []mail.Recipient{{Address: address}}, nil
	}
	found, err := h.deps.Recipients.Resolve(ctx, address, from)
	if status.Of(err) == status.NoSuchUser && strings.EqualFold(string(address.Local), string(mail.Postmaster)) {
		return h.postmaster(ctx)
	}
	if err == nil && len(found) == 0 {
		err = status.Errorf(status.ConfigurationError, "directory resolved %s to nobody", address)
	}
	return found, err
}

// postmaster returns who reads the mail every site must take (RFC 5321
// section 4.5.1). That nobody does is a mistake in the configuration, for
// which senders wait.
func (h *Handler) postmaster(ctx context.Context) ([]mail.Recipient, error) {
	to := h.cfg.Postmaster
	if h.deps.Recipients == nil || h.deps.Domains.Class(to.Domain) == policy.Other {
		return []mail.Recipient{{Address: to}}, nil
	}
	found, err := h.deps.Recipients.Resolve(ctx, to, nil)
	switch {
	case err == nil && len(found) == 0, status.Of(err).Permanent():
		h.deps.Logger.Error("nobody is postmaster; name an address in the configuration", "address", to.String(), "error", err)
		return nil, status.Errorf(status.ConfigurationError, "postmaster %s: %w", to, err)
	}
	return found, err
}

// refusable lets an error of the directory refuse a recipient when the
// directory is certain; everything else is an outage.
func refusable(err error) error {
	var known *status.Error
	if errors.As(err, &known) {
		return err
	}
	return status.New(status.Of(err), err)
}

// Data implements smtp.Transaction.
func (t *transaction) Data(ctx context.Context) error {
	err := t.askAll(ctx, mail.PhaseData)
	if err == nil {
		err = t.admit()
	}
	if err != nil {
		t.recordRefusal(err, nil)
	}
	return err
}

// Abort implements smtp.Transaction.
func (t *transaction) Abort() {
	t.session.policy.Abort()
	t.quota.Settle(false)
	if len(t.tx.Envelope.Recipients)+t.refused > 0 {
		t.log("transaction given up", "aborted", nil)
	}
}

// Content implements smtp.Transaction.
func (t *transaction) Content(ctx context.Context, r io.Reader) ([]status.Reply, error) {
	in := &incoming{source: r}
	t.tx.Phase, t.audited = mail.PhaseEndOfData, false
	defer t.quota.Settle(false) // unless it was settled before
	err := t.receive(ctx, in)
	t.tx.Octets = in.octets
	if err != nil || t.decision.Discard {
		t.session.policy.Abort()
	}
	if err != nil {
		if in.err != nil {
			err = in.err // the engine's own words
		}
		t.recordRefusal(err, t.named())
		t.session.handler.count.message(resultOf(err))
		t.log("message not accepted", status.Of(err).String(), err)
		return nil, err
	}
	t.quota.Settle(true)
	t.session.accepted++
	t.report()
	t.holdBack(ctx)
	reply := status.MessageAccepted.Reply()
	if reply.Text = "Ok: queued as "; t.delivered {
		reply.Text = "Ok: delivered as "
	}
	reply.Text += string(t.tx.QueueID)
	return []status.Reply{reply}, nil
}

// receive takes the message in. When it returns nil the queue is responsible
// for the message, or policy has thrown it away.
func (t *transaction) receive(ctx context.Context, in *incoming) error {
	if t.decision.Discard {
		_, err := io.Copy(io.Discard, in)
		return err
	}
	head := newHead()
	defer head.free()
	if err := head.read(in, t.session.handler.cfg.MaxHeaderField); err != nil {
		return err
	}
	facts := head.facts()
	if facts.received > t.session.handler.cfg.MaxHops {
		return status.Errorf(status.MailLoop, "%d Received fields", facts.received)
	}
	t.tx.Envelope.TLSOptional = facts.tlsOptional()
	if err := t.breakLoops(ctx, facts.deliveredTo); err != nil {
		return err
	}
	section, err := t.rewrite(ctx, head, facts)
	if err != nil {
		return err
	}
	if t.session.handler.deps.Policy.WantsMessage() {
		return t.inspect(ctx, head, section, facts, in)
	}
	return t.stream(ctx, head, section, facts, in)
}

// stream passes the message on to the queue while it comes in.
func (t *transaction) stream(ctx context.Context, h *head, section []byte, facts headerFacts, in *incoming) error {
	top, _ := t.prepend(facts, time.Now())
	if facts.headless {
		// Text that is no header must not follow our fields as if it were one,
		// or continue the last of them.
		top += "\r\n"
	}
	staged, err := t.session.handler.deps.Queue.Stage(ctx, io.MultiReader(strings.NewReader(top), h.readerWith(section), in))
	if err != nil {
		return storeError(err)
	}
	if in.err != nil { // what was staged is not the whole message
		staged.Discard()
		return in.err
	}
	if err := t.commit(ctx, staged, in.octets); err != nil {
		staged.Discard()
		return err
	}
	return nil
}

// commit asks policy about the whole message and hands it over.
func (t *transaction) commit(ctx context.Context, staged store.Staged, octets int64) error {
	t.tx.Octets = octets
	if err := t.askAll(ctx, mail.PhaseEndOfData); err != nil {
		return err
	}
	if t.decision.Discard {
		staged.Discard()
		return nil
	}
	return t.submit(ctx, staged)
}

// submit hands the message over.
func (t *transaction) submit(ctx context.Context, staged store.Staged) error {
	envelope := t.rewritten.envelope(t.tx.Envelope)
	if err := t.edit(ctx, &envelope); err != nil {
		return err
	}
	if t.decision.Discard {
		staged.Discard()
		return nil
	}
	envelope.Recipients = t.envelope.all
	t.decision.Hold = t.decision.Hold || t.quota.Held()
	var err error
	t.delivered, err = t.session.handler.deps.Queue.Submit(ctx, queue.Submission{
		ID:           t.tx.QueueID,
		Envelope:     envelope,
		Content:      staged,
		ReceivedFrom: receivedFrom(t.tx.Client),
		Session:      t.tx.Client.Session,
		Hold:         t.decision.Hold,
		Expanded:     t.expanded,
	})
	if err != nil {
		return storeError(err)
	}
	return nil
}

// storeError classes an error of the queue: a full disk asks the client to
// wait, and no disk of ours refuses mail for good. The next hop's own refusal
// is the client's.
func storeError(err error) error {
	var known *status.Error
	switch reason := status.Of(err); {
	case errors.As(err, &known) && known.Remote != nil:
		return err
	case errors.Is(err, store.ErrFull):
		return status.New(status.MailSystemFull, err)
	case reason.Transient() && reason != status.Unknown:
		return status.New(reason, err)
	default:
		return status.New(status.StoreDown, err)
	}
}
