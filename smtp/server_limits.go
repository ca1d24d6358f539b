package smtp

import (
	"crypto/rand"
	"encoding/binary"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/mail"
)

// sessionSlots counts sessions, in all and for each client.
type sessionSlots struct {
	mu      sync.Mutex
	total   int
	clients map[netip.Prefix]int
}

// take reserves a slot and returns how many are taken now, in all and by the
// client. A client without a valid network is counted in the total only.
func (s *sessionSlots) take(client netip.Prefix, maxTotal, maxPerClient int) (ok bool, total, ofClient int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.total >= maxTotal || client.IsValid() && s.clients[client] >= maxPerClient {
		return false, s.total, s.clients[client]
	}
	s.total++
	if client.IsValid() {
		if s.clients == nil {
			s.clients = make(map[netip.Prefix]int)
		}
		s.clients[client]++
	}
	return true, s.total, s.clients[client]
}

// give returns a slot that was taken for the same client, and how many are
// taken then.
func (s *sessionSlots) give(client netip.Prefix) (total int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.total--
	if client.IsValid() {
		if s.clients[client]--; s.clients[client] == 0 {
			delete(s.clients, client)
		}
	}
	return s.total
}

func (s *sessionSlots) open() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.total
}

// clientNetwork returns what is counted as one client: by default an IPv4
// address, or the /64 network of an IPv6 address, which is what one customer is
// given. The result is invalid for exempt clients and those without an IP
// address.
func (s *settings) clientNetwork(addr netip.Addr) netip.Prefix {
	if !addr.IsValid() || s.exempts(addr) {
		return netip.Prefix{}
	}
	addr = addr.Unmap().WithZone("")
	bits := s.IPv4Bits
	if addr.Is6() {
		bits = s.IPv6Bits
	}
	network, err := addr.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return network
}

// exempts reports whether a client's number and speed are its own business.
func (s *settings) exempts(addr netip.Addr) bool {
	addr = addr.Unmap().WithZone("")
	return slices.ContainsFunc(s.ExemptClients, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// sessionIDs makes session ids: unique within the server's life by the count,
// and across servers and restarts by the random start.
type sessionIDs struct {
	start string
	count *atomic.Uint64
}

func newSessionIDs() sessionIDs {
	var b [6]byte
	_, _ = rand.Read(b[:]) // never fails
	seed := binary.BigEndian.Uint64(append([]byte{0, 0}, b[:]...))
	return sessionIDs{start: strconv.FormatUint(seed, 36) + "-", count: new(atomic.Uint64)}
}

func (ids sessionIDs) next() mail.SessionID {
	return mail.SessionID(ids.start + strconv.FormatUint(ids.count.Add(1), 36))
}

// warnRarely logs an event that strangers can cause at any rate: once in ten
// seconds, with the number of those left out.
type warnRarely struct {
	mu     sync.Mutex
	last   time.Time
	hushed int
}

const warnInterval = 10 * time.Second

// warn reports whether it did.
func (w *warnRarely) warn(log hclog.Logger, msg string, args ...any) bool {
	w.mu.Lock()
	now := time.Now()
	if !w.last.IsZero() && now.Sub(w.last) < warnInterval {
		w.hushed++
		w.mu.Unlock()
		return false
	}
	hushed := w.hushed
	w.last, w.hushed = now, 0
	w.mu.Unlock()
	log.Warn(msg, append(args, "hushed", hushed)...)
	return true
}
