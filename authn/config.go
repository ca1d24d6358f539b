package authn

import (
	"errors"
	"net/netip"
	"time"
)

// Config of a Chain. Zero values mean the defaults named here; where it says
// so, a negative value switches the guard off.
type Config struct {
	// Timeout bounds one attempt over all verifiers; default 30 s. An attempt
	// that runs into it is not known, never refused.
	Timeout time.Duration
	// Concurrency bounds attempts at verifiers at one time; default 128. More
	// wait for their turn until Timeout.
	Concurrency int
	// FailureBeat is the beat on which refusals are answered: each waits for
	// the next multiple of it since the attempt began, so that time does not
	// tell an unknown login from a wrong password. Default 500 ms; negative
	// answers at once.
	FailureBeat time.Duration
	// RefusalWindow is how long a wrong password is remembered and refused
	// without asking again, and how long failures count against the budgets
	// below; default 15 min, negative remembers nothing.
	RefusalWindow time.Duration
	// LoginFailures is how many different wrong passwords go upstream for one
	// login in a window before it must wait; keep it below the directory's
	// own lockout. Default 10, negative for no budget.
	LoginFailures int
	// NetworkFailures is the same for one client network (an IPv4 address or
	// an IPv6 /64) over all logins. Default 100, negative for no budget.
	NetworkFailures int
	// ExemptNetworks have no budget of their own: programs there, such as a web
	// mailer, log in for everybody. Default: none.
	ExemptNetworks []netip.Prefix
	// Remembered bounds each of the memories above, in entries; default 65536.
	Remembered int
}

var errNoVerifiers = errors.New("authn: chain without verifiers")

func (cfg Config) withDefaults() Config {
	setDefault(&cfg.Timeout, 30*time.Second)
	setDefault(&cfg.Concurrency, 128)
	setDefault(&cfg.FailureBeat, 500*time.Millisecond)
	setDefault(&cfg.RefusalWindow, 15*time.Minute)
	setDefault(&cfg.LoginFailures, 10)
	setDefault(&cfg.NetworkFailures, 100)
	setDefault(&cfg.Remembered, 1<<16)
	return cfg
}

func setDefault[T time.Duration | int](field *T, value T) {
	if *field == 0 {
		*field = value
	}
}
