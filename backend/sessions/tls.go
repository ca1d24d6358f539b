package sessions

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"strings"

	"github.com/postern-mail/postern/internal/clientcert"
	"github.com/postern-mail/postern/mail"
)

// Handshake turns the connection into a TLS connection, with its own limit on
// the time in ctx. client and the list of sessions are told. The error is a
// HandshakeError.
func (s *Session) Handshake(ctx context.Context, cfg *tls.Config, client *mail.Client) (*tls.Conn, error) {
	conn := tls.Server(&s.socket, cfg)
	if err := conn.HandshakeContext(ctx); err != nil {
		return nil, &HandshakeError{err}
	}
	st := conn.ConnectionState()
	clientcert.Verify(cfg, &st)
	version := strings.Replace(tls.VersionName(st.Version), "TLS ", "TLSv", 1) // as SMTP sessions name it
	s.Secured(version)
	client.TLS = &mail.TLSInfo{Version: version, Cipher: tls.CipherSuiteName(st.CipherSuite), Connection: &st}
	if len(st.VerifiedChains) > 0 {
		client.TLS.PeerCN = st.VerifiedChains[0][0].Subject.CommonName
	}
	return conn, nil
}

// HandshakeError ends a session without a word: there is nobody to read it.
type HandshakeError struct{ Err error }

func (e *HandshakeError) Error() string { return "TLS handshake: " + e.Err.Error() }

// Unwrap returns what went wrong.
func (e *HandshakeError) Unwrap() error { return e.Err }

// CauseOf describes, for log and audit, the end of a session that its protocol
// has no word for.
func CauseOf(err error) string {
	var handshake *HandshakeError
	switch {
	case errors.As(err, &handshake):
		return OneLine(handshake.Error())
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "client closed the connection"
	case errors.Is(err, os.ErrDeadlineExceeded):
		return "timeout"
	case errors.Is(err, net.ErrClosed):
		return "connection closed"
	default:
		return "connection lost"
	}
}

// OneLine makes a text of others fit for a response: printable US-ASCII.
func OneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return ' '
		}
		return r
	}, s)
}
