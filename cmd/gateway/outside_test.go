package main

import (
	"io"
	"net"
	"sync"
	"testing"

	gosmtp "github.com/emersion/go-smtp"
)

// outsideServer is somebody else's mail server, to which mail for other domains
// goes: it takes mail, or answers what a test says.
type outsideServer struct {
	Address string

	mu      sync.Mutex
	refusal *gosmtp.SMTPError // of every recipient; nil takes them
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

// NewSession implements gosmtp.Backend.
func (h *outsideServer) NewSession(*gosmtp.Conn) (gosmtp.Session, error) {
	return &outsideSession{hop: h}, nil
}

type outsideSession struct{ hop *outsideServer }

func (s *outsideSession) Mail(string, *gosmtp.MailOptions) error { return nil }

func (s *outsideSession) Rcpt(string, *gosmtp.RcptOptions) error {
	s.hop.mu.Lock()
	defer s.hop.mu.Unlock()
	if s.hop.refusal != nil {
		return s.hop.refusal
	}
	return nil
}

func (s *outsideSession) Data(r io.Reader) error {
	_, err := io.Copy(io.Discard, r)
	return err
}

func (s *outsideSession) Reset()        {}
func (s *outsideSession) Logout() error { return nil }
