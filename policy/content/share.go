package content

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"

	"github.com/postern-mail/postern/status"
)

// ErrTooLarge is that what is to be kept would not fit if the client had no other
// message: waiting does not help.
var ErrTooLarge = errors.New("more than the messages of one client may hold")

// smallOctets is what a client may hold when the spool is nearly full. It lets
// ordinary mail pass while others hold as much as they may.
const smallOctets = 1 << 20

// shares are what the clients of a spool hold.
type shares struct {
	mu sync.Mutex
	of map[netip.Prefix]*share // of those who have messages
}

// share is what the messages of one client hold.
type share struct {
	client   netip.Prefix
	messages int // guarded by shares.mu
	octets   atomic.Int64
}

// account is what one message holds.
type account struct {
	share  *share // nil for a client that counts for nobody
	octets atomic.Int64
}

// account returns a new message's. It is closed when the message is.
func (s *shares) account(client netip.Prefix) *account {
	if !client.IsValid() {
		return &account{}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	held := s.of[client]
	if held == nil {
		if s.of == nil {
			s.of = make(map[netip.Prefix]*share)
		}
		held = &share{client: client}
		s.of[client] = held
	}
	held.messages++
	return &account{share: held}
}

// close forgets a client with its last message.
func (s *shares) close(a *account) {
	if a.share == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if a.share.messages--; a.share.messages == 0 {
		delete(s.of, a.share.client)
	}
}

// clients is how many have messages.
func (s *shares) clients() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.of)
}

// take counts octets in before they are there.
func (s *Spool) take(octets int64, a *account) error {
	all := s.octets.Add(octets)
	own, client := a.octets.Add(octets), int64(0)
	if a.share != nil {
		client = a.share.octets.Add(octets)
	}
	err := s.room(all, client, own, a.share)
	if err != nil {
		s.give(octets, a)
		return status.New(status.MailSystemFull, err)
	}
	return nil
}

// room says why what all hold, what the client of a share does, and what one
// message of it does, is too much.
func (s *Spool) room(all, client, own int64, of *share) error {
	switch {
	case all > s.cfg.MaxOctets:
		return fmt.Errorf("messages that are looked at hold %d octets already", s.cfg.MaxOctets)
	case of == nil:
		return nil
	case own > s.cfg.MaxClientOctets:
		return fmt.Errorf("%w: %d octets", ErrTooLarge, s.cfg.MaxClientOctets)
	case client > s.cfg.MaxClientOctets:
		return fmt.Errorf("messages of %s that are looked at hold %d octets already", of.client, s.cfg.MaxClientOctets)
	case all > s.cfg.MaxOctets-s.cfg.MaxOctets/4 && client > smallOctets && all > client:
		return fmt.Errorf("three quarters of the %d octets for messages that are looked at are in use, and the rest is for clients who hold less than %s does", s.cfg.MaxOctets, of.client)
	}
	return nil
}

// give counts octets out.
func (s *Spool) give(octets int64, a *account) {
	s.octets.Add(-octets)
	a.octets.Add(-octets)
	if a.share != nil {
		a.share.octets.Add(-octets)
	}
}
