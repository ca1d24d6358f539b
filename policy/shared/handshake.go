package shared

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"strings"
	"time"
)

// The handshake. Unlike backend/replica/link, which joins exactly two servers
// of opposite numbers and orders frames by account, any number of gateways
// talk here, each to each, and what they say may come twice or be lost; so this
// is a protocol of its own, with the same proof: TLS 1.3 with throw-away
// certificates, and over it each side shows that it knows the secret, bound to
// this very connection.

const (
	protocol = "postern-policy/1" // ALPN
	// handshakeTime is how long a connection may take to show who it is.
	handshakeTime = 5 * time.Second
	// MinSecret is the fewest octets of a secret: whoever pretends to be a peer
	// once can try guesses at it in peace.
	MinSecret = 32
	// version is that of what is said after the handshake.
	version = 1
)

// The sides prove that they know the secret in different words, so that
// neither's proof serves the other.
const (
	labelDialer   = "postern policy: I dialed, and know the secret"
	labelAcceptor = "postern policy: I answered, and know the secret"
)

// ReadSecret returns the first line of a file.
func ReadSecret(name string) ([]byte, error) {
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("secret_file: %w", err)
	}
	line, _, _ := strings.Cut(string(b), "\n")
	if line = strings.TrimSpace(line); len(line) < MinSecret {
		return nil, fmt.Errorf("secret_file: the first line of %s has %d octets and needs at least %d; make one with: postern replica keygen FILE, and copy it to every gateway", name, len(line), MinSecret)
	}
	return []byte(line), nil
}

// throwAway makes a certificate that says nothing: the proof is the secret's.
func throwAway() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().AddDate(10, 0, 0)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}

func tlsConfig(certificate tls.Certificate) *tls.Config {
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{certificate},
		NextProtos:   []string{protocol},
		// Whose key it is says nothing; the proof over this connection does.
		InsecureSkipVerify:     true,
		SessionTicketsDisabled: true,
	}
}

// hello is what each side says first.
type hello struct {
	version uint8
	node    uint64
	clock   time.Time
	proof   [sha256.Size]byte
}

const helloOctets = 1 + 8 + 8 + sha256.Size

func (h hello) encode() []byte {
	b := binary.BigEndian.AppendUint64([]byte{h.version}, h.node)
	b = binary.BigEndian.AppendUint64(b, uint64(h.clock.UnixMilli()))
	return append(b, h.proof[:]...)
}

func parseHello(b []byte) hello {
	h := hello{version: b[0], node: binary.BigEndian.Uint64(b[1:]), clock: time.UnixMilli(int64(binary.BigEndian.Uint64(b[9:])))}
	copy(h.proof[:], b[17:])
	return h
}

// answers after a dialer's hello.
const (
	saysYes = 'Y'
	saysNo  = 'N'
	maxNo   = 512
)

// refusal is why a peer is refused, in words for an operator.
type refusal struct {
	text   string
	theirs bool
}

func (r *refusal) Error() string {
	if r.theirs {
		return "the peer refuses: " + r.text
	}
	return r.text
}

// prove is the proof that this side knows the secret. binding is what only the
// two ends of this TLS connection have (RFC 9266, tls-exporter).
func prove(secret []byte, label string, node uint64, binding []byte) (proof [sha256.Size]byte) {
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte(label))
	mac.Write(binary.BigEndian.AppendUint64(nil, node))
	mac.Write(binding)
	mac.Sum(proof[:0])
	return proof
}

// judge tells what is wrong with a peer.
func (p *Peers) judge(h hello, label string, binding []byte) error {
	proof := prove(p.cfg.Secret, label, h.node, binding)
	offset := time.Until(h.clock)
	switch {
	case !hmac.Equal(proof[:], h.proof[:]):
		return &refusal{text: "the secrets differ: the first line of secret_file has to be the same on every gateway"}
	case h.node == p.store.node:
		return &refusal{text: "both ends have one number: either the address is the gateway's own, or the folder policy in data_dir was copied from one gateway to the other; in the latter case remove it on one of them while it is stopped"}
	case h.version != version:
		return &refusal{text: fmt.Sprintf("version %d of the protocol is spoken there and %d here: upgrade the older gateway", h.version, version)}
	case offset.Abs() > maxAhead:
		return &refusal{text: fmt.Sprintf("the clocks are %s apart: set them right on both gateways", offset.Abs().Round(time.Second))}
	}
	return nil
}

