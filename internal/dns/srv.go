package dns

import (
	"context"

	wire "github.com/miekg/dns"
)

// SRV is one server of a service (RFC 2782).
type SRV struct {
	Priority, Weight, Port uint16
	Target                 string // without a final dot; "" says that there is no such service
}

// SRV returns the servers of a service such as "_ldap._tcp.example.com", in no
// order.
func (r *Resolver) SRV(ctx context.Context, name string) (Answer[SRV], error) {
	return records(ctx, r, name, wire.TypeSRV, func(rr *wire.SRV) (SRV, bool) {
		return SRV{rr.Priority, rr.Weight, rr.Port, withoutDot(rr.Target)}, true
	})
}
