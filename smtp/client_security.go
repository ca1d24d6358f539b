package smtp

import (
	"context"
	"crypto/tls"
	"errors"

	"github.com/postern-mail/postern/status"
)

// clientTLSError marks a handshake that failed after STARTTLS was agreed.
type clientTLSError struct{ err error }

func (e *clientTLSError) Error() string { return "TLS handshake: " + e.err.Error() }
func (e *clientTLSError) Unwrap() error { return e.err }

// TLSFailed reports whether err of Dial is that of a TLS handshake.
func TLSFailed(err error) bool {
	var failed *clientTLSError
	return errors.As(err, &failed)
}

// startTLS upgrades the connection as the policy says.
func (c *Client) startTLS(ctx context.Context) error {
	if c.cfg.ImplicitTLS || c.cfg.TLS == ClientTLSNone {
		return nil
	}
	required := c.cfg.TLS != ClientTLSMay
	if _, offered := c.Extension("STARTTLS"); !offered {
		if required {
			return status.Errorf(status.PeerNeedsTLS, "peer offers no STARTTLS")
		}
		return nil
	}
	reply, err := c.exchange(ctx, "STARTTLS", c.cfg.Timeouts.Greeting)
	if err != nil {
		return err
	}
	if reply.Code/100 != 2 {
		if required {
			return status.New(status.PeerNeedsTLS, &HandshakeError{"STARTTLS", reply})
		}
		return nil
	}
	// What came in the clear behind the reply may be an attacker's; it must
	// not be taken for the protected answer to the next command.
	if c.wire.reader.Buffered() > 0 {
		return status.Errorf(status.ConnectionLost, "peer spoke between STARTTLS and the handshake")
	}
	if err := c.upgrade(ctx); err != nil {
		return err
	}
	return c.hello(ctx)
}

// upgrade performs the TLS handshake.
func (c *Client) upgrade(ctx context.Context) error {
	cfg := &tls.Config{}
	if c.cfg.TLSConfig != nil {
		cfg = c.cfg.TLSConfig.Clone()
	}
	cfg.ServerName = c.cfg.ServerName
	if cfg.MinVersion == 0 {
		cfg.MinVersion = tls.VersionTLS12
	}
	if c.cfg.TLS == ClientTLSMay || c.cfg.TLS == ClientTLSEncrypt {
		cfg.InsecureSkipVerify = true // the policy asks for encryption only
	}
	conn := tls.Client(c.conn, cfg)
	handshake, cancel := context.WithTimeout(ctx, c.cfg.Timeouts.Greeting)
	defer cancel()
	if err := c.wire.arm(ctx, c.cfg.Timeouts.Greeting); err != nil {
		return clientLost("TLS handshake", err)
	}
	if err := conn.HandshakeContext(handshake); err != nil {
		reason := status.ConnectionFailed
		var untrusted *tls.CertificateVerificationError
		if errors.As(err, &untrusted) {
			reason = status.PeerNotTrusted
		}
		return status.New(reason, &clientTLSError{err})
	}
	c.attach(conn)
	return nil
}
