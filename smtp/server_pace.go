package smtp

import (
	"fmt"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// RateLimiter bounds how often clients do things. It must not block and is
// called concurrently. Implemented by policy/limits.
type RateLimiter interface {
	// Take counts an event of the client at an address, or tells when there
	// may be another.
	Take(event mail.ClientEvent, client netip.Addr) mail.Pace
}

// pacing is what is said of an event too many: to the client, and, in Postfix's
// words, to the log.
var pacing = [mail.ClientEvents]struct {
	reason status.Reason
	log    string
}{
	mail.ClientConnects:       {status.ConnectionRate, "Connection rate"},
	mail.ClientSendsMessage:   {status.MessageRate, "Message delivery request rate"},
	mail.ClientNamesRecipient: {status.RecipientRate, "Recipient address rate"},
	mail.ClientStartsTLS:      {status.TLSRate, "New TLS session rate"},
	mail.ClientAuthenticates:  {status.AuthRate, "AUTH command rate"},
}

// pace counts an event of the session's client. An error says that it was one
// too many, and when the client may come again.
func (s *serverSession) pace(event mail.ClientEvent) error {
	if s.set.Rates == nil || !s.client.Remote.IsValid() {
		return nil
	}
	return s.set.paceOf(event, &s.client, s.log)
}

// paceOf counts an event of a client. It warns of a client once, until it was
// within its limit again.
func (s *settings) paceOf(event mail.ClientEvent, client *mail.Client, log hclog.Logger) error {
	addr := client.Remote.Addr()
	if s.Rates == nil || !addr.IsValid() || s.exempts(addr) {
		return nil
	}
	p := s.Rates.Take(event, addr)
	if !p.Over {
		return nil
	}
	said := pacing[event]
	if p.First {
		log.Warn(fmt.Sprintf("%s limit exceeded: %d from %s for service %s", said.log, p.Count, peerName(client), s.Name), "unit", p.Unit)
		s.notice(client, mail.Event{Kind: mail.EventLimit, Result: "refused", Reason: said.reason.String(), Detail: said.log + " limit exceeded", Count: int64(p.Count)})
	}
	seconds := int((p.Wait + time.Second - 1) / time.Second)
	err := status.Errorf(said.reason, "%d within %s", p.Count, p.Unit)
	err.Text = fmt.Sprintf("%s from %s; try again in %d seconds", said.reason.Reply().Text, addr.Unmap(), max(seconds, 1))
	return err
}

// notice tells of what no handler learns.
func (s *settings) notice(client *mail.Client, e mail.Event) {
	if s.Noticed == nil {
		return
	}
	e.Service, e.Session, e.Remote, e.Client = s.Name, client.Session, client.Remote, client.Hostname
	s.Noticed(e)
}

// peerName is a client as Postfix writes it: name[address].
func peerName(c *mail.Client) string {
	name := c.Hostname
	if name == "" {
		name = "unknown"
	}
	return name + "[" + c.Remote.Addr().Unmap().String() + "]"
}

// stress is whether the server is nearly full.
type stress struct{ on atomic.Bool }

// stressErrors is how many errors, and junk commands, a session may make under
// stress.
const stressErrors = 1

// rises is told how many sessions there are now that there is one more, and
// reports whether stress begins with it.
func (x *stress) rises(set *settings, sessions int) bool {
	return set.stressAt() > 0 && sessions >= set.stressAt() && x.on.CompareAndSwap(false, true)
}

// falls is told how many are left, and reports whether stress ends: with a tenth
// fewer than it began with, so that it does not come and go with each client.
func (x *stress) falls(set *settings, sessions int) bool {
	at := set.stressAt()
	return (at == 0 || sessions < at-at/10) && x.on.CompareAndSwap(true, false)
}

// stressAt is how many sessions mean stress; 0 for none do.
func (s *settings) stressAt() int {
	if s.Stress == 0 || int64(s.MaxSessions) >= unlimited/100 {
		return 0
	}
	return max((s.MaxSessions*s.Stress+99)/100, 1)
}

func (s *serverSession) commandTimeout() time.Duration { return s.hurried(s.set.CommandTimeout) }

func (s *serverSession) blockTimeout() time.Duration { return s.hurried(s.set.BlockTimeout) }

// hurried is a wait's usual length, or under stress no more than then.
func (s *serverSession) hurried(usual time.Duration) time.Duration {
	if s.hurry.Load() {
		return min(usual, s.set.StressTimeout)
	}
	return usual
}
