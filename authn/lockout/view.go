package lockout

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Row is what is remembered of one login, one network, or a login from a
// network.
type Row struct {
	Login    string       `json:"login,omitempty"`
	Network  netip.Prefix `json:"network,omitzero"`
	Unknown  bool         `json:"unknown,omitempty"` // nobody has the login
	Failures uint64       `json:"failures"`          // those forgiven taken off
	Upstream int          `json:"upstream,omitempty"`
	Last     time.Time    `json:"last"`
	// Until is when the next attempt of a stranger may be asked about; zero
	// when now.
	Until    time.Time `json:"until,omitzero"`
	Spraying bool      `json:"spraying,omitempty"`
}

// Filter chooses rows: of a login, of networks that overlap one, or those that
// have to wait now.
type Filter struct {
	Login   string
	Network netip.Prefix
	Waiting bool
}

// Rows returns what is remembered, those who wait longest first; at most limit,
// and how many there are in all.
func (m *Memory) Rows(f Filter, limit int, now time.Time) (rows []Row, total int) {
	m.mu.Lock()
	at := now.UnixMilli()
	m.expireLocked(at)
	for _, t := range []*table{m.accounts, m.unknown, m.pairs, m.networks} {
		for e := t.order.Front(); e != nil; e = e.Next() {
			row := m.rowLocked(t, e.Value.(*entry), at)
			if f.fits(row) {
				rows = append(rows, row)
			}
		}
	}
	m.mu.Unlock()
	slices.SortStableFunc(rows, func(a, b Row) int {
		return cmp.Or(b.Until.Compare(a.Until), b.Last.Compare(a.Last), cmp.Compare(a.Login, b.Login))
	})
	return rows[:min(limit, len(rows))], len(rows)
}

func (m *Memory) rowLocked(t *table, e *entry, at int64) Row {
	r := *e.record
	r.forgive(m.cfg.Decay, at)
	row := Row{Unknown: t == m.unknown, Failures: r.count, Last: time.UnixMilli(r.last)}
	if t == m.networks {
		row.Spraying = r.sprayed
	} else {
		r.dropBefore(at - m.cfg.DirectoryWindow.Milliseconds())
		row.Upstream = len(r.times)
		if limit := m.cfg.upstream(false); limit > 0 && len(r.times) >= limit {
			r.until = max(r.until, r.times[len(r.times)-limit]+m.cfg.DirectoryWindow.Milliseconds())
		}
	}
	if r.until > at {
		row.Until = time.UnixMilli(r.until)
	}
	row.Login, row.Network = namesOf(t == m.networks, e.key)
	return row
}

// namesOf reads a key of a table of logins, pairs or networks.
func namesOf(isNetwork bool, key string) (login string, network netip.Prefix) {
	login, text, _ := strings.Cut(key, "\x00")
	if isNetwork {
		login, text = "", key
	}
	network, err := netip.ParsePrefix(text)
	if err != nil {
		network = netip.Prefix{}
	}
	return login, network
}

func (f Filter) fits(row Row) bool {
	switch {
	case f.Login != "" && row.Login != f.Login:
		return false
	case f.Network.IsValid() && !(row.Network.IsValid() && row.Network.Overlaps(f.Network)):
		return false
	}
	return !f.Waiting || !row.Until.IsZero()
}

// Sizes returns how many entries each table has.
func (m *Memory) Sizes() map[string]int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return map[string]int{
		"accounts": m.accounts.order.Len(), "unknown": m.unknown.order.Len(), "pairs": m.pairs.order.Len(), "networks": m.networks.order.Len(),
		"wrong": m.wrong.order.Len(), "passwords": m.sprayed.order.Len(), "familiar": m.familiar.order.Len(),
	}
}

// Unlock forgets what is remembered against a login, whose wrong passwords are
// asked about again, or against networks that overlap one; against everybody
// with the zero Filter. It returns how many entries that were. What is familiar
// stays.
func (m *Memory) Unlock(f Filter) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := 0
	forget := func(t *table, fits func(key string) bool) {
		for key := range t.entries {
			if fits(key) {
				t.forget(key)
				n++
			}
		}
	}
	fits := func(isNetwork bool) func(string) bool {
		return func(key string) bool {
			login, network := namesOf(isNetwork, key)
			return f.fits(Row{Login: login, Network: network})
		}
	}
	for _, t := range []*table{m.accounts, m.unknown, m.pairs} {
		forget(t, fits(false))
	}
	forget(m.networks, fits(true))
	if f.Network.IsValid() {
		return n
	}
	s := m.seal("login", f.Login)
	ofLogin := func(key string) bool { return f.Login == "" || strings.HasPrefix(key, string(s[:8])) }
	forget(m.wrong, ofLogin)
	forget(m.nobodys, ofLogin)
	if f.Login == "" {
		forget(m.sprayed, func(string) bool { return true })
	}
	return n
}
