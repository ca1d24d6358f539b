package smtp

import (
	"errors"
	"os"
	"time"

	"github.com/postern-mail/postern/status"
)

// data receives a message ended by a dot.
func (s *serverSession) data(arg string) error {
	afterLF := s.lineWasLF
	if arg != "" {
		return s.refuse(status.New(status.SyntaxError, nil))
	}
	if err := s.mayReceive(); err != nil {
		return s.refuse(err)
	}
	if err := s.tx.policy.Data(s.ctx); err != nil {
		return s.refuse(err)
	}
	s.say(status.SendData)
	s.wire.enlarge()
	defer s.wire.shrink()
	return s.receive(newDataText(s.wire, s.messageTimer(), afterLF))
}

// bdat receives a message in chunks, of which arg describes the first. Text
// follows whether the command is accepted or not.
func (s *serverSession) bdat(arg string) error {
	first, err := parseChunk(arg)
	if err != nil {
		return s.closeWith(err)
	}
	s.wire.enlarge()
	defer s.wire.shrink()
	if err := s.mayReceive(); err != nil {
		return s.discardChunk(first, err)
	}
	if err := s.tx.policy.Data(s.ctx); err != nil {
		return s.discardChunk(first, err)
	}
	return s.receive(&chunkText{wire: s.wire, now: first, timer: s.messageTimer(), more: s.nextChunk})
}

// refuseChunk is BDAT where CHUNKING is not on offer.
func (s *serverSession) refuseChunk(arg string) error {
	chunk, err := parseChunk(arg)
	if err != nil {
		return s.closeWith(err)
	}
	return s.discardChunk(chunk, status.New(status.CommandUnimplemented, nil))
}

// discardChunk reads over a chunk that is refused, so that the next command is
// found behind it (RFC 3030 section 2), unless it is excessive.
func (s *serverSession) discardChunk(refused chunk, cause error) error {
	text := &chunkText{wire: s.wire, now: chunk{octets: refused.octets, last: true}, timer: s.messageTimer()}
	switch err := newContentReader(text, s.set).drain(true); {
	case errors.Is(err, errTooMuch):
		return s.closeWith(cause)
	case err != nil:
		return err
	default:
		return s.refuse(cause)
	}
}

func (s *serverSession) messageTimer() messageTimer {
	return newMessageTimer(s.blockTimeout(), s.set.MessageTimeout, s.set.MinDataRate)
}

// mayReceive reports why a message cannot follow now.
func (s *serverSession) mayReceive() error {
	switch {
	case s.tx == nil || s.tx.offered == 0:
		return status.New(status.BadSequence, errors.New("no RCPT before the message"))
	case s.tx.accepted > 0:
		return nil
	case s.set.Mode == ModeLMTP:
		return status.New(status.BadSequence, errors.New("no recipient was accepted")) // RFC 2033 section 4.2
	default:
		return status.New(status.NoValidRecipients, nil)
	}
}

// nextChunk answers a chunk that was not the last and waits for the next. Of
// other commands NOOP is answered on the way; those that end the transaction
// are kept for the main loop. An empty chunk brings no message forward, as
// little as NOOP does.
func (s *serverSession) nextChunk(until time.Time) (chunk, error) {
	s.say(status.OK)
	for {
		deadline := time.Now().Add(s.commandTimeout())
		if deadline.After(until) {
			deadline = until
		}
		if !time.Now().Before(until) { // what has arrived already must not wait for a deadline
			return chunk{}, status.New(status.Timeout, os.ErrDeadlineExceeded)
		}
		// Not idle: the transfer is under way and may go on while the server
		// waits for its end.
		l, err := s.wire.readLine(maxSASLLine, deadline, false)
		cmd, arg, err := s.parseCommand(l, err, false)
		if err != nil {
			return chunk{}, err
		}
		if cmd == nil {
			continue
		}
		switch cmd.verb {
		case "BDAT":
			s.tally.end(nil) // the chunk before it was taken
			s.tally.begin(cmd)
			next, err := parseChunk(arg)
			if err != nil {
				return chunk{}, s.closeWith(err)
			}
			if next.octets == 0 && !next.last {
				err = s.countJunk()
			}
			return next, err
		case "RSET", "QUIT", "HELO", "EHLO", "LHLO":
			s.held, s.heldArg = cmd, arg
			return chunk{}, errAborted
		case "NOOP":
			err = s.execute(cmd, arg)
		default:
			err = s.refuse(status.Errorf(status.BadSequence, "%s between chunks", cmd.verb))
		}
		if err != nil {
			return chunk{}, err
		}
	}
}

// receive hands the text to the transaction, which ends with that, and
// answers. Whatever the transaction says, a message whose text did not arrive
// whole is never answered positively.
func (s *serverSession) receive(src textSource) error {
	tx := s.tx
	s.tx, s.present = nil, nil
	defer func() { s.client.Forwarded = nil }()
	content := newContentReader(src, s.set)
	replies, err := tx.policy.Content(s.ctx, content)
	if refusal := content.refusal(); refusal != nil {
		err = refusal
	}
	accepted := err == nil && anyPositive(replies)
	switch fault := content.drain(!accepted); {
	case errors.Is(fault, errAborted):
		return nil
	case fault != nil:
		return s.giveUp(fault, accepted)
	}
	due := 1
	if s.set.Mode == ModeLMTP && content.ended {
		due = tx.accepted // RFC 2033 section 4.2
	}
	if err := s.answerMessage(replies, err, due); err != nil {
		return err
	}
	if accepted {
		s.errors, s.junk = 0, 0
	}
	// Not kept back for what else is pipelined: the client must learn soon
	// that it is no longer responsible.
	return s.flush()
}

func anyPositive(replies []status.Reply) bool {
	for _, r := range replies {
		if r.Positive() {
			return true
		}
	}
	return false
}

// giveUp ends a session inside a message.
func (s *serverSession) giveUp(fault error, accepted bool) error {
	if accepted {
		// The handler was content with a part of the message and took
		// responsibility for it; the client has not been told and will repeat.
		s.log.Warn("connection broke after a message was accepted unread", "sid", s.client.Session, "err", fault)
	}
	if errors.Is(fault, errTooMuch) {
		s.say(status.MessageTooBig)
		return errClosing{fault}
	}
	return fault
}

// answerMessage sends the replies due for a message: of an error the same for
// all recipients. Replies the handler owes are made up as transient.
func (s *serverSession) answerMessage(replies []status.Reply, err error, due int) error {
	if err == nil && len(replies) != due {
		s.log.Error("handler gave a wrong number of replies", "sid", s.client.Session, "got", len(replies), "want", due)
	}
	var last error
	for i := range due {
		var r status.Reply
		switch {
		case err != nil:
			if status.Of(err) == status.HungUp {
				return errClosing{err}
			}
			r = status.ReplyOf(err)
		case i < len(replies):
			r = replies[i]
		default:
			r = status.Unknown.Reply()
		}
		if end := s.settle(r, errMessageRefused); end != nil {
			last = end
		}
	}
	return last
}

var errMessageRefused = errors.New("message refused")

func (s *serverSession) flush() error {
	if err := s.wire.flush(); err != nil {
		return wireFault(err)
	}
	return nil
}
