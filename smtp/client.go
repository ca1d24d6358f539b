package smtp

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/postern-mail/postern/status"
)

// ClientTLS says how a client protects its connection.
type ClientTLS int

// The TLS policies.
const (
	// ClientTLSMay uses STARTTLS when it is offered and believes any
	// certificate; when the handshake fails it goes on in the clear. On a unix
	// socket it asks for nothing.
	ClientTLSMay ClientTLS = iota
	// ClientTLSNone never asks for TLS.
	ClientTLSNone
	// ClientTLSEncrypt requires TLS, with any certificate.
	ClientTLSEncrypt
	// ClientTLSVerify requires TLS and a trusted certificate for the name.
	ClientTLSVerify
)

// ClientTimeouts bound each step of a conversation. A zero field means its
// default, which is Postfix's.
type ClientTimeouts struct {
	Connect   time.Duration // default 30 s
	Greeting  time.Duration // also EHLO, STARTTLS and AUTH; default 300 s
	Command   time.Duration // MAIL, RCPT; default 300 s
	Reset     time.Duration // RSET, QUIT; default 20 s
	DataInit  time.Duration // reply to DATA; default 120 s
	DataBlock time.Duration // each block of content; default 180 s
	DataDone  time.Duration // replies to the whole message; default 600 s
}

// ClientConfig says how to hold a conversation. The zero ClientConfig is
// opportunistic SMTP.
type ClientConfig struct {
	// LMTP speaks RFC 2033 instead of SMTP.
	LMTP bool
	// Hello is the name we give ourselves; "" means "localhost".
	Hello string
	// TLS is the policy; ImplicitTLS speaks TLS from the first octet, with
	// the certificate checked unless TLS is ClientTLSMay or ClientTLSEncrypt.
	TLS         ClientTLS
	ImplicitTLS bool
	// ServerName is the name the certificate must carry; "" means the host
	// of the address dialled.
	ServerName string
	// TLSConfig gives roots, client certificates and versions; nil means the
	// system's roots. It is cloned, never changed.
	TLSConfig *tls.Config
	// Login and Password authenticate when Login is not empty, by the first
	// of Mechanisms that the peer offers; a peer that offers none of them is
	// then refused. They are used over TLS, to this host and over unix sockets
	// only, unless PlaintextAuth allows more. No Mechanisms means SCRAM-SHA-256,
	// SCRAM-SHA-1, PLAIN, LOGIN; see ClientMechanisms.
	Login         string
	Password      string
	Mechanisms    []string
	PlaintextAuth bool
	// Chunking sends content by BDAT (RFC 3030) when the peer offers it:
	// a small message is then one write and one round trip.
	Chunking bool
	Timeouts ClientTimeouts
	// Dial makes connections for Dial; nil means by the network of this machine.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)

	nonce func() string // of SCRAM, for test vectors
}

// HandshakeError is a peer's refusal before any mail was spoken of: in its
// greeting, or to EHLO, STARTTLS or AUTH. Whatever its code says, it judges
// us and not a message, so it is never a reason to bounce one.
type HandshakeError struct {
	Stage string // "greeting", "EHLO", "LHLO", "STARTTLS", "AUTH"
	Reply status.Reply
}

// Error describes the refusal for the log.
func (e *HandshakeError) Error() string { return e.Stage + " refused: " + e.Reply.String() }

// Client is one conversation as the sending side. Its methods must not be
// called concurrently. Every read and write has a deadline; a connection on
// which a reply was missed or not understood is closed and never used again.
type Client struct {
	cfg        ClientConfig
	conn       net.Conn
	wire       clientWire
	peerName   string
	extensions map[string]string
	needsReset bool
	unusable   bool
	answered   bool
}

// Dial connects to address on network ("tcp", "unix"), reads the greeting,
// says EHLO or LHLO, starts TLS by policy and authenticates. It may block up
// to the sum of the configured times, or until ctx ends.
//
// Errors are *status.Error and transient without exception; a refusal by the
// peer is a *HandshakeError inside.
func Dial(ctx context.Context, network, address string, cfg ClientConfig) (*Client, error) {
	cfg = cfg.withDefaults(network, address)
	c, err := clientDialOnce(ctx, network, address, cfg)
	var failed *clientTLSError
	if errors.As(err, &failed) && cfg.TLS == ClientTLSMay && !cfg.ImplicitTLS {
		// RFC 7435: opportunistic means that broken TLS is no worse than none.
		cfg.TLS = ClientTLSNone
		return clientDialOnce(ctx, network, address, cfg)
	}
	return c, err
}

