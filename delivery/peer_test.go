package delivery_test

import (
	"bytes"
	"crypto/tls"
	"io"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-sasl"
	gosmtp "github.com/emersion/go-smtp"

	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/mail"
)

// peer is a mail server by another hand, which keeps what it was given.
type peer struct {
	server *gosmtp.Server
	addr   string

	mu       sync.Mutex
	sessions int
	logins   []string
	got      []letter
	current  int // sessions now open
	most     int // sessions ever open at once
	// refuse answers RCPT and, in LMTP, the end of data, by recipient.
	refuseRcpt, refuseData map[string]*gosmtp.SMTPError
	greeting               *gosmtp.SMTPError
	hold                   chan struct{} // when set, DATA waits for it
	conns                  []net.Conn    // ever accepted
}

type letter struct {
	from string
	to   []string
	data string
	opts gosmtp.MailOptions
}

// loopbackAt returns an address of 127.0.0.1 with a port that is the test's own.
func loopbackAt(t testing.TB) string {
	t.Helper()
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(testenv.FreePort(t)))
}

// newPeer starts a peer on network "tcp" or "unix".
func newPeer(t testing.TB, network string, change func(*peer)) *peer {
	t.Helper()
	// Not port 0: some tests want the same port of other addresses, too, where
	// the system may have given it to somebody.
	address := loopbackAt(t)
	if network == "unix" {
		address = filepath.Join(testenv.TempDir(t), "s")
	}
	return newPeerAt(t, network, address, change)
}

func newPeerAt(t testing.TB, network, address string, change func(*peer)) *peer {
	t.Helper()
	p := &peer{refuseRcpt: map[string]*gosmtp.SMTPError{}, refuseData: map[string]*gosmtp.SMTPError{}}
	p.server = gosmtp.NewServer(gosmtp.BackendFunc(p.newSession))
	p.server.Domain = "peer.example"
	p.server.LMTP = true
	p.server.EnableSMTPUTF8 = true
	p.server.AllowInsecureAuth = true
	p.server.ReadTimeout, p.server.WriteTimeout = time.Minute, time.Minute
	p.server.ErrorLog = discard{}
	if change != nil {
		change(p)
	}
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	if p.addr = l.Addr().String(); network == "unix" {
		p.addr = "unix:" + p.addr
	}
	served := make(chan struct{})
	go func() { defer close(served); _ = p.server.Serve(hangingUp{l}) }()
	t.Cleanup(func() {
		p.close()
		_ = l.Close() // which the server does not know of before it serves
		<-served
	})
	return p
}

// hangingUp ends what it accepted for good when that is closed: without it a
// program that another test is just starting holds a copy of the connection
// until its exec, and the client could go on talking to nobody.
type hangingUp struct{ net.Listener }

func (l hangingUp) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return shutConn{conn}, nil
}

type shutConn struct{ net.Conn }

func (c shutConn) Close() error {
	if both, ok := c.Conn.(interface {
		CloseRead() error
		CloseWrite() error
	}); ok {
		_ = both.CloseWrite() // the client may have gone before
		_ = both.CloseRead()
	}
	return c.Conn.Close()
}

type discard struct{}

func (discard) Printf(string, ...any) {}
func (discard) Println(...any)        {}

func (p *peer) close() { _ = p.server.Close() }

func (p *peer) letters() []letter {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.got)
}

func (p *peer) connections() (total, most int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.sessions, p.most
}

// hangUp ends the connections there are.
func (p *peer) hangUp() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, conn := range p.conns {
		_ = conn.Close() // some are closed already
	}
}

func (p *peer) newSession(c *gosmtp.Conn) (gosmtp.Session, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conns = append(p.conns, c.Conn())
	if p.greeting != nil {
		return nil, p.greeting
	}
	p.sessions++
	p.current++
	p.most = max(p.most, p.current)
	return &peerSession{peer: p}, nil
}

type peerSession struct {
	peer *peer
	now  letter
}

func (s *peerSession) AuthMechanisms() []string { return []string{sasl.Plain} }

func (s *peerSession) Auth(string) (sasl.Server, error) {
	return sasl.NewPlainServer(func(_, login, password string) error {
		s.peer.mu.Lock()
		defer s.peer.mu.Unlock()
		s.peer.logins = append(s.peer.logins, login+":"+password)
		if password != "secret" {
			return &gosmtp.SMTPError{Code: 535, EnhancedCode: gosmtp.EnhancedCode{5, 7, 8}, Message: "wrong"}
		}
		return nil
	}), nil
}

func (s *peerSession) Reset() { s.now = letter{} }

func (s *peerSession) Logout() error {
	s.peer.mu.Lock()
	defer s.peer.mu.Unlock()
	s.peer.current--
	return nil
}

func (s *peerSession) Mail(from string, opts *gosmtp.MailOptions) error {
	s.now = letter{from: from, opts: *opts}
	return nil
}

func (s *peerSession) Rcpt(to string, _ *gosmtp.RcptOptions) error {
	s.peer.mu.Lock()
	defer s.peer.mu.Unlock()
	if err := s.peer.refuseRcpt[to]; err != nil {
		return err
	}
	s.now.to = append(s.now.to, to)
	return nil
}

func (s *peerSession) Data(r io.Reader) error {
	data, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	if s.peer.hold != nil {
		<-s.peer.hold
	}
	s.now.data = string(data)
	s.peer.mu.Lock()
	defer s.peer.mu.Unlock()
	s.peer.got = append(s.peer.got, s.now)
	return nil
}

func (s *peerSession) LMTPData(r io.Reader, status gosmtp.StatusCollector) error {
	if err := s.Data(r); err != nil {
		return err
	}
	for _, to := range s.now.to {
		if err := s.peer.refuseData[to]; err != nil {
			status.SetStatus(to, err)
		} else {
			status.SetStatus(to, nil)
		}
	}
	return nil
}

// withTLS gives the peer a certificate for localhost and returns the file
// that trusts it.
func withTLS(t testing.TB, p *peer) (caFile string) {
	t.Helper()
	ca := testenv.NewCA(t)
	p.server.TLSConfig = &tls.Config{Certificates: []tls.Certificate{ca.Issue("localhost", "127.0.0.1").TLS(t)}}
	return ca.WriteFile(testenv.TempDir(t))
}

type memory struct{ *bytes.Reader }

func (memory) Close() error { return nil }

const body = "From: a@example.org\r\nSubject: hello\r\n\r\n.dots\r\nand lines\r\n"

// message is a delivery of body to recipients.
func message(to ...string) mail.Delivery { return messageOf(body, to...) }

func messageOf(text string, to ...string) mail.Delivery {
	d := mail.Delivery{
		QueueID: "Q1", ID: "Q1-0", Attempt: 1, Octets: int64(len(text)),
		Envelope: mail.Envelope{ReversePath: mail.MustAddress("a@example.org")},
		Open:     func() (mail.Content, error) { return memory{bytes.NewReader([]byte(text))}, nil },
	}
	for _, address := range to {
		a := mail.MustAddress(address)
		d.Envelope.Recipients = append(d.Envelope.Recipients, mail.Recipient{Address: a, Accepted: a})
	}
	return d
}

// sketch draws outcomes as "delivered 250, bounced 550 5.1.1".
func sketch(outcomes []mail.Outcome) string {
	var words []string
	for _, o := range outcomes {
		word := o.Class.String()
		if o.FromPeer {
			word += " by peer"
		}
		words = append(words, strings.TrimSpace(word+" "+o.Reply.EnhancedString()))
	}
	return strings.Join(words, ", ")
}
