package mailstore

import (
	"errors"
	"fmt"
	"time"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/store"
)

// What is wrong with a request, as opposed to the store; test with errors.Is.
// Outages and limits come as *status.Error: MailboxFull over quota,
// MailSystemFull when the disk has no room, StoreDown and ServerBusy for
// everything that may pass.
var (
	ErrNoMailbox            = errors.New("no such mailbox")
	ErrMailboxExists        = errors.New("mailbox exists")
	ErrBadName              = errors.New("mailbox name not allowed")
	ErrInbox                = errors.New("not possible with INBOX")
	ErrTooManyMailboxes     = fmt.Errorf("%w: mailboxes of the account", ErrTooMany)
	ErrTooManySubscriptions = fmt.Errorf("%w: subscriptions of the account", ErrTooMany)
	ErrKeyword              = errors.New("a keyword has at most 128 characters of ASCII, and no blank, parenthesis, brace, bracket, quote, backslash, % or *")
	ErrTooMany              = errors.New("too many mailboxes, keywords or messages at once")
	ErrSpecialUse           = errors.New("special use not supported or taken")
	ErrNoMessage            = errors.New("message is gone")
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

// Node returns the number of the origin's node.
func (o Origin) Node() uint16 { return uint16(o >> 48) }

// Message is one message of a mailbox as its index knows it. Values are
// immutable: a changed message is a new value in a new View. What may change
// stands apart from what never does, which the values share: a change of all
// flags of a large mailbox makes a value for each message.
type Message struct {
	UID      imap.UID
	Flags    Flags
	ModSeq   uint64
	Dot      Dot
	Keywords []string // sorted, as the client spelled them first
	more     *more
	*Instance
}

// Instance is what of a message is as it was when the message was added.
type Instance struct {
	EmailID      GUID // of the root instance: copies keep it
	InternalDate time.Time
	SaveDate     time.Time
	// Octets is RFC822.SIZE: the trace header of this instance and the body.
	Octets int64
	// Body holds the octets after the trace header, shared by all instances.
	Body store.Ref
}

// Trace is how many octets of the message stand before its shared body.
func (m *Message) Trace() int64 { return m.Octets - m.Body.Octets }

// Flags is the set of system flags as bits.
type Flags uint8

// The system flags.
const (
	FlagSeen Flags = 1 << iota
	FlagAnswered
	FlagFlagged
	FlagDeleted
	FlagDraft

	allFlags = FlagSeen | FlagAnswered | FlagFlagged | FlagDeleted | FlagDraft
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

// Status is what STATUS asks for, from kept counts.
type Status struct {
	GUID          GUID
	Messages      int
	Unseen        int
	Deleted       int // messages with \Deleted
	Octets        int64
	UIDNext       imap.UID
	UIDValidity   uint32
	HighestModSeq uint64
}

// Append is one message to be added.
type Append struct {
	// Content is best taken in by Store.Stage, which parses it on the way;
	// other content is read once more for that. The caller discards it after
	// the call, whatever the result.
	Content      store.Staged
	Flags        Flags
	Keywords     []string
	InternalDate time.Time // the zero time means the present
}

// Delivery is a message from LMTP.
type Delivery struct {
	// ID is the sender's identity of this delivery for this recipient; a
	// second one with the same ID stores nothing and succeeds. "" for none.
	ID string
	// Content as in Append. Several deliveries may name the same.
	Content store.Staged
	// Trace is this recipient's trace header: whole fields with CRLF, at most
	// MaxTraceOctets. The message reads as if it began with it, while the
	// body below stays shared with the other recipients'.
	Trace    []byte
	Mailbox  string // "" for INBOX; created when absent
	Flags    Flags
	Keywords []string
}

// MaxTraceOctets bounds Delivery.Trace.
const MaxTraceOctets = 8 << 10

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
	// Except and ExceptKeywords are flags, and all keywords, that stay as they
	// are whatever the operation.
	Except         Flags
	ExceptKeywords bool
	// UnchangedSince leaves messages with a higher MODSEQ alone (RFC 7162);
	// nil when not asked for.
	UnchangedSince *uint64
}

// CopyResult pairs the UIDs of a COPY or MOVE, in order.
type CopyResult struct {
	UIDValidity uint32
	Source      []imap.UID
	Dest        []imap.UID
}
