package link

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"
)

const (
	// handshakeTime is how long a connection may take to show who it is.
	handshakeTime = 5 * time.Second
	// maxStrangers is how many connections may be showing who they are. Above
	// it the oldest goes, so that strangers cannot keep the partner out.
	maxStrangers = 16

	protocol = "postern-replica/1" // ALPN
)

// established is a connection whose other end is the partner.
type established struct {
	conn    *tls.Conn
	raw     net.Conn // under it
	peer    Peer
	adopted chan struct{} // closed when a session was made of it
}

func (l *Link) tlsConfig() *tls.Config {
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{l.cfg.Certificate},
		NextProtos:   []string{protocol},
		ClientAuth:   tls.RequireAnyClientCert,
		// The partner is known by the pin of its key, or by the secret bound to
		// this very connection; prove decides. Names and dates say nothing here.
		InsecureSkipVerify: true,
		// Each connection proves itself anew.
		SessionTicketsDisabled: true,
	}
}

// The two sides prove that they know the secret in different words, so that
// neither's proof serves the other.
const (
	labelDialer   = "postern replica: I dialed, and know the secret"
	labelAcceptor = "postern replica: I answered, and know the secret"
)

// binding is what only the two ends of this TLS connection have: RFC 9266,
// tls-exporter. Somebody in between has two connections with two of them.
func binding(state *tls.ConnectionState) ([]byte, error) {
	return state.ExportKeyingMaterial("EXPORTER-Channel-Binding", []byte{}, 32)
}

func (c Config) proof(label string, bound []byte) []byte {
	if len(c.Secret) == 0 {
		return nil
	}
	mac := hmac.New(sha256.New, c.Secret)
	mac.Write([]byte(label))
	mac.Write(bound)
	return mac.Sum(nil)
}

// prove decides whether the other end is the partner.
func (c Config) prove(h hello, label string, bound []byte, pin Pin) error {
	switch secret := len(c.Secret) > 0; {
	case secret != (h.auth == authSecret):
		return &Refusal{Code: OtherAuth, Text: "one server has secret_file in its replica block, the other partner_pin; write the same in both"}
	case secret && !hmac.Equal(h.proof, c.proof(label, bound)):
		return &Refusal{Code: WrongSecret, Text: "the secrets differ: copy the file that secret_file names from one server to the other (its first line counts)"}
	case !secret && !slices.Contains(c.Pins, pin):
		return &Refusal{Code: UnknownKey, Text: "the key shown has the pin " + pin.String() + ", which partner_pin of the other end does not name. If that is what postern replica pin prints on the server that showed it, write it there"}
	}
	return nil
}

// prepare makes the connection TLS and says what binds to it.
func prepare(ctx context.Context, conn *tls.Conn) (bound []byte, pin Pin, err error) {
	if err := conn.HandshakeContext(ctx); err != nil {
		return nil, pin, explainTLS(err)
	}
	state := conn.ConnectionState()
	if state.NegotiatedProtocol != protocol || len(state.PeerCertificates) == 0 {
		return nil, pin, errors.New("the other end is no Postern pair: it does not speak " + protocol)
	}
	bound, err = binding(&state)
	return bound, pinOf(state.PeerCertificates[0]), err
}

// explainTLS adds what an operator can do.
func explainTLS(err error) error {
	var notTLS tls.RecordHeaderError
	var alert tls.AlertError
	switch {
	case errors.As(err, &notTLS):
		return fmt.Errorf("the other end speaks no TLS (%w): is partner the address that listen names there?", err)
	case errors.As(err, &alert):
		return fmt.Errorf("TLS: %w: is partner the address that listen names there?", err)
	}
	return fmt.Errorf("TLS: %w", err)
}

