package lockout

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/status"
	"github.com/postern-mail/postern/store"
)

// KeyOctets is the length of the key that passwords are hashed with.
const KeyOctets = 32

// Try is an attempt as far as it matters here.
type Try struct {
	Login    string // canonical
	Password string
	Remote   netip.Addr
}

// Version stands for an account's CredentialVersion.
type Version uint64

// VersionOf returns the Version of what a directory tells; 0 when it tells
// nothing.
func VersionOf(text string) Version {
	if text == "" {
		return 0
	}
	digest := sha256.Sum256([]byte(text))
	return Version(binary.BigEndian.Uint64(digest[:]) | 1)
}

// Failure is why an attempt failed, as far as it matters here.
type Failure int

// The failures. What nobody knows, in an outage, is none.
const (
	Wrong   Failure = iota // the password is wrong
	Unknown                // nobody has the login
	Refused                // the account is refused; the password may be right
)

// Memory remembers failures. Safe for concurrent use; one serves a process, and
// lives as long.
type Memory struct {
	macs  sync.Pool   // of hash.Hash, keyed
	store store.Store // nil: nothing is kept
	log   hclog.Logger
	tell  func(Notice)

	mu       sync.Mutex
	cfg      Config
	accounts *table // by login or name of an account
	unknown  *table // the same for those that nobody has
	pairs    *table // by login and narrow network
	networks *table // by narrow and by wide network
	wrong    *table // by login and password, sealed
	nobodys  *table // the same where nobody has the login, by narrow network
	sprayed  *table // by password, sealed
	familiar *table // by login and wide network
	underWay map[string]map[sealed]int
	counts   Counts
}

// Counts are how often something happened since the start.
type Counts struct {
	Repeated, HeldAccount, HeldPair, HeldNetwork, HeldSpraying uint64
	SprayingSource, SprayingPassword                           uint64
}

// Notice tells of something that somebody should know: that an account or a
// network has to wait from now on, or that spraying was found.
type Notice struct {
	What    string // "account", "network", "spraying source", "spraying password"
	Login   string // of the attempt it was found with
	Network netip.Prefix
	Until   time.Time
	Detail  string
}

// strangerWindow is how long it is believed without asking that nobody has a
// login: it may have been made a moment later.
const strangerWindow = time.Minute

// sealed stands for a login with a password, or for a password.
type sealed [16]byte

// New returns a Memory with nothing in it. key has KeyOctets octets. tell is
// called with each Notice, without locks held; it must not block. With a store
// the Memory is filled by Load and written by Run.
func New(cfg Config, key []byte, kv store.Store, tell func(Notice), log hclog.Logger) (*Memory, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	if len(key) != KeyOctets {
		return nil, fmt.Errorf("lockout: a key of %d octets, not %d", len(key), KeyOctets)
	}
	if tell == nil {
		tell = func(Notice) {}
	}
	key = slices.Clone(key)
	return &Memory{
		macs: sync.Pool{New: func() any { return hmac.New(sha256.New, key) }}, store: kv, log: log, tell: tell, cfg: cfg,
		accounts: newTable('a'), unknown: newTable('u'), pairs: newTable('p'), networks: newTable('n'),
		wrong: newTable('w'), nobodys: newTable(0), sprayed: newTable('s'), familiar: newTable('f'),
		underWay: map[string]map[sealed]int{},
	}, nil
}

// Configure puts other settings in force from now on.
func (m *Memory) Configure(cfg Config) error {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.cfg = cfg
	return nil
}

// Counts returns what happened so far.
func (m *Memory) Counts() Counts {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.counts
}

// seal hashes parts, which must not hold a NUL but for the last.
func (m *Memory) seal(parts ...string) (s sealed) {
	mac := m.macs.Get().(hash.Hash)
	defer m.macs.Put(mac)
	mac.Reset()
	for i, p := range parts {
		if i > 0 {
			mac.Write([]byte{0})
		}
		mac.Write([]byte(p))
	}
	var sum [sha256.Size]byte
	copy(s[:], mac.Sum(sum[:0]))
	return s
}

// credentials is the key of a login's wrong password: the login's hash comes
// first, so that they can be found by login.
func (m *Memory) credentials(t Try) string {
	name, both := m.seal("login", t.Login), m.seal("credentials", t.Login, t.Password)
	return string(name[:8]) + string(both[:])
}

func (m *Memory) account(login string) uint64 {
	s := m.seal("login", login)
	return binary.BigEndian.Uint64(s[:])
}

func (m *Memory) password(t Try) string {
	s := m.seal("password", t.Password)
	return string(s[:])
}

// strangerKey is the key of credentials that nobody had: some verifiers know
// their people from some networks only, so it holds for one.
func strangerKey(credentials string, remote netip.Addr) string {
	return credentials + narrow(remote).String()
}

func pairKey(login string, remote netip.Addr) string {
	return login + "\x00" + narrow(remote).String()
}

func familiarKey(login string, remote netip.Addr) string {
	return login + "\x00" + wide(remote).String()
}

// Repeated reports whether the password was wrong for the login before and
// need not be asked about again, unless the account's password is of another
// version by now than asOf.
func (m *Memory) Repeated(t Try, now time.Time) (asOf Version, repeated bool) {
	key := m.credentials(t)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.nobodys.expire(strangerWindow, now.UnixMilli())
	r := m.wrong.get(key)
	if r == nil {
		r = m.nobodys.get(strangerKey(key, t.Remote))
	}
	if r == nil || now.UnixMilli() >= r.until {
		return 0, false
	}
	m.counts.Repeated++
	return r.version, true
}

