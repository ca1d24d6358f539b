package dns

import (
	"context"
	"errors"
	"net"
	"net/netip"
)

// The methods below answer in the terms of package net, so that a Resolver can
// take the place of a *net.Resolver: a certain nothing is a *net.DNSError with
// IsNotFound, a failure one with IsTemporary.

// LookupMX returns the mail exchangers of a domain.
func (r *Resolver) LookupMX(ctx context.Context, name string) ([]*net.MX, error) {
	a, err := r.MX(ctx, name)
	if err := inTermsOfNet(name, a.Outcome, err); err != nil {
		return nil, err
	}
	found := make([]*net.MX, len(a.Records))
	for i, mx := range a.Records {
		found[i] = &net.MX{Host: mx.Host + ".", Pref: mx.Preference}
	}
	return found, nil
}

// LookupNS returns the name servers of a zone; a name within one has none.
func (r *Resolver) LookupNS(ctx context.Context, name string) ([]*net.NS, error) {
	a, err := r.NS(ctx, name)
	if err := inTermsOfNet(name, a.Outcome, err); err != nil {
		return nil, err
	}
	found := make([]*net.NS, len(a.Records))
	for i, host := range a.Records {
		found[i] = &net.NS{Host: host + "."}
	}
	return found, nil
}

// LookupTXT returns the texts of a name.
func (r *Resolver) LookupTXT(ctx context.Context, name string) ([]string, error) {
	a, err := r.TXT(ctx, name)
	return a.Records, inTermsOfNet(name, a.Outcome, err)
}

// LookupAddr returns the names of an address, with final dots.
func (r *Resolver) LookupAddr(ctx context.Context, address string) ([]string, error) {
	addr, err := netip.ParseAddr(address)
	if err != nil {
		return nil, &net.DNSError{Err: "unrecognized address", Name: address}
	}
	a, err := r.PTR(ctx, addr)
	if err := inTermsOfNet(address, a.Outcome, err); err != nil {
		return nil, err
	}
	names := make([]string, len(a.Records))
	for i, name := range a.Records {
		names[i] = name + "."
	}
	return names, nil
}

// LookupNetIP returns the addresses of a host, of the families that network
// ("ip", "ip4" or "ip6") asks for.
func (r *Resolver) LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	if addr, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{addr}, nil
	}
	a, err := r.Addresses(ctx, host)
	if err := inTermsOfNet(host, a.Outcome, err); err != nil {
		return nil, err
	}
	found := make([]netip.Addr, 0, len(a.Records))
	for _, addr := range a.Records {
		if network == "ip" || (network == "ip4") == addr.Is4() {
			found = append(found, addr)
		}
	}
	if len(found) == 0 {
		return nil, inTermsOfNet(host, NoData, nil)
	}
	return found, nil
}

func inTermsOfNet(name string, outcome Outcome, err error) error {
	switch {
	case err != nil:
		timeout := errors.Is(err, ErrNoAnswer) || errors.Is(err, context.DeadlineExceeded)
		return &net.DNSError{Err: err.Error(), UnwrapErr: err, Name: name, IsTimeout: timeout, IsTemporary: true}
	case outcome != Found:
		return &net.DNSError{Err: "no such host", Name: name, IsNotFound: true}
	default:
		return nil
	}
}
