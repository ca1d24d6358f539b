package dns

import (
	"context"
	"net/netip"

	wire "github.com/miekg/dns"
)

// A returns the IPv4 addresses of a name. Only the DNS is asked, not the hosts
// file: it is for those who look at what others publish.
func (r *Resolver) A(ctx context.Context, name string) (Answer[netip.Addr], error) {
	return records(ctx, r, name, wire.TypeA, func(rr *wire.A) (netip.Addr, bool) {
		addr, ok := netip.AddrFromSlice(rr.A.To4())
		return addr, ok
	})
}

// AAAA returns the IPv6 addresses of a name, as A does.
func (r *Resolver) AAAA(ctx context.Context, name string) (Answer[netip.Addr], error) {
	return records(ctx, r, name, wire.TypeAAAA, func(rr *wire.AAAA) (netip.Addr, bool) {
		addr, ok := netip.AddrFromSlice(rr.AAAA.To16())
		return addr.Unmap(), ok
	})
}
