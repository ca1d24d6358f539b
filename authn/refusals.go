package authn

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"net/netip"
	"sync"
	"time"

	"github.com/postern-mail/postern/status"
)

// refusals remembers what was refused: credentials, so that a wrong password
// repeated by a machine goes upstream once in a window, and how often a login
// and a client network failed with new ones. Safe for concurrent use.
type refusals struct {
	cfg         Config
	key         [32]byte
	credentials *tally[sealed]
	strangers   *tally[sealed] // of logins that no verifier knew
	logins      *tally[string]
	networks    *tally[netip.Prefix]

	mu       sync.Mutex
	underWay map[string]map[sealed]int // by login, those being verified now
}

// strangerWindow is how long it is believed without asking that nobody knows a
// login: it may have been made a moment later.
const strangerWindow = time.Minute

// sealed stands for a login with a password. It is keyed by a secret of this
// process: memory read by an attacker gives no passwords to try.
type sealed [sha256.Size]byte

func newRefusals(cfg Config) *refusals {
	r := &refusals{
		cfg:         cfg,
		credentials: newTally[sealed](cfg.RefusalWindow, cfg.Remembered),
		logins:      newTally[string](cfg.RefusalWindow, cfg.Remembered),
		networks:    newTally[netip.Prefix](cfg.RefusalWindow, cfg.Remembered),
		strangers:   newTally[sealed](min(cfg.RefusalWindow, strangerWindow), cfg.Remembered),
		underWay:    map[string]map[sealed]int{},
	}
	rand.Read(r.key[:])
	return r
}

// seal needs a canonical login or the name of an account, which hold no NUL.
func (r *refusals) seal(login, password string) (s sealed) {
	mac := hmac.New(sha256.New, r.key[:])
	mac.Write([]byte(login))
	mac.Write([]byte{0})
	mac.Write([]byte(password))
	mac.Sum(s[:0])
	return s
}

// admit refuses credentials known to be wrong, and puts off logins and
// networks that used up their budget: a password not tried upstream may be
// right, so that is never AuthFailed. After nil, done must be called when the
// attempt has ended and was learned from.
func (r *refusals) admit(a Attempt, credentials sealed, now time.Time) (done func(), err error) {
	if r.cfg.RefusalWindow < 0 {
		return func() {}, nil
	}
	if r.credentials.count(credentials, now) > 0 || r.strangers.count(credentials, now) > 0 {
		return nil, status.New(status.AuthFailed, errors.New("the same wrong password again"))
	}
	if from := r.network(a.Remote); from.IsValid() && r.cfg.NetworkFailures > 0 && r.networks.count(from, now) >= r.cfg.NetworkFailures {
		return nil, status.New(status.AuthTooMany, errors.New("too many wrong passwords from this network"))
	}
	return r.reserve(a.Login, credentials, now)
}

// reserve takes a place in the budget of a login for an attempt that is about
// to go upstream: what is under way counts as wrong until it is known, so that
// asking many times at once does not get past the budget. Equal credentials
// share a place, however many clients come with them.
func (r *refusals) reserve(login string, credentials sealed, now time.Time) (done func(), err error) {
	if r.cfg.RefusalWindow < 0 || r.cfg.LoginFailures < 0 {
		return func() {}, nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	places := r.underWay[login]
	taken := len(places)
	if places[credentials] > 0 {
		taken--
	}
	if r.logins.count(login, now)+taken >= r.cfg.LoginFailures {
		return nil, status.New(status.AuthTooMany, errors.New("too many wrong passwords for this login"))
	}
	if places == nil {
		places = map[sealed]int{}
		r.underWay[login] = places
	}
	places[credentials]++
	return func() { r.release(login, credentials) }, nil
}

func (r *refusals) release(login string, credentials sealed) {
	r.mu.Lock()
	defer r.mu.Unlock()
	places := r.underWay[login]
	if places[credentials]--; places[credentials] == 0 {
		delete(places, credentials)
	}
	if len(places) == 0 {
		delete(r.underWay, login)
	}
}

// learn takes in what the verifiers said. An outage teaches nothing, and
// neither does a refusal of the account: its password may be right.
func (r *refusals) learn(a Attempt, credentials sealed, err error, now time.Time) {
	if err == nil {
		r.logins.forget(a.Login)
		return
	}
	if r.cfg.RefusalWindow < 0 || status.Of(err) != status.AuthFailed {
		return
	}
	switch {
	case errors.Is(err, ErrRefused):
	case errors.Is(err, ErrUnknownLogin):
		r.strangers.add(credentials, now)
	default:
		r.credentials.add(credentials, now)
	}
	r.logins.add(a.Login, now)
	if from := r.network(a.Remote); from.IsValid() {
		r.networks.add(from, now)
	}
}

// learnAccount counts for an account what one verifier said of an attempt that
// came under another of the account's names: all names share one budget, as
// they share one lockout in the directory.
func (r *refusals) learnAccount(name string, err error, now time.Time) {
	switch {
	case err == nil:
		r.logins.forget(name)
	case r.cfg.RefusalWindow >= 0 && isNo(err):
		r.logins.add(name, now)
	}
}

// network is the unit in which one party holds addresses; the zero Prefix when
// the client has none or its network is exempt.
func (r *refusals) network(remote netip.AddrPort) netip.Prefix {
	addr := remote.Addr().Unmap().WithZone("")
	for _, exempt := range r.cfg.ExemptNetworks {
		if exempt.Contains(addr) {
			return netip.Prefix{}
		}
	}
	bits := addr.BitLen()
	if addr.Is6() {
		bits = 64
	}
	prefix, err := addr.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return prefix
}
