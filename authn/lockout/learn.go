package lockout

import (
	"fmt"
	"net/netip"
	"time"
)

// Failed learns that an attempt failed after it was asked about. version is
// that of the account's password where it is known.
func (m *Memory) Failed(t Try, why Failure, version Version, now time.Time) {
	at := now.UnixMilli()
	credentials, password, account := m.credentials(t), m.password(t), m.account(t.Login)
	m.mu.Lock()
	m.expireLocked(at)
	familiar := m.isFamiliarLocked(t.Login, t.Remote, at)
	m.rememberLocked(credentials, t.Remote, why, version, at)
	notices := m.countAccountLocked(t.Login, why, familiar, true, t, at)
	m.countLocked(m.pairs, pairKey(t.Login, t.Remote), m.cfg.PairFailures, at)
	if !familiar {
		if !m.cfg.allowed(t.Remote) {
			notices = append(notices, m.countNetworksLocked(t, account, at)...)
		}
		if why != Refused {
			notices = append(notices, m.countPasswordLocked(t, password, account, at)...)
		}
	}
	m.mu.Unlock()
	for _, n := range notices {
		m.tell(n)
	}
}

// rememberLocked keeps a password that was refused. One that may be right is
// not kept, and one that nobody has only for a moment.
func (m *Memory) rememberLocked(credentials string, remote netip.Addr, why Failure, version Version, at int64) {
	switch {
	case why == Refused || m.cfg.WrongFor < 0:
	case why == Unknown:
		r := m.nobodys.touch(strangerKey(credentials, remote), m.cfg.Entries)
		r.last, r.until = at, at+min(strangerWindow, m.cfg.WrongFor).Milliseconds()
	default:
		r := m.wrong.touch(credentials, m.cfg.Entries)
		if r.version != version {
			r.count = 0
		}
		until := m.cfg.WrongFor
		if version == 0 { // nobody will tell when it becomes right
			until = min(until, m.cfg.RetryWrong<<min(r.count, 20))
		}
		r.count++
		r.version, r.last, r.until = version, at, at+until.Milliseconds()
	}
}

// countLocked counts one more failure of key.
func (m *Memory) countLocked(t *table, key string, free int, at int64) *record {
	r := t.touch(key, m.cfg.Entries)
	r.forgive(m.cfg.Decay, at)
	r.count++
	r.last = at
	r.until = max(r.until, at+m.cfg.wait(r.count, free).Milliseconds())
	return r
}

// countAccountLocked counts a failure of an account. Those of familiar
// networks are no reason for others to wait, but count upstream. A login that
// nobody has is counted alike, so that counting does not tell it.
func (m *Memory) countAccountLocked(name string, why Failure, familiar, upstream bool, t Try, at int64) []Notice {
	table := m.accounts
	if why == Unknown && m.accounts.get(name) == nil {
		table = m.unknown
	}
	r := table.touch(name, m.cfg.Entries)
	r.forgive(m.cfg.Decay, at)
	r.last = at
	waited := at < r.until
	if !familiar {
		r.count++
		r.until = max(r.until, at+m.cfg.wait(r.count, m.cfg.AccountFailures).Milliseconds())
	}
	full := false
	if upstream {
		r.dropBefore(at - m.cfg.DirectoryWindow.Milliseconds())
		r.addTime(at)
		full = len(r.times) == m.cfg.upstream(false)
	}
	if table == m.unknown || !full && (waited || at >= r.until) {
		return nil
	}
	until := r.until
	if full {
		until = max(until, r.times[0]+m.cfg.DirectoryWindow.Milliseconds())
	}
	return []Notice{{What: "account", Login: name, Network: narrow(t.Remote), Until: time.UnixMilli(until), Detail: "strangers have to wait"}}
}

// countNetworksLocked counts a failure for the networks around its source, and
// notices one address that fails on many accounts.
func (m *Memory) countNetworksLocked(t Try, account uint64, at int64) (notices []Notice) {
	for i, p := range []netip.Prefix{narrow(t.Remote), wide(t.Remote)} {
		if !p.IsValid() {
			return notices
		}
		free := m.cfg.NetworkFailures
		if i == 1 {
			free = m.cfg.WideFailures
		}
		before := m.networks.get(p.String())
		waited := before != nil && at < before.until
		first := before == nil || before.until == 0
		r := m.countLocked(m.networks, p.String(), free, at)
		if i == 0 && m.sprayingLocked(r, account, at) {
			m.counts.SprayingSource++
			r.until = at + m.cfg.MaxDelay.Milliseconds()
			notices = append(notices, Notice{What: "spraying source", Login: t.Login, Network: p, Until: time.UnixMilli(r.until),
				Detail: fmt.Sprintf("wrong passwords for %d accounts", len(r.set))})
			continue
		}
		if first && !waited && at < r.until {
			notices = append(notices, Notice{What: "network", Login: t.Login, Network: p, Until: time.UnixMilli(r.until), Detail: fmt.Sprintf("%d wrong passwords", r.count)})
		}
	}
	return notices
}

