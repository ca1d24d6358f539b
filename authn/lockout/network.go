package lockout

import (
	"net/netip"
)

// narrow is the unit in which one party holds addresses: an IPv4 address, an
// IPv6 /64. The zero Prefix for no address.
func narrow(a netip.Addr) netip.Prefix { return within(a, 32, 64) }

// wide is the network around it: a /24, a /56. Addresses of one telephone move
// within it, and so do those of one attacker.
func wide(a netip.Addr) netip.Prefix { return within(a, 24, 56) }

func within(a netip.Addr, v4, v6 int) netip.Prefix {
	a = a.Unmap().WithZone("")
	bits := v4
	if a.Is6() {
		bits = v6
	}
	p, err := a.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return p
}

// allowed reports whether an address is never held off as a network.
func (cfg Config) allowed(a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	for _, p := range cfg.AllowNetworks {
		if p.Contains(a) {
			return true
		}
	}
	return false
}
