package milter

import (
	"context"
	"errors"
	"fmt"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/policy"
	"github.com/postern-mail/postern/status"
)

// attendance is a filter's part in one session. Connections are made when the
// filter has to be told something: at the connection, or at MAIL when it does
// without what comes before; and again at the next MAIL after one was lost.
type attendance struct {
	m            *Milter
	chainDecides bool
	count        *counters // nil while it is not about mail

	c *conn // nil while there is none
	// connected and greeted say what the filter heard on this connection.
	connected, greeted bool
	// lost tells that the filter failed before MAIL, to which it is left alone.
	lost bool
	// passed tells that the filter wants nothing of this session, refusal that
	// it refused the whole of it.
	passed  bool
	refusal *mail.Verdict

	tx transaction
	// refused is the reply to the recipient that the lists refused, while the
	// filter is told of that.
	refused *status.Reply
}

// transaction is what the filter was told of the one that is open.
type transaction struct {
	told bool // of MAIL, and not of its end
	done bool // the filter wants no more of it
	// failure is why the filter cannot be asked about it any more, verdict what
	// that leads to.
	failure error
	verdict mail.Verdict
	body    *spool
}

// Step implements policy.Attendance.
func (a *attendance) Step(ctx context.Context, tx *mail.Transaction) (mail.Verdict, error) {
	if a.count = a.m.count; policy.IsRehearsal(ctx) {
		a.count = nil
	}
	switch {
	case a.refusal != nil:
		return *a.refusal, nil
	case a.passed:
		return mail.Verdict{}, nil
	case tx.Phase == mail.PhaseHelo:
		a.greeted = false
		fallthrough
	case tx.Phase == mail.PhaseConnect:
		return a.early(ctx, tx)
	case tx.Phase == mail.PhaseMail:
		a.Abort() // of what went before, had nobody said so
	}
	if v, err, settled := a.settled(); settled {
		return v, err
	}
	ctx, cancel := policy.Share(ctx)
	defer cancel()
	ans, err := a.told(ctx, tx)
	if err != nil {
		return a.fail(ctx, err)
	}
	return a.take(ans, tx.Phase), nil
}

// early tells of the connection and of HELO. A filter that cannot be asked yet
// is asked again at MAIL: until then there is nothing to lose, and the client is
// better told there. Only a session that has to end ends now.
func (a *attendance) early(ctx context.Context, tx *mail.Transaction) (mail.Verdict, error) {
	if a.c == nil && (a.lost || a.m.wantsOnlyMail()) {
		return mail.Verdict{}, nil
	}
	ctx, cancel := policy.Share(ctx)
	defer cancel()
	ans, err := a.asking(ctx, tx, nil)
	switch {
	case err == nil:
		a.m.worked(false)
		return ans.verdict, nil
	case a.m.cfg.OnError == Shutdown && !a.chainDecides:
		v, err := a.fail(ctx, err)
		a.tx = transaction{}
		return v, err
	}
	a.lose(ctx, err)
	a.lost = true
	return mail.Verdict{}, nil
}

// told tells of a step in a transaction.
func (a *attendance) told(ctx context.Context, tx *mail.Transaction) (answer, error) {
	switch tx.Phase {
	case mail.PhaseMail:
		return a.asking(ctx, tx, func() (answer, error) {
			a.tx.told = true
			c := a.c
			return a.exchange(ctx, tx, stageMail, noMail, silentMail, func() []byte {
				c.out = mailPacket(c.out, &tx.Envelope)
				return c.out
			})
		})
	case mail.PhaseRecipient:
		return a.within(ctx, func(c *conn) (answer, error) {
			return a.exchange(ctx, tx, stageRcpt, noRcpt, silentRcpt, func() []byte {
				c.out = rcptPacket(c.out, tx.Recipient)
				return c.out
			})
		})
	case mail.PhaseData:
		return a.within(ctx, func(c *conn) (answer, error) {
			if c.opts.version < 4 {
				return answer{reply: replyContinue}, nil
			}
			return a.exchange(ctx, tx, stageData, noData, silentData, func() []byte {
				c.out = c.out.begin(cmdData)
				return c.out.end()
			})
		})
	}
	return answer{reply: replyContinue}, nil
}

// within does something on the connection that knows the transaction.
func (a *attendance) within(ctx context.Context, do func(*conn) (answer, error)) (answer, error) {
	defer a.c.interruptible(ctx)()
	return do(a.c)
}

