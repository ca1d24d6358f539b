package smtp

import (
	"bytes"
	"encoding/base64"
	"errors"
	"io"
	"strings"
	"time"

	"github.com/emersion/go-sasl"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// mechanisms lists the SASL mechanisms on offer now. Without TLS there are
// none, as passwords would be read on the way.
func (s *serverSession) mechanisms() []string {
	if s.client.TLS == nil && !s.set.AllowInsecureAuth || !s.set.offers("AUTH") {
		return nil
	}
	return s.policy.Mechanisms()
}

// auth is one SASL exchange (RFC 4954 section 4).
func (s *serverSession) auth(arg string) error {
	mechanism, initial, _ := strings.Cut(arg, " ")
	if err := s.mayAuthenticate(mechanism); err != nil {
		return s.refuse(err)
	}
	if err := s.pace(mail.ClientAuthenticates); err != nil {
		return s.refuse(err)
	}
	if s.authFailures >= s.set.MaxAuthFailures {
		return s.refuse(status.New(status.AuthTooMany, nil))
	}
	response, err := initialResponse(initial)
	if err != nil {
		return s.refuse(err)
	}
	mechanism = strings.ToUpper(mechanism)
	exchange, err := s.policy.Auth(s.ctx, mechanism)
	if err != nil {
		return s.refuseAuth(err)
	}
	if held, ok := exchange.(io.Closer); ok {
		defer held.Close() // an exchange that the client leaves
	}
	s.wire.enlarge()
	defer s.wire.shrink()
	refused, fault := s.converseSASL(exchange, response)
	switch {
	case fault != nil:
		return fault
	case refused != nil:
		return s.refuseAuth(refused)
	}
	identity := exchange.Identity()
	s.client.Identity = &identity
	s.roster.enter(s, identity)
	s.say(status.AuthOK)
	return nil
}

// mayAuthenticate reports why AUTH is not possible now.
func (s *serverSession) mayAuthenticate(mechanism string) error {
	switch {
	case mechanism == "":
		return status.New(status.SyntaxError, nil)
	case s.client.Identity != nil:
		return status.New(status.AlreadyAuthenticated, nil)
	case s.tx != nil || !s.client.Extended:
		return status.New(status.BadSequence, errors.New("AUTH before EHLO or inside a transaction"))
	case s.client.TLS == nil && !s.set.AllowInsecureAuth:
		return status.New(status.AuthNeedsTLS, nil)
	}
	offered := s.mechanisms()
	if len(offered) == 0 {
		return status.New(status.CommandUnimplemented, nil)
	}
	for _, name := range offered {
		if strings.EqualFold(name, mechanism) {
			return nil
		}
	}
	return status.Errorf(status.AuthMechanism, "mechanism %q", mechanism)
}

// initialResponse decodes the argument of AUTH: nil when there is none, empty
// but not nil for "=".
func initialResponse(arg string) ([]byte, error) {
	switch arg {
	case "":
		return nil, nil
	case "=":
		return []byte{}, nil
	}
	return decodeSASL([]byte(arg))
}

func decodeSASL(text []byte) ([]byte, error) {
	decoded := make([]byte, base64.StdEncoding.DecodedLen(len(text)))
	n, err := base64.StdEncoding.Strict().Decode(decoded, text)
	// The decoder skips CR, which a line may hold here.
	if err != nil || bytes.IndexByte(text, '\r') >= 0 {
		return nil, status.New(status.BadBase64, err)
	}
	return decoded[:n], nil
}

// converseSASL exchanges challenges and responses. Refused means that the
// exchange ended without success and commands may follow; after a fault
// nothing may. Data a mechanism sends along with success travels as a last
// challenge, which the client answers with an empty line.
func (s *serverSession) converseSASL(exchange sasl.Server, response []byte) (refused, fault error) {
	for {
		challenge, done, err := exchange.Next(response)
		if err != nil {
			return err, nil
		}
		if done && len(challenge) == 0 {
			return nil, nil
		}
		text, fault := s.askSASL(challenge)
		if fault != nil {
			return nil, fault
		}
		if string(text) == "*" {
			return status.New(status.AuthAborted, nil), nil
		}
		if response, err = decodeSASL(text); err != nil {
			return err, nil
		}
		if done {
			if len(response) > 0 {
				return status.New(status.SyntaxError, errors.New("response after success")), nil
			}
			return nil, nil
		}
	}
}

// askSASL sends a challenge and reads the response's line. A line that cannot
// be read whole leaves no way back to commands.
func (s *serverSession) askSASL(challenge []byte) ([]byte, error) {
	r := status.AuthContinue.Reply()
	r.Text = base64.StdEncoding.EncodeToString(challenge)
	out := s.wire.pending() // not answer, which would show the challenge in a trace
	*out = appendReply(*out, r)
	l, err := s.wire.readLine(maxSASLLine, time.Now().Add(s.commandTimeout()), true)
	switch {
	case errors.Is(err, errLineTooLong):
		return nil, s.closeWith(status.New(status.LineTooLong, err))
	case err != nil:
		return nil, wireFault(err)
	case l.bareLF && s.set.BareNewline == BareNewlineReject:
		return nil, s.closeWith(status.New(status.BareNewline, nil))
	}
	return l.text, nil
}

// refuseAuth answers an exchange without success. An error nobody classed is
// an outage of ours: never "wrong password".
func (s *serverSession) refuseAuth(err error) error {
	if errors.Is(err, sasl.ErrUnexpectedClientResponse) || errors.Is(err, sasl.ErrUnexpectedServerChallenge) {
		return s.refuse(status.New(status.SyntaxError, err))
	}
	if known := (*status.Error)(nil); !errors.As(err, &known) {
		err = status.New(status.AuthTemporary, err)
	}
	switch status.Of(err) {
	case status.AuthFailed, status.AuthorizationDenied, status.AccountDisabled, status.PasswordExpired:
		s.authFailures++
	}
	return s.refuse(err)
}