// Admit says whether an attempt may be asked about; if not, the error is
// AuthTooMany: a password that is not tried may be right. After nil, done must
// be called when the attempt has ended and was learned from.
func (m *Memory) Admit(t Try, now time.Time) (done func(), err error) {
	at := now.UnixMilli()
	password := m.password(t)
	m.mu.Lock()
	defer m.mu.Unlock()
	if r := m.pairs.get(pairKey(t.Login, t.Remote)); r != nil && at < r.until {
		m.counts.HeldPair++
		return nil, held("this login from this address", r.until)
	}
	if !m.isFamiliarLocked(t.Login, t.Remote, at) {
		if err := m.admitStrangerLocked(t, password, at); err != nil {
			return nil, err
		}
	}
	return m.reserveLocked(t.Login, t, at)
}

func (m *Memory) admitStrangerLocked(t Try, password string, at int64) error {
	if !m.cfg.allowed(t.Remote) {
		for _, p := range []netip.Prefix{narrow(t.Remote), wide(t.Remote)} {
			if r := m.networks.get(p.String()); r != nil && at < r.until {
				m.counts.HeldNetwork++
				return held("network "+p.String(), r.until)
			}
		}
	}
	if r := m.sprayed.get(password); r != nil && r.sprayed && at < r.until {
		m.counts.HeldSpraying++
		return held("a password that is tried on many accounts", r.until)
	}
	return nil
}

func held(what string, until int64) error {
	return status.New(status.AuthTooMany, fmt.Errorf("too many wrong passwords: %s has to wait until %s", what, time.UnixMilli(until).UTC().Format(time.RFC3339)))
}

// Reserve takes a place among the wrong passwords that the account called name
// may have upstream. All names of an account share them, as they share one
// lockout in the directory. Otherwise as Admit.
func (m *Memory) Reserve(name string, t Try, now time.Time) (done func(), err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.reserveLocked(name, t, now.UnixMilli())
}

// reserveLocked counts what is under way as wrong until it is known, so that
// asking many times at once does not get past the bound. Equal passwords share
// a place, however many clients come with them.
func (m *Memory) reserveLocked(name string, t Try, at int64) (done func(), err error) {
	credentials := m.seal("credentials", name, t.Password)
	places := m.underWay[name]
	taken := len(places)
	if places[credentials] > 0 {
		taken--
	}
	if err := m.mayAskLocked(name, m.isFamiliarLocked(name, t.Remote, at), taken, at); err != nil {
		m.counts.HeldAccount++
		return nil, err
	}
	if places == nil {
		places = map[sealed]int{}
		m.underWay[name] = places
	}
	places[credentials]++
	return func() { m.release(name, credentials) }, nil
}

var errUnderWay = status.New(status.AuthTooMany, errors.New("too many attempts at once for this login"))

// mayAskLocked holds an account against its bounds while taken other attempts
// are under way.
func (m *Memory) mayAskLocked(name string, familiar bool, taken int, at int64) error {
	r := m.ofAccount(name)
	if r == nil {
		r = &record{}
	}
	if !familiar && at < r.until {
		return held("this login", r.until)
	}
	if free := m.cfg.AccountFailures; !familiar && free >= 0 && taken > 0 && r.count+uint64(taken) >= uint64(free) {
		return errUnderWay
	}
	limit := m.cfg.upstream(familiar)
	window := m.cfg.DirectoryWindow.Milliseconds()
	recent := 0
	for _, t := range r.times {
		if t > at-window {
			recent++
		}
	}
	if limit == 0 || recent+taken < limit {
		return nil
	}
	if recent < limit {
		return errUnderWay
	}
	return held("this login", r.times[len(r.times)-limit]+window)
}

// ofAccount returns the record of a login, known or not.
func (m *Memory) ofAccount(name string) *record {
	if r := m.accounts.get(name); r != nil {
		return r
	}
	return m.unknown.get(name)
}

func (m *Memory) release(name string, credentials sealed) {
	m.mu.Lock()
	defer m.mu.Unlock()
	places := m.underWay[name]
	if places[credentials]--; places[credentials] == 0 {
		delete(places, credentials)
	}
	if len(places) == 0 {
		delete(m.underWay, name)
	}
}

func (m *Memory) isFamiliarLocked(login string, remote netip.Addr, at int64) bool {
	r := m.familiar.get(familiarKey(login, remote))
	return r != nil && at-r.last < m.cfg.FamiliarFor.Milliseconds()
}

// Check is Admit for a login that was proven, or is to be, by something else
// than a password that goes upstream: it takes no place.
func (m *Memory) Check(login string, remote netip.Addr, now time.Time) error {
	at := now.UnixMilli()
	t := Try{Login: login, Remote: remote}
	m.mu.Lock()
	defer m.mu.Unlock()
	if r := m.pairs.get(pairKey(login, remote)); r != nil && at < r.until {
		m.counts.HeldPair++
		return held("this login from this address", r.until)
	}
	familiar := m.isFamiliarLocked(login, remote, at)
	if familiar {
		return nil
	}
	if err := m.admitStrangerLocked(t, "", at); err != nil {
		return err
	}
	if r := m.ofAccount(login); r != nil && at < r.until {
		m.counts.HeldAccount++
		return held("this login", r.until)
	}
	return nil
}