// prepare completes TLS.
func prepare(ctx context.Context, conn *tls.Conn) (binding []byte, err error) {
	if err := conn.HandshakeContext(ctx); err != nil {
		return nil, fmt.Errorf("TLS: %w", err)
	}
	state := conn.ConnectionState()
	if state.NegotiatedProtocol != protocol {
		return nil, errors.New("the other end is no gateway that shares policy: is the address what listen names there?")
	}
	return state.ExportKeyingMaterial("EXPORTER-Channel-Binding", []byte{}, 32)
}

// greet is the handshake of who dialed.
func (p *Peers) greet(ctx context.Context, raw net.Conn) (*tls.Conn, hello, error) {
	conn := tls.Client(raw, p.tls)
	binding, err := prepare(ctx, conn)
	if err != nil {
		return nil, hello{}, err
	}
	mine := hello{version, p.store.node, time.Now(), prove(p.cfg.Secret, labelDialer, p.store.node, binding)}
	if _, err := conn.Write(mine.encode()); err != nil {
		return nil, hello{}, err
	}
	h, err := readAnswer(conn)
	if err == nil {
		err = p.judge(h, labelAcceptor, binding)
	}
	return conn, h, err
}

func readAnswer(r io.Reader) (hello, error) {
	var b [helloOctets + 1]byte
	if _, err := io.ReadFull(r, b[:1]); err != nil {
		return hello{}, fmt.Errorf("handshake: %w", err)
	}
	if b[0] == saysNo {
		text, err := io.ReadAll(io.LimitReader(r, maxNo))
		if len(text) == 0 {
			return hello{}, fmt.Errorf("handshake: %w", errors.Join(io.ErrUnexpectedEOF, err))
		}
		return hello{}, &refusal{text: printable(text), theirs: true}
	}
	if _, err := io.ReadFull(r, b[1:]); err != nil {
		return hello{}, fmt.Errorf("handshake: %w", err)
	}
	if b[0] != saysYes {
		return hello{}, errors.New("handshake: the answer is malformed")
	}
	return parseHello(b[1:]), nil
}

// answer is the handshake of who was dialed. It says nothing of itself before
// the other end proved that it knows the secret.
func (p *Peers) answer(ctx context.Context, raw net.Conn) (*tls.Conn, hello, error) {
	conn := tls.Server(raw, p.tls)
	binding, err := prepare(ctx, conn)
	if err != nil {
		return nil, hello{}, err
	}
	var b [helloOctets]byte
	if _, err := io.ReadFull(conn, b[:]); err != nil {
		return nil, hello{}, fmt.Errorf("handshake: %w", err)
	}
	h := parseHello(b[:])
	if err := p.judge(h, labelDialer, binding); err != nil {
		text := err.Error()
		_, _ = conn.Write(append([]byte{saysNo}, text[:min(len(text), maxNo)]...))
		_ = conn.CloseWrite()
		_, _ = conn.Read(b[:1]) // its end, within the deadline
		return nil, h, err
	}
	mine := hello{version, p.store.node, time.Now(), prove(p.cfg.Secret, labelAcceptor, p.store.node, binding)}
	_, err = conn.Write(append([]byte{saysYes}, mine.encode()...))
	return conn, h, err
}

// printable keeps a peer's words from doing harm in a log.
func printable(b []byte) string {
	return string(bytes.Map(func(c rune) rune {
		if c < ' ' || c == 0x7f {
			return ' '
		}
		return c
	}, bytes.ToValidUTF8(b, []byte("?"))))
}
