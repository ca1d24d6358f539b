package lockout

import (
	"errors"
	"net/netip"
	"time"
)

// Config of a Memory. Zero values mean the defaults named here; where it says
// so, a negative value switches the guard off.
type Config struct {
	// DirectoryThreshold is after how many wrong passwords the directory locks
	// an account by itself. Strangers get two fewer upstream in
	// DirectoryWindow, people from familiar networks one fewer, and always at
	// least one. Default 5; negative: it never locks.
	DirectoryThreshold int
	// DirectoryWindow is how long the directory counts a wrong password;
	// default 30 min.
	DirectoryWindow time.Duration
	// AccountFailures, PairFailures, NetworkFailures and WideFailures are how
	// many wrong passwords are free: of strangers for one account, for one
	// account from one address, from one address (an IPv4 address or an IPv6
	// /64), and from the network around it (/24, /56). Each further one doubles
	// the wait. Defaults 10, 3, 20 and 200; negative: no waiting because of it.
	AccountFailures, PairFailures, NetworkFailures, WideFailures int
	// Delay is the first wait and MaxDelay the longest; defaults 1 s, 15 min.
	Delay, MaxDelay time.Duration
	// Decay is how long it takes until half of the failures are forgiven;
	// default 15 min.
	Decay time.Duration
	// WrongFor is how long a wrong password is remembered; default 12 h,
	// negative remembers none.
	WrongFor time.Duration
	// RetryWrong is after how long a remembered password is asked about again
	// where the directory does not tell when passwords change; each time it
	// was wrong again doubles it. Default 15 min.
	RetryWrong time.Duration
	// SprayAccounts is on how many accounts one password, or from one address,
	// may fail in SprayWindow before that is spraying. Defaults 10 and 1 h;
	// negative: nothing is.
	SprayAccounts int
	SprayWindow   time.Duration
	// FamiliarFor is how long after a login its network is familiar to the
	// account; default 30 days.
	FamiliarFor time.Duration
	// AllowNetworks are never held off as networks: programs there, such as a
	// web mailer, log in for everybody.
	AllowNetworks []netip.Prefix
	// Entries bounds each table; default 65536.
	Entries int
}

func (cfg Config) withDefaults() (Config, error) {
	setDefault(&cfg.DirectoryThreshold, 5)
	setDefault(&cfg.DirectoryWindow, 30*time.Minute)
	setDefault(&cfg.AccountFailures, 10)
	setDefault(&cfg.PairFailures, 3)
	setDefault(&cfg.NetworkFailures, 20)
	setDefault(&cfg.WideFailures, 200)
	setDefault(&cfg.Delay, time.Second)
	setDefault(&cfg.MaxDelay, 15*time.Minute)
	setDefault(&cfg.Decay, 15*time.Minute)
	setDefault(&cfg.WrongFor, 12*time.Hour)
	setDefault(&cfg.RetryWrong, 15*time.Minute)
	setDefault(&cfg.SprayAccounts, 10)
	setDefault(&cfg.SprayWindow, time.Hour)
	setDefault(&cfg.FamiliarFor, 30*24*time.Hour)
	setDefault(&cfg.Entries, 1<<16)
	if cfg.Entries < 0 || cfg.Delay < 0 || cfg.MaxDelay < cfg.Delay || min(cfg.Decay, cfg.DirectoryWindow, cfg.RetryWrong, cfg.SprayWindow, cfg.FamiliarFor) <= 0 {
		return cfg, errors.New("lockout: times and bounds must be positive, and the longest wait at least the first")
	}
	if cfg.SprayAccounts > maxSet {
		return cfg, errors.New("lockout: spraying is told from at most 64 accounts")
	}
	return cfg, nil
}

func setDefault[T time.Duration | int](field *T, value T) {
	if *field == 0 {
		*field = value
	}
}

// upstream is how many wrong passwords of one account may be with the
// directory in a window; 0 for any number.
func (cfg Config) upstream(familiar bool) int {
	switch {
	case cfg.DirectoryThreshold < 0:
		return 0
	case familiar:
		return max(1, cfg.DirectoryThreshold-1)
	}
	return max(1, cfg.DirectoryThreshold-2)
}

// wait is how long one has to wait after count failures, of which some are
// free; 0 for not at all.
func (cfg Config) wait(count uint64, free int) time.Duration {
	if free < 0 || count <= uint64(free) {
		return 0
	}
	doublings := count - uint64(free) - 1
	if doublings >= 40 {
		return cfg.MaxDelay
	}
	return min(cfg.MaxDelay, max(cfg.Delay, cfg.Delay<<doublings))
}

// longest is how long records of failures can still matter.
func (cfg Config) longest() time.Duration {
	return max(2*cfg.MaxDelay, cfg.DirectoryWindow, 8*cfg.Decay)
}
