package sessions

import (
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Registry holds the sessions of all the doors of a process. Sessions of one
// protocol count together for the limits per address and per account, whatever
// door they came in by (Protocol.Together). Its methods may be called concurrently.
type Registry struct {
	mu       sync.Mutex // guards the fields below, and what Session says
	sessions map[*Session]struct{}
	clients  map[clientKey]int
	accounts map[accountKey]int
}

type clientKey struct {
	together string // Protocol.Together
	network  netip.Prefix
}

type accountKey struct{ together, account string }

// NewRegistry returns an empty registry.
func NewRegistry() *Registry {
	return &Registry{
		sessions: make(map[*Session]struct{}),
		clients:  make(map[clientKey]int), accounts: make(map[accountKey]int),
	}
}

// IPv6Bits is the length of the prefix of IPv6 addresses that count as one
// client: the network that one customer is given.
const IPv6Bits = 64

// clientNetwork is what counts as one client; not valid for addresses of
// another kind than IP.
func clientNetwork(addr netip.Addr) netip.Prefix {
	addr = addr.Unmap().WithZone("")
	bits := addr.BitLen()
	if addr.Is6() {
		bits = IPv6Bits
	}
	network, err := addr.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return network
}

// over reports whether n sessions leave no room for one more.
func over(n, limit int) bool { return limit >= 0 && n >= limit }

// release takes one off a count, and the count out when nothing is left of it.
func release[K comparable](counts map[K]int, key K) {
	if counts[key]--; counts[key] <= 0 {
		delete(counts, key)
	}
}

// enter admits a session, or reports that there are too many.
func (r *Registry) enter(s *Session) bool {
	remote := s.Remote().Addr()
	r.mu.Lock()
	defer r.mu.Unlock()
	if s.door.open >= s.cfg.MaxSessions {
		return false
	}
	if !s.cfg.FromProxy(remote) && !r.countClientLocked(s, remote) {
		return false
	}
	r.sessions[s] = struct{}{}
	s.door.open++
	if s.group.ended {
		s.endLocked(Shutdown)
	}
	return true
}

func (r *Registry) countClient(s *Session, addr netip.Addr) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.countClientLocked(s, addr)
}

// countClientLocked counts a session as one of its client's, or reports that
// there are too many of them.
func (r *Registry) countClientLocked(s *Session, addr netip.Addr) bool {
	r.forgetClientLocked(s)
	network := clientNetwork(addr)
	if !network.IsValid() {
		return true
	}
	key := clientKey{s.door.protocol.Together, network}
	if over(r.clients[key], s.cfg.MaxPerClient) {
		return false
	}
	r.clients[key]++
	s.client = network
	return true
}

// forgetClientLocked takes a session out of its client's count.
func (r *Registry) forgetClientLocked(s *Session) {
	if s.client.IsValid() {
		release(r.clients, clientKey{s.door.protocol.Together, s.client})
		s.client = netip.Prefix{}
	}
}

// admit counts a session as the account's, or reports that it has too many.
func (r *Registry) admit(s *Session, account string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.dismissLocked(s) // its last login met an outage
	key := accountKey{s.door.protocol.Together, account}
	if over(r.accounts[key], s.cfg.MaxPerAccount) {
		return false
	}
	r.accounts[key]++
	s.account = account
	return true
}

func (r *Registry) dismiss(s *Session) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.dismissLocked(s)
}

func (r *Registry) dismissLocked(s *Session) {
	if s.account != "" {
		release(r.accounts, accountKey{s.door.protocol.Together, s.account})
		s.account = ""
	}
}

func (r *Registry) leave(s *Session) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.sessions, s)
	s.door.open--
	r.forgetClientLocked(s)
	r.dismissLocked(s)
	if s.lastWord != nil {
		s.lastWord.Stop()
	}
}

// endLocked asks a session to go, and reports whether nobody did before. The
// caller interrupts it when the lock is gone.
func (s *Session) endLocked(why Reason) bool {
	if s.why != GoesOn {
		return false
	}
	s.why = why
	close(s.ending)
	return true
}

// end asks up to most sessions that want selects to go, each as soon as its
// command under way is answered. It returns those that it asked, and how many
// it left.
func (r *Registry) end(why Reason, most int, want func(*Session) bool) (asked []*Session, left int) {
	r.mu.Lock()
	for s := range r.sessions {
		switch {
		case s.why != GoesOn || !want(s):
		case len(asked) == most:
			left++
		case s.endLocked(why):
			asked = append(asked, s)
		}
	}
	r.mu.Unlock()
	for _, s := range asked {
		s.interrupt()
	}
	return asked, left
}

// kickPatience is how long a command under way may take that an operator does
// not want to wait for.
const kickPatience = 5 * time.Second

// everybody is no bound on whom end asks.
const everybody = int(^uint(0) >> 1)

// Kick asks the sessions that want selects to go, and returns what they were.
// Whoever is still there after five seconds is cut off.
func (r *Registry) Kick(want func(Info) bool) []Info {
	asked, _ := r.end(Kicked, everybody, func(s *Session) bool { return want(s.Info()) })
	asked = append(asked, r.hasten(want)...)
	kicked := make([]Info, 0, len(asked))
	for _, s := range asked {
		kicked = append(kicked, s.Info())
		r.cutLater(s)
	}
	sortInfos(kicked)
	return kicked
}

// hasten returns the sessions that were asked to go for another reason, and are
// still there. From now on they are kicked.
func (r *Registry) hasten(want func(Info) bool) (slow []*Session) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for s := range r.sessions {
		if s.why != GoesOn && s.why != Kicked && want(s.Info()) {
			s.why = Kicked
			slow = append(slow, s)
		}
	}
	return slow
}

func (r *Registry) cutLater(s *Session) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, here := r.sessions[s]; here {
		s.lastWord = time.AfterFunc(kickPatience, s.cut)
	}
}

// List returns the sessions that want selects, the oldest first.
func (r *Registry) List(want func(Info) bool) []Info {
	var all []Info
	for _, s := range r.all() {
		if info := s.Info(); want(info) {
			all = append(all, info)
		}
	}
	sortInfos(all)
	return all
}

func sortInfos(all []Info) {
	slices.SortFunc(all, func(a, b Info) int { return a.Since.Compare(b.Since) })
}

func (r *Registry) all() []*Session {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := make([]*Session, 0, len(r.sessions))
	for s := range r.sessions {
		all = append(all, s)
	}
	return all
}

// Count says how many sessions there are of a kind.
type Count struct {
	Protocol string
	State    State
	Sessions int
}

// Counts returns how many sessions of each protocol are in each state; also of
// states that nobody is in, for protocols that somebody speaks.
func (r *Registry) Counts() []Count {
	by := make(map[string]*[numStates]int)
	for _, s := range r.all() {
		info := s.Info()
		if by[info.Protocol] == nil {
			by[info.Protocol] = new([numStates]int)
		}
		by[info.Protocol][info.State]++
	}
	var counts []Count
	for protocol, states := range by {
		for state, n := range states {
			counts = append(counts, Count{protocol, State(state), n})
		}
	}
	return counts
}
