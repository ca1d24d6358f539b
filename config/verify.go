package config

import (
	"time"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/policy"
	"github.com/postern-mail/postern/policy/verify"
)

// Verify says how long it holds what next hops say of addresses.
type Verify struct {
	block
	Sender          string        `conf:"sender" doc:"Reverse-path of the probes; <> for the null one. Empty: double-bounce@hostname."`
	PollCount       int           `conf:"poll_count" default:"3" doc:"How often a client's command looks for the answer to a probe; 1 does not wait."`
	PollDelay       time.Duration `conf:"poll_delay" default:"3s" doc:"The time between."`
	PositiveExpire  time.Duration `conf:"positive_expire" default:"31d" doc:"When it is forgotten that an address can be delivered to."`
	PositiveRefresh time.Duration `conf:"positive_refresh" default:"7d" doc:"When such an address is asked about again; a probe that fails changes nothing until it is forgotten."`
	NegativeExpire  time.Duration `conf:"negative_expire" default:"3d" doc:"When it is forgotten that an address cannot be delivered to."`
	NegativeRefresh time.Duration `conf:"negative_refresh" default:"3h" doc:"When such an address is asked about again; five minutes where its next hop only put us off."`
	MaxProbes       int           `conf:"max_probes" default:"50" doc:"Probes at a time; an address that finds no room is put off."`
}

func (c checker) addressVerify(g *Gateway) {
	v := g.Verify
	if v.Sender != "" && v.Sender != "<>" {
		if _, err := mail.ParseAddress(v.Sender); err != nil {
			c.errorf(v.rangeOf("sender"), "Wrong value", "%q is no address: %v.", v.Sender, err)
		}
	}
	if v.PollCount < 1 || v.PollCount > 10 {
		c.errorf(v.rangeOf("poll_count"), "Wrong value", "poll_count is from 1 to 10, not %d.", v.PollCount)
	}
	if wait := time.Duration(v.PollCount) * v.PollDelay; v.PollDelay <= 0 || wait > 30*time.Second {
		c.errorf(v.rangeOf("poll_delay"), "Wrong value", "A client waits for poll_count times poll_delay: more than nothing, and at most 30 seconds.")
	}
	if v.MaxProbes < 1 {
		c.errorf(v.rangeOf("max_probes"), "Wrong value", "max_probes is at least 1.")
	}
	if v.PositiveRefresh <= 0 || v.NegativeRefresh <= 0 || v.PositiveRefresh > v.PositiveExpire || v.NegativeRefresh > v.NegativeExpire {
		c.errorf(v.at, "Contradiction", "An address is asked about again before what is known of it is forgotten: *_refresh is more than nothing and at most *_expire.")
	}
}

// VerifyRoom returns how long answers hold.
func (g *Gateway) VerifyRoom() verify.Config {
	v := g.Verify
	return verify.Config{
		PollCount: v.PollCount, PollDelay: v.PollDelay, PositiveRefresh: v.PositiveRefresh, PositiveExpire: v.PositiveExpire,
		NegativeRefresh: v.NegativeRefresh, NegativeExpire: v.NegativeExpire, MaxProbes: v.MaxProbes,
	}
}

// VerifySender returns the reverse-path of probes.
func (f *File) VerifySender() mail.Address {
	switch sender := f.Gateway.Verify.Sender; sender {
	case "<>":
		return mail.Address{}
	case "":
		return mail.Address{Local: "double-bounce", Domain: mail.Domain(f.Hostname)}
	default:
		a, _ := mail.ParseAddress(sender) // checked
		return a
	}
}

// verifyStages are the restrictions that ask next hops, which ask nobody.
func verifyStages(g *Gateway) map[string]func(policy.Spec) (policy.Stage, error) {
	v, err := verify.New(g.VerifyRoom(), nil, nil, nil)
	if err != nil {
		panic(err) // only registries refuse, and there is none
	}
	return v.Stages()
}
