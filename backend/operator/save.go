package operator

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/postern-mail/postern/backend/mailstore"
	"github.com/postern-mail/postern/store"
)

// stagedMessage is the message to be saved, for all accounts once.
type stagedMessage struct{ content store.Staged }

func stage(ctx context.Context, s *mailstore.Store, content io.Reader) (*stagedMessage, error) {
	if content == nil {
		return nil, errors.New("the message to be saved is missing")
	}
	staged, err := s.Stage(ctx, content)
	if err != nil {
		return nil, err
	}
	return &stagedMessage{staged}, nil
}

// save adds the message to a mailbox.
func (w *work) save() error {
	name := w.q.Mailboxes[0]
	system, keywords, err := flagsNamed(w.q.Flags)
	if err != nil {
		return err
	}
	m, err := w.account.Mailbox(w.ctx, name)
	if errors.Is(err, mailstore.ErrNoMailbox) && w.q.Create {
		if err = w.makeMailbox(w.account, name, ""); err == nil {
			m, err = w.account.Mailbox(w.ctx, name)
		}
	}
	switch {
	case errors.Is(err, mailstore.ErrNoMailbox):
		return fmt.Errorf("%s has no mailbox %q; --create makes it", w.account.Name(), name)
	case err != nil:
		return err
	}
	defer m.Close()
	uids, err := m.Append(w.commitContext(), []mailstore.Append{{Content: w.staged.content, Flags: system, Keywords: keywords, InternalDate: w.q.Date}})
	if err != nil {
		return err
	}
	w.done++
	w.say("saved in %s as UID %d", m.Info().Name, uids[0])
	return nil
}
