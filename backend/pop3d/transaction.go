package pop3d

import (
	"context"
	"slices"
	"strconv"

	"github.com/postern-mail/postern/backend/mailstore"
	"github.com/postern-mail/postern/status"
	"github.com/postern-mail/postern/store"
)

// number reads a message number; that of a message marked as deleted may not
// be used (RFC 1939 section 5).
func (s *session) number(arg string) (int, error) {
	n, err := strconv.ParseUint(arg, 10, 32)
	switch {
	case err != nil:
		return 0, syntax("expected a message number")
	case n < 1 || n > uint64(s.drop.view.Len()):
		return 0, refuse("", "There is no such message")
	case s.drop.deleted[int(n)-1]:
		return 0, refuse("", "Message is deleted")
	}
	return int(n) - 1, nil
}

// stat is STAT. Messages marked as deleted do not count.
func (s *session) stat(ctx context.Context, _ []string) error {
	count, octets, err := s.totals(ctx)
	if err != nil {
		return err
	}
	s.w.str("+OK ")
	s.w.num(uint64(count))
	s.w.str(" ")
	s.w.num(uint64(octets))
	s.w.line("")
	return nil
}

func (s *session) totals(ctx context.Context) (count int, octets int64, err error) {
	d := s.drop
	if err := d.measure(ctx); err != nil {
		return 0, 0, err
	}
	for i := range d.view.Len() {
		if !d.deleted[i] {
			count++
			octets += d.octets(d.view.At(i))
		}
	}
	return count, octets, nil
}

// list is LIST.
func (s *session) list(ctx context.Context, args []string) error {
	d := s.drop
	if err := d.measure(ctx); err != nil {
		return err
	}
	return s.scan(args, func(m *mailstore.Message) { s.w.num(uint64(d.octets(m))) })
}

// uidl is UIDL.
func (s *session) uidl(_ context.Context, args []string) error {
	validity := s.drop.view.UIDValidity()
	return s.scan(args, func(m *mailstore.Message) { s.w.buf = s.cfg.UIDL.append(s.w.buf, m, validity) })
}

// scan answers with the number of one message or of all and something about
// each.
func (s *session) scan(args []string, about func(*mailstore.Message)) error {
	line := func(i int) {
		s.w.num(uint64(i) + 1)
		s.w.str(" ")
		about(s.drop.view.At(i))
		s.w.line("")
	}
	if len(args) == 1 {
		i, err := s.number(args[0])
		if err == nil {
			s.w.str("+OK ")
			line(i)
		}
		return err
	}
	s.w.str("+OK ")
	s.w.num(uint64(s.drop.view.Len() - len(s.drop.deleted)))
	s.w.line(" messages")
	for i := range s.drop.view.Len() {
		if !s.drop.deleted[i] {
			line(i)
		}
	}
	s.w.line(".")
	return nil
}

// dele is DELE: a mark of this session, until QUIT.
func (s *session) dele(_ context.Context, args []string) error {
	i, err := s.number(args[0])
	if err != nil {
		return err
	}
	s.drop.deleted[i] = true
	s.ok("Marked to be deleted")
	return nil
}

// rset is RSET.
func (s *session) rset(context.Context, []string) error {
	clear(s.drop.deleted)
	s.ok("No message is marked to be deleted")
	return nil
}

// retr is RETR.
func (s *session) retr(ctx context.Context, args []string) error {
	i, err := s.number(args[0])
	if err != nil {
		return err
	}
	if err := s.send(ctx, i, nil); err != nil {
		return err
	}
	if s.cfg.MarkSeen {
		s.drop.retrieved[i] = true
	}
	return nil
}

// top is TOP.
func (s *session) top(ctx context.Context, args []string) error {
	i, err := s.number(args[0])
	if err != nil {
		return err
	}
	lines, err := strconv.ParseUint(args[1], 10, 64)
	if err != nil {
		return syntax("expected a number of lines")
	}
	return s.send(ctx, i, &excerpt{lines: lines})
}

// send sends a message, or what some wants of it. The message is opened before
// the first octet is sent, so that one that is gone leaves no half answer.
func (s *session) send(ctx context.Context, i int, some *excerpt) error {
	body, err := s.drop.open(ctx, i)
	if gone(err) {
		return refuse(codeTemporary, "Message is gone: somebody else has deleted it")
	}
	if err != nil {
		return err
	}
	defer func() { _ = body.Close() }()
	if s.drop.grown != nil && some == nil {
		s.w.str("+OK ")
		s.w.num(uint64(s.drop.octets(s.drop.view.At(i))))
		s.w.line(" octets")
	} else {
		s.ok("Message follows")
	}
	s.streaming = true
	if err := s.stream(ctx, body, some); err != nil {
		return err
	}
	s.streaming = false
	s.w.line(".")
	return nil
}

// stream copies a message in bounded memory.
func (s *session) stream(ctx context.Context, body store.Body, some *excerpt) error {
	t := text{noNULs: s.cfg.Quirks.NoNULs}
	eoh := excerpt{} // ends where the header does
	headed := !s.cfg.Quirks.EndOfHeader
	for at, size := int64(0), body.Size(); at < size; {
		n := int(min(stepOctets, size-at))
		from := len(s.w.buf)
		// The text may be twice as long, and cannot be made of itself in place:
		// it is read behind where it will end.
		s.w.buf = slices.Grow(s.w.buf, 3*n)
		raw := s.w.buf[from+2*n : from+3*n]
		n, err := readStep(body, raw, at)
		if err != nil {
			return s.streamFailed(err)
		}
		raw, done := raw[:n], false
		if some != nil {
			n, done = some.take(raw)
			raw = raw[:n]
		}
		if !headed {
			_, headed = eoh.take(raw)
		}
		s.w.buf = t.append(s.w.buf, raw)
		if done {
			break
		}
		at += int64(n)
		if s.w.full(); s.w.err != nil {
			return &connError{s.w.err}
		}
		if err := ctx.Err(); err != nil {
			return &connError{err}
		}
	}
	s.w.buf = t.complete(s.w.buf)
	if !headed {
		s.w.line("")
	}
	return nil
}

// streamFailed ends the session: its end must not look like the message's.
func (s *session) streamFailed(err error) error {
	s.log.Error("cannot read a message", "sid", s.client.Session, "login", s.identity.Authorization, "reason", status.Of(err), "error", err)
	_ = s.w.flush()
	return errStream
}
