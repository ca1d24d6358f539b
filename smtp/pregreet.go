package smtp

import (
	"errors"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// PregreetAction is what becomes of a client that talks before the greeting.
type PregreetAction int

const (
	// PregreetRefuse answers 554 and closes.
	PregreetRefuse PregreetAction = iota
	// PregreetDrop answers 521 and closes, as Postfix's postscreen.
	PregreetDrop
	// PregreetEnforce goes on, so that the log tells whom the client is after,
	// and refuses every recipient (550).
	PregreetEnforce
	// PregreetIgnore goes on and tells the log.
	PregreetIgnore
)

// pregreetResults are what became of an early talker, for the audit.
var pregreetResults = [...]string{
	PregreetRefuse: "refused", PregreetDrop: "refused", PregreetEnforce: "enforced", PregreetIgnore: "ignored",
}

// maxPregreetShown bounds what is shown of what a client said too early.
const maxPregreetShown = 100

// escaped writes octets as Postfix does in its log.
func escaped(text []byte) string {
	quoted := strconv.QuoteToASCII(string(text))
	return strings.ReplaceAll(quoted[1:len(quoted)-1], `\"`, `"`)
}

// Greeted remembers clients that waited for their greeting. It must not block
// and is called concurrently. Implemented by policy/limits.
type Greeted interface {
	// Waited reports whether the client waited not long ago.
	Waited(netip.Addr) bool
	// Wait takes down that it did.
	Wait(netip.Addr)
}

// holdGreeting waits as long as the greeting is to be delayed, and does what is
// to be done about a client that does not wait for it. Mail software of the
// honest kind never talks first; under implicit TLS there is nothing to tell by.
func (s *serverSession) holdGreeting() error {
	if s.set.Pipelining != PipeliningEnforce || s.set.ImplicitTLS || s.behalf {
		return nil
	}
	began := time.Now()
	waited, err := s.waitBeforeGreeting()
	if err != nil {
		return err
	}
	if !s.wire.earlyInput() {
		if waited && s.set.Greeted != nil {
			s.set.Greeted.Wait(s.client.Remote.Addr())
		}
		return nil
	}
	s.early.Add(1)
	said := s.wire.unread()
	s.set.notice(&s.client, mail.Event{
		Kind: mail.EventPregreet, Result: pregreetResults[s.set.Pregreet], Reason: status.EarlyTalker.String(), Count: int64(len(said)),
		Detail: escaped(said[:min(len(said), maxPregreetShown)]), Duration: time.Since(began),
	})
	fault := status.New(status.EarlyTalker, errors.New("input before the greeting"))
	switch s.set.Pregreet {
	case PregreetDrop:
		fault.Reason = status.PregreetDrop
	case PregreetEnforce, PregreetIgnore:
		s.hasted = s.set.Pregreet == PregreetEnforce
		s.log.Info("PREGREET", "sid", s.client.Session, "listener", s.set.Name, "remote", s.client.Peer(), "after", time.Since(began), "octets", len(said), "refused", s.hasted)
		return nil
	}
	return s.closeWith(fault)
}

// waitBeforeGreeting reports whether the whole delay has passed in silence.
func (s *serverSession) waitBeforeGreeting() (waited bool, err error) {
	addr := s.client.Remote.Addr()
	if s.set.GreetDelay <= 0 || addr.IsValid() && (s.set.exempts(addr) || s.set.Greeted != nil && s.set.Greeted.Waited(addr)) {
		return false, nil
	}
	if s.set.Teaser {
		// The first line of the greeting lures those who do not read on.
		out := s.wire.pending()
		*out = append(*out, "220-"+s.set.Hostname+" "+s.set.Greeting+"\r\n"...)
	}
	delay := s.set.GreetDelay
	if s.hurry.Load() {
		delay = min(delay, hurriedGreeting)
	}
	err = s.wire.fill(time.Now().Add(delay), true)
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return true, nil
	case err != nil:
		return false, wireFault(err)
	}
	return false, nil
}

// hurriedGreeting is the longest delay under stress, as Postfix's.
const hurriedGreeting = 2 * time.Second
