package authn

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"net/netip"
	"time"

	"github.com/postern-mail/postern/status"
)

// refusals remembers what was refused: credentials, so that a wrong password
// repeated by a machine goes upstream once in a window, and how often a login
// and a client network failed with new ones.
type refusals struct {
	cfg         Config
	key         [32]byte
	credentials *tally[sealed]
	logins      *tally[string]
	networks    *tally[netip.Prefix]
}

// sealed stands for a login with a password. It is keyed by a secret of this
// process: memory read by an attacker gives no passwords to try.
type sealed [sha256.Size]byte

func newRefusals(cfg Config) *refusals {
	r := &refusals{
		cfg:         cfg,
		credentials: newTally[sealed](cfg.RefusalWindow, cfg.Remembered),
		logins:      newTally[string](cfg.RefusalWindow, cfg.Remembered),
		networks:    newTally[netip.Prefix](cfg.RefusalWindow, cfg.Remembered),
	}
	rand.Read(r.key[:])
	return r
}

// seal needs the canonical login, which holds no NUL.
func (r *refusals) seal(a Attempt) (s sealed) {
	mac := hmac.New(sha256.New, r.key[:])
	mac.Write([]byte(a.Login))
	mac.Write([]byte{0})
	mac.Write([]byte(a.Password))
	mac.Sum(s[:0])
	return s
}

// check refuses credentials known to be wrong, and puts off logins and
// networks that used up their budget: a password not tried upstream may be
// right, so that is never AuthFailed.
func (r *refusals) check(a Attempt, credentials sealed, now time.Time) error {
	if r.cfg.RefusalWindow < 0 {
		return nil
	}
	if r.credentials.count(credentials, now) > 0 {
		return status.New(status.AuthFailed, errors.New("the same wrong password again"))
	}
	if r.cfg.LoginFailures > 0 && r.logins.count(a.Login, now) >= r.cfg.LoginFailures {
		return status.New(status.AuthTooMany, errors.New("too many wrong passwords for this login"))
	}
	if from := network(a.Remote); from.IsValid() && r.cfg.NetworkFailures > 0 && r.networks.count(from, now) >= r.cfg.NetworkFailures {
		return status.New(status.AuthTooMany, errors.New("too many wrong passwords from this network"))
	}
	return nil
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
	if !errors.Is(err, ErrRefused) {
		r.credentials.add(credentials, now)
	}
	r.logins.add(a.Login, now)
	if from := network(a.Remote); from.IsValid() {
		r.networks.add(from, now)
	}
}

// network is the unit in which one party holds addresses; the zero Prefix when
// the client has none.
func network(remote netip.AddrPort) netip.Prefix {
	addr := remote.Addr().Unmap()
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
