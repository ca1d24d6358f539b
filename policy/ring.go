package policy

import (
	"context"
	"net/netip"
	"slices"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/table"
)

// keys are what a table is asked for, one after the other; tables of patterns
// are asked for whole instead.
type keys struct {
	whole string
	forms []table.Form
}

// oneKey is a subject with one key.
func oneKey(whole, key string) keys {
	return keys{whole: whole, forms: []table.Form{{Key: key, First: true}}}
}

// ring holds the keys that a session asked for last: many tables are asked for
// the same, and those of the client and the sender for each recipient again.
type ring struct{ client, network, helo, sender, recipient held }

// held are the keys of one subject. They last until the next call.
type held struct {
	keys
	name    string
	address mail.Address
	ip      netip.Addr
	// what made them
	dotted     bool
	delimiters string
}

// ringIn returns the ring of the session that asks, or an empty one.
func ringIn(ctx context.Context) *ring {
	if m, ok := ctx.Value(memoryKey{}).(*memory); ok && m.ring != nil {
		return m.ring
	}
	return new(ring)
}

// ofHost returns a name and its parents.
func (h *held) ofHost(whole, name string, dotted bool) keys {
	if h.forms == nil || h.whole != whole || h.name != name || h.dotted != dotted {
		h.whole, h.name, h.dotted = whole, name, dotted
		h.forms = slices.AppendSeq(h.forms[:0], table.Host(name, dotted))
	}
	return h.keys
}

// ofNetwork returns an address of a host and its networks.
func (h *held) ofNetwork(ip netip.Addr) keys {
	if h.forms == nil || h.ip != ip {
		h.whole, h.ip = ip.String(), ip
		h.forms = slices.AppendSeq(h.forms[:0], table.Network(ip))
	}
	return h.keys
}

// ofAddress returns an address without and with its extension, its domain and
// parents, and its local-part with an at-sign. The null reverse-path is "<>".
func (h *held) ofAddress(address mail.Address, order table.Order, dotted bool) keys {
	if h.forms == nil || h.address != address || h.dotted != dotted || h.delimiters != order.Delimiters {
		h.whole = "<>"
		if !address.IsNull() {
			h.whole = address.String()
		}
		h.address, h.dotted, h.delimiters = address, dotted, order.Delimiters
		h.forms = slices.AppendSeq(h.forms[:0], order.Access(address, dotted))
	}
	return h.keys
}