// NewClient holds the conversation on a connection that exists already. It
// owns conn from here on, also when it fails. cfg is as for Dial, but TLS
// that fails is an error under every policy, for there is no second try.
func NewClient(ctx context.Context, conn net.Conn, cfg ClientConfig) (*Client, error) {
	network, address := conn.RemoteAddr().Network(), conn.RemoteAddr().String()
	return clientStart(ctx, conn, cfg.withDefaults(network, address))
}

func clientDialOnce(ctx context.Context, network, address string, cfg ClientConfig) (*Client, error) {
	dial := cfg.Dial
	if dial == nil {
		dial = (&net.Dialer{}).DialContext
	}
	connecting, cancel := context.WithTimeout(ctx, cfg.Timeouts.Connect)
	defer cancel()
	conn, err := dial(connecting, network, address)
	if err != nil {
		return nil, status.New(status.ConnectionFailed, err)
	}
	return clientStart(ctx, conn, cfg)
}

func clientStart(ctx context.Context, conn net.Conn, cfg ClientConfig) (*Client, error) {
	c := &Client{cfg: cfg}
	c.attach(conn)
	defer c.interruptible(ctx)()
	if err := c.handshake(ctx); err != nil {
		c.drop()
		return nil, err
	}
	return c, nil
}

// attach makes conn what the client reads and writes.
func (c *Client) attach(conn net.Conn) {
	c.conn = conn
	c.wire.attach(conn)
}

// interruptible ends blocked reads and writes when ctx ends. The returned
// function must be called when the operation is over.
func (c *Client) interruptible(ctx context.Context) func() {
	stop := context.AfterFunc(ctx, func() { c.wire.interrupt() })
	return func() {
		if !stop() && ctx.Err() != nil {
			c.drop()
		}
	}
}

func (c *Client) handshake(ctx context.Context) error {
	if c.cfg.ImplicitTLS {
		if err := c.upgrade(ctx); err != nil {
			return err
		}
	}
	greeting, err := c.wire.readReply(ctx, c.cfg.Timeouts.Greeting)
	if err != nil {
		return err
	}
	if greeting.Code/100 != 2 {
		return status.New(status.ConnectionFailed, &HandshakeError{"greeting", greeting})
	}
	c.peerName, _, _ = strings.Cut(greeting.Text, " ")
	if err := c.hello(ctx); err != nil {
		return err
	}
	if err := c.startTLS(ctx); err != nil {
		return err
	}
	return c.authenticate(ctx)
}

// hello says EHLO or LHLO and notes what is offered. A peer that knows only
// HELO (RFC 5321 section 3.2) offers nothing.
func (c *Client) hello(ctx context.Context) error {
	verb := "EHLO"
	if c.cfg.LMTP {
		verb = "LHLO"
	}
	reply, err := c.exchange(ctx, verb+" "+c.cfg.Hello, c.cfg.Timeouts.Greeting)
	if err != nil {
		return err
	}
	if reply.Permanent() && !c.cfg.LMTP {
		verb = "HELO"
		if reply, err = c.exchange(ctx, verb+" "+c.cfg.Hello, c.cfg.Timeouts.Greeting); err != nil {
			return err
		}
	}
	if reply.Code/100 != 2 {
		return status.New(status.ConnectionFailed, &HandshakeError{verb, reply})
	}
	c.extensions = nil
	if verb != "HELO" {
		c.extensions = clientExtensions(reply.Text)
	}
	return nil
}

