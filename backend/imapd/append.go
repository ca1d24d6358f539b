package imapd

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strconv"
	"time"

	"github.com/postern-mail/postern/backend/mailstore"
)

// maxAppendMessages bounds the messages of one APPEND (RFC 3502).
const maxAppendMessages = 1000

// appendArgs is what stands before a message of APPEND.
type appendArgs struct {
	flags flagSet
	date  time.Time // zero when not given
}

// parseAppend is APPEND without a literal at its end: never right.
func parseAppend(*parser) (action, error) { return nil, syntax("expected a message literal") }

// announcesMessage reports whether the literal announced at the end of b is a
// message of APPEND, rather than a mailbox name.
func announcesMessage(b []byte) bool {
	p := &parser{b: b}
	if _, name, err := parseHead(p); err != nil || name != "APPEND" {
		return false
	}
	if p.sp() != nil {
		return false
	}
	if _, err := p.astring(); err != nil {
		return false
	}
	return p.peek() == ' '
}

// appendCommand makes the command of an APPEND whose first message is to come.
func appendCommand(b []byte, mark literalMark) command {
	p := &parser{b: b}
	cmd := command{message: &mark}
	if cmd.tag, cmd.name, cmd.err = parseHead(p); cmd.err != nil {
		return cmd
	}
	var mailbox string
	if mailbox, cmd.err = parseMailbox(p); cmd.err != nil {
		return cmd
	}
	var first appendArgs
	if first, cmd.err = parseAppendMessage(p); cmd.err != nil {
		return cmd
	}
	cmd.action = func(s *session, ctx context.Context) (result, error) { return s.append(ctx, mailbox, first, mark) }
	return cmd
}

// parseAppendMessage reads the flags and date before a message's literal, and
// stops at the literal.
func parseAppendMessage(p *parser) (a appendArgs, err error) {
	if err = p.sp(); err != nil {
		return a, err
	}
	if p.peek() == '(' {
		if a.flags, err = p.flagList(); err != nil {
			return a, err
		}
		if err = p.sp(); err != nil {
			return a, err
		}
	}
	if p.peek() == '"' {
		if a.date, err = p.dateTime(); err != nil {
			return a, err
		}
		if err = p.sp(); err != nil {
			return a, err
		}
	}
	if mark, ok := literalAt(p.b[p.i:]); !ok || mark.start != 0 {
		return a, syntax("expected a message literal")
	}
	return a, nil
}

// appendDiscard is how much of a refused message is read and dropped.
func (s *session) appendDiscard() int64 { return max(maxDiscardOctets, s.cfg.AppendLimitOctets) }

// append is APPEND and MULTIAPPEND: messages stream into the store one after
// the other, and become visible all at once or not at all.
func (s *session) append(ctx context.Context, name string, args appendArgs, mark literalMark) (result, error) {
	mailbox, err := s.account.Mailbox(ctx, name)
	if err != nil {
		return result{}, s.refuseMessage(mark, mailboxError(err, "TRYCREATE"))
	}
	defer mailbox.Close()
	var messages []mailstore.Append
	defer func() {
		for _, m := range messages {
			m.Content.Discard()
		}
	}()
	var octets int64
	for {
		octets += mark.octets
		if err := s.checkMessage(mark, octets, len(messages)); err != nil {
			return result{}, s.refuseMessage(mark, err)
		}
		m, err := s.takeMessage(ctx, args, mark)
		if err != nil {
			return result{}, err
		}
		messages = append(messages, m)
		line, err := s.r.readLine(nil, maxCommandOctets)
		if err != nil {
			return result{}, s.lost(err)
		}
		if len(bytes.TrimRight(line, " ")) == 0 {
			break
		}
		next, ok := literalAt(line)
		if args, err = parseAppendMessage(&parser{b: line}); err != nil {
			if ok {
				err = s.refuseMessage(next, err)
			}
			return result{}, err
		}
		mark = next
	}
	uids, err := mailbox.Append(ctx, messages)
	if err != nil {
		return result{}, mailboxError(err, "TRYCREATE")
	}
	if len(uids) == 0 {
		return result{}, nil
	}
	code := strconv.AppendUint([]byte("APPENDUID "), uint64(mailbox.View().UIDValidity()), 10)
	return result{code: string(appendSet(append(code, ' '), uids))}, nil
}

// checkMessage decides about a message before its octets are asked for; octets
// are those of the command so far, this message included.
func (s *session) checkMessage(mark literalMark, octets int64, before int) error {
	switch {
	case mark.octets > s.cfg.AppendLimitOctets:
		return refuse("TOOBIG", "Message is too large")
	case mark.octets == 0: // RFC 3502 section 6.3.11: an empty literal cancels
		return refuse("", "Message is empty")
	case before >= maxAppendMessages:
		return refuse("LIMIT", "Too many messages in one command")
	}
	used, limit := s.account.Quota()
	if limit > 0 && used+octets > limit {
		return refuse("OVERQUOTA", "Mailbox is full")
	}
	return nil
}

// refuseMessage drops a message and what follows it, and returns why.
func (s *session) refuseMessage(mark literalMark, why error) error {
	if err := s.refuseLiteral(mark, s.appendDiscard()); err != nil {
		return s.lost(err)
	}
	return why
}

// takeMessage streams one message into the store. When the store fails, the
// rest of the command is read and dropped; when the connection does, the
// session ends.
func (s *session) takeMessage(ctx context.Context, args appendArgs, mark literalMark) (mailstore.Append, error) {
	if !mark.nonSync {
		s.continuation("OK")
	}
	octets := &literalReader{r: &s.r, left: mark.octets}
	staged, err := s.server.deps.Store.Stage(ctx, octets)
	if octets.err != nil {
		if err == nil {
			staged.Discard()
		}
		return mailstore.Append{}, s.lost(octets.err)
	}
	if err != nil {
		rest := literalMark{octets: octets.left, nonSync: true}
		return mailstore.Append{}, s.refuseMessage(rest, mailboxError(err, ""))
	}
	return mailstore.Append{
		Content: staged, Flags: args.flags.system, Keywords: args.flags.keywords, InternalDate: args.date,
	}, nil
}

// literalReader reads the octets of one literal and remembers a failure of the
// connection.
type literalReader struct {
	r    *reader
	left int64
	err  error
}

func (l *literalReader) Read(p []byte) (int, error) {
	if l.err != nil {
		return 0, l.err
	}
	if l.left == 0 {
		return 0, io.EOF
	}
	n, err := l.r.Read(p[:min(int64(len(p)), l.left)])
	l.left -= int64(n)
	if n > 0 {
		return n, nil
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	l.err = err
	return n, err
}
