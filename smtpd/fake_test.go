package smtpd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	"github.com/emersion/go-sasl"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/policy"
	"github.com/postern-mail/postern/queue"
	"github.com/postern-mail/postern/smtp"
	"github.com/postern-mail/postern/status"
	"github.com/postern-mail/postern/store"
)

// fakeDirectory knows example.com: alice, bob, the alias sales for alice, the
// group staff for both and a friend elsewhere, the group crowd for 30 people.
// carol's lookup fails, gone is disabled. In other.example of ours everybody
// is unknown, its postmaster too.
type fakeDirectory struct{ down bool }

var errDirectory = status.Errorf(status.DirectoryDown, "ldap1.corp.internal: connection refused")

func (*fakeDirectory) Class(d mail.Domain) policy.DomainClass {
	switch d {
	case "example.com", "second.example":
		return policy.Local
	case "relayed.example":
		return policy.Relay
	}
	return policy.Other
}

func (f *fakeDirectory) Resolve(_ context.Context, a mail.Address, _ *mail.Poster) ([]mail.Recipient, error) {
	if f.down {
		return nil, errDirectory
	}
	to := func(addresses ...string) (all []mail.Recipient, err error) {
		for _, s := range addresses {
			all = append(all, mail.Recipient{Address: mail.MustAddress(s), Accepted: a})
		}
		return all, nil
	}
	if a.Domain == "relayed.example" {
		return []mail.Recipient{{Address: a, Route: mail.Route{Transport: "relay1"}}}, nil
	}
	if a.Domain != "example.com" {
		return nil, status.New(status.NoSuchUser, nil)
	}
	switch a.Fold().Local {
	case "alice", "sales":
		return to("alice@example.com")
	case "bob", "postmaster":
		return to("bob@example.com")
	case "staff":
		return to("alice@example.com", "bob@example.com", "friend@far.example")
	case "crowd":
		var all []string
		for i := range 30 {
			all = append(all, fmt.Sprintf("p%d@example.com", i))
		}
		return to(all...)
	case "carol":
		return nil, errDirectory
	case "gone":
		return nil, status.New(status.AccountDisabled, nil)
	}
	return nil, status.New(status.NoSuchUser, nil)
}

func (f *fakeDirectory) MaySendAs(ctx context.Context, id mail.Identity, a mail.Address) (bool, error) {
	owners, err := f.Owners(ctx, a)
	return err == nil && len(owners) == 1 && owners[0] == id.Authentication, err
}

func (f *fakeDirectory) Owners(_ context.Context, a mail.Address) ([]string, error) {
	if f.down {
		return nil, errDirectory
	}
	if a.Domain == "example.com" && (a.Local == "alice" || a.Local == "bob") {
		return []string{string(a.Local)}, nil
	}
	return nil, nil
}

// fakeTable maps addresses; what leads to "down" is not known.
type fakeTable map[string]string

func (fakeTable) Name() string { return "fake" }

func (f fakeTable) Lookup(_ context.Context, key string) ([]string, error) {
	switch value := f[key]; value {
	case "":
		return nil, nil
	case "down":
		return nil, errors.New("ldap1.corp.internal: connection refused")
	default:
		return []string{value}, nil
	}
}

// fakeAuthn takes any login but nobody with the password "secret"; "down" finds
// the directory down.
type fakeAuthn struct{ inClear bool }

func (f fakeAuthn) Mechanisms(client *mail.Client) []string {
	if client.TLS == nil && !f.inClear {
		return nil
	}
	return []string{"PLAIN"}
}

func (fakeAuthn) Start(_ context.Context, mechanism, service string, _ mail.Client) (smtp.Authentication, error) {
	x := &fakeExchange{}
	x.Server = sasl.NewPlainServer(func(_, username, password string) error {
		switch {
		case username == "nobody":
		case password == "secret":
			x.identity = mail.Identity{Authentication: username, Authorization: username, Mechanism: mechanism, Verifier: service}
			return nil
		case password == "down":
			return status.New(status.AuthTemporary, errDirectory)
		}
		return status.New(status.AuthFailed, nil)
	})
	return x, nil
}

type fakeExchange struct {
	sasl.Server
	identity mail.Identity
}

func (x *fakeExchange) Identity() mail.Identity { return x.identity }

// fakeQueue keeps what it accepted.
type fakeQueue struct {
	full, acceptFails, forget bool
	noPlace, pressed          bool
	nextHop                   string

	mu        sync.Mutex
	ids       int
	staged    int // minus discarded or accepted
	accepted  []queue.Submission
	contents  []string
	failStage error
}

