package config

import (
	"time"

	"github.com/postern-mail/postern/policy/greylist"
)

// Greylist says who waits at the first attempt, where a policy has
// check_greylist.
type Greylist struct {
	block
	Delay      time.Duration `conf:"delay" default:"5m" doc:"How long a client is put off that was never seen with this sender and recipient."`
	Window     time.Duration `conf:"window" default:"2d" doc:"How long after its first attempt another one counts as its repetition."`
	Lifetime   time.Duration `conf:"lifetime" default:"35d" doc:"How long who passed stays known after the last time."`
	IPv4Bits   int           `conf:"ipv4_bits" default:"24" doc:"Size of the network that counts as one client: large senders try again from another address."`
	IPv6Bits   int           `conf:"ipv6_bits" default:"64" doc:"The same for IPv6."`
	AutoAllow  int           `conf:"auto_allow" default:"5" doc:"In how many hours a client must have passed to be known altogether, for all senders and recipients. 0: never."`
	PassSPF    bool          `conf:"pass_spf" default:"false" doc:"Let clients pass that an SPF restriction earlier in the lists found permitted by the sender's domain."`
	Pools      []string      `conf:"pools" doc:"Domains whose hosts, by their verified names, count as one client each. None: those of senders known to try again from anywhere, as docs/greylisting.md lists them."`
	Clients    []string      `conf:"clients" doc:"Tables of clients that never wait, by name, parent domain, address and network. Who logged in and mynetworks never wait anyway. A key with the value no waits all the same."`
	Recipients []string      `conf:"recipients" doc:"Tables of recipients whose mail never waits, by address, domain and local-part@. postmaster and abuse never wait anyway."`
	Text       string        `conf:"text" default:"Greylisted, try again in %s seconds" doc:"What the client reads; %s stands for the seconds to wait, %r for the recipient's domain."`
	Header     bool          `conf:"header" default:"true" doc:"Add X-Greylist: delayed N seconds to mail that waited."`
	MaxEntries int           `conf:"max_entries" default:"200000" doc:"Bound of each of the three lists: who waits, who passed, known clients. Above it entries go that would end soonest, which is told in the log and the metrics."`
}

const minGreylist = 1000

func (c checker) greylist(g *Gateway) {
	cfg := g.Greylist
	if err := g.GreylistRoom().Check(); err != nil {
		c.errorf(cfg.at, "Wrong value", "The greylist cannot work: %v.", err)
	}
	if cfg.MaxEntries < minGreylist {
		c.errorf(cfg.rangeOf("max_entries"), "Wrong value", "max_entries is at least %d.", minGreylist)
	}
}

// GreylistRoom returns what holds for check_greylist, where a restriction says
// nothing else.
func (g *Gateway) GreylistRoom() greylist.Config {
	cfg := g.Greylist
	room := greylist.Config{
		Delay: cfg.Delay, Window: cfg.Window, Lifetime: cfg.Lifetime, IPv4Bits: cfg.IPv4Bits, IPv6Bits: cfg.IPv6Bits, AutoAllow: cfg.AutoAllow,
		Networks: g.MyNetworks, PassSPF: cfg.PassSPF, Pools: cfg.Pools, Clients: cfg.Clients, Recipients: cfg.Recipients,
		Delimiter: g.Delimiter, Text: cfg.Text, Header: cfg.Header,
	}
	if !cfg.wrote("pools") {
		room.Pools = greylist.DefaultPools()
	}
	return room
}
