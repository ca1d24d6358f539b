package imapd

import (
	"context"
	"errors"
	"io"
	"slices"
	"time"

	"github.com/postern-mail/postern/backend/mailstore"
	"github.com/postern-mail/postern/backend/sessions"
	"github.com/postern-mail/postern/status"
)

const (
	maxTagOctets = 100
	// maxCommandOctets bounds the text of a command, and the literals in it,
	// but for APPEND's messages.
	maxCommandOctets = 64 << 10
	// maxEarlyOctets bounds literals before authentication.
	maxEarlyOctets = 8 << 10
	// maxDiscardOctets is how much of a refused literal is read and dropped;
	// beyond it the connection is closed.
	maxDiscardOctets = 1 << 20
)

// command is one command as it was read.
type command struct {
	tag    string
	name   string
	action action
	err    error // why there is no action
	// sequence is true when it names messages by sequence numbers: these are of
	// the time at which it was sent.
	sequence bool
	// message announces the message of an APPEND, which is still to be read:
	// the action does that, or whoever drops the action.
	message *literalMark
}

// known is the command's name, where it is one of ours.
func (c *command) known() string {
	if _, ok := verbs[c.name]; !ok {
		return "unknown"
	}
	return c.name
}

// action runs a parsed command.
type action func(s *session, ctx context.Context) (result, error)

// verb is a row of the table of commands.
type verb struct {
	states state
	// numbers is true for commands whose sequence numbers an EXPUNGE would
	// shift (RFC 3501 section 7.4.1).
	numbers bool
	// reads is true for commands that answer from the mailbox, or choose by its
	// flags: they work on what is there now, not on what was there after the last
	// command. STORE does not: flags told before a silent change would seem to
	// come after it.
	reads bool
	// expunges is true for commands that take messages away: a client that wants
	// to know of nothing by NOTIFY is told all behind them.
	expunges bool
	// leaves is true for commands that leave the selected mailbox: they are
	// allowed whatever became of the client's rights.
	leaves bool
	parse  func(p *parser) (action, error)
}

// with makes the parse function of a verb from its parser and its handler.
func with[A any](parse func(*parser) (A, error), run func(*session, context.Context, A) (result, error)) func(*parser) (action, error) {
	return func(p *parser) (action, error) {
		args, err := parse(p)
		if err == nil {
			err = p.end()
		}
		if err != nil {
			return nil, err
		}
		return func(s *session, ctx context.Context) (result, error) { return run(s, ctx, args) }, nil
	}
}

// plain is with for commands without arguments.
func plain(run func(*session, context.Context) (result, error)) func(*parser) (action, error) {
	return func(p *parser) (action, error) {
		if err := p.end(); err != nil {
			return nil, err
		}
		return run, nil
	}
}

const anyState = notAuthenticated | authenticated | selected

