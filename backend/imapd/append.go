package imapd

import (
	"context"
	"errors"
	"io"
	"strconv"
	"time"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/backend/mailstore"
)

// maxAppendMessages bounds the messages of one APPEND (RFC 3502).
const maxAppendMessages = 1000

// streamed are the commands whose messages stream into the store while they
// run, and what stands before the mailbox in each.
var streamed = map[string]struct{ message, uid bool }{
	"APPEND": {}, "REPLACE": {message: true}, "UID REPLACE": {message: true, uid: true},
}

// streamHead is the part of such a command that is parsed before it runs.
type streamHead struct {
	replaces numSet // the message that REPLACE replaces, nil for APPEND
	uid      bool
	mailbox  string
	first    appendArgs
	// rest is the line that is being read, at the first message; mark is the
	// literal that it ends with, if any.
	rest parser
	mark *literalMark
}

// appendArgs is what stands before a message of APPEND.
type appendArgs struct {
	flags flagSet
	date  time.Time // zero when not given
	utf8  bool      // stands in the parentheses of UTF8
	// catenate says that the message is made of parts (RFC 4469).
	catenate bool
}

// parseStreamTarget reads what stands before the messages.
func parseStreamTarget(p *parser, name string) (h streamHead, err error) {
	how := streamed[name]
	if h.uid = how.uid; how.message {
		if err = p.sp(); err != nil {
			return h, err
		}
		r, err := p.numRange()
		if err != nil || r.first != r.last || r.saved {
			return h, orSyntax(err, "expected one message number")
		}
		h.replaces = numSet{r}
	}
	h.mailbox, err = parseMailbox(p)
	return h, err
}

// parseStreamed parses a command whose last line, so far, ends with a literal,
// or does not.
func parseStreamed(p *parser, name string, mark *literalMark) (action, error) {
	h, err := parseStreamTarget(p, name)
	if err != nil {
		return nil, err
	}
	if h.first, err = parseAppendMessage(p); err != nil {
		return nil, err
	}
	if mark == nil && !h.first.catenate {
		return nil, syntax("expected a message literal")
	}
	h.rest, h.mark = *p, mark
	return func(s *session, ctx context.Context) (result, error) { return s.stream(ctx, h) }, nil
}

// parseStream is the parse function of a streamed command without a literal at
// its end: only CATENATE may do without one.
func parseStream(name string) func(*parser) (action, error) {
	return func(p *parser) (action, error) { return parseStreamed(p, name, nil) }
}

// announcesMessage reports whether the literal announced at the end of b is a
// message, or a part of one, rather than a mailbox name.
func announcesMessage(b []byte) bool {
	p := &parser{b: b}
	_, name, err := parseHead(p)
	if _, known := streamed[name]; err != nil || !known {
		return false
	}
	_, err = parseStreamTarget(p, name)
	return err == nil && p.peek() == ' '
}

// streamCommand makes the command whose first literal is still to come.
func streamCommand(p *parser, mark literalMark, now state) command {
	cmd := command{message: &mark}
	if cmd.tag, cmd.name, cmd.err = parseHead(p); cmd.err != nil {
		return cmd
	}
	if verbs[cmd.name].states&now == 0 {
		cmd.err = syntax("not allowed in this state")
		return cmd
	}
	if p.uidOnly && byNumber(cmd.name) {
		cmd.err = errUIDRequired
		return cmd
	}
	cmd.action, cmd.err = parseStreamed(p, cmd.name, &mark)
	return cmd
}

// parseAppendMessage reads the flags and date before a message, and stops at
// its literal, or behind the opening of its parts.
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
	if c := p.peek(); c == 'C' || c == 'c' {
		if word, err := p.word(); err != nil || word != "CATENATE" {
			return a, orSyntax(err, "expected CATENATE or a message literal")
		}
		if err := p.sp(); err != nil {
			return a, err
		}
		a.catenate = true
		return a, p.want('(')
	}
	if a.utf8 = p.follows("UTF8 (") || p.follows("utf8 ("); a.utf8 { // RFC 6855 section 4
		p.i += len("UTF8 (")
	}
	return a, p.atLiteral()
}

// atLiteral wants the announcement of a literal or literal8 (RFC 3516 section
// 4.4) at the end of the line; both are taken as they come.
func (p *parser) atLiteral() error {
	p.take('~')
	if mark, ok := literalAt(p.b[p.i:]); !ok || mark.start != 0 {
		return syntax("expected a message literal")
	}
	return nil
}

// appendDiscard is how much of a refused message is read and dropped.
func (s *session) appendDiscard() int64 { return max(maxDiscardOctets, s.cfg.AppendLimitOctets) }

// stream runs a command that streams messages into the store.
func (s *session) stream(ctx context.Context, h streamHead) (result, error) {
	in := &intake{s: s, p: &h.rest, mark: h.mark}
	if h.replaces != nil {
		return s.replace(ctx, h, in)
	}
	return s.append(ctx, h, in)
}

// append is APPEND and MULTIAPPEND: messages stream into the store one after
// the other, and become visible all at once or not at all.
func (s *session) append(ctx context.Context, h streamHead, in *intake) (result, error) {
	to, err := s.open(ctx, h.mailbox, toAdd)
	if err != nil {
		return result{}, in.refuse(mailboxError(err, "TRYCREATE"))
	}
	defer to.close()
	s.refreshLimits(ctx, &to.place)
	in.to = &to
	defer in.discard()
	for args := h.first; ; {
		if err := in.take(ctx, args); err != nil {
			return result{}, err
		}
		if in.atEnd() {
			break
		}
		if args, err = parseAppendMessage(in.p); err != nil {
			return result{}, in.refuse(err)
		}
	}
	uids, err := to.mailbox.Append(ctx, in.messages)
	if err != nil {
		return result{}, mailboxError(err, "TRYCREATE")
	}
	s.noteOwn(&to, uids)
	return result{code: appendUID(to.mailbox, uids)}, nil
}

// appendUID is the response code of RFC 4315, "" when there is nothing to tell.
func appendUID(to *mailstore.Mailbox, uids []imap.UID) string {
	if len(uids) == 0 || uids[0] == 0 {
		return ""
	}
	code := strconv.AppendUint([]byte("APPENDUID "), uint64(to.View().UIDValidity()), 10)
	return string(appendSet(append(code, ' '), uids))
}

// refuseMessage drops a message and what follows it, and returns why.
func (s *session) refuseMessage(mark literalMark, why error) error {
	if err := s.refuseLiteral(mark, s.appendDiscard()); err != nil {
		return s.lost(err)
	}
	return why
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
