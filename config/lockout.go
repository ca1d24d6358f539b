package config

import (
	"net/netip"
	"time"

	"github.com/postern-mail/postern/authn/lockout"
)

// Lockout says who waits after wrong passwords.
type Lockout struct {
	block
	DirectoryThreshold int            `conf:"directory_lockout_threshold" default:"5" doc:"After how many wrong passwords the directory locks an account by itself; the smallest of all directories. For one account two fewer go there in directory_lockout_window, and one fewer from networks it logged in from before. At least 3; 0: they never lock."`
	DirectoryWindow    time.Duration  `conf:"directory_lockout_window" default:"30m" doc:"How long the directory counts a wrong password; the longest of all directories."`
	WrongFor           time.Duration  `conf:"wrong_password_memory" default:"12h" doc:"How long a wrong password is remembered and refused without asking, unless credential_attributes tell that it changed. 0s: not at all."`
	RetryWrong         time.Duration  `conf:"wrong_password_retry" default:"15m" doc:"After how long it is asked about again where the directory tells no time of a change; each time it was wrong again doubles that."`
	AccountFailures    int            `conf:"account_failures" default:"10" doc:"Different wrong passwords for one account, from networks it never logged in from, before such clients wait. -1: never."`
	PairFailures       int            `conf:"client_failures" default:"3" doc:"The same for one account from one address. -1: never."`
	NetworkFailures    int            `conf:"network_failures" default:"20" doc:"The same from one IPv4 address or IPv6 /64 for all accounts that never logged in from around there. -1: never."`
	WideFailures       int            `conf:"wide_network_failures" default:"200" doc:"The same from an IPv4 /24 or IPv6 /56. -1: never."`
	Delay              time.Duration  `conf:"delay" default:"1s" doc:"The first wait. Each further wrong password doubles it."`
	MaxDelay           time.Duration  `conf:"max_delay" default:"15m" doc:"The longest wait."`
	Decay              time.Duration  `conf:"forgive" default:"15m" doc:"Time after which half of the wrong passwords are forgiven."`
	SprayAccounts      int            `conf:"spray_accounts" default:"10" doc:"On how many accounts one password, or one address, may fail in spray_window before that is an attack and held off; at most 64. 0: any number."`
	SprayWindow        time.Duration  `conf:"spray_window" default:"1h" doc:"Time in which these accounts are counted."`
	FamiliarFor        time.Duration  `conf:"familiar_for" default:"30d" doc:"How long after a login an account's network (/24, /56) is known as its own."`
	AllowNetworks      []netip.Prefix `conf:"allow_networks" doc:"Networks that never wait as networks, beside mynetworks: web mailers and proxies, through which everybody logs in."`
	MaxEntries         int            `conf:"max_entries" default:"65536" doc:"Bound of each table of accounts, networks and passwords, in memory and on disk."`
}

func (c checker) lockout(l *Lockout) {
	if n := l.DirectoryThreshold; n < 0 || n == 1 || n == 2 {
		c.errorf(l.rangeOf("directory_lockout_threshold"), "Wrong value", "directory_lockout_threshold is %d. Below 3 no wrong password could be left for the account's owner: raise it in the directory, or write 0 when it never locks.", n)
	}
	for name, n := range map[string]int{"account_failures": l.AccountFailures, "client_failures": l.PairFailures, "network_failures": l.NetworkFailures, "wide_network_failures": l.WideFailures} {
		if n == 0 || n < -1 {
			c.errorf(l.rangeOf(name), "Wrong value", "%s is %d; write a number above 0, or -1 to let nobody wait because of it.", name, n)
		}
	}
	if l.MaxEntries < 100 {
		c.errorf(l.rangeOf("max_entries"), "Wrong value", "max_entries is at least 100.")
	}
	if l.SprayAccounts < 0 || l.SprayAccounts == 1 || l.SprayAccounts > 64 {
		c.errorf(l.rangeOf("spray_accounts"), "Wrong value", "spray_accounts is outside 2 to 64; 0 means any number.")
	}
	for name, d := range map[string]time.Duration{
		"directory_lockout_window": l.DirectoryWindow, "wrong_password_retry": l.RetryWrong, "delay": l.Delay,
		"forgive": l.Decay, "spray_window": l.SprayWindow, "familiar_for": l.FamiliarFor,
	} {
		if d < time.Millisecond {
			c.errorf(l.rangeOf(name), "Too short", "%s is %s; it must be a time above 0.", name, formatDuration(d))
		}
	}
	if l.MaxDelay < l.Delay {
		c.errorf(l.rangeOf("max_delay"), "Contradiction", "max_delay (%s) is shorter than delay (%s).", formatDuration(l.MaxDelay), formatDuration(l.Delay))
	}
}

// LoginMemory returns who waits after wrong passwords.
func (f *File) LoginMemory() lockout.Config {
	l := f.Lockout
	orNone := func(n int) int {
		if n == 0 {
			return -1
		}
		return n
	}
	cfg := lockout.Config{
		DirectoryThreshold: orNone(l.DirectoryThreshold), DirectoryWindow: l.DirectoryWindow,
		AccountFailures: l.AccountFailures, PairFailures: l.PairFailures, NetworkFailures: l.NetworkFailures, WideFailures: l.WideFailures,
		Delay: l.Delay, MaxDelay: l.MaxDelay, Decay: l.Decay, WrongFor: l.WrongFor, RetryWrong: l.RetryWrong,
		SprayAccounts: orNone(l.SprayAccounts), SprayWindow: l.SprayWindow, FamiliarFor: l.FamiliarFor, Entries: l.MaxEntries,
		AllowNetworks: l.AllowNetworks,
	}
	if l.WrongFor == 0 {
		cfg.WrongFor = -1
	}
	if f.Gateway != nil {
		cfg.AllowNetworks = append(cfg.AllowNetworks[:len(cfg.AllowNetworks):len(cfg.AllowNetworks)], f.Gateway.MyNetworks...)
	}
	return cfg
}
