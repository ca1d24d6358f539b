package proxy

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"

	"github.com/postern-mail/postern/backend/sessions"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// maxEarlyOctets bounds a command before the login, its literals included;
// tokens of Kerberos and of the web are large.
const maxEarlyOctets = 16 << 10

// talk speaks with the client until it has proved who it is. An error ends the
// session. The login is answered by admit or refuse; after the latter talk goes
// on.
func (s *session) talk(ctx context.Context) (mail.Identity, error) {
	for {
		switch {
		case s.failures >= s.cfg.MaxAuthFailures:
			return mail.Identity{}, errTooManyAuth
		case s.bad >= s.cfg.MaxBadCommands:
			return mail.Identity{}, errTooManyBad
		}
		identity, done, err := s.dialect.command(ctx, s)
		var end *ending
		var lost *connectionError
		switch {
		case errors.As(err, &end), errors.As(err, &lost):
			return mail.Identity{}, err
		case err != nil:
			s.refuse(ctx, err)
		default:
			s.bad = 0
		}
		if done && err == nil {
			return identity, nil
		}
	}
}

// badCommand is a command that cannot be read.
type badCommand struct{ what string }

func (e *badCommand) Error() string { return e.what }

// connectionError ends the session.
type connectionError struct{ error }

func (e *connectionError) Unwrap() error { return e.error }

// verdict is why a command was not carried out, for a dialect to put in words.
type verdict struct {
	malformed string        // what is wrong with the command
	said      string        // the node's own word to the client
	limit     bool          // the account has too many connections
	reason    status.Reason // of a refused login; AuthTemporary for all outages
	text      string        // fit for a reply
}

// refuse answers a command that did not succeed, or a login that no node took,
// and makes guessing slow.
func (s *session) refuse(ctx context.Context, err error) {
	var bad *badCommand
	var refused *loginError
	v := verdict{reason: status.Of(err)}
	switch {
	case errors.As(err, &bad):
		s.bad++
		v.malformed = bad.what
	case errors.Is(err, errLimit):
		v.limit = true
	case errors.As(err, &refused) && refused.final:
		v.said = refused.said
	case v.reason.Permanent():
		if v.reason != status.AuthNeedsTLS && v.reason != status.AuthMechanism {
			s.failures++
			s.handle.Penance(ctx, s.cfg.AuthDelay, s.failures)
		}
		v.text = sessions.OneLine(status.ReplyOf(err).Text)
	default:
		// Unknown faults are an outage too: a client told anything else would
		// throw a good password away.
		s.log.Warn("cannot log in", "sid", s.client.Session, "remote", s.client.Remote, "reason", v.reason, "err", err)
		v.reason, v.text = status.AuthTemporary, "Temporary authentication failure"
	}
	s.dialect.answer(s, v)
}

// mechanisms lists what is on offer on this connection now.
func (s *session) mechanisms() []string {
	if !s.protected() {
		return nil
	}
	return s.server.deps.Auth.Mechanisms(&s.client)
}

// mayUsePasswords says why the protocol's own login may not be used.
func (s *session) mayUsePasswords() error {
	switch {
	case !s.protected():
		return status.New(status.AuthNeedsTLS, nil)
	case !sessions.TakesPasswords(s.mechanisms()):
		return status.New(status.AuthMechanism, nil)
	}
	return nil
}

// authenticate carries a SASL exchange through; initial is the initial response
// in base64, "" for none.
func (s *session) authenticate(ctx context.Context, mechanism, initial string) (mail.Identity, error) {
	switch {
	case !s.protected():
		return mail.Identity{}, status.New(status.AuthNeedsTLS, nil)
	case !slices.Contains(s.mechanisms(), mechanism):
		return mail.Identity{}, status.New(status.AuthMechanism, nil)
	}
	exchange, err := s.server.deps.Auth.Start(ctx, mechanism, s.client)
	if err != nil {
		return mail.Identity{}, err
	}
	if held, ok := exchange.(io.Closer); ok {
		defer held.Close() // an exchange that the client leaves
	}
	var response []byte
	if initial != "" {
		if response, err = sessions.DecodeResponse([]byte(initial)); err != nil {
			return mail.Identity{}, &badCommand{err.Error()}
		}
	}
	err = sessions.Exchange(exchange, response, func(challenge string) ([]byte, error) {
		s.say("+ " + challenge + "\r\n")
		return s.readLine(nil)
	})
	switch {
	case errors.Is(err, sessions.ErrCancelled), errors.Is(err, sessions.ErrBase64):
		return mail.Identity{}, &badCommand{err.Error()}
	case err != nil:
		return mail.Identity{}, err
	}
	return exchange.Identity(), nil
}

// startTLS begins TLS after the positive reply ok.
func (s *session) startTLS(ctx context.Context, ok string) error {
	switch {
	case s.cfg.TLS == nil:
		return &badCommand{"TLS is not available"}
	case s.client.TLS != nil:
		return &badCommand{"TLS is already active"}
	}
	s.say(ok)
	if err := s.handshake(ctx); err != nil {
		return &connectionError{err}
	}
	return nil
}

// readLine appends the next line without its end to dst.
func (s *session) readLine(dst []byte) ([]byte, error) {
	if err := s.await(); err != nil {
		return nil, asConnection(err)
	}
	defer s.handle.Resume()
	for {
		part, err := s.in.ReadSlice('\n')
		if len(dst)+len(part) > maxEarlyOctets {
			return nil, errBigLine
		}
		dst = append(dst, part...)
		if err == nil {
			return bytes.TrimSuffix(bytes.TrimSuffix(dst, []byte("\n")), []byte("\r")), nil
		}
		if lost := s.lost(err); lost != errBigLine {
			return nil, asConnection(lost)
		}
	}
}

// asConnection marks what ends the session.
func asConnection(err error) error {
	var end *ending
	if errors.As(err, &end) {
		return err
	}
	return &connectionError{err}
}
