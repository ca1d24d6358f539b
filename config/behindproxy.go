package config

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/proxyproto"
)

// ProxyProtocol says which proxies in front tell of their clients.
type ProxyProtocol struct {
	block
	Networks []netip.Prefix `conf:"networks" required:"where the proxies are, such as [\"10.0.0.5\"]" doc:"Networks of the proxies. Each connection from there begins with a header of version 1 or 2; nobody else is believed one."`
	Required bool           `conf:"required" default:"true" doc:"Close connections from elsewhere. false: they are clients themselves."`
	Timeout  time.Duration  `conf:"timeout" default:"5s" doc:"Longest wait for the header."`
}

// Room returns who tells of clients; nil is nobody.
func (p *ProxyProtocol) Room() *proxyproto.Config {
	if p == nil {
		return nil
	}
	return &proxyproto.Config{Networks: p.Networks, Required: p.Required, Timeout: p.Timeout}
}

func (c checker) proxyProtocol(p *ProxyProtocol, bind []string) {
	if p == nil {
		return
	}
	if len(p.Networks) == 0 && p.wrote("networks") {
		c.errorf(p.rangeOf("networks"), "Wrong value", "networks names none: nobody could connect. Leave the block out, or name the proxies.")
	}
	if slices.ContainsFunc(p.Networks, func(n netip.Prefix) bool { return n.Bits() == 0 }) {
		c.errorf(p.rangeOf("networks"), "Wrong value", "networks holds every address: then everybody could claim to be anybody. Name the proxies.")
	}
	if p.Timeout < 100*time.Millisecond || p.Timeout > time.Minute {
		c.errorf(p.rangeOf("timeout"), "Wrong value", "timeout is %s; it is from 100ms to 1m.", formatDuration(p.Timeout))
	}
	if !slices.ContainsFunc(bind, func(b string) bool { return !strings.HasPrefix(b, "unix:") }) && len(bind) > 0 {
		c.errorf(p.at, "Setting of another kind", "The PROXY protocol is for TCP; this listener has unix sockets only.")
	}
}
