package mailstore

import (
	"context"
	"io"
	"time"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/store"
)

// GUID identifies an account, a mailbox or a message for ever and on every
// node. Those of accounts, INBOX and the configured mailboxes are derived from
// the account's name and the role, so that both nodes of a pair create the
// same objects.
type GUID [16]byte

// Dot identifies a message instance: the dot of the operation that added it.
type Dot struct {
	Origin Origin
	Seq    uint64
}

// Origin is a node's incarnation: 16 bits of node, 48 bits of incarnation.
type Origin uint64

// Message is one message of a mailbox as its index knows it. Values are
// immutable: a changed message is a new value in a new View.
type Message struct {
	UID          imap.UID
	ModSeq       uint64
	Dot          Dot
	EmailID      GUID // of the root instance: copies keep it
	Flags        Flags
	Keywords     []string // sorted, as the client spelled them first
	InternalDate time.Time
	SaveDate     time.Time
	Octets       int64
	Body         store.Ref
	Meta         *Meta // parsed header and structure; read-only
}

// Flags is the set of system flags as bits.
type Flags uint8

// The system flags.
const (
	FlagSeen Flags = 1 << iota
	FlagAnswered
	FlagFlagged
	FlagDeleted
	FlagDraft
)

// View is an immutable picture of a mailbox at one MODSEQ.
type View interface {
	// Len is the number of messages.
	Len() int
	// At returns the message with sequence number i+1.
	At(i int) *Message
	// Find returns the index of uid, or of the first message above it and false.
	Find(uid imap.UID) (int, bool)
	UIDNext() imap.UID
	UIDValidity() uint32
	HighestModSeq() uint64
	// Keywords lists every keyword in use, sorted.
	Keywords() []string
	// Unseen and Octets are kept counts, not scans.
	Unseen() int
	Octets() int64
	// Deleted is true once the mailbox no longer exists.
	Deleted() bool
}

// MailboxInfo describes one mailbox of an account.
type MailboxInfo struct {
	Name       string // NFC UTF-8, "/" between levels, "INBOX" in capitals
	GUID       GUID
	SpecialUse imap.MailboxAttr // "" for none
	Subscribed bool
	// Exists is false for a subscribed name without a mailbox.
	Exists bool
}

// Append is one message to be added.
type Append struct {
	Content      store.Staged
	Flags        Flags
	Keywords     []string
	InternalDate time.Time // zero for now
}

// Delivery is a message from LMTP.
type Delivery struct {
	// ID is the sender's identity of this delivery for this recipient; a
	// second one with the same ID stores nothing and succeeds. "" for none.
	ID      string
	Content store.Staged
	Mailbox string // "" for INBOX; created when absent
	Flags   Flags
}

// FlagsOp says how StoreFlags combines flags.
type FlagsOp int

// The ways of STORE.
const (
	FlagsSet FlagsOp = iota
	FlagsAdd
	FlagsRemove
)

// FlagsChange is one STORE.
type FlagsChange struct {
	Op       FlagsOp
	Flags    Flags
	Keywords []string
	// UnchangedSince leaves messages with a higher MODSEQ alone (RFC 7162);
	// nil when not asked for.
	UnchangedSince *uint64
}

// Stager takes in content before it has a place.
type Stager interface {
	Stage(ctx context.Context, r io.Reader) (store.Staged, error)
}

// CopyResult pairs the UIDs of a COPY or MOVE, in order.
type CopyResult struct {
	UIDValidity uint32
	Source      []imap.UID
	Dest        []imap.UID
}

// These are the methods that imapd, lmtpd and the others build on; Store,
// Account and Mailbox are concrete types with exactly them:
//
//	func Open(ctx context.Context, cfg Config, kv store.Store, blobs store.Blobs, log hclog.Logger) (*Store, error)
//	func (*Store) Run(ctx) error                                   // background work: evictions, body collection
//	func (*Store) Account(ctx, mail.Account) (*Account, error)     // opens; creates with the configured mailboxes on first use
//	func (*Store) Accounts(ctx) ([]string, error)
//	func (*Store) Stage(ctx, io.Reader) (store.Staged, error)
//	func (*Account) Close()                                        // gives the handle back
//	func (*Account) List(ctx) ([]MailboxInfo, error)               // sorted by name; with every ancestor that exists only by name left out
//	func (*Account) Create(ctx, name string, use imap.MailboxAttr) (MailboxInfo, error)
//	func (*Account) Delete(ctx, name string) error
//	func (*Account) Rename(ctx, from, to string) error             // INBOX: moves its messages
//	func (*Account) Subscribe(ctx, name string, on bool) error
//	func (*Account) Mailbox(ctx, name string) (*Mailbox, error)    // ErrNoMailbox
//	func (*Account) Deliver(ctx, []Delivery) ([]error)             // one commit for all
//	func (*Mailbox) Info() MailboxInfo
//	func (*Mailbox) View() View
//	func (*Mailbox) Changed() <-chan struct{}                      // closed at the next change after the View then current
//	func (*Mailbox) Append(ctx, []Append) ([]imap.UID, error)      // all or none
//	func (*Mailbox) StoreFlags(ctx, []imap.UID, FlagsChange) (modified []imap.UID, err error) // modified: failed UNCHANGEDSINCE
//	func (*Mailbox) Expunge(ctx, []imap.UID) ([]imap.UID, error)   // only those with \Deleted; nil means all of them
//	func (*Mailbox) Copy(ctx, []imap.UID, dest *Mailbox) (CopyResult, error)
//	func (*Mailbox) Move(ctx, []imap.UID, dest *Mailbox) (CopyResult, error)
//	func (*Mailbox) ExpungedSince(modseq uint64) (uids []imap.UID, complete bool) // for VANISHED
//	func (*Mailbox) Body(ctx, *Message) (store.Body, error)
//	func (*Mailbox) Close()
//
// Errors are *status.Error or one of the Err variables.
var _ = mail.Account{}
