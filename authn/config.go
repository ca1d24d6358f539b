package authn

import (
	"errors"
	"time"

	"github.com/postern-mail/postern/authn/lockout"
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
	// Memory of failed logins, which outlives chains; nil for one of the chain
	// alone, with the defaults of lockout.Config.
	Memory *lockout.Memory
	// MasterSeparator stands between the login of an account and that of a
	// master in what a client types; "" when there are no masters. Failures
	// count for the master, whatever the account.
	MasterSeparator string
}

var errNoVerifiers = errors.New("authn: chain without verifiers")

func (cfg Config) withDefaults() Config {
	setDefault(&cfg.Timeout, 30*time.Second)
	setDefault(&cfg.Concurrency, 128)
	setDefault(&cfg.FailureBeat, 500*time.Millisecond)
	return cfg
}

func setDefault[T time.Duration | int](field *T, value T) {
	if *field == 0 {
		*field = value
	}
}
