package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/postern-mail/postern/transfer"
)

// Target is what is restored into: a transfer.BackupClient.
type Target interface {
	Restore(ctx context.Context, account *transfer.AccountRow, from string) error
	Row(ctx context.Context, r *transfer.Row) error
	Tree(ctx context.Context) (reached map[string]uint32, err error)
	Message(ctx context.Context, mailbox string, m *transfer.MessageRow, r io.Reader) (full bool, readErr, err error)
	Store(ctx context.Context) error
	Finish(ctx context.Context) error
	Into(ctx context.Context, user, mailbox string, there func(transfer.PutBackKey)) error
}

// RestoreOptions say what is restored, and how.
type RestoreOptions struct {
	// Into is the mailbox that what is restored goes below, "" to make the whole
	// account again as it was.
	Into string
	// User is whose account that is; the one of the backup when "".
	User string
	// Mailbox is the one to restore with those below it, "" for all.
	Mailbox string
	// UIDs are the messages of Mailbox to restore, nil for all.
	UIDs func(uint32) bool
	// Damaged passes over what cannot be read, and tells of it.
	Damaged bool
	// Dry only tells.
	Dry bool
	// Rate bounds the octets in a second; 0 for no bound.
	Rate     int64
	Progress func(Restored)
}

// Restored is what was restored.
type Restored struct {
	Account                   string
	Mailboxes                 int
	Messages, There, Expected int64
	Octets                    int64
	// Damaged are the messages that could not be read, the first 100 told.
	Damaged     int64
	DamagedText []string
}

// restoring is one account's way back.
type restoring struct {
	*Repository
	target Target
	o      RestoreOptions
	run    string
	a      RunAccount
	result Restored
	limit  *limiter
}

// Restore brings an account of a run back. Repeated, it brings what is missing.
// ErrDamaged before anything is changed, unless o.Damaged: what is there is
// compared with its checksum as it is read, so that damage may show later too.
func (r *Repository) Restore(ctx context.Context, target Target, run *Run, a RunAccount, o RestoreOptions) (Restored, error) {
	t := &restoring{Repository: r, target: target, o: o, run: run.Name, a: a, limit: newLimiter(o.Rate), result: Restored{Account: a.Name}}
	if err := t.check(ctx); err != nil {
		return t.result, err
	}
	if o.Dry {
		return t.result, nil
	}
	var err error
	if o.Into == "" {
		err = t.whole(ctx)
	} else {
		err = t.into(ctx)
	}
	return t.result, err
}

func (t *restoring) tell() {
	if t.o.Progress != nil {
		t.o.Progress(t.result)
	}
}

// wants reports whether a message is to be restored.
func (t *restoring) wants(in *transfer.MailboxRow, uid uint32) bool {
	return t.wantsMailbox(in) && (t.o.UIDs == nil || in.Name == t.o.Mailbox && t.o.UIDs(uid))
}

func (t *restoring) wantsMailbox(in *transfer.MailboxRow) bool {
	return !in.Deleted && (t.o.Mailbox == "" || in.Name == t.o.Mailbox || strings.HasPrefix(in.Name, t.o.Mailbox+"/"))
}

// check reads the manifest and looks whether its bodies are there.
func (t *restoring) check(ctx context.Context) error {
	missing := ""
	err := t.eachRow(t.a, func(in *transfer.MailboxRow, r *transfer.Row) error {
		switch {
		case r.Account != nil && (r.Account.ID != t.a.ID):
			return fmt.Errorf("%w: the manifest is of account %q", ErrDamaged, r.Account.Name)
		case r.Mailbox != nil && t.wantsMailbox(r.Mailbox):
			t.result.Mailboxes++
		case r.Message != nil && t.wants(in, r.Message.UID):
			t.result.Expected++
			ref, err := r.Message.Ref()
			if err != nil {
				return err
			}
			if t.o.Dry {
				t.result.Octets += ref.Octets
			}
			if missing == "" && !t.Has(ref.Hash) {
				missing = fmt.Sprintf("mailbox %q, UID %d", in.Name, r.Message.UID)
			}
		}
		return ctx.Err()
	})
	switch {
	case err != nil:
		return err
	case t.result.Mailboxes == 0:
		return fmt.Errorf("run %s has no mailbox %q of account %q", t.run, t.o.Mailbox, t.a.Name)
	case t.result.Expected == 0 && t.o.UIDs != nil:
		return fmt.Errorf("run %s has no message with such a UID in mailbox %q of account %q", t.run, t.o.Mailbox, t.a.Name)
	case missing != "" && !t.o.Damaged:
		return fmt.Errorf("%s: %w: its body is missing; postern backup verify tells all that is, --damaged restores the rest", missing, ErrDamaged)
	}
	return nil
}

