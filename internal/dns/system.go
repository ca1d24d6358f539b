package dns

import (
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	// recheck is how often the files are looked at for changes.
	recheck = 5 * time.Second
	// downTime is how long a silent server is asked last.
	downTime = 30 * time.Second
	// maxServers and maxFileOctets bound what the files may say.
	maxServers    = 8
	maxFileOctets = 1 << 20
)

// system is what this host knows by itself: its files, and which servers were
// silent lately. It may be used concurrently.
type system struct {
	configured []string // servers of the configuration
	timeout    time.Duration
	attempts   int
	resolvConf watched
	hostsFile  watched

	mu      sync.Mutex
	checked time.Time
	conf    resolvConf
	hosts   hosts
	down    map[string]time.Time
}

func newSystem(cfg Config) (*system, error) {
	s := &system{
		timeout: cfg.Timeout, attempts: cfg.Attempts,
		resolvConf: watched{path: cfg.ResolvConf}, hostsFile: watched{path: cfg.HostsFile},
		down: make(map[string]time.Time),
	}
	if s.resolvConf.path == "" {
		s.resolvConf.path = "/etc/resolv.conf"
	}
	if s.hostsFile.path == "" {
		s.hostsFile.path = "/etc/hosts"
	}
	if len(cfg.Servers) > maxServers {
		return nil, fmt.Errorf("dns: more than %d servers", maxServers)
	}
	for _, server := range cfg.Servers {
		address, err := serverAddress(server)
		if err != nil {
			return nil, err
		}
		s.configured = append(s.configured, address)
	}
	s.conf = s.complete(resolvConf{})
	return s, nil
}

// serverAddress returns "address:port" for an address with or without a port.
func serverAddress(s string) (string, error) {
	if addr, err := netip.ParseAddr(s); err == nil {
		return netip.AddrPortFrom(addr, 53).String(), nil
	}
	addr, err := netip.ParseAddrPort(s)
	if err != nil || addr.Port() == 0 {
		return "", fmt.Errorf("dns: server %q is not an IP address or address:port", s)
	}
	return addr.String(), nil
}

// servers returns whom to ask, those lately silent last, and how.
func (s *system) servers() ([]string, resolvConf) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refreshLocked(time.Now())
	var up, down []string
	now := time.Now()
	for _, server := range s.conf.servers {
		if now.Before(s.down[server]) {
			down = append(down, server)
		} else {
			up = append(up, server)
		}
	}
	return append(up, down...), s.conf
}

func (s *system) markDown(server string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down[server] = time.Now().Add(downTime)
}

func (s *system) markUp(server string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.down, server)
}

// addresses returns what this host says about a name with a final dot: the
// hosts file, and RFC 6761 section 6.3.
func (s *system) addresses(name string) []netip.Addr {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refreshLocked(time.Now())
	name = strings.TrimSuffix(name, ".")
	if found := s.hosts.addresses[name]; len(found) > 0 {
		return found
	}
	if name == "localhost" || strings.HasSuffix(name, ".localhost") {
		return []netip.Addr{netip.IPv6Loopback(), netip.AddrFrom4([4]byte{127, 0, 0, 1})}
	}
	return nil
}

// names returns what this host says about an address: the hosts file, and that
// loopback is "localhost".
func (s *system) names(addr netip.Addr) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refreshLocked(time.Now())
	if found := s.hosts.names[addr]; len(found) > 0 {
		return found
	}
	if addr.IsLoopback() {
		return []string{"localhost"}
	}
	return nil
}

// refreshLocked reads the files when they changed. A file that went away or
// cannot be read leaves what was known.
func (s *system) refreshLocked(now time.Time) {
	if !s.checked.IsZero() && now.Sub(s.checked) < recheck {
		return
	}
	s.checked = now
	if text, changed := s.resolvConf.read(); changed {
		s.conf = s.complete(parseResolvConf(text))
		clear(s.down)
	}
	if text, changed := s.hostsFile.read(); changed {
		s.hosts = parseHosts(text)
	}
}

