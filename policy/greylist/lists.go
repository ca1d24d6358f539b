package greylist

import (
	"encoding/binary"
	"math"
	"strings"
	"time"

	"github.com/postern-mail/postern/policy/shared"
)

// Lists are what is known of clients, senders and recipients, over all
// gateways. They are safe for concurrent use.
type Lists struct {
	store   *shared.Store
	waiting *shared.Table // triplet -> when it was first seen
	passed  *shared.Table // triplet -> when it passed last, and how often
	clients *shared.Table // client -> when it passed last, and in how many hours
}

// DefaultEntries bounds each of the lists.
const DefaultEntries = 200_000

// Open returns the lists in a store, each with at most so many entries; 0:
// DefaultEntries.
func Open(s *shared.Store, entries int) *Lists {
	if entries <= 0 {
		entries = DefaultEntries
	}
	return &Lists{
		store:   s,
		waiting: s.Table("greylist.waiting", shared.TableConfig{Merge: earlier, Entries: entries}),
		passed:  s.Table("greylist.passed", shared.TableConfig{Merge: later, Entries: entries}),
		clients: s.Table("greylist.clients", shared.TableConfig{Merge: later, Entries: entries}),
	}
}

// mark is a time and a count in sixteen octets. A first attempt has no count.
type mark struct {
	at    time.Time
	count uint64
}

func (m mark) encode() []byte {
	b := binary.BigEndian.AppendUint64(make([]byte, 0, 16), uint64(max(0, m.at.UnixMilli())))
	return binary.BigEndian.AppendUint64(b, m.count)
}

// decode reads a mark; what is none is one of 1970.
func decode(b []byte) mark {
	if len(b) != 16 {
		return mark{at: time.UnixMilli(0)}
	}
	return mark{time.UnixMilli(int64(min(binary.BigEndian.Uint64(b), math.MaxInt64))), binary.BigEndian.Uint64(b[8:])}
}

// earlier merges first attempts: the first one counts.
func earlier(a, b []byte) []byte {
	x, y := decode(a), decode(b)
	if y.at.Before(x.at) {
		x.at = y.at
	}
	x.count = max(x.count, y.count)
	return x.encode()
}

// later merges passes: the last time and the higher count.
func later(a, b []byte) []byte {
	x, y := decode(a), decode(b)
	if y.at.After(x.at) {
		x.at = y.at
	}
	x.count = max(x.count, y.count)
	return x.encode()
}

// refreshAfter is how old a pass is before it is written again: who sends all
// day need not be written all day.
const refreshAfter = 6 * time.Hour

// known reports whether a triplet passed before, and keeps it known.
func (l *Lists) known(triplet string, now time.Time, lifetime time.Duration) bool {
	return refresh(l.passed, triplet, now, lifetime)
}

func refresh(t *shared.Table, key string, now time.Time, lifetime time.Duration) bool {
	value, found := t.Get(key)
	if found && now.Sub(decode(value).at) >= refreshAfter {
		t.Update(key, func(old []byte) ([]byte, time.Time) {
			m := decode(old)
			m.at = now
			return m.encode(), now.Add(lifetime)
		})
	}
	return found
}

// allowed is the count of a client that an operator let pass.
const allowed = math.MaxInt64

// trusted reports whether a client passed in so many hours, and keeps it known.
func (l *Lists) trusted(client string, enough int, now time.Time, lifetime time.Duration) bool {
	value, found := l.clients.Get(client)
	if !found {
		return false
	}
	m := decode(value)
	if m.count == allowed {
		return true
	}
	return enough > 0 && m.count >= uint64(enough) && refresh(l.clients, client, now, lifetime)
}

// first returns when a triplet was seen first, and notes now where it never was.
func (l *Lists) first(triplet string, now time.Time, window time.Duration) (at time.Time, seen bool) {
	l.waiting.Update(triplet, func(old []byte) ([]byte, time.Time) {
		if old != nil {
			at, seen = decode(old).at, true
			return nil, time.Time{}
		}
		return mark{at: now}.encode(), now.Add(window)
	})
	return at, seen
}

