package mailstore

import (
	"fmt"
	"slices"
	"time"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/backend/mailstore/uid"
	"github.com/postern-mail/postern/internal/mutant"
)

// Config is what an administrator decides about mailboxes.
type Config struct {
	// Node is this server's number in a pair, which its journal and identities
	// carry. Its last bit is its class. Zero is the first node.
	Node uint16
	// Mailboxes are created and subscribed with INBOX when an account is first
	// used. Nil: Drafts, Sent, Junk and Trash with their special uses. Empty
	// but not nil: none.
	Mailboxes []ConfiguredMailbox
	// MaxMailboxes bounds the mailboxes of an account. Zero: 10 000. What is
	// there when this, or a bound on names, is lowered stays usable.
	MaxMailboxes int
	// MaxSubscriptions bounds the subscriptions to names without a mailbox.
	// Zero: MaxMailboxes.
	MaxSubscriptions int
	// MaxNameOctets bounds a new mailbox's whole name. Zero: 1000, and no more.
	MaxNameOctets int
	// MaxLevelOctets bounds one level of it. Zero: MaxNameOctets.
	MaxLevelOctets int
	// MaxDepth bounds its levels. Zero: 50.
	MaxDepth int
	// RefusedCharacters may not stand in a new name. Wildcards of LIST and
	// control characters never may.
	RefusedCharacters string
	// MaxKeywords bounds the keywords in use in a mailbox. Zero: 255.
	MaxKeywords int
	// DeliveryMemory is how long the ID of a delivery is remembered; longer
	// than any sender tries. Zero: 10 days.
	DeliveryMemory time.Duration
	// JournalRetention is how long journal records are kept. Zero: 7 days.
	JournalRetention time.Duration
	// ExpungeRetention is how long it is remembered which UIDs were expunged,
	// for clients that synchronise quickly. Zero: 30 days.
	ExpungeRetention time.Duration
	// SweepInterval is the time between runs of what removes remains. Zero: 1 h.
	SweepInterval time.Duration
	// IdleAccounts is how many accounts nobody uses stay in memory. Zero: 1000.
	IdleAccounts int
	// IdleMessages is how many messages of mailboxes nobody has open stay in
	// memory, at some 250 octets each. Zero: 500 000.
	IdleMessages int
	// CommitTimeout is how long a commit may take before the store counts as
	// down. Zero: 30 s.
	CommitTimeout time.Duration

	// SearchIndex is what is indexed of messages' text. Nil: nothing.
	SearchIndex *SearchIndex

	// Pair: this store has a partner, see SetPartner. A store that once had one
	// keeps to the rules of a pair until Forget.
	Pair bool
	// Home is the class of the node that all accounts are at home on which
	// nobody moved. Nil: mail.Account.HomeClass. Both nodes of a pair should say
	// the same; where they do not, they agree on the lower when they attach.
	Home *uint8
	// UIDWait is how long an Append, a Copy or a Move waits for UIDs that
	// another node gives out. Zero: 5 s; negative: it does not wait, and tells
	// UID 0 for those messages.
	UIDWait time.Duration
	// JournalOctets bounds an account's journal, older records go first. Zero:
	// 1 GiB.
	JournalOctets int64
	// Expunged is told what Autoexpunge removed. Nil: nobody.
	Expunged func(account, mailbox string, uids []imap.UID)
	// Now tells the time. Nil: time.Now.
	Now func() time.Time
	// Without names safety rules to leave out: for simulations only.
	Without mutant.Rule
	// UIDs, unless nil, replaces the window and block of UIDs: for simulations only.
	UIDs *uid.Rules

	// flagBlockWorth, unless 0, replaces the constant: for tests only.
	flagBlockWorth int
}

// ConfiguredMailbox is a mailbox that every account has from the start.
type ConfiguredMailbox struct {
	Name string
	// SpecialUse is one of RFC 6154's, or "".
	SpecialUse imap.MailboxAttr
	// QuotaExtra is by how many percent of the account's limits more there may
	// be when a message is put into this mailbox.
	QuotaExtra int
	// Autoexpunge is how long a message stays in it after it came there.
	// Zero: for ever.
	Autoexpunge time.Duration
	// Always makes it again whenever the account is opened and has none.
	// OnDemand leaves it to clients to make it; it has its special use then,
	// unless another mailbox has. Without either it is made with the account.
	Always, OnDemand bool
	// Unsubscribed makes it without a subscription.
	Unsubscribed bool
}

