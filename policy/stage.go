package policy

import (
	"context"
	"net"
	"net/netip"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/table"
)

// Stage answers one question about a transaction. It does not log, count,
// write to the client, sleep or edit the message. A Dunno with a Detail is
// logged by the chain. An error means that the stage could not decide; what
// that leads to is the chain's business. Safe for concurrent use.
type Stage interface {
	Name() string
	Evaluate(ctx context.Context, tx *mail.Transaction) (mail.Verdict, error)
}

// DomainClass is what a domain is to us.
type DomainClass int

// The classes. Mail for Local and Relay domains is accepted from anyone.
const (
	Other DomainClass = iota // nothing of ours: relaying
	Local                    // final destination: its recipients are known here
	Relay                    // accepted for another host of ours
)

// Domains tells which domains are ours. It answers from memory.
type Domains interface {
	Class(mail.Domain) DomainClass
}

// Recipients answers who an address stands for. It is asked about addresses
// in Local and Relay domains only. It returns at least one recipient, or an
// error: a *status.Error with a permanent reason (NoSuchUser, AccountDisabled,
// GroupRestricted) only when that is certain, and a transient one when it
// could not find out.
type Recipients interface {
	// Resolve is asked for a message of from, since not everybody may send to
	// every group; nil asks for anybody's.
	Resolve(ctx context.Context, address mail.Address, from *mail.Poster) ([]mail.Recipient, error)
}

// Owners answers whose a sender address is. An error means that it could not
// find out.
type Owners interface {
	// MaySendAs reports whether the identity may use the address as
	// reverse-path.
	MaySendAs(ctx context.Context, identity mail.Identity, address mail.Address) (bool, error)
	// Owners lists the logins that may; none when nobody owns the address.
	Owners(ctx context.Context, address mail.Address) ([]string, error)
}

// Accounts tells what the directory knows of people. A person nobody has is a
// *status.Error with NoSuchUser; other errors mean that it could not find out.
type Accounts interface {
	// AccountOf returns the account of who logged in.
	AccountOf(ctx context.Context, identity mail.Identity) (mail.Account, error)
	// Holder returns the account whose own address it is, in our domains.
	Holder(ctx context.Context, address mail.Address) (mail.Account, error)
}

// Resolver asks the DNS; *net.Resolver is one. Errors are *net.DNSError,
// whose IsNotFound alone means that a name does not exist.
type Resolver interface {
	LookupMX(ctx context.Context, name string) ([]*net.MX, error)
	LookupNS(ctx context.Context, name string) ([]*net.NS, error)
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// Auditor keeps the record of decisions.
type Auditor interface {
	Record(mail.Event)
}

// Config is what the operator decides about the whole chain.
type Config struct {
	// EarlyReject runs the client, helo and sender lists at connection, HELO
	// and MAIL instead of at each RCPT (smtpd_delay_reject = no). The default
	// lets the log name the recipients a refused client was after.
	EarlyReject bool
	// RecipientBeforeRelay runs the recipient list ahead of the relay list.
	RecipientBeforeRelay bool
	// AcceptUnlisted leaves out the check of recipients against the directory
	// that otherwise follows the recipient list.
	AcceptUnlisted bool
	// RejectUnlistedSender checks senders in our domains against the
	// directory after the sender list.
	RejectUnlistedSender bool
	// ShowUnknownTable has replies tell which table does not know a recipient,
	// in Postfix's words.
	ShowUnknownTable bool
	// Networks are the clients that permit_mynetworks trusts. None by default.
	Networks []netip.Prefix
	// Classes are restrictions that the operator made of others.
	Classes []Class
	// Hostname is the name under which MX records know this gateway.
	Hostname string
	// Delimiter starts the extension of a local-part in access tables; "" is "+".
	Delimiter string
	// Timeout bounds the evaluation of one command; 0 is one minute.
	Timeout time.Duration
	// ContentTimeout bounds the evaluation at the end of data where the chain
	// looks into the message; 0 is eight minutes. Clients wait for ten (RFC 5321
	// section 4.5.3.2.6).
	ContentTimeout time.Duration
	// TableCheck is how often changed tables are looked for; 0 is five seconds.
	TableCheck time.Duration
	// Steps says which of the restrictions that were asked the audit names.
	Steps Steps
	// TableDir is what relative names of tables are relative to; "" is the
	// working directory.
	TableDir string
}

// Deps is what the stages ask. Domains, Logger and Audit are needed always,
// the others by the restrictions that use them; Build says which.
type Deps struct {
	Domains    Domains
	Recipients Recipients
	Owners     Owners
	Accounts   Accounts // nil where no directory says anything of people that rules want
	Resolver   Resolver
	// OurAddress tells whether an address is this gateway's, for
	// permit_mx_backup; nil knows none.
	OurAddress func(netip.Addr) bool
	Audit      Auditor
	Logger     hclog.Logger
	Metrics    prometheus.Registerer // nil counts nowhere
	// Tables opens tables of other rooms; nil where there are none.
	Tables *table.Opener
	// Routes reads where FILTER sends mail, "target:next_hop"; nil where no
	// target of delivery is known.
	Routes func(text string) (mail.Route, error)
	// Stages are restrictions of other rooms, by name.
	Stages map[string]func(Spec) (Stage, error)
}

func (c Config) withDefaults() Config {
	if c.Delimiter == "" {
		c.Delimiter = "+"
	}
	if c.Timeout == 0 {
		c.Timeout = time.Minute
	}
	if c.ContentTimeout == 0 {
		c.ContentTimeout = 8 * time.Minute
	}
	if c.TableCheck == 0 {
		c.TableCheck = 5 * time.Second
	}
	return c
}