// verbs is the table of commands.
var verbs = map[string]verb{
	"CAPABILITY": {states: anyState, parse: plain((*session).capability)},
	"NOOP":       {states: anyState, parse: plain((*session).noop)},
	"LOGOUT":     {states: anyState, parse: plain((*session).logout)},
	"ID":         {states: anyState, parse: with(parseID, (*session).id)},

	"STARTTLS":     {states: notAuthenticated, parse: plain((*session).startTLS)},
	"AUTHENTICATE": {states: notAuthenticated, parse: with(parseAuthenticate, (*session).authenticate)},
	"LOGIN":        {states: notAuthenticated, parse: with(parseLogin, (*session).loginCommand)},

	"ENABLE":       {states: authenticated | selected, parse: with(parseEnable, (*session).enable)},
	"SELECT":       {states: authenticated | selected, parse: with(parseSelect(false), (*session).selectMailbox)},
	"EXAMINE":      {states: authenticated | selected, parse: with(parseSelect(true), (*session).selectMailbox)},
	"CREATE":       {states: authenticated | selected, parse: with(parseCreate, (*session).create)},
	"DELETE":       {states: authenticated | selected, parse: with(parseMailbox, (*session).deleteMailbox)},
	"RENAME":       {states: authenticated | selected, parse: with(parseRename, (*session).rename)},
	"SUBSCRIBE":    {states: authenticated | selected, parse: with(parseMailbox, (*session).subscribe)},
	"UNSUBSCRIBE":  {states: authenticated | selected, parse: with(parseMailbox, (*session).unsubscribe)},
	"LIST":         {states: authenticated | selected, parse: with(parseList, (*session).list)},
	"XLIST":        {states: authenticated | selected, parse: with(parseLsub, (*session).xlist)},
	"LSUB":         {states: authenticated | selected, parse: with(parseLsub, (*session).lsub)},
	"NAMESPACE":    {states: authenticated | selected, parse: plain((*session).namespace)},
	"SETACL":       {states: authenticated | selected, parse: with(parseSetACL, (*session).setACL)},
	"DELETEACL":    {states: authenticated | selected, parse: with(parseIdentifier, (*session).deleteACL)},
	"GETACL":       {states: authenticated | selected, parse: with(parseMailbox, (*session).getACL)},
	"LISTRIGHTS":   {states: authenticated | selected, parse: with(parseIdentifier, (*session).listRights)},
	"MYRIGHTS":     {states: authenticated | selected, parse: with(parseMailbox, (*session).myRights)},
	"GETQUOTA":     {states: authenticated | selected, parse: with(parseQuotaRoot, (*session).getQuota)},
	"GETQUOTAROOT": {states: authenticated | selected, parse: with(parseMailbox, (*session).getQuotaRoot)},
	"SETQUOTA":     {states: authenticated | selected, parse: with(parseSetQuota, (*session).setQuota)},
	"GETMETADATA":  {states: authenticated | selected, parse: with(parseGetMetadata, (*session).getMetadata)},
	"SETMETADATA":  {states: authenticated | selected, parse: with(parseSetMetadata, (*session).setMetadata)},
	"STATUS":       {states: authenticated | selected, parse: with(parseStatus, (*session).status)},
	"APPEND":       {states: authenticated | selected, parse: parseStream("APPEND")},
	"REPLACE":      {states: selected, expunges: true, parse: parseStream("REPLACE")},
	"UID REPLACE":  {states: selected, expunges: true, parse: parseStream("UID REPLACE")},
	"IDLE":         {states: authenticated | selected, parse: plain((*session).idle)},

	"NOTIFY":         {states: loggedIn, parse: with(parseNotify, (*session).setNotify)},
	"COMPRESS":       {states: loggedIn, parse: with(parseCompress, (*session).compress)},
	"UNAUTHENTICATE": {states: loggedIn, parse: plain((*session).unauthenticate)},

	"ESEARCH": {states: authenticated | selected, reads: true, parse: with(parseMultiSearch, (*session).multiSearch)},

	"CHECK":        {states: selected, parse: plain((*session).check)},
	"CLOSE":        {states: selected, leaves: true, parse: plain((*session).closeMailbox)},
	"UNSELECT":     {states: selected, leaves: true, parse: plain((*session).unselectMailbox)},
	"EXPUNGE":      {states: selected, expunges: true, parse: plain((*session).expunge)},
	"SEARCH":       {states: selected, numbers: true, reads: true, parse: with(parseSearch(false), (*session).search)},
	"FETCH":        {states: selected, numbers: true, reads: true, parse: with(parseFetch(false), (*session).fetch)},
	"STORE":        {states: selected, numbers: true, parse: with(parseStore(false), (*session).store)},
	"COPY":         {states: selected, parse: with(parseCopy(false), (*session).copy)},
	"MOVE":         {states: selected, expunges: true, parse: with(parseCopy(false), (*session).move)},
	"UID EXPUNGE":  {states: selected, expunges: true, reads: true, parse: with(parseSet, (*session).uidExpunge)},
	"UID SEARCH":   {states: selected, reads: true, parse: with(parseSearch(true), (*session).search)},
	"SORT":         {states: selected, numbers: true, reads: true, parse: with(parseSort(false), (*session).sort)},
	"THREAD":       {states: selected, numbers: true, reads: true, parse: with(parseThread(false), (*session).thread)},
	"CANCELUPDATE": {states: selected, parse: with(parseCancelUpdate, (*session).cancelUpdate)},
	"UID SORT":     {states: selected, reads: true, parse: with(parseSort(true), (*session).sort)},
	"UID THREAD":   {states: selected, reads: true, parse: with(parseThread(true), (*session).thread)},
	"UID FETCH":    {states: selected, reads: true, parse: with(parseFetch(true), (*session).fetch)},
	"UID STORE":    {states: selected, parse: with(parseStore(true), (*session).store)},
	"UID COPY":     {states: selected, parse: with(parseCopy(true), (*session).copy)},
	"UID MOVE":     {states: selected, expunges: true, parse: with(parseCopy(true), (*session).move)},
}