// asking makes sure that there is a connection on which the filter was told of
// the client, and then does what is next. An idle connection may have ended
// while nobody looked: then a new one is made.
func (a *attendance) asking(ctx context.Context, tx *mail.Transaction, next func() (answer, error)) (answer, error) {
	for anew := false; ; anew = true {
		if a.c == nil {
			c, err := a.m.connect(ctx, anew)
			if err != nil {
				return answer{}, err
			}
			a.c, a.connected, a.greeted = c, false, false
			a.m.known.Store(c.opts)
		}
		ans, err := a.introduce(ctx, tx, next)
		if err == nil || anew || !a.c.reused || !closedByPeer(err) {
			return ans, err
		}
		a.m.drop(a.c)
		a.c = nil
	}
}

// introduce tells the filter of the client as far as it does not know, and then
// does what is next unless that was enough.
func (a *attendance) introduce(ctx context.Context, tx *mail.Transaction, next func() (answer, error)) (answer, error) {
	c := a.c
	defer c.interruptible(ctx)()
	ans := answer{reply: replyContinue}
	var err error
	if !a.connected {
		ans, err = a.exchange(ctx, tx, stageConnect, noConnect, silentConnect, func() []byte {
			c.out = a.m.connectPacket(c.out, &tx.Client)
			return c.out
		})
		if err != nil {
			return ans, err
		}
		a.connected = true
	}
	if ans.reply == replyContinue && !a.greeted && tx.Client.Helo != "" {
		ans, err = a.exchange(ctx, tx, stageHelo, noHelo, silentHelo, func() []byte {
			c.out = c.out.begin(cmdHelo).text(tx.Client.Helo)
			return c.out.end()
		})
		if err != nil {
			return ans, err
		}
		a.greeted = true
	}
	switch {
	case ans.reply == replyAccept:
		a.passed = true
		a.count.reply(replyWords[ans.reply])
	case ans.reply != replyContinue:
		a.refusal = &ans.verdict
		a.count.reply(replyWords[ans.reply])
	case next != nil:
		return next()
	}
	return ans, nil
}

// exchange sends the macros of a step, which filters want even of steps they do
// without, and the step itself, and returns the filter's answer.
func (a *attendance) exchange(ctx context.Context, tx *mail.Transaction, at stage, without, silent steps, step func() []byte) (answer, error) {
	c := a.c
	ans := answer{reply: replyContinue}
	if err := c.until(ctx, a.m.cfg.CommandTimeout); err != nil {
		return ans, err
	}
	value := func(name string) string { return a.m.macro(name, tx) }
	if a.refused != nil {
		value = a.refusedMacro
	}
	if err := c.macros(at, value); err != nil {
		return ans, err
	}
	if c.opts.without(without) {
		return ans, nil
	}
	if err := c.send(step()); err != nil || c.opts.without(silent) {
		return ans, err
	}
	where := inMessage
	if at <= stageHelo {
		where = beforeMail
	}
	return c.answer(ctx, a.m.cfg.CommandTimeout, where)
}

// Refused implements policy.Witness: filters may ask to hear of recipients that
// the lists refused. What they say to it counts for nothing.
func (a *attendance) Refused(ctx context.Context, tx *mail.Transaction, reply status.Reply) {
	if a.c == nil || !a.tx.told || a.tx.done || !a.c.opts.without(refusedRcpt) {
		return
	}
	a.refused = &reply
	_, err := a.told(ctx, tx)
	a.refused = nil
	if err != nil {
		_, _ = a.fail(ctx, err) // which is told at the next step
	}
}

// Unknown implements policy.CommandWitness. The command is refused whatever the
// filter says, which can only put a reply of its own in the place of ours; to
// accept or to discard says nothing, for this is about no message. A filter that
// cannot be asked is asked again at MAIL, or its failure told at the next step.
func (a *attendance) Unknown(ctx context.Context, tx *mail.Transaction, line string) mail.Verdict {
	switch {
	case a.refusal != nil:
		return *a.refusal
	case a.passed || a.lost || a.tx.done || a.tx.failure != nil || !a.hearsUnknown():
		return mail.Verdict{}
	}
	ctx, cancel := policy.Share(ctx)
	defer cancel()
	tell := func() (answer, error) { return a.unknown(ctx, line) }
	var ans answer
	var err error
	if a.tx.told { // on this connection, and on no other
		ans, err = a.within(ctx, func(*conn) (answer, error) { return tell() })
	} else {
		ans, err = a.asking(ctx, tx, tell)
	}
	switch {
	case err != nil && a.tx.told:
		_, _ = a.fail(ctx, err) // which is told at the next step
	case err != nil:
		a.lose(ctx, err)
		a.lost = true
	case ans.verdict.Action == mail.Reject:
		return ans.verdict
	}
	return mail.Verdict{}
}

// hearsUnknown reports whether the filter wants to hear of such commands; of one
// that was told nothing of this session yet, what it wanted in others counts.
func (a *attendance) hearsUnknown() bool {
	o := a.m.known.Load()
	if a.c != nil {
		o = a.c.opts
	}
	return o != nil && o.version >= 3 && !o.without(noUnknown)
}

