package imapd

import (
	"bytes"
	"context"
	"io"

	"github.com/postern-mail/postern/backend/mailstore"
)

// intake takes in the messages of APPEND and REPLACE. A command of these is
// read line by line while it runs, because what its literals hold streams into
// the store. However it ends, no octet of it is left to be read as a command.
type intake struct {
	s  *session
	to *target
	p  *parser // over the line that is being read
	// mark is the literal that the line ends with, as long as it has not been
	// asked for; literal is the one that is being read.
	mark    *literalMark
	literal *literalReader

	messages []mailstore.Append
	octets   int64 // of all messages so far
	parts    int   // of CATENATE
	freed    int64 // octets that the command takes out of the account, too
}

// discard drops what was staged; what the store took over it leaves alone.
func (in *intake) discard() {
	for _, m := range in.messages {
		m.Content.Discard()
	}
}

// atEnd reports whether the command ends here.
func (in *intake) atEnd() bool { return len(bytes.TrimRight(in.p.b[in.p.i:], " ")) == 0 }

// refuse reads and drops the rest of the command, and returns why. An error of
// the connection comes before every other.
func (in *intake) refuse(why error) error {
	switch {
	case ends(why):
		return why
	case in.literal != nil && in.literal.err != nil:
		return in.s.lost(in.literal.err)
	case in.literal != nil:
		return in.s.refuseMessage(literalMark{octets: in.literal.left, nonSync: true}, why)
	case in.mark != nil:
		return in.s.refuseMessage(*in.mark, why)
	}
	return why
}

// nextLine reads the line behind a literal.
func (in *intake) nextLine() error {
	line, err := in.s.r.readLine(nil, maxCommandOctets)
	if err != nil {
		return in.s.lost(err)
	}
	in.p, in.mark, in.literal = &parser{b: line}, nil, nil
	if mark, ok := literalAt(line); ok {
		in.mark = &mark
	}
	return nil
}

// begin asks for the literal that the line ends with.
func (in *intake) begin() *literalReader {
	if !in.mark.nonSync {
		in.s.continuation("OK")
	}
	in.literal, in.mark = &literalReader{r: &in.s.r, left: in.mark.octets}, nil
	return in.literal
}

// astring reads a string, also one that is a literal of its own.
func (in *intake) astring(limit int64) (string, error) {
	if in.p.peek() != '{' {
		return in.p.astring()
	}
	if err := in.p.atLiteral(); err != nil || in.mark == nil {
		return "", orSyntax(err, "expected a string")
	}
	if in.mark.octets > limit {
		return "", refuse("TOOBIG", "Literal is too large")
	}
	text := make([]byte, in.mark.octets)
	if _, err := io.ReadFull(in.begin(), text); err != nil {
		return "", in.s.lost(err)
	}
	return string(text), in.nextLine()
}

// grow counts octets before they are taken; those of this message are so far
// before. It refuses what the message, or the account, must not hold.
func (in *intake) grow(octets, before int64) error {
	limit := in.s.cfg.AppendLimitOctets
	if octets > limit || before+octets > limit {
		return refuse("TOOBIG", "Message is too large")
	}
	in.octets += octets
	messages := len(in.messages) + 1
	if in.freed > 0 { // one goes for it
		messages--
	}
	return in.to.mailbox.CheckRoom(in.octets-in.freed, messages)
}

// take streams one message into the store, and stands at the rest of the
// command then.
func (in *intake) take(ctx context.Context, args appendArgs) error {
	if err := in.s.mayAdd(len(in.messages)); err != nil {
		return in.refuse(err)
	}
	var from io.Reader
	if args.catenate {
		parts := &catenation{in: in, ctx: ctx}
		defer parts.close()
		from = parts
	} else {
		if in.mark.octets == 0 { // RFC 3502 section 6.3.11: an empty literal cancels
			return in.refuse(refuse("", "Message is empty"))
		}
		if err := in.grow(in.mark.octets, 0); err != nil {
			return in.refuse(err)
		}
		from = in.begin()
	}
	staged, err := in.s.server.deps.Store.Stage(ctx, from)
	if err != nil {
		return in.refuse(mailboxError(err, ""))
	}
	flags := in.to.permitted(args.flags)
	in.messages = append(in.messages, mailstore.Append{
		Content: staged, Flags: flags.system, Keywords: flags.keywords, InternalDate: args.date,
	})
	if in.literal != nil {
		if err := in.nextLine(); err != nil {
			return err
		}
	}
	if args.utf8 {
		if err := in.p.want(')'); err != nil {
			return in.refuse(err)
		}
	}
	return nil
}
