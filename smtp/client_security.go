package smtp

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"github.com/emersion/go-sasl"

	"github.com/postern-mail/postern/status"
)

// clientTLSError marks a handshake that failed after STARTTLS was agreed.
type clientTLSError struct{ err error }

func (e *clientTLSError) Error() string { return "TLS handshake: " + e.err.Error() }
func (e *clientTLSError) Unwrap() error { return e.err }

// clientMaxAuthSteps bounds a SASL exchange; PLAIN and LOGIN need at most three.
const clientMaxAuthSteps = 8

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

// authenticate logs in when credentials are configured. A refusal is
// transient: it says that our configuration is wrong, not the message.
func (c *Client) authenticate(ctx context.Context) error {
	if c.cfg.Login == "" {
		return nil
	}
	if _, encrypted := c.TLS(); !encrypted && !c.cfg.PlaintextAuth {
		return status.Errorf(status.PeerNeedsTLS, "credentials are not sent in the clear")
	}
	mechanism, err := c.mechanism()
	if err != nil {
		return err
	}
	reply, err := c.sasl(ctx, mechanism)
	if err != nil {
		return err
	}
	if reply.Code/100 != 2 {
		return status.New(status.ConnectionFailed, &HandshakeError{"AUTH", reply})
	}
	return nil
}

// mechanism picks what the peer offers and we speak.
func (c *Client) mechanism() (sasl.Client, error) {
	if strings.ContainsRune(c.cfg.Login+c.cfg.Password, 0) {
		return nil, status.Errorf(status.ConfigurationError, "credentials contain NUL")
	}
	offered, _ := c.Extension("AUTH")
	for _, name := range []string{sasl.Plain, sasl.Login} {
		for word := range strings.FieldsSeq(offered) {
			if !strings.EqualFold(word, name) {
				continue
			}
			if name == sasl.Plain {
				return sasl.NewPlainClient("", c.cfg.Login, c.cfg.Password), nil
			}
			return &clientLogin{answers: []string{c.cfg.Login, c.cfg.Password}}, nil
		}
	}
	return nil, status.Errorf(status.ConnectionFailed, "peer offers no mechanism of ours, but %q", offered)
}

// sasl runs one exchange (RFC 4954 section 4) to its final reply.
func (c *Client) sasl(ctx context.Context, mechanism sasl.Client) (status.Reply, error) {
	name, initial, err := mechanism.Start()
	if err != nil {
		return status.Reply{}, status.New(status.ConfigurationError, err)
	}
	command := "AUTH " + name
	if initial != nil {
		command += " " + clientBase64(initial)
	}
	for range clientMaxAuthSteps {
		reply, err := c.exchange(ctx, command, c.cfg.Timeouts.Greeting)
		if err != nil || reply.Code != status.AuthContinue.Reply().Code {
			return reply, err
		}
		// A challenge that is not base64, or not what the mechanism awaits,
		// ends the exchange by the client's "*".
		command = "*"
		if challenge, err := base64.StdEncoding.DecodeString(strings.TrimSpace(reply.Text)); err == nil {
			if response, err := mechanism.Next(challenge); err == nil {
				command = base64.StdEncoding.EncodeToString(response)
			}
		}
	}
	return status.Reply{}, clientLost("AUTH", fmt.Errorf("%w: no end to the exchange", errClientReplySyntax))
}

// clientBase64 encodes an initial response, of which an empty one is "=".
func clientBase64(p []byte) string {
	if len(p) == 0 {
		return "="
	}
	return base64.StdEncoding.EncodeToString(p)
}

// clientLogin is the client side of LOGIN. It gives its two answers in order
// whatever the challenges say: servers word them as they like, and some do
// not take the login as an initial response, which go-sasl's client insists on.
type clientLogin struct{ answers []string }

// Start begins without an initial response.
func (*clientLogin) Start() (mechanism string, initial []byte, err error) {
	return sasl.Login, nil, nil
}

// Next gives the next answer.
func (l *clientLogin) Next([]byte) ([]byte, error) {
	if len(l.answers) == 0 {
		return nil, sasl.ErrUnexpectedServerChallenge
	}
	answer := l.answers[0]
	l.answers = l.answers[1:]
	return []byte(answer), nil
}
