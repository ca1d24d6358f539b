package main

import (
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	gosmtp "github.com/emersion/go-smtp"

	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/testdata/ldif"
)

// outsideServer is somebody else's mail server, to which mail for other domains
// goes: it takes mail, or answers what a test says.
type outsideServer struct {
	Address string

	mu       sync.Mutex
	refusal  *gosmtp.SMTPError // of every recipient; nil takes them
	messages []received
}

// received is a message as the next hop got it.
type received struct {
	From string
	To   []string
	Text string
}

// startOutside runs one until the test ends.
func startOutside(t testing.TB) *outsideServer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	h := &outsideServer{Address: l.Addr().String()}
	server := gosmtp.NewServer(h)
	server.Domain = "outside.example"
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(l) }()
	t.Cleanup(func() {
		_ = server.Close() // sessions under way may break off
		_ = l.Close()      // which the server does not know of before it serves
		<-ended
	})
	return h
}

// refuse has every recipient answered with code from now on; 0 takes them.
func (h *outsideServer) refuse(code int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.refusal = nil
	if code != 0 {
		h.refusal = &gosmtp.SMTPError{Code: code, EnhancedCode: gosmtp.EnhancedCode{code / 100, 3, 2}, Message: "Not today"}
	}
}

// got returns what arrived so far.
func (h *outsideServer) got() []received {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]received(nil), h.messages...)
}

// NewSession implements gosmtp.Backend.
func (h *outsideServer) NewSession(*gosmtp.Conn) (gosmtp.Session, error) {
	return &outsideSession{hop: h}, nil
}

type outsideSession struct {
	hop *outsideServer
	received
}

func (s *outsideSession) Mail(from string, _ *gosmtp.MailOptions) error {
	s.received = received{From: from}
	return nil
}

func (s *outsideSession) Rcpt(to string, _ *gosmtp.RcptOptions) error {
	s.hop.mu.Lock()
	defer s.hop.mu.Unlock()
	if s.hop.refusal != nil {
		return s.hop.refusal
	}
	s.To = append(s.To, to)
	return nil
}

func (s *outsideSession) Data(r io.Reader) error {
	var text strings.Builder
	if _, err := io.Copy(&text, r); err != nil {
		return err
	}
	s.Text = text.String()
	s.hop.mu.Lock()
	defer s.hop.mu.Unlock()
	s.hop.messages = append(s.hop.messages, s.received)
	return nil
}

func (s *outsideSession) Reset()        {}
func (s *outsideSession) Logout() error { return nil }

// TestOutside follows mail to other domains: taken, refused, and of nobody.
func TestOutside(t *testing.T) {
	t.Parallel()
	outside := startOutside(t)
	s := newSite(t, variant(t, standard, nobodyListens, outside.Address), nil).start()
	must(t, s.send("alice", ldif.Password("alice"), "a.anders@example.com", "far@elsewhere.example", "on its way"))
	must(t, s.inject("stranger@other.example", []string{"erin@example.com"}, "forwarded"))
	testenv.Eventually(t, time.Minute, func() error {
		got := outside.got()
		if len(got) != 2 {
			return fmt.Errorf("%d messages arrived", len(got))
		}
		for _, m := range got {
			own := m.From == "a.anders@example.com" && slices.Equal(m.To, []string{"far@elsewhere.example"}) && strings.Contains(m.Text, "Subject: on its way\r\n")
			forward := m.From == "stranger@other.example" && slices.Equal(m.To, []string{"erin@elsewhere.example"}) && strings.Contains(m.Text, "Subject: forwarded\r\n")
			if !own && !forward || !strings.Contains(m.Text, "\r\nDear reader,\r\n.a line with a dot\r\n") {
				return fmt.Errorf("arrived: %+v", m)
			}
		}
		return nil
	})

	outside.refuse(550)
	must(t, s.send("alice", ldif.Password("alice"), "alice@example.com", "far@elsewhere.example", "unwanted"))
	s.waitFor("alice", "Undelivered Mail Returned to Sender", 1)
	report := s.message(t, "alice", 1)
	for _, part := range []string{
		"multipart/report; report-type=delivery-status", "Final-Recipient: rfc822;far@elsewhere.example",
		"Action: failed", "Status: 5.3.2", "Diagnostic-Code: smtp; 550 5.3.2 Not today", "Subject: unwanted",
	} {
		if !strings.Contains(strings.ReplaceAll(report, "; ", ";"), strings.ReplaceAll(part, "; ", ";")) {
			t.Errorf("the report does not hold %q:\n%s", part, report)
		}
	}

	// A report that nobody takes is not reported.
	must(t, s.inject("", []string{"erin@example.com"}, "a report"))
	waitForOutput(t, s, "The queue is empty", "queue", "list")
	if all := count(t, s, "alice"); len(all) != 1 {
		t.Errorf("alice has %v", all)
	}
	if len(outside.got()) != 2 {
		t.Errorf("what was refused arrived: %+v", outside.got())
	}
}
