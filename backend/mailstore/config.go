package mailstore

import (
	"fmt"
	"time"

	"github.com/emersion/go-imap/v2"
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
	// MaxMailboxes bounds the mailboxes and subscriptions of an account.
	// Zero: 10 000.
	MaxMailboxes int
	// MaxNameOctets bounds a mailbox's whole name. Zero: 1000, and no more.
	MaxNameOctets int
	// MaxDepth bounds the levels of a name. Zero: 50.
	MaxDepth int
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
}

// ConfiguredMailbox is a mailbox that every account has from the start.
type ConfiguredMailbox struct {
	Name string
	// SpecialUse is one of RFC 6154's, or "".
	SpecialUse imap.MailboxAttr
}

var defaultMailboxes = []ConfiguredMailbox{
	{"Drafts", imap.MailboxAttrDrafts},
	{"Sent", imap.MailboxAttrSent},
	{"Junk", imap.MailboxAttrJunk},
	{"Trash", imap.MailboxAttrTrash},
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
	defaultTo(&c.MaxDepth, 50)
	defaultTo(&c.MaxKeywords, 255)
	defaultTo(&c.DeliveryMemory, 10*24*time.Hour)
	defaultTo(&c.JournalRetention, 7*24*time.Hour)
	defaultTo(&c.ExpungeRetention, 30*24*time.Hour)
	defaultTo(&c.SweepInterval, time.Hour)
	defaultTo(&c.IdleAccounts, 1000)
	defaultTo(&c.IdleMessages, 500_000)
	defaultTo(&c.CommitTimeout, 30*time.Second)
	taken := map[string]bool{inbox: true}
	uses := map[imap.MailboxAttr]bool{}
	for _, m := range c.Mailboxes {
		name, err := c.normalize(m.Name)
		if err != nil || name != m.Name {
			return c, fmt.Errorf("configured mailbox %q: %w", m.Name, ErrBadName)
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
