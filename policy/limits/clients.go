package limits

import (
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/postern-mail/postern/mail"
)

// Counters are totals over all gateways, in windows of time. Implemented by
// policy/shared. The calls answer from memory and never wait for another
// gateway.
type Counters interface {
	// Add counts n under key.
	Add(key string, n int64)
	// Total is what all gateways counted under key within the window.
	Total(key string) int64
}

// ClientsConfig bounds a Clients.
type ClientsConfig struct {
	// Entries is how many clients are remembered at a time; 0 is 65536. Beyond
	// that the one not seen for longest is forgotten.
	Entries int
	// Shared gives the totals over all gateways for a time unit; nil counts
	// for this gateway alone.
	Shared func(unit time.Duration) Counters
}

// Clients counts what clients do. It lives as long as the process, and is safe
// for concurrent use.
type Clients struct {
	shared func(time.Duration) Counters

	mu      sync.Mutex
	clients *recent[clientKey, clientCounts]
	evicted uint64
	over    [mail.ClientEvents]uint64
}

// clientKey is one client of one service.
type clientKey struct {
	service string
	network netip.Prefix
}

type clientCounts struct {
	events [mail.ClientEvents]eventCount
	unit   time.Duration // by which they are counted
}

type eventCount struct {
	window
	held bool // the last one was too many
}

// NewClients returns a Clients that has seen nobody.
func NewClients(cfg ClientsConfig) *Clients {
	if cfg.Entries == 0 {
		cfg.Entries = 65536
	}
	return &Clients{shared: cfg.Shared, clients: newRecent[clientKey, clientCounts](cfg.Entries)}
}

// Rates says how much one client of one service may do.
type Rates struct {
	// Service is the name under which clients are counted: those of different
	// services are different.
	Service string
	// Unit is the time in which events are counted; 0 is 60 s.
	Unit time.Duration
	// IPv4Bits and IPv6Bits say how long the prefix is that counts as one
	// client; 0 is 32 and 64.
	IPv4Bits, IPv6Bits int
	// Exempt are clients to whom nothing applies.
	Exempt []netip.Prefix
	// Shared counts over all gateways, where ClientsConfig.Shared can.
	Shared bool
	// Most is how many events there may be in a unit; 0 is any number.
	Most [mail.ClientEvents]int
}

// Check tells what is wrong with the numbers.
func (r Rates) Check() error {
	for e, n := range r.Most {
		if n < 0 {
			return fmt.Errorf("the limit of the %s rate is %d", mail.ClientEvent(e), n)
		}
	}
	switch {
	case r.Unit != 0 && (r.Unit < time.Second || r.Unit > 24*time.Hour):
		return fmt.Errorf("the time unit %s is outside 1s to 24h", r.Unit)
	case r.IPv4Bits < 0 || r.IPv4Bits > 32:
		return fmt.Errorf("an IPv4 prefix has up to 32 bits, not %d", r.IPv4Bits)
	case r.IPv6Bits < 0 || r.IPv6Bits > 128:
		return fmt.Errorf("an IPv6 prefix has up to 128 bits, not %d", r.IPv6Bits)
	}
	return nil
}

// Limiter is what one service asks about its clients. It never changes and is
// safe for concurrent use.
type Limiter struct {
	rates   Rates
	clients *Clients
	shared  Counters // nil alone
}

// For returns what a service with these rates asks; nil when they bound
// nothing.
func (c *Clients) For(r Rates) *Limiter {
	if r.Most == ([mail.ClientEvents]int{}) {
		return nil
	}
	if r.Unit == 0 {
		r.Unit = time.Minute
	}
	if r.IPv4Bits == 0 {
		r.IPv4Bits = 32
	}
	if r.IPv6Bits == 0 {
		r.IPv6Bits = 64
	}
	r.Exempt = slices.Clone(r.Exempt)
	l := &Limiter{rates: r, clients: c}
	if r.Shared && c.shared != nil {
		l.shared = c.shared(r.Unit)
	}
	return l
}

// Take counts an event of the client at an address; an invalid address is
// nobody's and never held.
func (l *Limiter) Take(event mail.ClientEvent, from netip.Addr) mail.Pace {
	if l == nil || l.rates.Most[event] == 0 {
		return mail.Pace{}
	}
	network := l.network(from)
	if !network.IsValid() {
		return mail.Pace{}
	}
	key, most, unit := clientKey{l.rates.Service, network}, int64(l.rates.Most[event]), l.rates.Unit
	elsewhere := ""
	if l.shared != nil {
		elsewhere = sharedKey(key, event)
		if total := l.shared.Total(elsewhere); total >= most {
			return l.clients.hold(key, event, unit, total+1)
		}
	}
	pace := l.clients.take(key, event, unit, most)
	if l.shared != nil && !pace.Over {
		l.shared.Add(elsewhere, 1)
	}
	return pace
}

