package mailstore

import (
	"context"
	"io"

	"github.com/emersion/go-imap/v2"
	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
	"github.com/postern-mail/postern/store"
)

var errSoon = status.New(status.StoreDown, nil)

type Config struct{}

// Store holds every account's mail.
type Store struct{}

// Account is a handle on one account.
type Account struct{}

// Mailbox is a handle on one mailbox.
type Mailbox struct{}

func Open(ctx context.Context, cfg Config, kv store.Store, blobs store.Blobs, log hclog.Logger) (*Store, error) {
	return nil, errSoon
}
func (*Store) Run(ctx context.Context) error { return errSoon }

// Account opens the account; it creates it, with the configured mailboxes, on first use.
func (*Store) Account(ctx context.Context, who mail.Account) (*Account, error) { return nil, errSoon }
func (*Store) Accounts(ctx context.Context) ([]string, error)                  { return nil, errSoon }

// Stage takes in a message and parses it on the way; pass the result to Append or Deliver, then Discard it.
func (*Store) Stage(ctx context.Context, r io.Reader) (store.Staged, error) { return nil, errSoon }

// Check verifies every invariant.
func (*Store) Check(ctx context.Context) error { return errSoon }

func (*Account) Close() {}

// Name is the account's canonical login.
func (*Account) Name() string { return "" }
func (*Account) GUID() GUID   { return GUID{} }

// Quota returns the octets used and the limit, 0 for none.
func (*Account) Quota() (used, limit int64)                      { return 0, 0 }
func (*Account) List(ctx context.Context) ([]MailboxInfo, error) { return nil, errSoon }

// Status answers without loading the mailbox's index.
func (*Account) Status(ctx context.Context, name string) (Status, error) { return Status{}, errSoon }
func (*Account) Create(ctx context.Context, name string, use imap.MailboxAttr) (MailboxInfo, error) {
	return MailboxInfo{}, errSoon
}
func (*Account) Delete(ctx context.Context, name string) error             { return errSoon }
func (*Account) Rename(ctx context.Context, from, to string) error         { return errSoon }
func (*Account) Subscribe(ctx context.Context, name string, on bool) error { return errSoon }

// Mailbox loads the mailbox's index. ErrNoMailbox.
func (*Account) Mailbox(ctx context.Context, name string) (*Mailbox, error) { return nil, errSoon }
func (*Account) Deliver(ctx context.Context, ds []Delivery) []error         { return nil }

func (*Mailbox) Info() MailboxInfo { return MailboxInfo{} }
func (*Mailbox) View() View        { return nil }

// Changed is closed at the next change. Take the channel first, then the View.
func (*Mailbox) Changed() <-chan struct{} { return nil }
func (*Mailbox) Append(ctx context.Context, as []Append) ([]imap.UID, error) {
	return nil, errSoon
}
func (*Mailbox) StoreFlags(ctx context.Context, uids []imap.UID, c FlagsChange) (modified []imap.UID, err error) {
	return nil, errSoon
}
func (*Mailbox) Expunge(ctx context.Context, uids []imap.UID) ([]imap.UID, error) {
	return nil, errSoon
}
func (*Mailbox) Copy(ctx context.Context, uids []imap.UID, dest *Mailbox) (CopyResult, error) {
	return CopyResult{}, errSoon
}
func (*Mailbox) Move(ctx context.Context, uids []imap.UID, dest *Mailbox) (CopyResult, error) {
	return CopyResult{}, errSoon
}

// ExpungedSince may name UIDs expunged after the caller's View: leave out those it still holds.
func (*Mailbox) ExpungedSince(modseq uint64) (uids []imap.UID, complete bool) { return nil, false }

// Meta reads what the index keeps of a message beside its Message.
func (*Mailbox) Meta(ctx context.Context, m *Message) (*Meta, error) { return nil, errSoon }

// Metas is Meta for many messages at once, in one read of the store: for FETCH over a range, some 100 at a time.
func (*Mailbox) Metas(ctx context.Context, ms []*Message) ([]*Meta, error) { return nil, errSoon }

// Body opens the whole message, trace header first; Meta.Root's offsets count in it.
func (*Mailbox) Body(ctx context.Context, m *Message) (store.Body, error) { return nil, errSoon }
func (*Mailbox) Close()                                                   {}