func (q *fakeQueue) newID() mail.QueueID {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.ids++
	return mail.QueueID(fmt.Sprintf("Q%d", q.ids))
}

func (q *fakeQueue) CheckSpace(declared int64) error {
	if q.full || declared > 1<<20 {
		return store.ErrFull
	}
	return nil
}

func (q *fakeQueue) Admit(*mail.Envelope) error {
	if q.noPlace {
		return status.New(status.QueueFull, nil)
	}
	return nil
}

func (q *fakeQueue) Pressed() bool { return q.pressed }

func (q *fakeQueue) Stage(_ context.Context, r io.Reader) (store.Staged, error) {
	content, err := io.ReadAll(r)
	if err != nil {
		return nil, fmt.Errorf("stage: %w", err)
	}
	if q.failStage != nil {
		return nil, q.failStage
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.staged++
	return &fakeStaged{q: q, content: content}, nil
}

func (q *fakeQueue) Submit(_ context.Context, s queue.Submission) (delivered bool, err error) {
	if q.acceptFails {
		return false, errors.New("input/output error on /var/lib/postern")
	}
	if q.nextHop == "refuses" {
		return false, &status.Error{Reason: status.RemoteReply, Remote: &status.Reply{Code: 550, Enhanced: [3]int{5, 7, 1}, Text: "no thanks"}}
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.staged--
	if q.forget {
		return false, nil
	}
	q.accepted = append(q.accepted, s)
	q.contents = append(q.contents, string(s.Content.(*fakeStaged).content))
	return q.nextHop == "takes", nil
}

// String tells what was accepted, for transcripts.
func (q *fakeQueue) String() string {
	q.mu.Lock()
	defer q.mu.Unlock()
	var b strings.Builder
	for i, s := range q.accepted {
		fmt.Fprintf(&b, "%s from=%s received-from=%s hold=%t", s.ID, s.Envelope.ReversePath.Path(), s.ReceivedFrom, s.Hold)
		if s.Envelope.RequireTLS || s.Envelope.TLSOptional {
			fmt.Fprintf(&b, " requiretls=%t tls-optional=%t", s.Envelope.RequireTLS, s.Envelope.TLSOptional)
		}
		if p := s.Envelope.Priority; p != 0 {
			fmt.Fprintf(&b, " priority=%d", p)
		}
		if s.Envelope.SMTPUTF8 {
			b.WriteString(" smtputf8")
		}
		b.WriteByte('\n')
		for _, r := range s.Envelope.Recipients {
			fmt.Fprintf(&b, "  to=%s accepted=%s orcpt=%q notify=%d route=%q\n", r.Address.Path(), r.Accepted.Path(), r.Original, r.Notify, strings.TrimSuffix(r.Route.Transport+":"+r.Route.NextHop, ":"))
		}
		for _, r := range s.Expanded {
			fmt.Fprintf(&b, "  expanded=%s orcpt=%q\n", r.Address.Path(), r.Original)
		}
		for line := range strings.Lines(q.contents[i]) {
			b.WriteString("  | " + strings.ReplaceAll(line, "\r\n", "\n"))
		}
	}
	if q.staged != 0 {
		fmt.Fprintf(&b, "%d bodies left staged\n", q.staged)
	}
	return b.String()
}

type fakeStaged struct {
	q       *fakeQueue
	content []byte
	gone    bool
}

func (s *fakeStaged) Ref() store.Ref { return store.Ref{Octets: int64(len(s.content))} }

func (s *fakeStaged) Octets() int64 { return int64(len(s.content)) }

func (s *fakeStaged) Open() (store.Body, error) {
	return fakeBody{bytes.NewReader(s.content)}, nil
}

func (s *fakeStaged) Discard() {
	s.q.mu.Lock()
	defer s.q.mu.Unlock()
	if !s.gone {
		s.q.staged--
	}
	s.gone = true
}

type fakeBody struct{ *bytes.Reader }

func (fakeBody) Close() error { return nil }

// recorder keeps audit events.
type recorder struct {
	mu     sync.Mutex
	events []mail.Event
}

func (r *recorder) Record(e mail.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, e)
}

func (r *recorder) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var b strings.Builder
	for _, e := range r.events {
		fmt.Fprintf(&b, "%s", e.Kind)
		for _, part := range []string{e.Result, e.Reason, e.Stage, e.Phase, e.Login, string(e.Queue), e.MessageID, e.TLS} {
			if part != "" {
				b.WriteString(" " + part)
			}
		}
		b.WriteByte('\n')
	}
	return b.String()
}