// complete fills in what the configuration says, and the defaults.
func (s *system) complete(c resolvConf) resolvConf {
	if len(s.configured) > 0 {
		c.servers, c.trustAD = s.configured, false
	}
	if len(c.servers) == 0 {
		c.servers = []string{"127.0.0.1:53"}
	}
	if s.timeout > 0 {
		c.timeout = s.timeout
	}
	if s.attempts > 0 {
		c.attempts = s.attempts
	}
	setDefault(&c.timeout, 5*time.Second)
	setDefault(&c.attempts, 2)
	return c
}

// watched is a file that is read when it changed.
type watched struct {
	path     string
	modified time.Time
	octets   int64
}

func (w *watched) read() (text string, changed bool) {
	info, err := os.Stat(w.path)
	if err != nil || info.Size() > maxFileOctets || info.ModTime().Equal(w.modified) && info.Size() == w.octets {
		return "", false
	}
	content, err := os.ReadFile(w.path)
	if err != nil {
		return "", false
	}
	w.modified, w.octets = info.ModTime(), info.Size()
	return string(content), true
}

// resolvConf is what resolv.conf(5) says; a zero field is left to the default.
type resolvConf struct {
	servers  []string // "address:port"
	search   []string // without final dots
	ndots    int      // dots that make a name be tried as it is first
	timeout  time.Duration
	attempts int
	trustAD  bool
}

// parseResolvConf reads resolv.conf(5). Lines it does not understand are left
// out, as the C library leaves them out.
func parseResolvConf(text string) resolvConf {
	c := resolvConf{ndots: 1}
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 2 || fields[0][0] == '#' || fields[0][0] == ';' {
			continue
		}
		switch fields[0] {
		case "nameserver":
			if address, err := serverAddress(fields[1]); err == nil && len(c.servers) < maxServers {
				c.servers = append(c.servers, address)
			}
		case "domain", "search":
			c.search = nil
			for _, domain := range fields[1:min(len(fields), 7)] {
				if domain = strings.Trim(domain, "."); domain != "" {
					c.search = append(c.search, domain)
				}
			}
		case "options":
			for _, option := range fields[1:] {
				c.option(option)
			}
		}
	}
	return c
}

func (c *resolvConf) option(option string) {
	name, value, _ := strings.Cut(option, ":")
	n, err := strconv.ParseUint(value, 10, 16)
	switch {
	case option == "trust-ad":
		c.trustAD = true
	case err != nil:
	case name == "ndots":
		c.ndots = int(min(n, 15))
	case name == "timeout":
		c.timeout = time.Duration(max(1, min(n, 30))) * time.Second
	case name == "attempts":
		c.attempts = int(max(1, min(n, 5)))
	}
}

// candidates returns the names that name may stand for, with final dots: itself
// when it has one, else with the search list as resolv.conf(5) explains it.
func (c resolvConf) candidates(name string) []string {
	if strings.HasSuffix(name, ".") || len(c.search) == 0 {
		return []string{strings.TrimSuffix(name, ".") + "."}
	}
	var names []string
	for _, domain := range c.search {
		names = append(names, name+"."+domain+".")
	}
	if strings.Count(name, ".") >= c.ndots {
		return append([]string{name + "."}, names...)
	}
	return append(names, name+".")
}

// hosts is what hosts(5) says, both ways; names are lower-case.
type hosts struct {
	addresses map[string][]netip.Addr
	names     map[netip.Addr][]string
}

// parseHosts reads hosts(5). Lines it does not understand are left out.
func parseHosts(text string) hosts {
	h := hosts{make(map[string][]netip.Addr), make(map[netip.Addr][]string)}
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		addr, err := netip.ParseAddr(fields[0])
		if err != nil {
			continue
		}
		addr = addr.Unmap()
		for _, name := range fields[1:] {
			name = strings.ToLower(strings.TrimSuffix(name, "."))
			h.addresses[name] = append(h.addresses[name], addr)
			h.names[addr] = append(h.names[addr], name)
		}
	}
	return h
}
