package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/postern-mail/postern/audit"
	"github.com/postern-mail/postern/backend/mailstore"
	"github.com/postern-mail/postern/internal/fsx"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/store"
	"github.com/postern-mail/postern/store/pack"
)

// removeLostMessages expunges the messages whose content the last check did not
// find, or found damaged. Each is in data_dir/salvage, as far as it is left, and
// in the audit before it goes.
func (c *storeCheck) removeLostMessages(ctx context.Context) (err error) {
	record, err := audit.Open(c.file.Audit.Room(), c.log)
	if err != nil {
		return fmt.Errorf("%s: nothing lost is removed without the audit: %w", c.name, err)
	}
	defer func() { err = errors.Join(err, record.Close()) }()
	damaged := make(map[store.Hash]pack.Finding)
	for _, f := range c.inPacks {
		if f.Kind == pack.FoundDamaged {
			damaged[f.Body] = f
		}
	}
	isLost := func(ctx context.Context, ref store.Ref) error {
		if f, found := damaged[ref.Hash]; found {
			return errors.New(f.String())
		}
		body, err := c.pack.Open(ctx, ref)
		if err != nil {
			return err
		}
		return body.Close()
	}
	salvage := &salvage{fs: fsx.OS(), dir: filepath.Join(c.file.DataDir, "salvage"), store: c.name}
	failed := c.mailstore.RemoveLost(ctx, isLost, func(l mailstore.Lost) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := salvage.lost(l); err != nil {
			return err
		}
		record.Record(lostEvent(l))
		if err := record.Sync(); err != nil {
			return err
		}
		c.tell(fsckRepair{
			Store: c.name, Repaired: "message salvaged and expunged", Finding: "mailbox is damaged",
			Account: l.Account, Mailbox: l.Mailbox, UID: uint32(l.UID),
		}, fmt.Sprintf("%s: lost: account %q, mailbox %q, UID %d: %v: message salvaged and expunged", c.name, l.Account, l.Mailbox, l.UID, l.Why))
		return nil
	})
	// The bodies that lost their last reference, and the counts.
	none := func(store.Hash, store.Body) error { return nil }
	failed = errors.Join(failed, c.pack.RepairReferences(ctx, c.owners, func() bool { return false }, none, func(pack.Finding, string) {}))
	if ctx.Err() != nil {
		return fmt.Errorf("%s: interrupted while removing what is lost", c.name)
	}
	c.tellErrors(failed)
	return nil
}

func lostEvent(l mailstore.Lost) mail.Event {
	e := mail.Event{
		Kind: mail.EventExpunge, Result: "lost", Service: "fsck", Login: l.Account, Mailbox: l.Mailbox,
		UIDs: fmt.Sprint(uint32(l.UID)), Detail: l.Why.Error(),
	}
	if l.Message != nil {
		e.Octets = l.Message.Octets
		e.Detail = fmt.Sprintf("email id %s, body %x: %v", l.Message.EmailID, l.Message.Body.Hash, l.Why)
	}
	return e
}

// lost keeps what is left of a message: what is known of it, and its header. It
// is durable on return.
func (s *salvage) lost(l mailstore.Lost) error {
	text, err := json.MarshalIndent(l, "", "  ")
	if err != nil {
		return err
	}
	if err := s.fs.MkdirAll(s.dir); err != nil {
		return err
	}
	name := fmt.Sprintf("%s-lost-%s-%s-%d.json", s.store, salvageName(mail.QueueID(l.Account)), salvageName(mail.QueueID(l.Mailbox)), l.UID)
	return fsx.WriteFile(s.fs, filepath.Join(s.dir, name), append(text, '\n'))
}
