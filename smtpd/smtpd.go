package smtpd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/policy"
	"github.com/postern-mail/postern/policy/content"
	"github.com/postern-mail/postern/queue"
	"github.com/postern-mail/postern/rewrite"
	"github.com/postern-mail/postern/smtp"
	"github.com/postern-mail/postern/store"
)

// Config is what the operator decides about one class of listeners.
type Config struct {
	// Hostname is our name in trace header fields and message ids. Required.
	Hostname mail.Domain
	// Service is the name authentication and audit know the listeners by,
	// such as "mx" or "submission"; "" is "smtp".
	Service string
	// RequireAuth refuses MAIL before authentication (530).
	RequireAuth bool
	// Priority is that of messages which ask for none (RFC 6710).
	Priority int8
	// CompleteHeader adds Date and Message-ID where they are missing, as a
	// submission server may (RFC 6409 section 8). Not for mail of others.
	CompleteHeader bool
	// TraceLogin names the authenticated login in the trace header field.
	TraceLogin bool
	// Postmaster gets the mail for "postmaster" without a domain, and for the
	// postmaster of a domain of ours where the directory knows none. The zero
	// Address is postmaster@Hostname.
	Postmaster mail.Address
	// MaxHops is how many Received fields a message may arrive with before it
	// is taken for a loop; 0 is 50.
	MaxHops int
	// MaxHeaderField is the largest header field, in octets; a message with a
	// larger one, or with a header of more than four times that, is refused.
	// 0 is 102400, Postfix's header_size_limit.
	MaxHeaderField int
	// FlowDelay is how long the answer to a message that was queued waits while
	// mail comes in faster than it goes out, for clients outside of
	// FlowExempt; 0 is not at all.
	FlowDelay time.Duration
	// FlowExempt are networks that are near: no answer to them is held back, and
	// no share of the Spool bounds them.
	FlowExempt []netip.Prefix
	// IPv4Bits and IPv6Bits are the length of the prefix of an address that
	// counts as one client; 0 is 32 and 64.
	IPv4Bits, IPv6Bits int
	// MaxEnvelope bounds the recipients of one message after aliases and
	// groups; 0 is 10000. What a message's record in the queue can hold is
	// bounded besides.
	MaxEnvelope int
	// KeepAddresses takes an address as it is where it is among those it stands
	// for: it came this way before, through a content filter.
	KeepAddresses bool
}

// Queue keeps messages. Implemented by *queue.Queue.
type Queue interface {
	// CheckSpace returns status.MailSystemFull when a message of the declared
	// size, 0 when unknown, has no room.
	CheckSpace(declared int64) error
	// Admit returns status.QueueFull when the queue holds as many messages as it
	// may and the message would have to go there.
	Admit(e *mail.Envelope) error
	// Pressed reports whether mail comes in faster than it goes out. It is
	// cheap.
	Pressed() bool
	// Stage reads content to its end. An error of content is returned.
	Stage(ctx context.Context, content io.Reader) (store.Staged, error)
	// Submit brings the message to its next hop or makes it durable, and the
	// queue responsible for it. An error with a Remote reply is the next
	// hop's refusal for everybody.
	Submit(ctx context.Context, s queue.Submission) (delivered bool, err error)
}

// Authenticator offers SASL mechanisms. Implemented by authn/sasl. It audits
// the attempts itself.
type Authenticator interface {
	// Mechanisms lists what is on offer to a client.
	Mechanisms(client *mail.Client) []string
	// Start begins an exchange for the service.
	Start(ctx context.Context, mechanism, service string, client mail.Client) (smtp.Authentication, error)
}

// Auditor keeps the record of what happened.
type Auditor interface {
	Record(mail.Event)
}

// Deps is what sessions ask. Authn may be nil: then nothing is offered.
type Deps struct {
	Policy     *policy.Chain
	Domains    policy.Domains
	Recipients policy.Recipients // nil takes addresses as they are
	Routes     Routes            // nil knows of none that refuse
	Authn      Authenticator
	// Rewrite changes addresses; nil leaves them. Policy sees them as the
	// client wrote them.
	Rewrite *rewrite.Rewriter
	// Spool keeps messages that policy looks into. Needed when it does.
	Spool *content.Spool
	// Quotas bounds what those send who are known; nil does not.
	Quotas  Quotas
	Queue   Queue
	Audit   Auditor
	Logger  hclog.Logger
	Metrics prometheus.Registerer // nil counts nowhere
	// Walked is told what policy went through at each step; nil where nobody
	// looks on.
	Walked func(tx *mail.Transaction, steps []policy.Step, d mail.Decision)
}

// Routes knows where mail goes. Implemented by delivery.
type Routes interface {
	// Refusal returns why mail from a sender to a recipient would only bounce, a
	// *status.Error, or nil.
	Refusal(from mail.Address, to mail.Recipient) error
}

// Handler implements smtp.Handler for the gateway. It is safe for concurrent
// use and never changes: a new configuration is a new Handler.
type Handler struct {
	cfg   Config
	deps  Deps
	count *counters
	newID func() mail.QueueID
}

// New returns a handler.
func New(cfg Config, deps Deps) (*Handler, error) {
	if deps.Policy == nil || deps.Domains == nil || deps.Queue == nil || deps.Audit == nil || deps.Logger == nil {
		return nil, errors.New("smtpd needs policy, domains, queue, audit and logger")
	}
	if deps.Policy.WantsMessage() && deps.Spool == nil {
		return nil, errors.New("smtpd: policy looks into messages, and there is no spool for them")
	}
	if cfg.RequireAuth && deps.Authn == nil {
		return nil, errors.New("smtpd: authentication is required, but nothing can verify it")
	}
	if _, err := mail.ParseDomain(string(cfg.Hostname)); err != nil {
		return nil, fmt.Errorf("smtpd hostname: %w", err)
	}
	if cfg.MaxHops < 0 || cfg.MaxEnvelope < 0 || cfg.MaxHeaderField < 0 || cfg.FlowDelay < 0 {
		return nil, errors.New("smtpd: limits must not be negative")
	}
	cfg = cfg.withDefaults()
	count, err := newCounters(deps.Metrics, cfg.Service)
	if err != nil {
		return nil, fmt.Errorf("register metrics: %w", err)
	}
	return &Handler{cfg: cfg, deps: deps, count: count, newID: queue.NewID}, nil
}

func (c Config) withDefaults() Config {
	if c.Service == "" {
		c.Service = "smtp"
	}
	if c.Postmaster.IsNull() {
		c.Postmaster = mail.Address{Local: mail.Postmaster, Domain: c.Hostname}
	}
	if c.MaxHops == 0 {
		c.MaxHops = 50
	}
	if c.MaxHeaderField == 0 {
		c.MaxHeaderField = 102400
	}
	if c.MaxEnvelope == 0 {
		c.MaxEnvelope = 10000
	}
	return c
}
