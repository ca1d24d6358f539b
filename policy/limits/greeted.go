package limits

import (
	"encoding/binary"
	"net/netip"
	"time"
)

// Facts remember values by key until a time. No method waits for a disk or for
// the network. Implemented by the tables of policy/shared, which outlive the
// process and tell other gateways.
type Facts interface {
	Get(key string) (value []byte, found bool)
	Put(key string, value []byte, expires time.Time)
}

// Greeted remembers clients that waited for their greeting, so that they need
// not each time. It is as safe for concurrent use and as bounded as its facts.
type Greeted struct{ facts Facts }

// NewGreeted returns a Greeted that keeps what it knows in facts of its own.
func NewGreeted(facts Facts) *Greeted { return &Greeted{facts} }

// For returns it with the time for which a client is remembered.
func (g *Greeted) For(ttl time.Duration) GreetedFor { return GreetedFor{g, ttl} }

// GreetedFor is a Greeted with a time.
type GreetedFor struct {
	*Greeted
	ttl time.Duration
}

// Waited reports whether the client waited within the time. What a clock that is
// wrong by more than that wrote does not count.
func (g GreetedFor) Waited(client netip.Addr) bool {
	value, found := g.facts.Get(waiter(client))
	if !found || len(value) != 8 {
		return false
	}
	ago := time.Since(time.Unix(int64(binary.BigEndian.Uint64(value)), 0))
	return ago < g.ttl && ago > -g.ttl
}

// Wait takes down that it did.
func (g GreetedFor) Wait(client netip.Addr) {
	now := time.Now()
	g.facts.Put(waiter(client), binary.BigEndian.AppendUint64(nil, uint64(now.Unix())), now.Add(g.ttl))
}

func waiter(client netip.Addr) string { return client.Unmap().WithZone("").String() }
