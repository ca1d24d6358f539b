package foreign

import (
	"context"
	"crypto/tls"
	"time"
)

// Direction is which way changes go.
type Direction uint8

// The directions.
const (
	// Both keeps the sides equal.
	Both Direction = iota
	// LeftToRight brings what happens on the left to the right and leaves the
	// left alone. What happens on the right is kept for a later Both.
	LeftToRight
)

// Protection is what stands between us and a server.
type Protection uint8

// The protections.
const (
	StartTLS Protection = iota
	ImplicitTLS
	Cleartext
)

// Server is one side of a mirror.
type Server struct {
	// Address is host:port or unix:path.
	Address    string
	Protection Protection
	TLS        *tls.Config // nil only for Cleartext
	// User logs in for every account with Password, by the authorization
	// identity of SASL PLAIN: a master user. "" where accounts have logins of
	// their own.
	User, Password string
	// Timeout bounds each wait for the server; 0 is one minute.
	Timeout time.Duration
}

// Login is how an account gets into one server.
type Login struct {
	Name     string // the account's name there
	Password string // "" with a master user
}

// Account is a person with mail on both sides.
type Account struct {
	Name   string // in the state, the status and the audit
	Logins [2]Login
}

// Config is a mirror.
type Config struct {
	Name    string
	Servers [2]Server
	// Accounts lists whom to mirror. It is asked again every AccountsInterval.
	Accounts         func(ctx context.Context) ([]Account, error)
	AccountsInterval time.Duration // 0 is one minute
	Direction        Direction
	// Exclude are patterns of path.Match for mailbox names with "/" between
	// levels; what lies below an excluded mailbox is excluded.
	Exclude []string
	// MaxDeletions is the share of an account's messages, in percent, that
	// one pass may remove unasked once it would remove more than MinDeletions.
	// MaxDeletions 0 means 30 and negative none; MinDeletions 0 means 20.
	MaxDeletions, MinDeletions int
	// Interval is how often everything is looked at where a server tells
	// nothing by itself beyond INBOX; 0 is 30 seconds. Servers with NOTIFY are
	// looked at in ten times that.
	Interval time.Duration
	// MaxAccounts is how many accounts are connected at a time; 0 is 100.
	// Others take turns with them.
	MaxAccounts int
	// RetryMin and RetryMax bound the time until a server that failed is tried
	// again; 0 is one second, and five minutes.
	RetryMin, RetryMax time.Duration
	// Settle is how long after an intent a server may still be doing what a
	// killed agent asked for; 0 is three seconds.
	Settle time.Duration
}

func (c Config) withDefaults() Config {
	orElse(&c.AccountsInterval, time.Minute)
	orElse(&c.MaxDeletions, 30)
	orElse(&c.MinDeletions, 20)
	orElse(&c.Interval, 30*time.Second)
	orElse(&c.MaxAccounts, 100)
	orElse(&c.RetryMin, time.Second)
	orElse(&c.RetryMax, 5*time.Minute)
	orElse(&c.Settle, 3*time.Second)
	for s := range c.Servers {
		orElse(&c.Servers[s].Timeout, time.Minute)
	}
	return c
}

func orElse[T int | time.Duration](v *T, def T) {
	if *v == 0 {
		*v = def
	}
}
