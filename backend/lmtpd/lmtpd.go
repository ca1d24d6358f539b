// Package lmtpd is the backend's door for mail: it decides what the LMTP
// engine of package smtp only carries.
//
// What goes in: transactions of the gateway, or of any other LMTP client, with
// forward-paths of accounts. What comes out: each message in a mailbox of each
// recipient's account, and one reply for each recipient (RFC 2033). What it
// guarantees: a positive reply means that the message is on stable storage; a
// delivery with an identity (DELIVERYID) is stored once, however often it is
// repeated; an address is unknown only when the directory says so; a positive
// reply that asks the client to keep the message means this node's storage
// only, and KEPT tells when the partner has it, too. What it
// leaves to others: aliases and groups, which the gateway resolved; Sieve.
//
// The message is taken in once for all recipients. Each recipient's own trace
// header (RFC 5321 section 4.4) lies beside the shared body.
package lmtpd

import (
	"context"
	"errors"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/backend/mailstore"
	"github.com/postern-mail/postern/backend/mailstore/acl"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/smtp"
	"github.com/postern-mail/postern/status"
)

// Accounts answers whose mailbox an address is. status.NoSuchUser only when
// that is certain; status.DirectoryDown and its like for an outage.
type Accounts interface {
	AccountOf(ctx context.Context, a mail.Address) (mail.Account, error)
}

// Auditor records connections and deliveries. It must not block for long.
type Auditor interface{ Record(mail.Event) }

// Config is what an administrator decides about deliveries.
type Config struct {
	// Hostname stands in the Received field. Empty: "localhost".
	Hostname string
	// Delimiter separates the detail of a local-part. Empty: "+". The address
	// is looked up as it is first, then without its detail.
	Delimiter string
	// DetailMailboxes delivers user+Detail into the mailbox Detail where the
	// account has one. False: into INBOX.
	DetailMailboxes bool
	// DetailNeedsPost delivers only into those mailboxes that give anyone the
	// right "p" (RFC 4314).
	DetailNeedsPost bool
	// Access holds, by account, where a mailbox's own list says nothing about
	// an identifier.
	Access map[string]acl.List
	// Parallel is how many accounts a message is stored in at a time. Zero: 8.
	Parallel int
}

// Deps are the rooms lmtpd builds on. Audit may be nil.
type Deps struct {
	Store    *mailstore.Store
	Accounts Accounts
	Audit    Auditor
	// Draining reports whether mail shall go to the partner: sessions and
	// transactions are then answered 421. nil: never.
	Draining func() bool
	// Keeper is this server's end of a replication pair; nil when it is alone.
	Keeper Keeper
}

// Keeper knows what of this node's mail is kept for the partner, in durability
// shadow. Its methods may be called concurrently.
type Keeper interface {
	// Keeps reports whether that is the mode of an account.
	Keeps(account string) bool
	// Replicated reports whether the partner has the operation of a dot; known
	// is false when this node does not have it as its own.
	Replicated(ctx context.Context, account mailstore.GUID, dot mailstore.Dot) (replicated, known bool, err error)
}

// Handler implements smtp.Handler for LMTP. It is safe for concurrent use.
type Handler struct {
	cfg  Config
	deps Deps
	log  hclog.Logger
}

// New returns a Handler.
func New(cfg Config, deps Deps, log hclog.Logger) (*Handler, error) {
	if deps.Store == nil || deps.Accounts == nil {
		return nil, errors.New("lmtpd needs a store and accounts")
	}
	if cfg.Hostname == "" {
		cfg.Hostname = "localhost"
	}
	if cfg.Delimiter == "" {
		cfg.Delimiter = "+"
	}
	if cfg.Parallel <= 0 {
		cfg.Parallel = 8
	}
	return &Handler{cfg: cfg, deps: deps, log: log}, nil
}

// NewSession implements smtp.Handler.
func (h *Handler) NewSession(_ context.Context, client *mail.Client) (smtp.Session, error) {
	if err := h.drained(); err != nil {
		return nil, err
	}
	s := &session{handler: h, client: client, began: time.Now()}
	s.audit(mail.Event{Kind: mail.EventConnect})
	return s, nil
}

// session is one LMTP connection.
type session struct {
	handler *Handler
	client  *mail.Client
	began   time.Time
}

// audit completes and records what happened on the connection.
func (s *session) audit(event mail.Event) {
	if s.handler.deps.Audit == nil {
		return
	}
	event.Service, event.Session, event.Remote = "lmtp", s.client.Session, s.client.Remote
	if s.client.TLS != nil {
		event.TLS = s.client.TLS.Version
	}
	s.handler.deps.Audit.Record(event)
}

func (s *session) Helo(context.Context) error { return nil }

func (s *session) Mechanisms() []string { return nil }

func (s *session) Auth(context.Context, string) (smtp.Authentication, error) {
	return nil, status.New(status.AuthMechanism, nil)
}

func (s *session) Verify(context.Context, string) error { return status.New(status.NotVerified, nil) }

// drained is the answer to whatever would begin while the node is drained.
func (h *Handler) drained() error {
	if h.deps.Draining == nil || !h.deps.Draining() {
		return nil
	}
	return status.New(status.ShuttingDown, nil)
}

func (s *session) Mail(_ context.Context, from smtp.MailCommand) (smtp.Transaction, error) {
	if err := s.handler.drained(); err != nil {
		return nil, err
	}
	return &transaction{session: s, handler: s.handler, from: from}, nil
}

func (s *session) Close(cause error) {
	event := mail.Event{Kind: mail.EventDisconnect, Duration: time.Since(s.began)}
	if cause != nil {
		event.Detail = cause.Error()
	}
	s.audit(event)
	s.handler.log.Debug("session ended", "sid", s.client.Session, "remote", s.client.Peer(), "err", cause)
}