// clientExtensions reads the keyword lines of an EHLO reply (RFC 5321 section
// 4.1.1.1). Keywords are not case-sensitive.
func clientExtensions(text string) map[string]string {
	_, lines, _ := strings.Cut(text, "\n")
	found := make(map[string]string)
	for line := range strings.SplitSeq(lines, "\n") {
		keyword, params, _ := strings.Cut(strings.TrimSpace(line), " ")
		keyword = strings.ToUpper(keyword)
		// "AUTH=PLAIN" is an old notation some servers still add.
		if mechanisms, old := strings.CutPrefix(keyword, "AUTH="); old {
			keyword, params = "AUTH", mechanisms+" "+params+" "+found["AUTH"]
		} else if keyword == "AUTH" {
			params += " " + found["AUTH"]
		}
		if keyword != "" {
			found[keyword] = strings.TrimSpace(params)
		}
	}
	return found
}

// exchange sends one command and reads its reply.
func (c *Client) exchange(ctx context.Context, command string, timeout time.Duration) (status.Reply, error) {
	c.wire.append(command)
	if err := c.wire.flush(ctx, timeout); err != nil {
		return status.Reply{}, err
	}
	return c.wire.readReply(ctx, timeout)
}

// Extension returns the parameters of an extension the peer offered.
func (c *Client) Extension(keyword string) (params string, offered bool) {
	params, offered = c.extensions[keyword]
	return params, offered
}

// PeerName is the name the peer gave in its greeting; not to be trusted.
func (c *Client) PeerName() string { return c.peerName }

// RemoteAddr is the peer's address.
func (c *Client) RemoteAddr() net.Addr { return c.conn.RemoteAddr() }

// LocalAddr is our end of the connection.
func (c *Client) LocalAddr() net.Addr { return c.conn.LocalAddr() }

// TLS returns the state of the connection's TLS; false when it is in the clear.
func (c *Client) TLS() (tls.ConnectionState, bool) {
	if conn, ok := c.conn.(*tls.Conn); ok {
		return conn.ConnectionState(), true
	}
	return tls.ConnectionState{}, false
}

// Usable reports whether another message may be sent: framing is intact, and
// the peer has neither closed the connection nor said anything unasked.
func (c *Client) Usable() bool {
	return !c.unusable && c.wire.quiet()
}

// Answered reports whether the last Send read any reply at all. When it did
// not, and the connection had been idle, the peer had most likely closed it.
func (c *Client) Answered() bool { return c.answered }

// Quit says goodbye, waits for the answer and closes.
func (c *Client) Quit(ctx context.Context) error {
	defer c.drop()
	if c.unusable {
		return nil
	}
	defer c.interruptible(ctx)()
	_, err := c.exchange(ctx, "QUIT", c.cfg.Timeouts.Reset)
	return err
}

// Close ends the connection without a word. It may be called more than once.
func (c *Client) Close() error {
	c.drop()
	return nil
}

// drop closes the connection for good. An error of Close changes nothing: the
// replies read so far are all there is.
func (c *Client) drop() {
	c.unusable = true
	c.wire.close()
}

func (cfg ClientConfig) withDefaults(network, address string) ClientConfig {
	if cfg.Hello == "" {
		cfg.Hello = "localhost"
	}
	if network == "unix" {
		cfg.PlaintextAuth = true
		if cfg.TLS == ClientTLSMay && !cfg.ImplicitTLS {
			cfg.TLS = ClientTLSNone
		}
	}
	if a, err := netip.ParseAddr(clientHost(address)); err == nil && a.Unmap().IsLoopback() {
		cfg.PlaintextAuth = true
	}
	if cfg.ServerName == "" {
		cfg.ServerName = clientHost(address)
	}
	t := &cfg.Timeouts
	for _, d := range []struct {
		value    *time.Duration
		standard time.Duration
	}{
		{&t.Connect, 30 * time.Second},
		{&t.Greeting, 300 * time.Second},
		{&t.Command, 300 * time.Second},
		{&t.Reset, 20 * time.Second},
		{&t.DataInit, 120 * time.Second},
		{&t.DataBlock, 180 * time.Second},
		{&t.DataDone, 600 * time.Second},
	} {
		if *d.value <= 0 {
			*d.value = d.standard
		}
	}
	return cfg
}

func clientHost(address string) string {
	if host, _, err := net.SplitHostPort(address); err == nil {
		return host
	}
	return address
}

// clientLost is the error of a connection that ended in the middle.
func clientLost(doing string, err error) *status.Error {
	return status.New(status.ConnectionLost, fmt.Errorf("%s: %w", doing, err))
}