func sharedKey(key clientKey, event mail.ClientEvent) string {
	return key.service + " " + event.String() + " " + key.network.String()
}

// network is what counts as one client; not valid for those who are exempt.
func (l *Limiter) network(addr netip.Addr) netip.Prefix {
	if !addr.IsValid() {
		return netip.Prefix{}
	}
	addr = addr.Unmap().WithZone("")
	if slices.ContainsFunc(l.rates.Exempt, func(p netip.Prefix) bool { return p.Contains(addr) }) {
		return netip.Prefix{}
	}
	bits := l.rates.IPv4Bits
	if addr.Is6() {
		bits = l.rates.IPv6Bits
	}
	network, err := addr.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return network
}

// countLocked returns the counts of a client.
func (c *Clients) countLocked(key clientKey, unit time.Duration, at time.Time) *clientCounts {
	counts := c.clients.get(key)
	if counts == nil {
		var forgotten *clientCounts
		counts, forgotten = c.clients.add(key)
		if forgotten != nil && !forgotten.idle(at) {
			c.evicted++
		}
	}
	if counts.unit != unit {
		*counts = clientCounts{unit: unit}
	}
	return counts
}

func (c *Clients) take(key clientKey, event mail.ClientEvent, unit time.Duration, most int64) mail.Pace {
	at := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	e := &c.countLocked(key, unit, at).events[event]
	wait, ok := e.take(at, unit, 1, most)
	if ok {
		e.held = false
		return mail.Pace{}
	}
	return c.overLocked(e, event, wait, unit, e.total(at, unit)+1)
}

// hold refuses an event because of what other gateways counted.
func (c *Clients) hold(key clientKey, event mail.ClientEvent, unit time.Duration, count int64) mail.Pace {
	at := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.overLocked(&c.countLocked(key, unit, at).events[event], event, unit, unit, count)
}

func (c *Clients) overLocked(e *eventCount, event mail.ClientEvent, wait, unit time.Duration, count int64) mail.Pace {
	first := !e.held
	e.held = true
	c.over[event]++
	return mail.Pace{Over: true, Wait: wait, Count: int(count), Unit: unit, First: first}
}

func (c *clientCounts) idle(at time.Time) bool {
	return !slices.ContainsFunc(c.events[:], func(e eventCount) bool { return !e.window.idle(at, c.unit) })
}

// ClientStats are figures for metrics.
type ClientStats struct {
	Clients int                       // remembered now
	Evicted uint64                    // forgotten for want of room while they still counted, ever
	Over    [mail.ClientEvents]uint64 // refused events, ever
}

// Stats returns the present figures.
func (c *Clients) Stats() ClientStats {
	c.mu.Lock()
	defer c.mu.Unlock()
	return ClientStats{Clients: c.clients.size(), Evicted: c.evicted, Over: c.over}
}

// ClientRow is how a client stands, for an operator.
type ClientRow struct {
	Service string
	Network netip.Prefix
	Unit    time.Duration
	Counts  [mail.ClientEvents]int64 // within the unit
	Held    [mail.ClientEvents]bool  // its last one was too many
}

// Rows lists the clients that count now, at most limit of them, the latest
// first.
func (c *Clients) Rows(limit int) []ClientRow {
	at := time.Now()
	var rows []ClientRow
	c.mu.Lock()
	defer c.mu.Unlock()
	c.clients.each(func(key clientKey, counts *clientCounts) bool {
		if !counts.idle(at) {
			rows = append(rows, counts.row(key, at))
		}
		return len(rows) < limit
	})
	return rows
}

func (c *clientCounts) row(key clientKey, at time.Time) ClientRow {
	row := ClientRow{Service: key.service, Network: key.network, Unit: c.unit}
	for i := range c.events {
		e := c.events[i].window
		if e.idle(at, c.unit) {
			continue
		}
		e.turn(at, c.unit)
		row.Counts[i], row.Held[i] = e.total(at, c.unit), c.events[i].held
	}
	return row
}

// Forget begins anew for every client whose network lies in one, and returns
// how many these were. What other gateways counted stays.
func (c *Clients) Forget(network netip.Prefix) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := 0
	c.clients.each(func(key clientKey, _ *clientCounts) bool {
		if network.Overlaps(key.network) && c.clients.drop(key) {
			n++
		}
		return true
	})
	return n
}