// isKnown reports whether a triplet or a client need not wait, and changes
// nothing.
func (l *Lists) isKnown(client, triplet string, enough int) bool {
	if _, passed := l.passed.Get(triplet); passed {
		return true
	}
	value, found := l.clients.Get(client)
	return found && (decode(value).count == allowed || enough > 0 && decode(value).count >= uint64(enough))
}

// since returns when a triplet was seen first, now where it never was.
func (l *Lists) since(triplet string, now time.Time) time.Time {
	if value, found := l.waiting.Get(triplet); found {
		return decode(value).at
	}
	return now
}

// pass notes that a triplet passed, and its client once an hour.
func (l *Lists) pass(triplet, client string, now time.Time, lifetime time.Duration) {
	l.passed.Update(triplet, func(old []byte) ([]byte, time.Time) {
		return mark{now, decode(old).count + 1}.encode(), now.Add(lifetime)
	})
	l.clients.Update(client, func(old []byte) ([]byte, time.Time) {
		m := decode(old)
		if old != nil && (m.count == allowed || now.Sub(m.at) < time.Hour) {
			return nil, time.Time{}
		}
		return mark{now, m.count + 1}.encode(), now.Add(lifetime)
	})
}

// State is what an entry says.
type State string

// The states.
const (
	Waiting State = "waiting" // seen, and put off
	Passed  State = "passed"  // came again
	Client  State = "client"  // a client that passed, for whatever sender and recipient
	Allowed State = "allowed" // a client that an operator let pass
)

// Entry is one thing that is known.
type Entry struct {
	State     State     `json:"state"`
	Client    string    `json:"client"` // a network, or the domain of a pool
	Sender    string    `json:"sender,omitempty"`
	Recipient string    `json:"recipient,omitempty"`
	At        time.Time `json:"at"`    // seen first, or passed last
	Count     uint64    `json:"count"` // passes; hours with one for a client
	Expires   time.Time `json:"expires"`
}

// Range calls each for the entries until it returns false: clients, who passed,
// who waits.
func (l *Lists) Range(each func(Entry) bool) {
	goOn := true
	walk := func(t *shared.Table, state State) {
		if !goOn {
			return
		}
		t.Range("", func(key string, value []byte, expires time.Time) bool {
			m := decode(value)
			e := Entry{State: state, At: m.at, Count: m.count, Expires: expires}
			e.Client, e.Sender, _ = strings.Cut(key, separator)
			e.Sender, e.Recipient, _ = strings.Cut(e.Sender, separator)
			switch {
			case state == Client && m.count == allowed:
				e.State, e.Count = Allowed, 0
			case state == Waiting:
				if _, passed := l.passed.Get(key); passed {
					return true
				}
			}
			goOn = each(e)
			return goOn
		})
	}
	walk(l.clients, Client)
	walk(l.passed, Passed)
	walk(l.waiting, Waiting)
}

// Delete forgets the entries that match, here and at the peers, and returns how
// many there were.
func (l *Lists) Delete(matches func(Entry) bool) int {
	var found []Entry
	l.Range(func(e Entry) bool {
		if matches(e) {
			found = append(found, e)
		}
		return true
	})
	for _, e := range found {
		if e.State == Client || e.State == Allowed {
			l.clients.Delete(e.Client)
			continue
		}
		key := e.Client + separator + e.Sender + separator + e.Recipient
		l.passed.Delete(key)
		l.waiting.Delete(key)
	}
	return len(found)
}

// Allow lets a client, as Config.ClientKey or a pool's domain names it, pass until the time given.
func (l *Lists) Allow(client string, until time.Time) {
	l.clients.Put(client, mark{time.Now(), allowed}.encode(), until)
}

// Failure tells why what is known would be forgotten by a restart, or nil.
func (l *Lists) Failure() error { return l.store.Failure() }

// Sizes are how many entries there are, deleted ones among them for a while.
type Sizes struct {
	Waiting, Passed, Clients int
	Evicted                  uint64
}

// Sizes returns how many entries there are.
func (l *Lists) Sizes() Sizes {
	w, p, c := l.waiting.Status(), l.passed.Status(), l.clients.Status()
	return Sizes{w.Entries, p.Entries, c.Entries, w.Evicted + p.Evicted + c.Evicted}
}
