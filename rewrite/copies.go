package rewrite

import (
	"context"
	"strings"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/table"
)

// Copy is somebody who gets mail besides its recipients.
type Copy struct {
	To mail.Address
	// By names the setting that says so.
	By string
}

// Copies returns who gets copies of a message: by always_bcc, then by its
// sender, then by its recipients, each address once. sender is what Sender
// returned, recipients are those that RCPT named. Reasons as Recipient's.
func (r *Rewriter) Copies(ctx context.Context, sender mail.Address, recipients []mail.Address) ([]Copy, error) {
	var all []Copy
	have := make(map[mail.Address]bool)
	add := func(a mail.Address, by string) {
		if !have[a.Fold()] {
			have[a.Fold()] = true
			all = append(all, Copy{a, by})
		}
	}
	for _, a := range r.cfg.AlwaysBcc {
		add(a, "always_bcc")
	}
	if len(r.cfg.SenderBcc) > 0 && !sender.IsNull() {
		if err := r.copiesOf(ctx, r.cfg.SenderBcc, sender, "sender_bcc_maps", add); err != nil {
			return nil, err
		}
	}
	if len(r.cfg.RecipientBcc) == 0 {
		return all, nil
	}
	for _, to := range recipients {
		if to.IsPostmaster() {
			to.Domain = r.cfg.Origin
		}
		to, err := r.Recipient(ctx, to)
		if err != nil {
			return nil, err
		}
		if err := r.copiesOf(ctx, r.cfg.RecipientBcc, to, "recipient_bcc_maps", add); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// MakesCopies reports whether Copies can return anything.
func (r *Rewriter) MakesCopies() bool {
	return len(r.cfg.AlwaysBcc)+len(r.cfg.SenderBcc)+len(r.cfg.RecipientBcc) > 0
}

func (r *Rewriter) copiesOf(ctx context.Context, tables []table.Table, a mail.Address, by string, add func(mail.Address, string)) error {
	values, form, name, err := r.copies.find(ctx, tables, a)
	if err != nil {
		return err
	}
	for _, value := range values {
		for _, one := range table.SplitList(value) {
			to, err := parseValue(strings.TrimSpace(one), r.cfg.Origin)
			if err != nil {
				return badValue(name, form.Key, one, err)
			}
			add(to, by)
		}
	}
	return nil
}
