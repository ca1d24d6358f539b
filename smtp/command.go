package smtp

import (
	"bytes"
	"errors"
	"strings"
	"unicode/utf8"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// state is where a session stands in the order of commands.
type state uint8

const (
	connected     state = 1 << iota // before HELO, EHLO or LHLO
	greeted                         // after it, no transaction open
	inTransaction                   // after MAIL

	anywhere = connected | greeted | inTransaction
)

// command is one row of the command table.
type command struct {
	verb   string
	states state // where it is allowed
	run    func(s *serverSession, arg string) error

	smtpOnly, lmtpOnly bool
	endsGroup          bool   // the client must wait for the reply (RFC 2920 section 3.1)
	anyInput           bool   // input right behind it is no fault
	carriesText        bool   // octets follow that are no command
	junk               bool   // does not bring a message forward
	withoutTLS         bool   // allowed under RequireTLS before TLS
	secret             bool   // argument is never logged
	keyword            string // EHLO keyword it belongs to
	row                int    // in the tally
}

// commandTable is the whole of the protocol's verbs. It is filled in by a
// function because the functions in it refer to it.
func commandTable() []command {
	return []command{
		{verb: "HELO", states: anywhere, run: (*serverSession).helo, smtpOnly: true, endsGroup: true, withoutTLS: true},
		{verb: "EHLO", states: anywhere, run: (*serverSession).ehlo, smtpOnly: true, endsGroup: true, withoutTLS: true},
		{verb: "LHLO", states: anywhere, run: (*serverSession).ehlo, lmtpOnly: true, endsGroup: true, withoutTLS: true},
		{verb: "MAIL", states: connected | greeted, run: (*serverSession).mail},
		{verb: "RCPT", states: inTransaction, run: (*serverSession).rcpt},
		{verb: "DATA", states: inTransaction, run: (*serverSession).data, endsGroup: true},
		{verb: "BDAT", states: anywhere, run: (*serverSession).bdat, anyInput: true, carriesText: true, withoutTLS: true, keyword: "CHUNKING"},
		{verb: "RSET", states: anywhere, run: (*serverSession).rset, junk: true},
		{verb: "NOOP", states: anywhere, run: (*serverSession).noop, endsGroup: true, junk: true, withoutTLS: true},
		{verb: "VRFY", states: anywhere, run: (*serverSession).vrfy, endsGroup: true, junk: true},
		{verb: "KEPT", states: greeted, run: (*serverSession).kept, lmtpOnly: true, endsGroup: true, keyword: "XPOSTERN"},
		{verb: "EXPN", states: anywhere, run: (*serverSession).unimplemented, endsGroup: true, junk: true},
		{verb: "HELP", states: anywhere, run: (*serverSession).help, endsGroup: true, junk: true},
		{verb: "ETRN", states: anywhere, run: (*serverSession).unimplemented, endsGroup: true, junk: true},
		{verb: "XCLIENT", states: anywhere, run: (*serverSession).xclient, smtpOnly: true, endsGroup: true, keyword: "XCLIENT"},
		{verb: "XFORWARD", states: anywhere, run: (*serverSession).xforward, smtpOnly: true, keyword: "XFORWARD"},
		{verb: "QUIT", states: anywhere, run: (*serverSession).quit, anyInput: true, withoutTLS: true},
		{verb: "STARTTLS", states: anywhere, run: (*serverSession).starttls, anyInput: true, withoutTLS: true, keyword: "STARTTLS"},
		{verb: "AUTH", states: anywhere, run: (*serverSession).auth, endsGroup: true, secret: true, keyword: "AUTH"},
	}
}

const maxVerbOctets = 16

// foreign is every line that never was SMTP. A browser made to talk to a mail
// port by a hostile page sends its request's header as commands, and what
// follows could be mail.
var foreign = command{verb: "GET", row: rowOf(""), states: anywhere, run: (*serverSession).wrongProtocol, anyInput: true, withoutTLS: true}

// idle is a command the configuration adds, which does nothing.
var idle = command{verb: "NOOP", row: rowOf("NOOP"), states: anywhere, run: (*serverSession).noop, endsGroup: true, junk: true, withoutTLS: true}

// commandsOf returns the commands of a listener by verb.
func commandsOf(set *settings) map[string]*command {
	table := commandTable()
	commands := make(map[string]*command, len(table))
	for i := range table {
		c := &table[i]
		c.row = rowOf(c.verb)
		lmtp := set.Mode == ModeLMTP
		if c.smtpOnly && lmtp || c.lmtpOnly && !lmtp {
			continue
		}
		if c.keyword != "" && !set.offers(c.keyword) || c.verb == "STARTTLS" && set.TLS == nil {
			c.run = (*serverSession).unimplemented
		}
		commands[c.verb] = c
	}
	for _, verb := range set.Noop {
		commands[strings.ToUpper(verb)] = &idle
	}
	for _, verb := range set.Forbidden {
		commands[strings.ToUpper(verb)] = &foreign
	}
	if commands["BDAT"] == nil || !commands["BDAT"].carriesText {
		return commands // the configuration gives it another meaning
	}
	// A discarded BDAT still has its chunk behind it.
	if !set.offers("CHUNKING") {
		commands["BDAT"].run = (*serverSession).refuseChunk
	}
	return commands
}

var errNotCommand = errors.New("not a command")

// findCommand takes a command line apart. Letters of the verb may have any
// case; the argument keeps its octets, without the blanks around it. Control
// characters and broken UTF-8 have no place in any command. With an error the
// command is returned too when it is known.
func (s *settings) findCommand(text []byte) (*command, string, error) {
	verb, arg, _ := bytes.Cut(text, []byte{' '})
	// A lone asterisk is of SASL: Go's SMTP clients send it after a refused
	// AUTH too, and may go on then.
	if len(verb) > 0 && !isLetter(verb[0]) && string(text) != "*" {
		return &foreign, "", nil
	}
	var upper [maxVerbOctets]byte
	if len(verb) > len(upper) {
		return nil, "", status.New(status.CommandUnrecognized, errNotCommand)
	}
	for i, c := range verb {
		if isLetter(c) {
			c &^= 0x20
		}
		upper[i] = c
	}
	cmd := s.commands[string(upper[:len(verb)])]
	if cmd == nil {
		return nil, "", status.New(status.CommandUnrecognized, errNotCommand)
	}
	if !isText(text) {
		return cmd, "", status.Errorf(status.SyntaxError, "control character or broken UTF-8 in %s", cmd.verb)
	}
	return cmd, string(bytes.Trim(arg, " ")), nil
}

// isAuth reports whether a line is an AUTH command, whose initial response may
// be longer than other commands (RFC 4954 section 4).
func isAuth(text []byte) bool {
	return len(text) > 5 && bytes.EqualFold(text[:5], []byte("AUTH "))
}

func isLetter(c byte) bool { return c|0x20 >= 'a' && c|0x20 <= 'z' }

func isText(text []byte) bool {
	ascii := true
	for _, c := range text {
		if c < ' ' || c == 0x7f {
			return false
		}
		ascii = ascii && c < utf8.RuneSelf
	}
	return ascii || utf8.Valid(text)
}

func (s *serverSession) helo(arg string) error { return s.hello(arg, false) }

func (s *serverSession) ehlo(arg string) error { return s.hello(arg, true) }

// hello starts over: a transaction that was open is dropped (RFC 5321 section
// 4.1.4).
func (s *serverSession) hello(arg string, extended bool) error {
	if arg == "" {
		return s.refuse(status.New(status.SyntaxError, errors.New("no host name given")))
	}
	s.dropTransaction()
	s.client.Forwarded = nil
	s.client.Helo, s.client.Extended = harmlessName(arg), extended
	if err := s.policy.Helo(s.ctx); err != nil {
		s.client.Helo, s.client.Extended = "", false
		return s.refuse(err)
	}
	r := status.OK.Reply()
	r.Enhanced = [3]int{} // RFC 2034 section 4 exempts the replies to HELO and EHLO
	r.Text = s.set.Hostname
	if extended {
		r.Text += s.extensions()
	}
	s.answer(r)
	return nil
}

// harmlessName replaces what could be taken for syntax where the name is
// quoted, in trace headers above all, and cuts what no name holds. What is
// wrong with it otherwise is for policy to say: real clients send names with
// blanks in them.
func harmlessName(name string) string {
	name = strings.Map(func(r rune) rune {
		if r > '~' || strings.ContainsRune(` <>()\";,@`, r) {
			return '?'
		}
		return r
	}, name)
	return name[:min(len(name), mail.MaxDomainOctets)]
}

// extensions lists the EHLO keywords, each behind a newline.
func (s *serverSession) extensions() string {
	var b strings.Builder
	add := func(keyword, arg string) {
		if s.set.offers(keyword) {
			b.WriteByte('\n')
			b.WriteString(keyword)
			b.WriteString(arg)
		}
	}
	add("PIPELINING", "")
	add("SIZE", s.set.sizeArgument)
	if s.set.TLS != nil && s.client.TLS == nil {
		add("STARTTLS", "")
	}
	if mechanisms := s.mechanisms(); len(mechanisms) > 0 {
		add("AUTH", " "+strings.Join(mechanisms, " "))
	}
	add("ENHANCEDSTATUSCODES", "")
	add("8BITMIME", "")
	add("DSN", "")
	add("SMTPUTF8", "")
	add("CHUNKING", "")
	if s.client.TLS != nil { // RFC 8689 section 2
		add("REQUIRETLS", "")
	}
	if s.offersPriority() {
		add("MT-PRIORITY", "")
	}
	if s.mayClaim(s.set.XClientHosts) {
		add("XCLIENT", " "+xclientAttributes)
	}
	if s.mayClaim(s.set.XForwardHosts) {
		add("XFORWARD", " "+xforwardAttributes)
	}
	if s.set.Mode == ModeLMTP {
		arguments := ""
		if s.set.Postern != nil {
			if arguments = s.set.Postern(); arguments != "" {
				arguments = " " + arguments
			}
		}
		add("XPOSTERN", arguments)
	}
	return b.String()
}

func (s *serverSession) rset(arg string) error {
	if arg != "" {
		return s.refuse(status.New(status.SyntaxError, nil))
	}
	s.dropTransaction()
	s.client.Forwarded = nil
	s.say(status.OK)
	return nil
}

func (s *serverSession) noop(string) error {
	s.say(status.OK)
	return nil
}

func (s *serverSession) vrfy(arg string) error {
	if arg == "" {
		return s.refuse(status.New(status.SyntaxError, nil))
	}
	err := s.policy.Verify(s.ctx, arg)
	if err != nil {
		return s.refuse(err)
	}
	s.say(status.OK)
	return nil
}

func (s *serverSession) help(string) error {
	s.say(status.HelpText)
	return nil
}

func (s *serverSession) quit(arg string) error {
	if arg != "" {
		return s.refuse(status.New(status.SyntaxError, nil))
	}
	s.say(status.Closing)
	return errQuit
}

func (s *serverSession) unimplemented(string) error {
	return s.refuse(status.New(status.CommandUnimplemented, nil))
}

func (s *serverSession) wrongProtocol(string) error {
	return s.refuse(status.New(status.ProtocolSwitch, errors.New("another protocol's request")))
}

// starttls protects the session and forgets all the client has said before,
// for it may not have been the client (RFC 3207 section 4.2).
func (s *serverSession) starttls(arg string) error {
	switch {
	case arg != "":
		return s.refuse(status.New(status.SyntaxError, nil))
	case s.client.TLS != nil:
		return s.refuse(status.New(status.AlreadyTLS, nil))
	case s.tx != nil || s.client.Identity != nil:
		return s.refuse(status.New(status.BadSequence, errors.New("STARTTLS after MAIL or AUTH")))
	}
	if err := s.pace(mail.ClientStartsTLS); err != nil {
		return s.refuse(err)
	}
	s.say(status.StartTLS)
	if err := s.startTLS(); err != nil {
		return err
	}
	s.client.Helo, s.client.Extended = "", false
	return nil
}
