package imapd

import (
	"cmp"
	"errors"
	"fmt"
	"time"

	"github.com/postern-mail/postern/backend/mailstore"
	"github.com/postern-mail/postern/backend/sessions"
)

// Config is what a server is told. The zero value of every field but Hostname
// means its default.
type Config struct {
	// Terms are those of every protocol. IdleTimeout includes IDLE; RFC 3501
	// section 5.4 asks for 30 minutes at least, the default.
	sessions.Terms

	// Separator stands between the levels of mailbox names, "/" or ".". Empty:
	// "/". A "/" in a level is shown as "." then, and the other way round.
	Separator string
	// Sharing says where mailboxes of others lie. The zero value has none.
	Sharing Sharing
	// Virtual are the virtual mailboxes of every account. They are made by Match
	// of VirtualProgram, and not to be changed.
	Virtual []*mailstore.VirtualMailbox

	// AppendLimitOctets is the largest message APPEND takes. Default 64 MiB.
	AppendLimitOctets int64
	// Clients are rules for mail programs that trip over something.
	Clients []ClientRule
	// Messages bounds how many messages one command works on.
	Messages MessageLimits

	// aliveEvery is how often a client with the workaround idle_alive hears
	// something in IDLE: NAT gateways forget connections that are silent for
	// some minutes. Always 2 minutes, but for tests.
	aliveEvery time.Duration
	// notifyPause is the least time between two tellings of NOTIFY. Always a
	// tenth of a second, but for tests.
	notifyPause time.Duration
}

// withDefaults returns the configuration with every default filled in.
func (c Config) withDefaults() (Config, error) {
	c.Terms = c.Terms.WithDefaults("imap", 30*time.Minute)
	c.AppendLimitOctets = cmp.Or(c.AppendLimitOctets, 64<<20)
	c.aliveEvery = cmp.Or(c.aliveEvery, 2*time.Minute)
	c.notifyPause = cmp.Or(c.notifyPause, 100*time.Millisecond)
	return c, c.check()
}

func (c Config) check() error {
	errs := []error{c.Terms.Check()}
	if c.Separator != "" && c.Separator != delimiter && c.Separator != otherSeparator {
		errs = append(errs, fmt.Errorf("separator %q must be / or a dot", c.Separator))
	}
	for i := range c.Clients {
		if err := c.Clients[i].Check(); err != nil {
			errs = append(errs, fmt.Errorf("client %s: %w", c.Clients[i].Name, err))
		}
	}
	if err := errors.Join(c.Sharing.Check(), c.checkVirtual()); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(append(errs, sessions.NotNegative(map[string]int64{
		"append limit": c.AppendLimitOctets, "message limit": int64(c.Messages.Most), "enforced message limit": int64(c.Messages.Enforced),
	}))...)
}