// extra is QuotaExtra of a mailbox by its name.
func (c *Config) extra(name string) int {
	for i := range c.Mailboxes {
		if c.Mailboxes[i].Name == name {
			return c.Mailboxes[i].QuotaExtra
		}
	}
	return 0
}

var defaultMailboxes = []ConfiguredMailbox{
	{Name: "Drafts", SpecialUse: imap.MailboxAttrDrafts},
	{Name: "Sent", SpecialUse: imap.MailboxAttrSent},
	{Name: "Junk", SpecialUse: imap.MailboxAttrJunk},
	{Name: "Trash", SpecialUse: imap.MailboxAttrTrash},
}

// Configured are the mailboxes that accounts have by a configuration.
func Configured(c Config) []ConfiguredMailbox {
	if c.Mailboxes == nil {
		return slices.Clone(defaultMailboxes)
	}
	return c.Mailboxes
}

const maxNameOctets = 1000

// Check returns what is wrong with the configured mailboxes, without opening
// anything.
func (c Config) Check() error {
	_, err := c.withDefaults()
	return err
}

// withDefaults fills in the defaults and checks the configured mailboxes.
func (c Config) withDefaults() (Config, error) {
	if c.Mailboxes == nil {
		c.Mailboxes = defaultMailboxes
	}
	defaultTo(&c.MaxMailboxes, 10_000)
	defaultTo(&c.MaxNameOctets, maxNameOctets)
	c.MaxNameOctets = min(c.MaxNameOctets, maxNameOctets)
	defaultTo(&c.MaxLevelOctets, c.MaxNameOctets)
	defaultTo(&c.MaxSubscriptions, c.MaxMailboxes)
	defaultTo(&c.MaxDepth, 50)
	defaultTo(&c.MaxKeywords, 255)
	defaultTo(&c.DeliveryMemory, 10*24*time.Hour)
	defaultTo(&c.JournalRetention, 7*24*time.Hour)
	defaultTo(&c.ExpungeRetention, 30*24*time.Hour)
	defaultTo(&c.SweepInterval, time.Hour)
	defaultTo(&c.IdleAccounts, 1000)
	defaultTo(&c.IdleMessages, 500_000)
	defaultTo(&c.CommitTimeout, 30*time.Second)
	defaultTo(&c.flagBlockWorth, flagBlockWorth)
	if c.UIDWait == 0 {
		c.UIDWait = 5 * time.Second
	}
	if c.JournalOctets <= 0 {
		c.JournalOctets = 1 << 30
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	taken := map[string]bool{inbox: true}
	uses := map[imap.MailboxAttr]bool{}
	for _, m := range c.Mailboxes {
		name, err := c.newName(m.Name)
		if err == nil && name != m.Name {
			err = ErrBadName
		}
		if err != nil {
			return c, fmt.Errorf("configured mailbox %q: %w", m.Name, err)
		}
		if taken[name] {
			return c, fmt.Errorf("configured mailbox %q: %w", m.Name, ErrMailboxExists)
		}
		if m.SpecialUse != "" && (uses[m.SpecialUse] || !isSpecialUse(m.SpecialUse)) {
			return c, fmt.Errorf("configured mailbox %q, %s: %w", m.Name, m.SpecialUse, ErrSpecialUse)
		}
		taken[name], uses[m.SpecialUse] = true, true
	}
	return c, nil
}

func defaultTo[T int | time.Duration](v *T, value T) {
	if *v <= 0 {
		*v = value
	}
}

// isSpecialUse reports whether a mailbox can have the use. \All and \Flagged
// are for virtual mailboxes, which we have none of.
func isSpecialUse(use imap.MailboxAttr) bool {
	switch use {
	case imap.MailboxAttrArchive, imap.MailboxAttrDrafts, imap.MailboxAttrJunk, imap.MailboxAttrSent,
		imap.MailboxAttrTrash, imap.MailboxAttrImportant:
		return true
	}
	return false
}
