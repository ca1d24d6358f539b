package pop3d

import (
	"errors"
	"time"

	"github.com/postern-mail/postern/backend/sessions"
)

// Config is what a server is told. The zero value of every field but Hostname
// means its default.
type Config struct {
	// Terms are those of every protocol. RFC 1939 section 3 asks for 10 minutes
	// of IdleTimeout at least, the default.
	sessions.Terms

	// UIDL is how messages are named to clients. Default ByInstance.
	UIDL UIDL
	// MarkSeen sets \Seen on messages that RETR sent whole.
	MarkSeen bool
	// InUseWait is how long a second session of an account waits for the first
	// to end before it is refused. Default 0: not at all.
	InUseWait time.Duration
	// LoginDelay is the least time between two logins of an account (RFC 2449
	// section 8.1.1). Default 0: none.
	LoginDelay time.Duration
	// Quirks are what is done for clients that break otherwise.
	Quirks Quirks
}

// Quirks are workarounds for clients, each off unless it is asked for.
type Quirks struct {
	// NoNULs sends the octet 0x80 for each NUL: Outlook hangs on NULs.
	NoNULs bool
	// EndOfHeader sends the empty line behind a header that ends the message
	// without one: Outlook Express and Netscape wait for it.
	EndOfHeader bool
}

// withDefaults returns the configuration with every default filled in.
func (c Config) withDefaults() (Config, error) {
	c.Terms = c.Terms.WithDefaults("pop3", 10*time.Minute)
	if c.UIDL.parts == nil {
		c.UIDL = ByInstance()
	}
	return c, errors.Join(c.Terms.Check(), sessions.NotNegative(map[string]int64{
		"wait for a maildrop in use": int64(c.InUseWait), "login delay": int64(c.LoginDelay),
	}))
}