// unknown tells of a command line. There are no macros that go before it.
func (a *attendance) unknown(ctx context.Context, line string) (answer, error) {
	c := a.c
	ans := answer{reply: replyContinue}
	if !a.hearsUnknown() { // this filter, other than the one before it
		return ans, nil
	}
	err := c.until(ctx, a.m.cfg.CommandTimeout)
	if err == nil {
		c.out = c.out.begin(cmdUnknown).text(line)
		err = c.send(c.out.end())
	}
	if err != nil || c.opts.without(silentUnknown) {
		return ans, err
	}
	if ans, err = c.answer(ctx, a.m.cfg.CommandTimeout, inMessage); err != nil {
		return ans, err
	}
	a.m.worked(false)
	switch ans.reply {
	case replyShutdown, replyConnFail:
		a.m.drop(c)
		a.c, a.tx.told = nil, false
		a.tx.done = true
	}
	if ans.verdict.Action == mail.Reject {
		a.count.reply(replyWords[ans.reply])
	}
	return ans, nil
}

// refusedMacro is the macros of a recipient that was refused, as Postfix and
// Sendmail give them.
func (a *attendance) refusedMacro(name string) string {
	switch name {
	case "rcpt_mailer":
		return "error"
	case "rcpt_host":
		return a.refused.EnhancedString()
	case "rcpt_addr":
		return a.refused.Text
	}
	return ""
}

// take notes what an answer in a transaction means for what follows.
func (a *attendance) take(ans answer, phase mail.Phase) mail.Verdict {
	a.m.worked(phase == mail.PhaseEndOfData)
	if a.refusal != nil || a.passed {
		return ans.verdict // of the connection, after all
	}
	switch ans.reply {
	case replyContinue, replySkip:
		return mail.Verdict{}
	case replyShutdown, replyConnFail:
		a.m.drop(a.c)
		a.c, a.tx.told = nil, false
		a.tx.done = true
	case replyAccept, replyDiscard:
		a.tx.done = true
	default:
		a.tx.done = phase != mail.PhaseRecipient // else it is about one recipient
	}
	a.count.reply(replyWords[ans.reply])
	return ans.verdict
}

// settled returns what is to be said without asking, when that is so.
func (a *attendance) settled() (v mail.Verdict, err error, settled bool) { //nolint:revive // the error is part of the answer
	switch {
	case a.refusal != nil:
		return *a.refusal, nil, true
	case a.tx.failure != nil && a.chainDecides:
		return mail.Verdict{}, a.tx.failure, true
	case a.tx.failure != nil:
		return a.tx.verdict, nil, true
	}
	return mail.Verdict{}, nil, a.passed || a.tx.done
}

// fail gives the connection up and returns what that leads to.
func (a *attendance) fail(ctx context.Context, err error) (mail.Verdict, error) {
	a.lose(ctx, err)
	err = status.New(status.FilterDown, fmt.Errorf("milter %s: %w", a.m.cfg.Name, err))
	a.tx.failure = err
	if a.chainDecides {
		return mail.Verdict{}, err
	}
	v := mail.Verdict{Detail: err.Error()}
	switch a.m.cfg.OnError {
	case Accept:
		a.tx.verdict = mail.Verdict{} // once is enough
		return v, nil
	case Hold:
		v.Action = mail.Hold
	case Shutdown:
		v.Action, v.Reason = mail.Reject, status.FilterShutdown
	default:
		v.Action, v.Reason = mail.Reject, status.FilterDown
	}
	a.tx.verdict = v
	return v, nil
}

// lose gives the connection up because of err.
func (a *attendance) lose(ctx context.Context, err error) {
	if !errors.Is(ctx.Err(), context.Canceled) { // else it is our own end
		a.count.reply("error")
		a.m.failed(err)
	}
	if a.c != nil {
		a.m.drop(a.c)
		a.c = nil
	}
	a.tx.told = false
}

// Abort implements policy.Attendance.
func (a *attendance) Abort() {
	a.tx.body.close()
	told := a.tx.told
	a.tx = transaction{}
	if !told || a.c == nil {
		return
	}
	err := a.c.until(context.Background(), quitTimeout)
	if err == nil {
		err = a.c.send(a.c.out.begin(cmdAbort).end())
	}
	if err == nil {
		err = a.c.w.Flush()
	}
	if err != nil {
		a.m.drop(a.c)
		a.c = nil
	}
}

// Close implements policy.Attendance.
func (a *attendance) Close() {
	a.Abort()
	c := a.c
	a.c = nil
	switch {
	case c == nil:
	case a.refusal != nil:
		a.m.end(c)
	default:
		a.m.release(context.Background(), c)
	}
}
