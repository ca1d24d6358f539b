package smtp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/emersion/go-sasl"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// fakeHandler decides by the words in addresses and writes down what it is
// asked. The local-part of an address names the reason it is refused for.
type fakeHandler struct {
	mu     sync.Mutex
	events []string
	bodies []string

	// content replaces the way messages are received.
	content func(ctx context.Context, r io.Reader, recipients []mail.Address) ([]status.Reply, error)
	connect error
	closed  func(*mail.Client) // nil does nothing
}

func (h *fakeHandler) note(format string, args ...any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.events = append(h.events, fmt.Sprintf(format, args...))
}

func (h *fakeHandler) seen() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.events) == 0 {
		return ""
	}
	return strings.Join(h.events, "\n") + "\n"
}

func (h *fakeHandler) messages() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]string(nil), h.bodies...)
}

func (h *fakeHandler) NewSession(_ context.Context, client *mail.Client) (Session, error) {
	if h.connect != nil {
		return nil, h.connect
	}
	return &fakeSession{h: h, client: client}, nil
}

type fakeSession struct {
	h      *fakeHandler
	client *mail.Client
}

// reasonIn finds the reason an address or name asks for: "NoSuchUser@x".
func reasonIn(word string) error {
	name, _, _ := strings.Cut(word, "@")
	for _, r := range status.Reasons() {
		if r != status.OK && strings.EqualFold(r.String(), name) {
			return status.New(r, errors.New("asked for"))
		}
	}
	return nil
}

func (s *fakeSession) Helo(context.Context) error {
	s.h.note("helo %s extended=%t tls=%t", s.client.Helo, s.client.Extended, s.client.TLS != nil)
	return reasonIn(s.client.Helo)
}

func (s *fakeSession) Mechanisms() []string { return []string{"PLAIN", "X-TWO-STEPS"} }

func (s *fakeSession) Auth(_ context.Context, mechanism string) (Authentication, error) {
	s.h.note("auth %s", mechanism)
	if mechanism == "X-TWO-STEPS" {
		return &twoSteps{}, nil
	}
	a := &fakePlain{}
	a.Server = sasl.NewPlainServer(func(identity, username, password string) error {
		if err := reasonIn(password); err != nil {
			return err
		}
		if username == "panic" {
			panic("asked for")
		}
		if password != "secret" {
			return status.New(status.AuthFailed, nil)
		}
		a.id = mail.Identity{Authentication: username, Authorization: username, Mechanism: mechanism}
		return nil
	})
	return a, nil
}

type fakePlain struct {
	sasl.Server
	id mail.Identity
}

func (a *fakePlain) Identity() mail.Identity { return a.id }

// twoSteps asks once and has data for the client at success.
type twoSteps struct{ step int }

func (a *twoSteps) Next(response []byte) ([]byte, bool, error) {
	a.step++
	switch {
	case a.step == 1 && response == nil:
		return []byte("first"), false, nil
	case string(response) == "good":
		return []byte("proof"), true, nil
	default:
		return nil, false, status.New(status.AuthFailed, nil)
	}
}

func (a *twoSteps) Identity() mail.Identity { return mail.Identity{Authentication: "two"} }

func (s *fakeSession) Mail(_ context.Context, from MailCommand) (Transaction, error) {
	auth := "-"
	if from.Auth != nil {
		auth = from.Auth.Path()
	}
	protected := ""
	if from.RequireTLS {
		protected = " requiretls"
	}
	if from.PriorityGiven {
		protected += fmt.Sprintf(" priority=%d", from.Priority)
	}
	s.h.note("mail %s size=%d body=%s utf8=%t ret=%s envid=%q auth=%s id=%q%s",
		from.ReversePath.Path(), from.DeclaredOctets, from.Body, from.SMTPUTF8, from.Return, from.EnvelopeID, auth, from.DeliveryID, protected)
	if from.ReversePath.Local == "panic" {
		panic("asked for")
	}
	if err := reasonIn(from.ReversePath.String()); err != nil {
		return nil, err
	}
	return &fakeTransaction{h: s.h, from: from.ReversePath}, nil
}

func (s *fakeSession) Verify(_ context.Context, argument string) error {
	s.h.note("verify %s", argument)
	return status.New(status.NotVerified, nil)
}

func (s *fakeSession) Unknown(_ context.Context, line string) error {
	s.h.note("unknown %q", line)
	_, word, _ := strings.Cut(line, " ")
	return reasonIn(word)
}

func (s *fakeSession) Close(cause error) {
	s.h.note("close %v", cause)
	if s.h.closed != nil {
		s.h.closed(s.client)
	}
}

type fakeTransaction struct {
	h    *fakeHandler
	from mail.Address
	to   []mail.Address
}

func (x *fakeTransaction) Rcpt(_ context.Context, to RcptCommand) error {
	x.h.note("rcpt %s notify=%d original=%q", to.ForwardPath.Path(), to.Notify, to.Original)
	if err := reasonIn(to.ForwardPath.String()); err != nil {
		return err
	}
	x.to = append(x.to, to.ForwardPath)
	return nil
}

func (x *fakeTransaction) Data(context.Context) error {
	x.h.note("data")
	if x.from.Local == "nodata" {
		return status.New(status.MailSystemFull, nil)
	}
	return nil
}

func (x *fakeTransaction) Abort() { x.h.note("abort") }

func (x *fakeTransaction) Content(ctx context.Context, r io.Reader) ([]status.Reply, error) {
	if x.h.content != nil {
		return x.h.content(ctx, r, x.to)
	}
	switch x.from.Local {
	case "early-refusal":
		x.h.note("content refused unread")
		return nil, status.New(status.PolicyReject, nil)
	case "early-discard":
		x.h.note("content discarded unread")
		return x.replies(), nil
	case "panic-content":
		panic("asked for")
	}
	body, err := io.ReadAll(r)
	if err != nil {
		x.h.note("content failed after %d octets: %v", len(body), err)
		return nil, err
	}
	x.h.note("content %q", body)
	x.h.mu.Lock()
	x.h.bodies = append(x.h.bodies, string(body))
	x.h.mu.Unlock()
	return x.replies(), nil
}

// replies gives one reply for each recipient; SMTP listeners have one each in
// these tests when that matters.
func (x *fakeTransaction) replies() []status.Reply {
	var replies []status.Reply
	for _, to := range x.to {
		switch to.Local {
		case "full":
			replies = append(replies, status.MailboxFull.Reply())
		case "forgotten":
		default:
			replies = append(replies, status.MessageAccepted.Reply())
		}
	}
	return replies
}

// startServer serves on a listener until the test ends or stop is called,
// which waits.
func startServer(t testing.TB, cfg ServerConfig, h Handler, l net.Listener) (*Server, func()) {
	t.Helper()
	if cfg.Hostname == "" {
		cfg.Hostname = "mx.test"
	}
	server, err := NewServer(cfg, h, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- server.Serve(ctx, l) }()
	stop := sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	t.Cleanup(stop)
	return server, stop
}

// startLoopback serves on a TCP port of the loopback interface.
func startLoopback(t testing.TB, cfg ServerConfig, h Handler) (server *Server, address string, stop func()) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server, stop = startServer(t, cfg, h, l)
	return server, l.Addr().String(), stop
}