// parseHead reads tag and name. The tag is "" when there is none to answer to.
func parseHead(p *parser) (tag, name string, err error) {
	if tag, err = p.tag(); err != nil {
		return "", "", err
	}
	if err := p.sp(); err != nil {
		return tag, "", err
	}
	if name, err = p.word(); err != nil {
		return tag, "", syntax("expected a command")
	}
	if name != "UID" {
		return tag, name, nil
	}
	if err := p.sp(); err != nil {
		return tag, name, err
	}
	sub, err := p.word()
	return tag, name + " " + sub, err
}

// parseCommand parses the octets of a whole command.
func parseCommand(p *parser, now state) command {
	var cmd command
	if cmd.tag, cmd.name, cmd.err = parseHead(p); cmd.err != nil {
		return cmd
	}
	v, known := verbs[cmd.name]
	switch {
	case !known:
		cmd.err = syntax("unknown command")
	case v.states&now == 0:
		cmd.err = syntax("not allowed in this state")
	case p.uidOnly && byNumber(cmd.name):
		cmd.err = errUIDRequired
	default:
		cmd.action, cmd.err = v.parse(p)
		if cmd.sequence = p.sequence; cmd.sequence && p.uidOnly && cmd.err == nil {
			cmd.action, cmd.err = nil, errUIDRequired
		}
	}
	return cmd
}

// readCommand reads one command with its literals and parses it. An error is
// the end of the session; what is wrong with the command alone stands in it.
func (s *session) readCommand() (command, error) {
	s.cmd = s.cmd[:0]
	text, literals := maxCommandOctets, int64(maxCommandOctets)
	if s.state == notAuthenticated {
		literals = maxEarlyOctets
	}
	for read := 0; ; read++ {
		from := len(s.cmd)
		var err error
		if s.cmd, err = s.r.readLine(s.cmd, from+text); err != nil {
			return command{}, err
		}
		text -= len(s.cmd) - from
		mark, ok := literalAt(s.cmd[from:])
		if !ok {
			return parseCommand(s.parserOf(s.cmd), s.state), nil
		}
		// A message is the first literal, or the second behind a mailbox name:
		// a command of thousands is not parsed thousands of times.
		if s.state != notAuthenticated && read < 2 && announcesMessage(s.cmd) {
			return streamCommand(s.parserOf(s.cmd), mark, s.state), nil
		}
		if mark.octets > literals {
			return s.tooLarge(mark)
		}
		literals -= mark.octets
		if err := s.readLiteral(mark); err != nil {
			return command{}, err
		}
	}
}

// tooLarge answers a command for a literal over the limit.
func (s *session) tooLarge(mark literalMark) (command, error) {
	tag, name, err := parseHead(&parser{b: s.cmd})
	if err == nil {
		err = refuse("TOOBIG", "Literal is too large")
	}
	return command{tag: tag, name: name, err: err}, s.refuseLiteral(mark, maxDiscardOctets)
}

// readLiteral appends a literal to the command, behind a line end.
func (s *session) readLiteral(mark literalMark) error {
	if !mark.nonSync {
		s.continuation("OK")
	}
	s.cmd = append(s.cmd, '\r', '\n')
	from, n := len(s.cmd), int(mark.octets)
	s.cmd = slices.Grow(s.cmd, n)[:from+n]
	_, err := io.ReadFull(&s.r, s.cmd[from:])
	return err
}

// refuseLiteral makes sure that no octet of a refused literal, and nothing of
// the command behind it, is ever read as a command: a client that waits is
// answered by the tagged response; what a client sends without waiting is read
// and dropped, up to limit octets, and beyond that the session ends.
func (s *session) refuseLiteral(mark literalMark, limit int64) error {
	for !mark.nonSync || mark.octets <= limit {
		if !mark.nonSync {
			return nil
		}
		limit -= mark.octets
		if err := s.r.discard(mark.octets); err != nil {
			return err
		}
		line, err := s.r.readLine(nil, maxCommandOctets)
		if err != nil {
			return err
		}
		var more bool
		if mark, more = literalAt(line); !more {
			return nil
		}
	}
	return errBigLiteral
}

