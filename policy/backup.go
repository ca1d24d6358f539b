package policy

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// mxBackup is permit_mx_backup: it permits recipients in domains of ours, and
// in those whose MX records name us behind somebody better. Whoever controls a
// domain can name us there, so it opens the gateway to everybody's mail unless
// networks say which primaries are meant.
type mxBackup struct {
	name     string
	domains  Domains
	resolver Resolver
	hostname string
	ours     func(netip.Addr) bool // nil knows none
	networks []netip.Prefix        // of the primaries; none are all
}

// Name returns the restriction's name.
func (r mxBackup) Name() string { return r.name }

// Evaluate asks the DNS for the MX of the recipient's domain.
func (r mxBackup) Evaluate(ctx context.Context, tx *mail.Transaction) (mail.Verdict, error) {
	if tx.Recipient == nil {
		return mail.Verdict{}, nil
	}
	address := tx.Recipient.Address
	switch {
	case authorized(r.domains, address):
		return permitted(true), nil
	case strings.ContainsAny(string(address.Local), routing), address.Domain == "", address.Domain.IsLiteral():
		return mail.Verdict{}, nil
	}
	hosts, err := r.resolver.LookupMX(ctx, string(address.Domain)+".")
	switch {
	case err != nil && !notFound(err):
		v := aboutRecipient.refuse(tx, mail.DeferIfReject, status.BackupUnknown, "Unable to look up mail exchanger information: Host not found, try again")
		v.Detail = err.Error()
		return v, nil
	case len(hosts) == 0 || nullMX(hosts):
		return mail.Verdict{}, nil
	}
	hosts = slices.Clone(hosts[:min(len(hosts), maxServers)])
	slices.SortStableFunc(hosts, func(a, b *net.MX) int { return int(a.Pref) - int(b.Pref) })
	others := slices.IndexFunc(hosts, func(mx *net.MX) bool { return mx.Pref != hosts[0].Pref })
	if others < 0 {
		return mail.Verdict{}, nil
	}
	usAt := func(mx *net.MX) bool { return r.isUs(ctx, mx.Host) }
	if slices.ContainsFunc(hosts[:others], usAt) || !slices.ContainsFunc(hosts[others:], usAt) {
		return mail.Verdict{}, nil
	}
	return permitted(r.inNetworks(ctx, hosts[:others])), nil
}

// isUs reports whether a host is this gateway. What cannot be learned of it
// does not make it ours.
func (r mxBackup) isUs(ctx context.Context, host string) bool {
	host = strings.TrimSuffix(host, ".")
	if r.hostname != "" && strings.EqualFold(host, r.hostname) {
		return true
	}
	if r.ours == nil {
		return false
	}
	addresses, err := r.resolver.LookupNetIP(ctx, "ip", host+".")
	return err == nil && slices.ContainsFunc(addresses, r.ours)
}

// inNetworks reports whether all addresses of the primaries are in networks.
func (r mxBackup) inNetworks(ctx context.Context, primaries []*net.MX) bool {
	if len(r.networks) == 0 {
		return true
	}
	for _, mx := range primaries {
		addresses, err := r.resolver.LookupNetIP(ctx, "ip", strings.TrimSuffix(mx.Host, ".")+".")
		if err != nil || len(addresses) == 0 {
			return false
		}
		for _, a := range addresses {
			if !slices.ContainsFunc(r.networks, func(p netip.Prefix) bool { return p.Contains(a.Unmap()) }) {
				return false
			}
		}
	}
	return true
}
