package pop3d

import (
	"bytes"
	"context"
	"errors"
	"strconv"
	"strings"

	"github.com/postern-mail/postern/backend/sessions"
	"github.com/postern-mail/postern/status"
)

// state is a session's state as a bit (RFC 1939 section 3). The third, UPDATE,
// lasts as long as the command QUIT.
type state uint8

const (
	authorization state = 1 << iota
	transaction
)

// verb is a row of the table of commands.
type verb struct {
	states state
	// least and most are how many arguments it takes, parted by spaces; most
	// -1 takes the rest of the line as one.
	least, most int
	run         func(s *session, ctx context.Context, args []string) error
}

// verbs is the table of commands. An error is the answer, or the end of the
// session; without one the handler has answered.
var verbs = map[string]verb{
	"CAPA": {states: authorization | transaction, run: (*session).capa},
	"QUIT": {states: authorization | transaction, run: (*session).quit},
	"NOOP": {states: transaction, run: (*session).noop},

	"STLS": {states: authorization, run: (*session).stls},
	"USER": {states: authorization, least: 1, most: -1, run: (*session).userCommand},
	"PASS": {states: authorization, least: 1, most: -1, run: (*session).pass},
	"AUTH": {states: authorization, most: 2, run: (*session).auth},

	"XCLIENT": {states: authorization, most: 16, run: (*session).xclient},

	"STAT": {states: transaction, run: (*session).stat},
	"LIST": {states: transaction, most: 1, run: (*session).list},
	"UIDL": {states: transaction, most: 1, run: (*session).uidl},
	"RETR": {states: transaction, least: 1, most: 1, run: (*session).retr},
	"TOP":  {states: transaction, least: 2, most: 2, run: (*session).top},
	"DELE": {states: transaction, least: 1, most: 1, run: (*session).dele},
	"RSET": {states: transaction, run: (*session).rset},
}

// command is a line that was read.
type command struct {
	name string // in capitals; "" for one that is not ours
	verb verb
	args []string
}

// parse reads a command line without its line end.
func parse(line []byte, now state) (command, error) {
	word, rest, spaced := bytes.Cut(line, []byte(" "))
	if len(word) > 16 {
		return command{}, syntax("unknown command")
	}
	name := strings.ToUpper(string(word))
	v, known := verbs[name]
	if !known {
		return command{}, syntax("unknown command")
	}
	c := command{name: name, verb: v}
	if v.states&now == 0 {
		return c, syntax("not allowed in this state")
	}
	switch {
	case v.most < 0 && spaced: // passwords hold spaces, and end with them
		c.args = []string{string(rest)}
	case v.most >= 0:
		for _, arg := range bytes.Fields(rest) { // more spaces than one do no harm
			c.args = append(c.args, string(arg))
		}
	}
	if len(c.args) < v.least || v.most >= 0 && len(c.args) > v.most {
		return c, syntax("wrong number of arguments")
	}
	return c, nil
}

// execute runs a command and answers it. An error ends the session.
func (s *session) execute(ctx context.Context, line []byte) error {
	c, err := parse(line, s.state)
	s.running = c.name
	s.handle.Begin(orElse(c.name, "unknown"))
	if err == nil {
		err = c.verb.run(s, ctx, c.args)
	}
	if ends(err) {
		return err
	}
	if err != nil {
		s.answer(err)
		s.logFailure(c.name, err)
	}
	var bad *invalid
	if s.bad++; !errors.As(err, &bad) {
		s.bad = 0
	}
	switch {
	case s.bad >= s.cfg.MaxBadCommands:
		return errTooManyBad
	case s.state == authorization && s.failures >= s.cfg.MaxAuthFailures:
		return errTooManyAuth
	}
	return s.w.err
}

// logFailure logs what the operator must know: faults of ours.
func (s *session) logFailure(name string, err error) {
	var bad *invalid
	var no *refusal
	if errors.As(err, &bad) || errors.As(err, &no) {
		return
	}
	s.log.Warn("command refused", "sid", s.client.Session, "login", s.identity.Authorization, "command", name, "reason", status.Of(err), "error", err)
}

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

// capability is a row of the table of what CAPA tells (RFC 2449 section 5).
type capability struct {
	states state
	// text returns the line; "" for none.
	text func(s *session) string
}

func always(text string) func(*session) string { return func(*session) string { return text } }

var capabilityTable = []capability{
	{authorization | transaction, always("TOP")},
	{authorization | transaction, always("UIDL")},
	{authorization | transaction, always("RESP-CODES")},
	{authorization | transaction, always("AUTH-RESP-CODE")},
	{authorization | transaction, always("PIPELINING")},
	{authorization | transaction, always("EXPIRE NEVER")},
	{authorization | transaction, (*session).loginDelay},
	{authorization, (*session).userCapability},
	{authorization, (*session).saslCapability},
	{authorization, (*session).stlsCapability},
	{authorization | transaction, always("IMPLEMENTATION Postern")},
}

func (s *session) loginDelay() string {
	if s.cfg.LoginDelay <= 0 {
		return ""
	}
	seconds := int64(s.cfg.LoginDelay.Seconds())
	if float64(seconds) < s.cfg.LoginDelay.Seconds() {
		seconds++
	}
	return "LOGIN-DELAY " + strconv.FormatInt(seconds, 10)
}

func (s *session) userCapability() string {
	if sessions.TakesPasswords(s.mechanisms()) {
		return "USER"
	}
	return ""
}

func (s *session) saslCapability() string {
	if all := s.mechanisms(); len(all) > 0 {
		return "SASL " + strings.Join(all, " ")
	}
	return ""
}

func (s *session) stlsCapability() string {
	if s.cfg.TLS != nil && s.client.TLS == nil {
		return "STLS"
	}
	return ""
}

// capa is CAPA.
func (s *session) capa(context.Context, []string) error {
	s.ok("Capability list follows")
	for i := range capabilityTable {
		if c := &capabilityTable[i]; c.states&s.state != 0 {
			if text := c.text(s); text != "" {
				s.w.line(text)
			}
		}
	}
	s.w.line(".")
	return nil
}

func (s *session) noop(context.Context, []string) error {
	s.ok("Done")
	return nil
}

// quit is QUIT: from the transaction state through the state UPDATE (RFC 1939
// section 6).
func (s *session) quit(ctx context.Context, _ []string) error {
	if s.state == transaction {
		if err := s.update(ctx); err != nil {
			s.answer(err)
			s.logFailure("QUIT", err)
			return errQuit
		}
	}
	s.ok("Bye")
	return errQuit
}