// sprayingLocked notes an account on a record, and reports whether there are
// too many now for the first time. Accounts of an earlier window do not count.
func (m *Memory) sprayingLocked(r *record, account uint64, at int64) bool {
	if m.cfg.SprayAccounts < 0 {
		return false
	}
	if len(r.times) == 0 || at-r.times[0] >= m.cfg.SprayWindow.Milliseconds() {
		r.times, r.set, r.sprayed = []int64{at}, nil, false
	}
	if !r.addToSet(account) || len(r.set) < m.cfg.SprayAccounts || r.sprayed {
		return false
	}
	r.sprayed = true
	return true
}

// countPasswordLocked notices one password that fails on many accounts,
// wherever it comes from.
func (m *Memory) countPasswordLocked(t Try, password string, account uint64, at int64) []Notice {
	if m.cfg.SprayAccounts < 0 {
		return nil
	}
	r := m.sprayed.touch(password, m.cfg.Entries)
	r.last = at
	found := m.sprayingLocked(r, account, at)
	if r.sprayed {
		r.until = at + m.cfg.SprayWindow.Milliseconds()
	}
	if !found {
		return nil
	}
	m.counts.SprayingPassword++
	return []Notice{{What: "spraying password", Login: t.Login, Network: narrow(t.Remote), Until: time.UnixMilli(r.until),
		Detail: fmt.Sprintf("one password was wrong for %d accounts", len(r.set))}}
}

// FailedAccount learns that an attempt failed for the account called name,
// which the client calls otherwise.
func (m *Memory) FailedAccount(name string, t Try, now time.Time) {
	at := now.UnixMilli()
	m.mu.Lock()
	notices := m.countAccountLocked(name, Wrong, m.isFamiliarLocked(name, t.Remote, at), true, t, at)
	m.mu.Unlock()
	for _, n := range notices {
		m.tell(n)
	}
}

// Succeeded learns that a login was right, under each of the names that the
// client and the directory call it. upstream tells that the directory itself
// said so, which then forgets what it counted.
func (m *Memory) Succeeded(t Try, upstream bool, now time.Time, names ...string) {
	at := now.UnixMilli()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.expireLocked(at)
	for _, name := range append(names, t.Login) {
		m.knowLocked(name, t.Remote, at)
		m.pairs.forget(pairKey(name, t.Remote))
		if r := m.accounts.get(name); upstream && r != nil && len(r.times) > 0 {
			m.accounts.touch(name, m.cfg.Entries).times = nil
		}
		m.unknown.forget(name)
	}
	if m.wrong.order.Len()+m.nobodys.order.Len() > 0 {
		credentials := m.credentials(t)
		m.wrong.forget(credentials)
		m.nobodys.forget(strangerKey(credentials, t.Remote))
	}
}

// writtenAnew is how old the time of a familiar network may be in the store:
// people log in all day.
const writtenAnew = 6 * time.Hour

func (m *Memory) knowLocked(login string, remote netip.Addr, at int64) {
	key := familiarKey(login, remote)
	if r := m.familiar.get(key); r == nil || at-r.last >= writtenAnew.Milliseconds() {
		m.familiar.touch(key, m.cfg.Entries).last = at
	}
}

func (m *Memory) expireLocked(at int64) {
	for _, t := range []*table{m.accounts, m.unknown, m.pairs, m.networks} {
		t.expire(m.cfg.longest(), at)
	}
	m.wrong.expire(max(0, m.cfg.WrongFor), at)
	m.nobodys.expire(strangerWindow, at)
	m.sprayed.expire(m.cfg.SprayWindow, at)
	m.familiar.expire(m.cfg.FamiliarFor, at)
}

// Strike learns that a proof other than a password that goes upstream failed.
// guessable tells that it stands for a password, so that the account counts it
// too; what cannot be guessed counts for the network alone.
func (m *Memory) Strike(t Try, guessable bool, now time.Time) {
	at := now.UnixMilli()
	account := m.account(t.Login)
	m.mu.Lock()
	m.expireLocked(at)
	var notices []Notice
	familiar := m.isFamiliarLocked(t.Login, t.Remote, at)
	if guessable {
		notices = m.countAccountLocked(t.Login, Wrong, familiar, false, t, at)
		m.countLocked(m.pairs, pairKey(t.Login, t.Remote), m.cfg.PairFailures, at)
	}
	if !familiar && !m.cfg.allowed(t.Remote) {
		notices = append(notices, m.countNetworksLocked(t, account, at)...)
	}
	m.mu.Unlock()
	for _, n := range notices {
		m.tell(n)
	}
}
