package smtp

import (
	"context"
	"crypto/tls"
	"net"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/postern-mail/postern/mail"
)

// flights is a listener that notes for each connection when octets came (R) and
// went (W).
type flights struct {
	net.Listener
	mu    sync.Mutex
	conns []*noted
}

func (f *flights) Accept() (net.Conn, error) {
	conn, err := f.Listener.Accept()
	if err != nil {
		return nil, err
	}
	n := &noted{Conn: conn}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.conns = append(f.conns, n)
	return n, nil
}

// noted is a connection with its history.
type noted struct {
	net.Conn
	mu      sync.Mutex
	history strings.Builder
}

func (n *noted) note(what byte) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.history.WriteByte(what)
}

func (n *noted) Read(p []byte) (int, error) {
	got, err := n.Conn.Read(p)
	if got > 0 {
		n.note('R')
	}
	return got, err
}

func (n *noted) Write(p []byte) (int, error) {
	n.note('W')
	return n.Conn.Write(p)
}

// startTLSServer serves on loopback and notes the flights.
func startTLSServer(t testing.TB, change func(*tls.Config)) (f *flights, client *tls.Config) {
	t.Helper()
	server, client := testTLS(t)
	if change != nil {
		change(server)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f = &flights{Listener: l}
	_, stop := startServer(t, ServerConfig{Mode: ModeMX, TLS: server}, &fakeHandler{}, f)
	t.Cleanup(stop)
	return f, client
}

// sendTLS brings one message to the server by STARTTLS and says goodbye.
func sendTLS(t testing.TB, address string, client *tls.Config, body string) tls.ConnectionState {
	t.Helper()
	c, err := Dial(context.Background(), "tcp", address, ClientConfig{TLS: ClientTLSVerify, TLSConfig: client, ServerName: "mx.test"})
	if err != nil {
		t.Fatal(err)
	}
	state, _ := c.TLS()
	results := c.Send(context.Background(), ClientMessage{
		From: MailCommand{ReversePath: mail.MustAddress("a@client.test")},
		To:   []RcptCommand{{ForwardPath: mail.MustAddress("b@mx.test")}}, Octets: int64(len(body)), Content: strings.NewReader(body),
	})
	if results[0].Err != nil {
		t.Fatal(results[0].Err)
	}
	if err := c.Quit(context.Background()); err != nil {
		t.Fatal(err)
	}
	return state
}

// TestOneWriteForEachFlight: under STARTTLS the server never writes twice
// without reading in between. A second small write is what a sender's algorithm
// of Nagle and a receiver's delayed acknowledgement make a pause of 40 ms of.
func TestOneWriteForEachFlight(t *testing.T) {
	t.Parallel()
	for name, version := range map[string]uint16{"TLS 1.2": tls.VersionTLS12, "TLS 1.3": tls.VersionTLS13} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, client := startTLSServer(t, func(c *tls.Config) { c.MinVersion, c.MaxVersion = version, version })
			sendTLS(t, f.Addr().String(), client, peerBody)
			f.mu.Lock()
			n := f.conns[0]
			f.mu.Unlock()
			n.mu.Lock()
			defer n.mu.Unlock()
			// The last two are the answer to QUIT and TLS's own goodbye.
			if history := n.history.String(); regexp.MustCompile("WW.*R|WWW").MatchString(history) {
				t.Errorf("reads and writes of the server: %s", history)
			}
		})
	}
}

// TestSessionResumption: who comes back is spared half of the handshake.
func TestSessionResumption(t *testing.T) {
	t.Parallel()
	for name, version := range map[string]uint16{"TLS 1.2": tls.VersionTLS12, "TLS 1.3": tls.VersionTLS13} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, client := startTLSServer(t, func(c *tls.Config) { c.MinVersion, c.MaxVersion = version, version })
			client.ClientSessionCache = tls.NewLRUClientSessionCache(4)
			for n, want := range []bool{false, true, true} {
				if got := sendTLS(t, f.Addr().String(), client, "Subject: x\r\n\r\n").DidResume; got != want {
					t.Errorf("session %d resumed: %v", n+1, got)
				}
			}
		})
	}
}

// BenchmarkStartTLS brings messages of 5 kB on connections of their own: in the
// clear, with a full handshake, and with one that resumes.
func BenchmarkStartTLS(b *testing.B) {
	body := "Subject: x\r\n\r\n" + strings.Repeat(strings.Repeat("x", 70)+"\r\n", 70)
	for _, mode := range []string{"clear", "full", "resumed"} {
		b.Run(mode, func(b *testing.B) {
			f, client := startTLSServer(b, nil)
			if mode == "resumed" {
				client.ClientSessionCache = tls.NewLRUClientSessionCache(4)
			}
			cfg := ClientConfig{TLS: ClientTLSVerify, TLSConfig: client, ServerName: "mx.test"}
			if mode == "clear" {
				cfg.TLS = ClientTLSNone
			}
			for b.Loop() {
				c, err := Dial(b.Context(), "tcp", f.Addr().String(), cfg)
				if err != nil {
					b.Fatal(err)
				}
				results := c.Send(b.Context(), ClientMessage{
					From: MailCommand{ReversePath: mail.MustAddress("a@client.test")},
					To:   []RcptCommand{{ForwardPath: mail.MustAddress("b@mx.test")}}, Octets: int64(len(body)), Content: strings.NewReader(body),
				})
				if results[0].Err != nil {
					b.Fatal(results[0].Err)
				}
				if err := c.Quit(b.Context()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
