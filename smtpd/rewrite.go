package smtpd

import (
	"context"
	"slices"
	"strings"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/policy"
	"github.com/postern-mail/postern/rewrite"
	"github.com/postern-mail/postern/status"
)

// rewritten is what rewriting makes of a message. The zero value leaves it as
// it is.
type rewritten struct {
	done        bool
	reversePath mail.Address
	header      bool // addresses in the header changed
	utf8        bool // and made it need SMTPUTF8
	copies      []rewrite.Copy
}

// envelope returns e as it goes on.
func (r *rewritten) envelope(e mail.Envelope) mail.Envelope {
	if r.done {
		e.ReversePath, e.SMTPUTF8 = r.reversePath, e.SMTPUTF8 || r.utf8
	}
	return e
}

// detail tells the audit what changed.
func (r *rewritten) detail(from mail.Address) string {
	var parts []string
	if r.done && r.reversePath != from {
		parts = append(parts, "reverse-path rewritten to "+r.reversePath.Path())
	}
	if r.header {
		parts = append(parts, "addresses in the header rewritten")
	}
	return strings.Join(parts, "; ")
}

// rewrite gives the message the addresses it goes on with and adds who gets
// copies. It returns the new header section, or nil where the old one stays.
func (t *transaction) rewrite(ctx context.Context, h *head, facts headerFacts) (section []byte, err error) {
	w := t.session.handler.deps.Rewrite
	if w == nil {
		return nil, nil
	}
	r := rewritten{done: true}
	if r.reversePath, err = w.Sender(ctx, t.tx.Envelope.ReversePath); err != nil {
		return nil, err
	}
	if !facts.headless {
		before := h.section()
		if section, err = w.Header(ctx, &t.tx.Client, before); err != nil {
			return nil, err
		}
		r.header = section != nil
		r.utf8 = r.header && !rewrite.IsASCII(section) && rewrite.IsASCII(before)
	}
	if w.MakesCopies() {
		copies, err := w.Copies(ctx, r.reversePath, t.named())
		if err != nil {
			return nil, err
		}
		if r.copies, err = t.copy(ctx, copies); err != nil {
			return nil, err
		}
	}
	t.rewritten = r
	return section, nil
}

// copy adds those who get copies and nobody tells of it, and returns whom it
// added: who gets the mail anyway gets it once. An address that nobody has is a
// mistake in the configuration, for which senders wait: a copy that is asked
// for is not left out.
func (t *transaction) copy(ctx context.Context, copies []rewrite.Copy) (added []rewrite.Copy, err error) {
	for _, c := range copies {
		to := mail.Recipient{Address: c.To, Accepted: c.To, Notify: mail.NotifyNever}
		final, err := t.resolve(ctx, to, nil)
		if status.Of(err).Permanent() {
			t.session.handler.deps.Logger.Error("nobody gets a copy; name another address in the configuration", "address", c.To.String(), "setting", c.By, "error", err)
			return nil, status.Errorf(status.ConfigurationError, "%s %s: %w", c.By, c.To, err)
		}
		if err != nil {
			return nil, err
		}
		known, err := t.addBeside(final)
		if err != nil {
			return nil, err
		}
		if !known {
			added = append(added, c)
		}
	}
	return added, nil
}

// addBeside adds recipients whom the client did not name, and reports whether
// they were all there already. The client's recipients keep to the limit; what we
// add must not make it wait.
func (t *transaction) addBeside(final []mail.Recipient) (known bool, err error) {
	final = slices.DeleteFunc(final, func(r mail.Recipient) bool { _, known := t.envelope.find(r); return known })
	if len(final) == 0 {
		return true, nil
	}
	return false, t.envelope.add(final, len(t.envelope.all)+len(final))
}

// breakLoops looks for recipients whose mail is forwarded and who had this
// message already: it came back. When that is everybody the client is told;
// else the others get the message and the sender a report.
func (t *transaction) breakLoops(ctx context.Context, deliveredTo []mail.Address) error {
	if len(deliveredTo) == 0 {
		return nil
	}
	had := make(map[mail.Address]bool, len(deliveredTo))
	for _, a := range deliveredTo {
		had[a] = true
	}
	looping := make(map[mail.Address]bool)
	for _, r := range t.envelope.all {
		if a := r.Accepted.Fold(); had[a] && t.session.handler.forwarded(r) {
			looping[a] = true
		}
	}
	if len(looping) == 0 {
		return nil
	}
	named := t.tx.Envelope.Recipients
	if !slices.ContainsFunc(named, func(r mail.Recipient) bool { return !looping[r.Accepted.Fold()] }) {
		return status.Errorf(status.ForwardingLoop, "forwarded for %s before", named[0].Accepted)
	}
	return t.withoutLooping(ctx, looping)
}

// forwarded reports whether mail for an address of ours leaves our domains.
func (h *Handler) forwarded(r mail.Recipient) bool {
	return r.Accepted.Domain != "" && h.deps.Domains.Class(r.Accepted.Domain) != policy.Other &&
		h.deps.Domains.Class(r.Address.Domain) == policy.Other
}

// withoutLooping finds the final recipients again: one that several named ones
// lead to is on record for the first only.
func (t *transaction) withoutLooping(ctx context.Context, looping map[mail.Address]bool) error {
	var all recipientSet
	var expanded []mail.Recipient
	for _, r := range t.tx.Envelope.Recipients {
		final := []mail.Recipient{r}
		if looping[r.Accepted.Fold()] {
			final[0].Route = mail.Route{Transport: rewrite.LoopTransport}
		} else {
			var err error
			if final, err = t.resolve(ctx, r, nil); err != nil {
				return err
			}
			if expand(r, final) {
				expanded = append(expanded, r)
			}
		}
		if err := all.add(final, t.session.handler.cfg.MaxEnvelope); err != nil {
			return err
		}
	}
	t.envelope, t.expanded = all, expanded
	return nil
}
