package delivery

import (
	"net"
	"net/netip"
	"sync"
	"time"
)

// interfaceTime is how long the addresses of this machine are remembered.
const interfaceTime = 10 * time.Second

// Ourselves knows where mail comes to us: what leads there leads back. The zero
// Ourselves is nowhere. Its methods may be called concurrently.
type Ourselves struct {
	listeners []netip.AddrPort // an unspecified address stands for all of this machine
	proxies   []netip.Prefix

	mu    sync.Mutex
	local []netip.Addr // of this machine's interfaces
	until time.Time
}

// NewOurselves returns who listens for mail at addresses "host:port", where an
// empty host is all of this machine and names are left out, and in addition at
// the addresses of proxies or translators in front of us, at any port of ours.
func NewOurselves(listeners []string, proxies []netip.Prefix) *Ourselves {
	o := &Ourselves{proxies: proxies}
	for _, text := range listeners {
		host, port, err := net.SplitHostPort(text)
		if err != nil {
			continue
		}
		if host == "" || host == "*" {
			host = netip.IPv6Unspecified().String()
		}
		if a, err := netip.ParseAddrPort(net.JoinHostPort(host, port)); err == nil {
			o.listeners = append(o.listeners, netip.AddrPortFrom(a.Addr().Unmap(), a.Port()))
		}
	}
	return o
}

// At reports whether we take mail at an address and port.
func (o *Ourselves) At(a netip.AddrPort) bool {
	if o == nil {
		return false
	}
	addr := a.Addr().Unmap().WithZone("")
	for _, l := range o.listeners {
		if l.Port() == a.Port() && o.listens(l.Addr(), addr) {
			return true
		}
	}
	return false
}

// Have reports whether an address is ours at any port: mail to an address
// literal comes for us then (RFC 5321 section 4.1.3).
func (o *Ourselves) Have(addr netip.Addr) bool {
	if o == nil {
		return false
	}
	addr = addr.Unmap().WithZone("")
	for _, l := range o.listeners {
		if o.listens(l.Addr(), addr) {
			return true
		}
	}
	return false
}

func (o *Ourselves) listens(listener, addr netip.Addr) bool {
	for _, p := range o.proxies {
		if p.Contains(addr) {
			return true
		}
	}
	if !listener.IsUnspecified() {
		return listener == addr
	}
	// Connections to an unspecified address end at this machine, too.
	return addr.IsLoopback() || addr.IsUnspecified() || o.isLocal(addr)
}

func (o *Ourselves) isLocal(addr netip.Addr) bool {
	for _, l := range o.interfaces() {
		if l == addr {
			return true
		}
	}
	return false
}

func (o *Ourselves) interfaces() []netip.Addr {
	o.mu.Lock()
	local, until := o.local, o.until
	o.mu.Unlock()
	if time.Now().Before(until) {
		return local
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return local // what was known before is the best there is
	}
	local = make([]netip.Addr, 0, len(addrs))
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			local = append(local, p.Addr().Unmap().WithZone(""))
		}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.local, o.until = local, time.Now().Add(interfaceTime)
	return local
}