// whole makes the account again.
func (t *restoring) whole(ctx context.Context) error {
	var account *transfer.AccountRow
	next := make(map[string]uint32) // UIDs for those that had none
	err := t.eachRow(t.a, func(_ *transfer.MailboxRow, r *transfer.Row) error {
		switch {
		case r.Account != nil:
			account = r.Account
			return t.target.Restore(ctx, account, t.run)
		case r.Mailbox != nil:
			next[r.Mailbox.ID] = r.Mailbox.UIDNext
		case r.Message != nil, r.Lost != nil, r.End != nil:
			return ctx.Err()
		}
		return t.target.Row(ctx, r)
	})
	if err != nil {
		return err
	}
	reached, err := t.target.Tree(ctx)
	if err != nil {
		return err
	}
	s := &sending{restoring: t}
	err = t.eachRow(t.a, func(in *transfer.MailboxRow, r *transfer.Row) error {
		if r.Message == nil {
			return ctx.Err()
		}
		m := r.Message
		if m.UID == 0 {
			m.UID = max(next[in.ID], 1)
			next[in.ID] = m.UID + 1
		}
		if m.UID <= reached[in.ID] {
			t.result.There++
			return nil
		}
		return s.send(ctx, in.ID, in.Name, m)
	})
	if err == nil {
		err = s.flush(ctx)
	}
	if err != nil {
		return err
	}
	return t.target.Finish(ctx)
}

// into puts messages back below another mailbox.
func (t *restoring) into(ctx context.Context) error {
	var boxes []*transfer.MailboxRow
	if err := t.eachRow(t.a, func(_ *transfer.MailboxRow, r *transfer.Row) error {
		if r.Mailbox != nil && t.wantsMailbox(r.Mailbox) {
			boxes = append(boxes, r.Mailbox)
		}
		return ctx.Err()
	}); err != nil {
		return err
	}
	slices.SortFunc(boxes, func(x, y *transfer.MailboxRow) int { return strings.Compare(x.Name, y.Name) })
	for _, box := range boxes {
		if box.Messages == 0 && box.Name != t.o.Mailbox {
			continue
		}
		if err := t.mailbox(ctx, box); err != nil {
			return fmt.Errorf("mailbox %q: %w", box.Name, err)
		}
	}
	return nil
}

// place is the name that a mailbox is put back under.
func (t *restoring) place(name string) string {
	if t.o.Mailbox != "" {
		return t.o.Into + strings.TrimPrefix(name, t.o.Mailbox)
	}
	return t.o.Into + "/" + name
}

func (t *restoring) mailbox(ctx context.Context, box *transfer.MailboxRow) error {
	user := t.o.User
	if user == "" {
		user = t.a.Name
	}
	there := make(map[transfer.PutBackKey]int)
	if err := t.target.Into(ctx, user, t.place(box.Name), func(k transfer.PutBackKey) { there[k]++ }); err != nil {
		return err
	}
	s := &sending{restoring: t}
	err := t.eachRow(t.a, func(in *transfer.MailboxRow, r *transfer.Row) error {
		if r.Message == nil || in.ID != box.ID || !t.wants(in, r.Message.UID) {
			return ctx.Err()
		}
		if key := (transfer.PutBackKey{EmailID: r.Message.EmailID, Body: r.Message.Body}); there[key] > 0 {
			there[key]--
			t.result.There++
			return nil
		}
		return s.send(ctx, "", in.Name, r.Message)
	})
	if err != nil {
		return err
	}
	return s.flush(ctx)
}

// sending sends messages of one mailbox after the other.
type sending struct {
	*restoring
	mailbox string
	waiting int64
}

func (s *sending) send(ctx context.Context, mailbox, name string, m *transfer.MessageRow) error {
	if mailbox != s.mailbox {
		if err := s.flush(ctx); err != nil {
			return err
		}
		s.mailbox = mailbox
	}
	ref, err := m.Ref()
	if err != nil {
		return err
	}
	if err := s.limit.wait(ctx, ref.Octets); err != nil {
		return err
	}
	body, err := s.Body(ref)
	if err != nil {
		return s.damaged(name, m, err)
	}
	full, readErr, err := s.target.Message(ctx, mailbox, m, body)
	_ = body.Close() // it was only read
	if err != nil {
		return err
	}
	if readErr != nil {
		return s.damaged(name, m, readErr)
	}
	s.waiting++
	s.result.Octets += ref.Octets
	if full {
		return s.flush(ctx)
	}
	return nil
}

func (s *sending) flush(ctx context.Context) error {
	err := s.target.Store(ctx)
	if err == nil {
		s.result.Messages += s.waiting
	}
	s.waiting = 0
	s.tell()
	return err
}

func (s *sending) damaged(name string, m *transfer.MessageRow, err error) error {
	text := fmt.Sprintf("mailbox %q, UID %d: %v", name, m.UID, err)
	if !s.o.Damaged || !errors.Is(err, ErrDamaged) {
		return fmt.Errorf("mailbox %q, UID %d: %w; --damaged goes on without what is damaged", name, m.UID, err)
	}
	s.result.Damaged++
	if len(s.result.DamagedText) < 100 {
		s.result.DamagedText = append(s.result.DamagedText, text)
	}
	return nil
}
