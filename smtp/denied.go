package smtp

import (
	"errors"
	"fmt"

	"github.com/postern-mail/postern/status"
)

// arrival is the time before the greeting, in which a client has to wait.
var arrival = command{endsGroup: true}

// hasty reports whether the client sent on after the present command, which
// has to be the last of its group (RFC 2920 section 3.1), or without having been
// told that it may pipeline.
func (s *serverSession) hasty() bool {
	cmd := s.present
	if cmd == nil || cmd.anyInput {
		return false
	}
	mayPipeline := s.client.Extended && s.set.offers("PIPELINING")
	return (cmd.endsGroup || !mayPipeline) && s.wire.earlyInput()
}

// deny refuses the client in place of the greeting. Unless that ends the
// connection, it may say QUIT now (RFC 5321 section 3.1).
func (s *serverSession) deny(cause error) error {
	cause = fmt.Errorf("refused at connect: %w", cause)
	if status.Of(cause) == status.HungUp {
		return errClosing{cause}
	}
	reply := status.ReplyOf(cause)
	s.answer(reply)
	if s.policy == nil || reply.Closes() {
		return errClosing{cause}
	}
	s.denied = true
	return nil
}

// refuseDenied answers a command of a client that was refused already.
func (s *serverSession) refuseDenied(cmd *command) error {
	err := s.errDenied()
	if cmd.carriesText {
		return s.closeWith(err)
	}
	return s.refuse(err)
}

// errDenied is the refusal of whatever is said after a refusal at connect.
func (s *serverSession) errDenied() error {
	name := s.client.Hostname
	if name == "" {
		name = "unknown"
	}
	return &status.Error{
		Reason: status.SessionDenied,
		Text:   "Error: access denied for " + name + "[" + s.client.Remote.Addr().Unmap().String() + "]",
		Err:    errors.New("refused at connect"),
	}
}
