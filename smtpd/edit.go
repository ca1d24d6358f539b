package smtpd

import (
	"context"
	"slices"
	"strings"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/rewrite"
	"github.com/postern-mail/postern/status"
)

// changed is what policy's edits made of a message, for the queue and the audit.
type changed struct {
	utf8     bool // the header needs SMTPUTF8 since
	eightBit bool // the body needs 8BITMIME since
	content  bool
	envelope []string
}

// edit applies what policy asked to change in the envelope. Recipients it adds
// are looked up as those of RCPT are; when that does not find where their mail
// goes the message waits, for nobody named them but our own configuration.
func (t *transaction) edit(ctx context.Context, e *mail.Envelope) error {
	e.SMTPUTF8 = e.SMTPUTF8 || t.changed.utf8
	if t.changed.eightBit {
		e.Body = mail.Body8BitMIME
	}
	removed := make(map[mail.Address]bool)
	for _, edit := range t.decision.Envelope {
		switch {
		case edit.ReversePath != nil:
			e.ReversePath = *edit.ReversePath
			t.changed.note("reverse-path", *edit.ReversePath)
		case edit.Remove != nil:
			removed[edit.Remove.Fold()] = true
			t.changed.note("removed", *edit.Remove)
		case edit.RequireTLS:
			e.RequireTLS = true
			t.changed.envelope = append(t.changed.envelope, "TLS required")
		}
	}
	if len(removed) > 0 {
		if err := t.without(ctx, removed); err != nil {
			return err
		}
	}
	for _, edit := range t.decision.Envelope {
		var err error
		switch {
		case edit.Add != nil:
			err = t.addRecipient(ctx, "added", *edit.Add)
		case edit.Copy != nil:
			err = t.addRecipient(ctx, "copied", mail.Recipient{Address: *edit.Copy, Notify: mail.NotifyNever})
		}
		if err != nil {
			return err
		}
	}
	if err := t.reroute(ctx); err != nil {
		return err
	}
	if len(t.envelope.all) == 0 {
		t.decision.Discard = true // policy took everybody away
	}
	return nil
}

func (c *changed) note(what string, a mail.Address) {
	c.envelope = append(c.envelope, what+" "+a.Path())
}

// detail tells the audit what changed.
func (c *changed) detail() string {
	parts := c.envelope
	if c.content {
		parts = append([]string{"content changed"}, parts...)
	}
	return strings.Join(parts, "; ")
}

// addRecipient adds somebody nobody named.
func (t *transaction) addRecipient(ctx context.Context, what string, r mail.Recipient) error {
	r.Accepted = r.Address
	final, err := t.found(ctx, r)
	if err != nil {
		return err
	}
	known, err := t.addBeside(final)
	if err == nil && !known {
		t.changed.note(what, r.Address)
	}
	return err
}

// found looks a recipient up whom policy added.
func (t *transaction) found(ctx context.Context, r mail.Recipient) ([]mail.Recipient, error) {
	final, err := t.resolve(ctx, r, nil)
	if err == nil && r.Route == (mail.Route{}) {
		err = t.session.handler.refusal(t.tx.Envelope.ReversePath, final)
	}
	if status.Of(err).Permanent() {
		t.session.handler.deps.Logger.Error("policy adds a recipient who gets no mail", "address", r.Address.String(), "error", err)
		return nil, status.Errorf(status.ConfigurationError, "recipient %s of policy: %w", r.Address, err)
	}
	if err != nil {
		return nil, err
	}
	if r.Route != (mail.Route{}) {
		for i := range final {
			final[i].Route, final[i].Home = r.Route, ""
		}
	}
	return final, nil
}

// without finds the final recipients again, leaving out those RCPT named as one of
// removed: one that several named ones lead to is on record for the first only.
func (t *transaction) without(ctx context.Context, removed map[mail.Address]bool) error {
	named := make(map[mail.Address]bool)
	var left []mail.Recipient
	for _, r := range t.tx.Envelope.Recipients {
		named[r.Accepted.Fold()] = true
		if !removed[r.Accepted.Fold()] {
			left = append(left, r)
		}
	}
	if len(left) == len(t.tx.Envelope.Recipients) {
		return nil // nobody is gone whom RCPT named
	}
	before := t.envelope.all
	t.envelope = recipientSet{}
	for _, r := range left {
		final := slices.Collect(func(yield func(mail.Recipient) bool) {
			for _, was := range before {
				if was.Route.Transport == rewrite.LoopTransport && was.Accepted.Fold() == r.Accepted.Fold() && !yield(was) {
					return
				}
			}
		})
		if len(final) == 0 {
			var err error
			if final, err = t.resolve(ctx, r, nil); err != nil {
				return err
			}
			expand(r, final)
		}
		if _, err := t.addBeside(final); err != nil {
			return err
		}
	}
	for _, was := range before { // copies
		if named[was.Accepted.Fold()] {
			continue
		}
		if _, err := t.addBeside([]mail.Recipient{was}); err != nil {
			return err
		}
	}
	t.expanded = slices.DeleteFunc(t.expanded, func(r mail.Recipient) bool { return removed[r.Accepted.Fold()] })
	return nil
}

// reroute sends the message somewhere else: to another recipient instead of all,
// or by another way. The last one that was asked for counts.
func (t *transaction) reroute(ctx context.Context) error {
	var to *mail.Address
	var route *mail.Route
	for i := range t.decision.Envelope {
		if edit := &t.decision.Envelope[i]; edit.Redirect != nil {
			to = edit.Redirect
		} else if edit.Route != nil {
			route = edit.Route
		}
	}
	switch {
	case to != nil:
		final, err := t.found(ctx, mail.Recipient{Address: *to, Accepted: *to})
		if err != nil {
			return err
		}
		t.changed.note("redirected to", *to)
		t.envelope, t.expanded = recipientSet{}, nil
		for _, named := range t.tx.Envelope.Recipients {
			if _, err := t.addBeside(onBehalf(final, named)); err != nil {
				return err
			}
		}
		return nil
	case route != nil:
		t.changed.envelope = append(t.changed.envelope, "routed to "+route.Transport+":"+route.NextHop)
		before := t.envelope.all
		t.envelope = recipientSet{}
		for _, r := range before {
			if r.Route.Transport != rewrite.LoopTransport { // who gets a report instead
				r.Route, r.Home = *route, ""
			}
			if err := t.envelope.add([]mail.Recipient{r}, len(before)); err != nil {
				return err
			}
		}
	}
	return nil
}

// onBehalf returns who gets mail in the place of somebody RCPT named: what that
// one was called, and what the sender wants to hear of him, stays on record
// (RFC 3461 section 5.2.1).
func onBehalf(final []mail.Recipient, of mail.Recipient) []mail.Recipient {
	instead := slices.Clone(final)
	for i := range instead {
		r := &instead[i]
		r.Accepted, r.Original, r.Notify = of.Accepted, of.Original, of.Notify
		if r.Original == "" {
			r.Original = "rfc822;" + of.Accepted.String()
		}
	}
	return instead
}
