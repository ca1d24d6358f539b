package config

import (
	"net"
	"slices"
	"strconv"

	"github.com/postern-mail/postern/policy/shared"
)

// Peers are the gateways that share what policy remembers.
type Peers struct {
	block
	Listen     []string `conf:"listen" doc:"Addresses host:port to be dialed at by other gateways."`
	Addresses  []string `conf:"addresses" doc:"Other gateways, host:port. Of two gateways it suffices that one dials; with both, one connection stays."`
	SecretFile string   `conf:"secret_file" required:"a file with the secret that all gateways know" doc:"File whose first line is a secret that all these gateways know and nobody else; postern replica keygen FILE makes one."`
}

func (c checker) peers(p *Peers) {
	if p == nil {
		return
	}
	if len(p.Listen) == 0 && len(p.Addresses) == 0 {
		c.errorf(p.at, "Missing setting", `Gateways that share need a way to each other: "listen", such as [":7025"], or "addresses", such as ["mx2.example.com:7025"], or both.`)
	}
	for _, bind := range p.Listen {
		c.address(p.rangeOf("listen"), bind, false)
	}
	for i, address := range p.Addresses {
		host, port, err := net.SplitHostPort(address)
		if err == nil {
			_, err = strconv.ParseUint(port, 10, 16)
		}
		if err != nil || host == "" {
			c.errorf(p.rangeOf("addresses"), "Wrong value", "%q is not host:port, such as mx2.example.com:7025.", address)
		}
		if slices.Contains(p.Addresses[:i], address) || slices.Contains(p.Listen, address) {
			c.errorf(p.rangeOf("addresses"), "Contradiction", "%s is named twice, or is where this gateway listens itself.", address)
		}
	}
	if p.SecretFile != "" {
		if _, err := shared.ReadSecret(p.SecretFile); err != nil {
			c.errorf(p.rangeOf("secret_file"), "Cannot be used", "%v.", err)
		}
	}
}

// Room returns with whom facts are shared.
func (p *Peers) Room() (shared.PeersConfig, error) {
	secret, err := shared.ReadSecret(p.SecretFile)
	return shared.PeersConfig{Addresses: p.Addresses, Secret: secret}, err
}

// Same reports whether two blocks say the same.
func (p *Peers) Same(o *Peers) bool {
	if p == nil || o == nil {
		return p == o
	}
	return slices.Equal(p.Listen, o.Listen) && slices.Equal(p.Addresses, o.Addresses) && p.SecretFile == o.SecretFile
}
