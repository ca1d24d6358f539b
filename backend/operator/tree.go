package operator

import (
	"errors"
	"fmt"
	"slices"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/backend/imapd"
	"github.com/postern-mail/postern/backend/mailstore"
	"github.com/postern-mail/postern/mail"
)

// named lists the mailboxes that the request's patterns fit; without patterns,
// all.
func (w *work) named() ([]mailstore.MailboxInfo, error) {
	list, err := w.account.List(w.ctx)
	if err != nil || len(w.q.Mailboxes) == 0 {
		return list, err
	}
	return slices.DeleteFunc(list, func(m mailstore.MailboxInfo) bool {
		return !slices.ContainsFunc(w.q.Mailboxes, func(p string) bool { return imapd.NameFits(p, m.Name) })
	}), nil
}

// row writes a row, the user before it where there are several.
func (w *work) row(values ...value) error {
	if w.many() && !slices.ContainsFunc(w.fields, func(f field) bool { return f.name == "user" }) {
		values = append([]value{{text: w.account.Name()}}, values...)
	}
	return w.rows.row(values)
}

func (w *work) list() error {
	list, err := w.named()
	if err != nil {
		return err
	}
	for _, m := range list {
		if err := w.row(value{text: m.Name}, value{text: string(m.SpecialUse)}, truth(m.Subscribed), truth(m.Exists)); err != nil {
			return err
		}
	}
	return nil
}

var statusFields = []string{"mailbox", "messages", "unseen", "deleted", "size", "uidvalidity", "uidnext", "highestmodseq", "mailbox-guid"}

func (w *work) status() error {
	list, err := w.named()
	if err != nil {
		return err
	}
	for _, m := range list {
		st, err := w.account.Status(w.ctx, m.Name)
		if errors.Is(err, mailstore.ErrNoMailbox) {
			continue // a subscription, or it went meanwhile
		} else if err != nil {
			return err
		}
		err = w.row(value{text: m.Name}, number(st.Messages), number(st.Unseen), number(st.Deleted), number(st.Octets), number(st.UIDValidity),
			number(st.UIDNext), number(st.HighestModSeq), value{text: imapd.MailboxID(st.GUID)})
		if err != nil {
			return err
		}
	}
	return nil
}

// paths tells under which identities the store keeps mailboxes.
func (w *work) paths() error {
	list, err := w.named()
	if err != nil {
		return err
	}
	for _, m := range list {
		if !m.Exists {
			continue
		}
		if err := w.row(value{text: m.Name}, value{text: w.account.GUID().String()}, value{text: imapd.MailboxID(m.GUID)}); err != nil {
			return err
		}
	}
	return nil
}

// each does something to every mailbox named, and goes on past failures.
func (w *work) each(do func(name string) error) (failed error) {
	for _, name := range w.q.Mailboxes {
		if err := w.ctx.Err(); err != nil {
			return err
		}
		if err := do(name); err != nil {
			failed = errors.Join(failed, fmt.Errorf("mailbox %q: %w", name, err))
		}
	}
	return failed
}

// makeMailbox makes one.
func (w *work) makeMailbox(account *mailstore.Account, name string, use imap.MailboxAttr) error {
	info, err := account.Create(w.ctx, name, use)
	if err == nil && w.q.Subscribe {
		err = account.Subscribe(w.ctx, info.Name, true)
	}
	e := mail.Event{Kind: mail.EventMailbox, Mailbox: name, Detail: "create", Owner: account.Name(), Result: "ok"}
	if err != nil {
		e.Result = "refused"
	}
	w.Record(e)
	return err
}

func (w *work) create() error {
	return w.each(func(name string) error {
		if err := w.makeMailbox(w.account, name, imap.MailboxAttr(w.q.SpecialUse)); err != nil {
			return err
		}
		w.say("%s created", name)
		return nil
	})
}

func (w *work) remove() error {
	return w.each(func(name string) error {
		st, err := w.account.Status(w.ctx, name)
		if err != nil {
			return err
		}
		if !w.q.DryRun {
			err = w.account.Delete(w.commitContext(), name)
			w.record(mail.Event{Kind: mail.EventMailbox, Mailbox: name, Detail: "delete"}, err)
			if err != nil {
				return err
			}
			w.done += int64(st.Messages)
		}
		w.say("%s with %d message(s) %s", name, st.Messages, w.would("deleted"))
		return nil
	})
}

func (w *work) rename() error {
	return w.each(func(name string) error {
		err := w.account.Rename(w.commitContext(), name, w.q.To)
		w.record(mail.Event{Kind: mail.EventMailbox, Mailbox: name, Detail: "rename to " + w.q.To}, err)
		if err == nil {
			w.say("%s is now %s", name, w.q.To)
		}
		return err
	})
}

func (w *work) subscribe() error {
	on, done := w.q.Do == "subscribe", "subscribed"
	if !on {
		done = "no longer subscribed"
	}
	return w.each(func(name string) error {
		err := w.account.Subscribe(w.ctx, name, on)
		w.record(mail.Event{Kind: mail.EventMailbox, Mailbox: name, Detail: w.q.Do}, err)
		if err == nil {
			w.say("%s %s", name, done)
		}
		return err
	})
}
