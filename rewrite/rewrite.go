package rewrite

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/rewrite/srs"
	"github.com/postern-mail/postern/status"
	"github.com/postern-mail/postern/table"
)

// Class is a place where addresses stand.
type Class string

// The classes, by Postfix's names.
const (
	EnvelopeSender    Class = "envelope_sender"
	EnvelopeRecipient Class = "envelope_recipient"
	HeaderSender      Class = "header_sender"
	HeaderRecipient   Class = "header_recipient"
)

// Map is a list of tables with the classes of addresses they are asked about.
type Map struct {
	// Tables are asked in order for each form of an address.
	Tables []table.Table
	// Classes is where the map applies.
	Classes []Class
}

// Config says what is rewritten. The zero Config, with Origin, only completes
// addresses that have no domain in the headers of our own clients.
type Config struct {
	// Origin is appended to a local-part that stands alone. Required.
	Origin mail.Domain
	// LocalNames are domains, beside Origin, for which a table may have a
	// local-part alone as key.
	LocalNames []mail.Domain
	// AppendDomain is appended to domains without a dot; "" leaves them.
	AppendDomain mail.Domain
	// Delimiter holds the characters that begin the extension of a local-part.
	Delimiter string
	// PropagateCanonical and PropagateGeneric put the extension back that was
	// cut off to find an address.
	PropagateCanonical, PropagateGeneric bool

	SenderCanonical, RecipientCanonical, Canonical Map

	// MasqueradeDomains take the place of their subdomains, the first that
	// matches; one with "!" before it keeps its subdomains as they are.
	MasqueradeDomains []string
	// MasqueradeExceptions are local-parts that keep their domain.
	MasqueradeExceptions []string
	MasqueradeClasses    []Class

	// HeaderClients says whose mail has its header rewritten.
	HeaderClients Clients
	// RemoteDomain, when set, has the headers of everybody else rewritten too,
	// and is what incomplete addresses there get.
	RemoteDomain mail.Domain

	// SRSDomain is the one of rewritten senders, which as recipients stay as
	// they are: in another form they lead nowhere. "" for none.
	SRSDomain mail.Domain

	// AlwaysBcc get a copy of all mail.
	AlwaysBcc []mail.Address
	// SenderBcc and RecipientBcc name who gets a copy of mail from and to
	// addresses.
	SenderBcc, RecipientBcc []table.Table
}

// Clients are clients of our own.
type Clients struct {
	// Authenticated means whoever logged in or is known by the kernel.
	Authenticated bool
	// Networks are networks of ours.
	Networks []netip.Prefix
}

// Hold reports whether a client is one of them.
func (c Clients) Hold(client *mail.Client) bool {
	if c.Authenticated && client.Identity != nil {
		return true
	}
	ip := client.Remote.Addr().Unmap()
	return ip.IsValid() && slices.ContainsFunc(c.Networks, func(n netip.Prefix) bool { return n.Contains(ip) })
}

// Rewriter rewrites what comes in. It may be used concurrently and never
// changes.
type Rewriter struct {
	cfg        Config
	masquerade masquerade
	canonical  finder
	copies     finder
}

// New returns a Rewriter.
func New(cfg Config) (*Rewriter, error) {
	if _, err := mail.ParseDomain(string(cfg.Origin)); err != nil {
		return nil, fmt.Errorf("myorigin: %w", err)
	}
	for _, d := range []mail.Domain{cfg.AppendDomain, cfg.RemoteDomain} {
		if _, err := mail.ParseDomain(string(d)); d != "" && err != nil {
			return nil, err
		}
	}
	m, err := newMasquerade(cfg)
	if err != nil {
		return nil, err
	}
	r := &Rewriter{cfg: cfg, masquerade: m}
	r.canonical = finder{order: cfg.order(), propagate: cfg.PropagateCanonical, origin: cfg.Origin}
	r.copies = finder{order: cfg.order(), origin: cfg.Origin}
	return r, nil
}

