package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/postern-mail/postern/delivery/relay"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/policy"
	"github.com/postern-mail/postern/rewrite"
	"github.com/postern-mail/postern/rewrite/srs"
	"github.com/postern-mail/postern/status"
	"github.com/postern-mail/postern/table"
)

// rewriting is what changes addresses in a generation.
type rewriting struct {
	rewriter *rewrite.Rewriter // nil without a rewrite block
	outbound *rewrite.Outbound // nil without a gateway
	srs      *srs.Rewriter     // nil without an srs block
}

// rewritings makes what changes addresses.
func (b *builder) rewritings() {
	gateway := b.file.Gateway
	if gateway.SRS != nil {
		cfg, err := gateway.SRS.Room()
		if err == nil {
			b.srs, err = srs.New(cfg)
		}
		b.failed("srs", err)
	}
	out := rewrite.OutboundConfig{SRS: b.srs, Ours: func(d mail.Domain) bool { return b.addresses().Class(d) != policy.Other }}
	var cfg rewrite.Config
	if gateway.Rewrite != nil {
		tables := tableOpener{builder: b, open: make(map[string]table.Table)}
		cfg = gateway.Rewrite.Room(b.file, tables.all)
		out.Generic = tables.all(gateway.Rewrite.Generic)
		var err error
		if tables.failed {
			return
		}
		b.rewriter, err = rewrite.New(cfg)
		b.failed("rewrite", err)
	}
	b.outbound = rewrite.NewOutbound(cfg, out)
}

// tableOpener opens the tables of maps, each once.
type tableOpener struct {
	builder *builder
	open    map[string]table.Table
	failed  bool
}

func (o *tableOpener) all(names []string) []table.Table {
	var list []table.Table
	for _, name := range names {
		t, known := o.open[name]
		if !known {
			var err error
			if t, err = o.builder.rewriteTable(name); o.builder.failed("rewrite", err) {
				o.failed = true
				continue
			}
			o.open[name] = t
		}
		list = append(list, t)
	}
	return list
}

// rewriteTable opens a table that a map names.
func (b *builder) rewriteTable(name string) (table.Table, error) {
	dir, query, known := b.file.RewriteTable(name)
	_, ofDatabase := b.file.DatabaseTable(strings.TrimPrefix(name, "query:"))
	switch {
	case !known && ofDatabase == nil:
		return nil, fmt.Errorf("%q names no table", name)
	case query != nil:
		return b.queryTable(dir, query, b.searchers[dir.Name])
	}
	t, err := b.opener("rewrite").Open(name, rewrite.TableUse)
	if err == nil {
		b.task("table "+name, t.Run)
	}
	return t, err
}

// addresses answers who an address is: the address book, and the senders of
// forwarded mail behind what SRS made of them.
type addresses struct {
	*addressBook
	srs *srs.Rewriter
}

func (g *generation) addresses() addresses { return addresses{g.book, g.srs} }

// Class implements policy.Domains.
func (a addresses) Class(d mail.Domain) policy.DomainClass {
	if class := a.addressBook.Class(d); class != policy.Other || a.srs == nil || d != a.srs.Domain() {
		return class
	}
	return policy.Local
}

// Resolve implements policy.Recipients.
func (a addresses) Resolve(ctx context.Context, to mail.Address, from *mail.Poster) ([]mail.Recipient, error) {
	if a.srs == nil || to.Domain != a.srs.Domain() {
		return a.addressBook.Resolve(ctx, to, from)
	}
	if srs.IsSRS(to.Local) {
		return a.sender(ctx, to)
	}
	if a.addressBook.Class(to.Domain) == policy.Other {
		return nil, status.Errorf(status.NoSuchUser, "%s has only what SRS makes", to.Domain)
	}
	return a.addressBook.Resolve(ctx, to, from)
}

// sender finds who a rewritten sender stands for.
func (a addresses) sender(ctx context.Context, to mail.Address) ([]mail.Recipient, error) {
	sender, err := a.srs.Decode(to.Local, time.Now())
	if err != nil {
		return nil, status.New(status.NoSuchUser, err)
	}
	if a.addressBook.Class(sender.Domain) == policy.Other {
		return []mail.Recipient{{Address: sender, Accepted: to}}, nil
	}
	found, err := a.addressBook.Resolve(ctx, sender, nil)
	for i := range found {
		found[i].Accepted = to
	}
	return found, err
}

// canonicalRecipients resolves addresses as they are rewritten, for policy,
// which is given them as the client wrote them.
type canonicalRecipients struct {
	addresses
	rewriter *rewrite.Rewriter
}

// listedRecipients is what policy asks who exists.
func (g *generation) listedRecipients() policy.Recipients {
	if g.rewriter == nil {
		return g.addresses()
	}
	return canonicalRecipients{g.addresses(), g.rewriter}
}

// Resolve implements policy.Recipients.
func (c canonicalRecipients) Resolve(ctx context.Context, a mail.Address, from *mail.Poster) ([]mail.Recipient, error) {
	to, err := c.rewriter.Recipient(ctx, a)
	if err != nil {
		return nil, err
	}
	if c.Class(to.Domain) == policy.Other {
		return []mail.Recipient{{Address: to, Accepted: a}}, nil
	}
	found, err := c.addresses.Resolve(ctx, to, from)
	for i := range found {
		found[i].Accepted = a
	}
	return found, err
}

// outward rewrites what a transport sends to servers of others.
type outward struct {
	*relay.Transport
	rewrite *rewrite.Outbound
}

// Deliver implements delivery.Transport.
func (o outward) Deliver(ctx context.Context, d mail.Delivery) []mail.Outcome {
	if d.Probe {
		return o.Transport.Deliver(ctx, d) // there is nothing to rewrite but the names of the question
	}
	return o.rewrite.Deliver(ctx, d, o.Transport.Deliver)
}