func (l *Link) peer(h hello, conn net.Conn, pin Pin, dialed bool, asked time.Time) Peer {
	now := l.cfg.Now()
	return Peer{
		Node: h.node, Origin: h.origin, Pair: h.pair, Software: h.software, Features: h.features, Settings: h.settings,
		Remote: conn.RemoteAddr().String(), Dialed: dialed, Pin: pin,
		ClockOffset: h.clock.Sub(asked.Round(0).Add(now.Sub(asked) / 2)).Round(time.Millisecond),
		minVersion:  h.minVersion, version: h.version,
	}
}

// greet is the handshake of who dialed.
func (l *Link) greet(ctx context.Context, raw net.Conn) (*established, error) {
	conn := tls.Client(raw, l.tlsConfig())
	bound, pin, err := prepare(ctx, conn)
	if err != nil {
		return nil, err
	}
	asked := l.cfg.Now()
	if err := writeMessage(conn, kindHello, helloOf(l.cfg, asked, l.cfg.proof(labelDialer, bound)).encode()); err != nil {
		return nil, err
	}
	content, err := readMessage(conn, kindHello)
	if err != nil {
		return nil, err
	}
	h, err := parseHello(content)
	if err != nil {
		return nil, err
	}
	if err := l.cfg.prove(h, labelAcceptor, bound, pin); err != nil {
		return nil, refuse(conn, err)
	}
	if err := l.cfg.judge(h); err != nil {
		return nil, refuse(conn, err)
	}
	if err := writeMessage(conn, kindGo, nil); err != nil {
		return nil, err
	}
	return &established{conn, raw, l.peer(h, conn, pin, true, asked), make(chan struct{})}, nil
}

// answer is the handshake of who was dialed. It says nothing of itself before
// the other end proved to be the partner.
func (l *Link) answer(ctx context.Context, raw net.Conn) (*established, error) {
	conn := tls.Server(raw, l.tlsConfig())
	bound, pin, err := prepare(ctx, conn)
	if err != nil {
		return nil, err
	}
	content, err := readMessage(conn, kindHello)
	if err != nil {
		return nil, err
	}
	now := l.cfg.Now()
	h, err := parseHello(content)
	if err != nil {
		return nil, err
	}
	if err := l.cfg.prove(h, labelDialer, bound, pin); err != nil {
		return nil, refuse(conn, err)
	}
	if err := l.cfg.judge(h); err != nil {
		return nil, refuse(conn, err)
	}
	if l.busy() {
		return nil, refuse(conn, &Refusal{Code: Busy, Text: "another connection is there already, or about to be"})
	}
	if err := writeMessage(conn, kindHello, helloOf(l.cfg, l.cfg.Now(), l.cfg.proof(labelAcceptor, bound)).encode()); err != nil {
		return nil, err
	}
	if _, err := readMessage(conn, kindGo); err != nil {
		return nil, err
	}
	return &established{conn, raw, l.peer(h, conn, pin, false, now), make(chan struct{})}, nil
}

// refuse tells the other end, and gives it time to read.
func refuse(conn *tls.Conn, why error) error {
	var r *Refusal
	if errors.As(why, &r) && writeMessage(conn, kindRefuse, r.encode()) == nil {
		_ = conn.CloseWrite()
		_, _ = conn.Read(make([]byte, 1)) // its end, within the deadline
	}
	return why
}

// busy reports whether a connection of the partner's would be one too many. The
// lower class's connections win: it refuses the other's while it has one of its
// own or is making it, and the other takes each of the lower's in place of what
// it has.
func (l *Link) busy() bool {
	if l.cfg.class() != 0 {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.dialing || l.session != nil && l.session.peer.Dialed
}

// doorway holds the connections that have not shown yet who they are.
type doorway struct {
	mu      sync.Mutex
	waiting []net.Conn // the oldest first
}

func (d *doorway) enter(c net.Conn) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.waiting = append(d.waiting, c); len(d.waiting) > maxStrangers {
		_ = d.waiting[0].Close() // whoever reads from it ends
		d.waiting = d.waiting[1:]
	}
}

func (d *doorway) leave(c net.Conn) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.waiting = slices.DeleteFunc(d.waiting, func(other net.Conn) bool { return other == c })
}
