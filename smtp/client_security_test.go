package smtp

import (
	"crypto/tls"
	"encoding/base64"
	"errors"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/status"
)

// clientListen serves each connection to a TCP port by f, which is told how
// many came before.
func clientListen(t *testing.T, f func(n int, conn net.Conn)) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for n := 0; ; n++ {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { defer conn.Close(); f(n, conn) })
		}
	})
	t.Cleanup(func() { _ = l.Close(); wg.Wait() })
	return l.Addr().String()
}

// clientAccepts takes one message on conn, whose greeting was sent.
func clientAccepts(p *clientPeer, offered ...string) {
	for {
		switch line := p.line(); {
		case line == "":
			return
		case strings.HasPrefix(line, "EHLO"):
			p.say(append([]string{"250-x"}, append(offered, "250 HELP")...)...)
		case line == "DATA":
			p.say("354 go")
			p.content()
			p.say("250 taken")
		default:
			p.say("250 ok")
		}
	}
}

func TestClientImplicitTLS(t *testing.T) {
	t.Parallel()
	ca := testenv.NewCA(t)
	server := &tls.Config{Certificates: []tls.Certificate{ca.Issue("127.0.0.1").TLS(t)}}
	address := clientListen(t, func(_ int, conn net.Conn) {
		p := clientNewPeer(tls.Server(conn, server))
		p.say("220 x")
		clientAccepts(p)
	})
	trusting := &tls.Config{RootCAs: ca.Pool()}
	for _, tt := range []struct {
		name string
		cfg  ClientConfig
		want status.Reason
	}{
		{"trusted", ClientConfig{TLS: ClientTLSVerify, TLSConfig: trusting}, status.OK},
		{"any", ClientConfig{TLS: ClientTLSEncrypt}, status.OK},
		{"not trusted", ClientConfig{TLS: ClientTLSVerify}, status.PeerNotTrusted},
		{"another name", ClientConfig{TLS: ClientTLSVerify, TLSConfig: trusting, ServerName: "mail.example.com"}, status.PeerNotTrusted},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			tt.cfg.ImplicitTLS = true
			c, err := Dial(t.Context(), "tcp", address, tt.cfg)
			if status.Of(err) != tt.want {
				t.Fatalf("got %v, want %v", err, tt.want)
			}
			if err != nil {
				return
			}
			defer c.Close()
			if _, encrypted := c.TLS(); !encrypted {
				t.Error("connection is in the clear")
			}
			for range 2 {
				if got := c.Send(t.Context(), clientText(0, clientLetter, "a@example.com")); got[0].Err != nil || !c.Usable() {
					t.Errorf("%+v, usable %v", got, c.Usable())
				}
			}
		})
	}
}

// TestClientOpportunisticTLS: TLS that fails is no worse than none for the
// policy may, and the end for every other.
func TestClientOpportunisticTLS(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		policy ClientTLS
		want   status.Reason
	}{{ClientTLSMay, status.OK}, {ClientTLSEncrypt, status.ConnectionFailed}, {ClientTLSVerify, status.ConnectionFailed}} {
		address := clientListen(t, func(n int, conn net.Conn) {
			p := clientNewPeer(conn)
			p.say("220 x")
			if n == 0 {
				p.line()
				p.say("250-x", "250 STARTTLS")
				p.expect(t, "STARTTLS", "220 go")
				if _, err := p.r.ReadByte(); err != nil { // of the client's hello
					return
				}
				p.say("this is no TLS, and more of it than a record's header")
				return
			}
			clientAccepts(p, "250-STARTTLS")
		})
		c, err := Dial(t.Context(), "tcp", address, ClientConfig{TLS: tt.policy})
		if status.Of(err) != tt.want {
			t.Errorf("policy %v: got %v, want %v", tt.policy, err, tt.want)
		}
		if err == nil {
			if got := c.Send(t.Context(), clientText(0, clientLetter, "a@example.com")); got[0].Err != nil {
				t.Error(got[0].Err)
			}
			_ = c.Close()
		}
	}
}

