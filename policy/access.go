package policy

import (
	"context"
	"fmt"
	"iter"
	"net/netip"
	"strings"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
	"github.com/postern-mail/postern/table"
)

// access is a check_*_access restriction: one table searched for one subject.
type access struct {
	name   string
	about  subject
	source *source
	order  table.Order
	// dottedParents makes a parent domain match only as ".example.com"; the
	// default takes "example.com" for its subdomains too, as Postfix does
	// unless smtpd_access_maps is taken out of parent_domain_matches_subdomains.
	dottedParents bool
	// rejectCode and deferCode are said for REJECT and DEFER; 0 are the usual.
	rejectCode, deferCode int
	keys                  fingerprints // of check_ccert_access
	noPermit              bool         // what it looks up is written by strangers
}

// Name returns the restriction's name.
func (a *access) Name() string { return a.name }

// Evaluate returns what the table says, with nested restrictions left out:
// the chain asks branch.
func (a *access) Evaluate(ctx context.Context, tx *mail.Transaction) (mail.Verdict, error) {
	v, _, err := a.branch(ctx, tx)
	return v, err
}

func (a *access) branch(ctx context.Context, tx *mail.Transaction) (mail.Verdict, []item, error) {
	found, err := a.search(ctx, a.about.in(ctx), tx)
	return a.settled(ctx, tx, found, err)
}

// settled returns what an action found makes of tx.
func (a *access) settled(ctx context.Context, tx *mail.Transaction, found *action, err error) (mail.Verdict, []item, error) {
	if err != nil || found == nil {
		return mail.Verdict{}, nil, err
	}
	if a.noPermit && found.verdict == mail.Permit {
		return mail.Verdict{}, nil, a.permits()
	}
	v := found.answer(a.about.in(ctx), tx)
	a.recode(found, &v)
	return v, found.nested, nil
}

// permits is the error of a table that permits what strangers name themselves.
// The client hears what Postfix says then.
func (a *access) permits() error {
	reply := status.ConfigurationError.Reply()
	return &status.Error{Reason: status.ConfigurationError, Wire: &reply,
		Err: fmt.Errorf("table %s permits in %s, where anybody could be permitted: use DUNNO for exceptions", a.source.table.Name(), a.name)}
}

// noBranchPermits implements guarded.
func (a *access) noBranchPermits() error {
	if a.noPermit {
		return a.permits()
	}
	return nil
}

// recode has REJECT and DEFER answered with the operator's codes.
func (a *access) recode(found *action, v *mail.Verdict) {
	if found.verdict != mail.Reject || found.code != 0 {
		return
	}
	code := a.rejectCode
	if found.reason == status.PolicyDefer {
		code = a.deferCode
	}
	if code != 0 {
		v.Reply.Code = code
	}
}

// forms are the keys under which a subject is looked for.
type forms = iter.Seq[table.Form]

func (a *access) search(ctx context.Context, about subject, tx *mail.Transaction) (*action, error) {
	switch about {
	case aboutClient:
		return a.searchClient(ctx, tx.Client)
	case aboutReverseName:
		if err := nameNotAsked(tx); err != nil {
			return nil, err
		}
		return a.searchClient(ctx, mail.Client{Hostname: tx.Client.ReverseName, Remote: tx.Client.Remote})
	case aboutHelo:
		return a.searchHelo(ctx, tx.Client.Helo)
	case aboutLogin:
		if !isAuthenticated(tx) {
			return nil, nil
		}
		login := tx.Client.Identity.Authentication
		return a.source.lookup(ctx, oneKey(login, table.FoldKey(login)))
	case aboutCertificate:
		return a.searchCertificate(ctx, &tx.Client)
	case aboutSender:
		return a.source.lookup(ctx, ringIn(ctx).sender.ofAddress(tx.Envelope.ReversePath, a.order, a.dottedParents))
	default:
		if tx.Recipient == nil {
			return nil, nil
		}
		return a.source.lookup(ctx, ringIn(ctx).recipient.ofAddress(tx.Recipient.Address, a.order, a.dottedParents))
	}
}

// searchClient looks for the name and its parents, then for the address and its
// networks.
func (a *access) searchClient(ctx context.Context, client mail.Client) (*action, error) {
	name := strings.ToLower(client.Hostname)
	if name == "" {
		name = "unknown"
	}
	ring := ringIn(ctx)
	if found, err := a.source.lookup(ctx, ring.client.ofHost(name, name, a.dottedParents)); err != nil || found != nil {
		return found, err
	}
	return a.source.lookup(ctx, ring.network.ofNetwork(client.Remote.Addr().Unmap().WithZone("")))
}

// searchHelo looks for the HELO name and its parents; an address in place of
// a name is looked for as it stands, and, as tables of networks hold it,
// without its brackets.
func (a *access) searchHelo(ctx context.Context, helo string) (*action, error) {
	if helo == "" {
		return nil, nil
	}
	literal := strings.TrimSuffix(strings.TrimPrefix(helo, "["), "]")
	if len(literal) > 5 && strings.EqualFold(literal[:5], "IPv6:") {
		literal = literal[5:]
	}
	if ip, err := netip.ParseAddr(literal); err == nil {
		return a.source.lookup(ctx, oneKey(ip.Unmap().String(), strings.ToLower(helo)))
	}
	if domain, err := mail.ParseDomain(helo); err == nil {
		return a.source.lookup(ctx, ringIn(ctx).helo.ofHost(helo, strings.ToLower(string(domain)), a.dottedParents))
	}
	return a.source.lookup(ctx, oneKey(helo, strings.ToLower(helo)))
}

// searchCertificate looks for the fingerprints of the client's certificate.
func (a *access) searchCertificate(ctx context.Context, client *mail.Client) (*action, error) {
	shown := shownCertificate(client)
	if shown == nil {
		return nil, nil
	}
	for key := range a.keys.of(shown) {
		if found, err := a.source.lookup(ctx, oneKey(key, strings.ToLower(key))); err != nil || found != nil {
			return found, err
		}
	}
	return nil, nil
}

func only(key string) forms {
	return func(yield func(table.Form) bool) { yield(table.Form{Key: key, First: true}) }
}
