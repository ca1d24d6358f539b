package sessions

import (
	"errors"
	"net/netip"
	"strconv"
	"strings"

	"github.com/postern-mail/postern/mail"
)

// Origin is what a proxy says of its client, each word as it came.
type Origin struct {
	Address string
	Port    string
	Session string // the name of the client's session there
}

// Why the word of a proxy is not taken.
var (
	ErrNoAddress = errors.New("the client's address is none")
	ErrCrowd     = errors.New("the client has too many connections")
)

// maxSessionName bounds a session's name that a proxy gives.
const maxSessionName = 64

// FromProxy reports whether what the other end says of others is believed.
func (s *Session) FromProxy() bool {
	i := s.Info()
	return !i.Via.IsValid() && s.cfg.FromProxy(i.Remote.Addr())
}

// PassedOn takes over what a proxy says of its client: where it comes from, and
// the name of its session there, so that both logs tell of one. client is told,
// too. From anybody else, and a second time, it is talk that changes nothing.
// The error is ErrNoAddress or ErrCrowd; after the latter the session has to
// end.
func (s *Session) PassedOn(o Origin, client *mail.Client) error {
	if o.Address == "" || !s.FromProxy() {
		return nil
	}
	addr, err := netip.ParseAddr(o.Address)
	if err != nil {
		return ErrNoAddress
	}
	port, err := strconv.ParseUint(o.Port, 10, 16)
	if err != nil {
		port = 0
	}
	client.Via, client.Remote = client.Remote, netip.AddrPortFrom(addr.Unmap().WithZone(""), uint16(port))
	var name mail.SessionID
	if isSessionName(o.Session) {
		name = mail.SessionID(o.Session)
		client.Session = name
	}
	if !s.Behalf(client.Remote, name) {
		return ErrCrowd
	}
	s.door.audit.Record(s.Event(mail.EventConnect))
	return nil
}

// isSessionName reports whether a proxy's name for a session can stand in logs
// and header fields.
func isSessionName(name string) bool {
	return name != "" && len(name) <= maxSessionName && !strings.ContainsFunc(name, func(r rune) bool {
		return (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && r != '-'
	})
}