func TestClientAuth(t *testing.T) {
	t.Parallel()
	encode := func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
	for _, tt := range []struct {
		name, offered string
		dialogue      []string // commands awaited and answers, in turn
		ok            bool
	}{
		{"plain", "LOGIN PLAIN", []string{"AUTH PLAIN " + encode("\x00user\x00secret"), "235 ok"}, true},
		{"login", "login", []string{"AUTH LOGIN", "334 " + encode("Username:"), encode("user"), "334 " + encode("pass?"), encode("secret"), "235 ok"}, true},
		{"bad challenge", "LOGIN", []string{"AUTH LOGIN", "334 !", "*", "501 cancelled"}, false},
		{"too many challenges", "LOGIN", []string{"AUTH LOGIN", "334 ", encode("user"), "334 ", encode("secret"), "334 ", "*", "501 cancelled"}, false},
		{"refused", "PLAIN", []string{"AUTH PLAIN " + encode("\x00user\x00secret"), "535 5.7.8 no"}, false},
		{"nothing of ours", "GSSAPI", nil, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			near, far := clientSocketpair(t)
			done := make(chan struct{})
			go func() {
				defer close(done)
				defer far.Close()
				p := clientNewPeer(far)
				p.say("220 x")
				p.line()
				p.say("250-x", "250 AUTH "+tt.offered)
				for i := 0; i < len(tt.dialogue); i += 2 {
					if got := p.line(); got != tt.dialogue[i] {
						t.Errorf("got %q, want %q", got, tt.dialogue[i])
					}
					p.say(tt.dialogue[i+1])
				}
			}()
			c, err := NewClient(t.Context(), near, ClientConfig{Login: "user", Password: "secret"})
			if (err == nil) != tt.ok || err != nil && !status.ReplyOf(err).Transient() {
				t.Errorf("got %v", err)
			}
			if err != nil && strings.Contains(err.Error(), "secret") {
				t.Errorf("password in %v", err)
			}
			if c != nil {
				_ = c.Close()
			}
			<-done
		})
	}
}

// TestClientKeepsPassword: no password goes out in the clear, and none with a
// NUL, which would end the authentication identity.
func TestClientKeepsPassword(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		from string // where the peer seems to be
		cfg  ClientConfig
		want string // what it gets
		err  status.Reason
	}{
		{"clear", "192.0.2.1", ClientConfig{Login: "user", Password: "secret"}, "", status.PeerNeedsTLS},
		{"clear, SCRAM", "192.0.2.1", ClientConfig{Login: "user", Password: "secret", Mechanisms: []string{"SCRAM-SHA-256"}}, "", status.PeerNeedsTLS},
		{"allowed", "192.0.2.1", ClientConfig{Login: "user", Password: "secret", PlaintextAuth: true}, "AUTH PLAIN AHVzZXIAc2VjcmV0", status.ConnectionLost},
		{"this host", "127.0.0.1", ClientConfig{Login: "user", Password: "secret"}, "AUTH PLAIN AHVzZXIAc2VjcmV0", status.ConnectionLost},
		{"NUL", "127.0.0.1", ClientConfig{Login: "user", Password: "a\x00b", PlaintextAuth: true}, "", status.ConfigurationError},
	} {
		near, far := clientSocketpair(t)
		done := make(chan struct{})
		go func() {
			defer close(done)
			defer far.Close()
			p := clientNewPeer(far)
			p.say("220 x")
			p.line()
			p.say("250-x", "250 AUTH PLAIN LOGIN "+strings.Join(tt.cfg.Mechanisms, " "))
			if got := p.line(); got != tt.want {
				t.Errorf("%s: client said %q", tt.name, got)
			}
		}()
		seems := clientElsewhere{near, &net.TCPAddr{IP: net.ParseIP(tt.from), Port: 25}}
		if _, err := NewClient(t.Context(), seems, tt.cfg); status.Of(err) != tt.err {
			t.Errorf("%s: got %v", tt.name, err)
		}
		<-done
	}
}

// clientElsewhere is a connection that seems to lead somewhere else.
type clientElsewhere struct {
	net.Conn
	remote net.Addr
}

func (c clientElsewhere) RemoteAddr() net.Addr { return c.remote }

func TestClientDialFails(t *testing.T) {
	t.Parallel()
	_, err := Dial(t.Context(), "unix", "/nonexistent/socket", ClientConfig{})
	var known *status.Error
	if !errors.As(err, &known) || known.Reason != status.ConnectionFailed {
		t.Errorf("got %v", err)
	}
}