// order is how the keys of an address are made.
func (cfg Config) order() table.Order {
	names := append([]mail.Domain{cfg.Origin}, cfg.LocalNames...)
	return table.Order{Delimiters: cfg.Delimiter, Local: func(d mail.Domain) bool { return slices.Contains(names, d) }}
}

// Recipient returns what a forward-path becomes before anybody asks who it
// stands for. Postmaster without a domain stays.
//
// Reasons: DirectoryDown when a table does not answer, ConfigurationError when
// what it says is no address or leads around in circles.
func (r *Rewriter) Recipient(ctx context.Context, a mail.Address) (mail.Address, error) {
	if a.IsPostmaster() || a.Domain == r.cfg.SRSDomain && srs.IsSRS(a.Local) {
		return a, nil
	}
	return r.address(ctx, a, EnvelopeRecipient, r.cfg.Origin, r.cfg.AppendDomain)
}

// Sender returns what a reverse-path becomes. The null one stays. Reasons as
// Recipient's.
func (r *Rewriter) Sender(ctx context.Context, a mail.Address) (mail.Address, error) {
	if a.IsNull() {
		return a, nil
	}
	return r.address(ctx, a, EnvelopeSender, r.cfg.Origin, r.cfg.AppendDomain)
}

// address takes one address through the steps: complete, special map, general
// map, masquerade.
func (r *Rewriter) address(ctx context.Context, a mail.Address, class Class, origin, dotless mail.Domain) (mail.Address, error) {
	a = complete(a, origin, dotless)
	special := r.cfg.SenderCanonical
	if class == EnvelopeRecipient || class == HeaderRecipient {
		special = r.cfg.RecipientCanonical
	}
	var err error
	for _, m := range []Map{special, r.cfg.Canonical} {
		if len(m.Tables) == 0 || !slices.Contains(m.Classes, class) {
			continue
		}
		if a, err = r.canonical.follow(ctx, m.Tables, a); err != nil {
			return a, err
		}
	}
	if slices.Contains(r.cfg.MasqueradeClasses, class) {
		a = r.masquerade.apply(a)
	}
	return a, nil
}

// complete gives an incomplete address its domain, or the rest of it.
func complete(a mail.Address, origin, dotless mail.Domain) mail.Address {
	switch {
	case a.Domain == "":
		a.Domain = origin
	case dotless != "" && !a.Domain.IsLiteral() && !strings.Contains(string(a.Domain), "."):
		a.Domain += "." + dotless
	}
	return a
}

// masquerade hides the names of hosts behind their domain.
type masquerade struct {
	rules      []masqueradeRule
	exceptions []string
}

type masqueradeRule struct {
	domain string
	keep   bool
}

func newMasquerade(cfg Config) (masquerade, error) {
	var m masquerade
	for _, text := range cfg.MasqueradeDomains {
		name, keep := strings.CutPrefix(text, "!")
		d, err := mail.ParseDomain(name)
		if err != nil || d.IsLiteral() {
			return m, fmt.Errorf("masquerade_domains: %q is no domain", text)
		}
		m.rules = append(m.rules, masqueradeRule{string(d), keep})
	}
	for _, user := range cfg.MasqueradeExceptions {
		m.exceptions = append(m.exceptions, strings.ToLower(user))
	}
	return m, nil
}

// apply strips what stands before the first domain of the rules that a's
// domain is or lies below.
func (m masquerade) apply(a mail.Address) mail.Address {
	if len(m.rules) == 0 || slices.Contains(m.exceptions, strings.ToLower(string(a.Local))) {
		return a
	}
	for _, rule := range m.rules {
		if string(a.Domain) == rule.domain {
			return a
		}
		if strings.HasSuffix(string(a.Domain), "."+rule.domain) {
			if !rule.keep {
				a.Domain = mail.Domain(rule.domain)
			}
			return a
		}
	}
	return a
}

// unknown makes what went wrong in a table transient: whatever it is, nobody
// knows that there is no entry.
func unknown(table string, err error) error {
	return status.Errorf(status.DirectoryDown, "table %s: %w", table, err)
}