// continuation asks the client to go on.
func (s *session) continuation(text string) {
	s.w.str("+ ")
	s.w.line(text)
}

// execute runs a command and answers it. An error ends the session.
func (s *session) execute(ctx context.Context, cmd command) error {
	s.running, s.tag, s.began, s.short = cmd.name, cmd.tag, time.Now(), ""
	s.handle.Begin(cmd.known())
	if cmd.err != nil {
		return s.invalid(cmd)
	}
	s.bad = 0
	s.refreshGroups(ctx)
	v := verbs[cmd.name]
	if v.states == selected && !v.leaves {
		if err := s.box.readable(); err != nil {
			if cmd.message != nil {
				if err := s.refuseMessage(*cmd.message, nil); err != nil {
					return err
				}
			}
			s.tagged(cmd.tag, result{}, err)
			return s.w.err
		}
	}
	if s.notify != nil {
		ctx = mailstore.As(ctx, s)
	}
	mode := syncMode{keepNumbers: v.numbers, uid: isUID(cmd.name), delay: s.delays(cmd.name), whole: v.expunges}
	if v.reads {
		before := mode
		before.keepNumbers, before.whole = v.numbers || cmd.sequence, false
		if err := s.sync(before); err != nil {
			return err
		}
	}
	res, err := cmd.action(s, ctx)
	if ends(err) {
		if err == errLogout {
			s.w.line("* BYE " + errLogout.text)
			s.tagged(cmd.tag, result{}, nil)
		}
		return err
	}
	if err := s.sync(mode); err != nil {
		return err
	}
	if err := s.contextsFollow(ctx); err != nil {
		return err
	}
	s.withheld()
	if s.owesModSeq(res) {
		res.code = s.currentModSeq()
	}
	s.tellShort(&res, err)
	s.logFailure(cmd, err)
	if !res.answered {
		s.tagged(cmd.tag, res, err)
	}
	if s.state == notAuthenticated && s.failures >= s.cfg.MaxAuthFailures {
		return errTooManyAuth
	}
	return s.afterwards(ctx)
}

// afterwards does what a command left to be done when the client has its answer.
func (s *session) afterwards(ctx context.Context) error {
	later := s.later
	if later == nil {
		return s.w.err
	}
	s.later = nil
	defer s.laterShare.end()
	if err := s.w.flush(); err != nil {
		return err
	}
	if err := later(ctx); ends(err) {
		return err
	}
	return s.w.err
}

func isUID(name string) bool { return len(name) > 4 && name[:4] == "UID " }

// invalid answers a command that has no action.
func (s *session) invalid(cmd command) error {
	if cmd.tag == "" && len(s.cmd) == 0 { // an empty line is nobody's command
		return nil
	}
	if cmd.message != nil {
		if err := s.refuseLiteral(*cmd.message, s.appendDiscard()); err != nil {
			return s.readError(err)
		}
	}
	s.tagged(orElse(cmd.tag, "*"), result{}, cmd.err)
	if s.bad++; s.bad >= s.cfg.MaxBadCommands {
		return errTooManyBad
	}
	return s.w.err
}

// ends reports whether err is the end of the session rather than an answer.
func ends(err error) bool {
	if err == nil {
		return false
	}
	var end *bye
	var lost *connError
	var handshake *sessions.HandshakeError
	return errors.As(err, &end) || errors.As(err, &lost) || errors.As(err, &handshake) || errors.Is(err, errStream)
}

// connError is a failure of the connection inside a command.
type connError struct{ err error }

func (e *connError) Error() string { return e.err.Error() }
func (e *connError) Unwrap() error { return e.err }

// lost marks err as the end of the connection.
func (s *session) lost(err error) error {
	if err == nil {
		return nil
	}
	var end *bye
	if err = s.readError(err); errors.As(err, &end) {
		return err
	}
	return &connError{err}
}

// logFailure logs what the operator must know: faults of ours.
func (s *session) logFailure(cmd command, err error) {
	var bad *syntaxError
	var no *refusal
	if err == nil || errors.As(err, &bad) || errors.As(err, &no) {
		return
	}
	level := s.log.Warn
	if !status.Of(err).Transient() || status.Of(err) == status.MailboxFull {
		level = s.log.Debug
	}
	level("command refused", "sid", s.client.Session, "login", s.login(), "command", cmd.name, "reason", status.Of(err), "error", err)
}
