package milter

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/policy"
	"github.com/postern-mail/postern/status"
)

// patience bounds the time for one message, whatever progress the filter claims.
func (m *Milter) patience() time.Duration { return 2 * m.cfg.ContentTimeout }

// maxEndPackets bounds what a filter may send at the end of a message.
const maxEndPackets = 100_000

// errOurs marks failures to read the message, or to keep the body that takes its
// place: they say nothing of the filter.
var errOurs = errors.New("the message on our disk")

// Content implements policy.Attendance.
func (a *attendance) Content(ctx context.Context, tx *mail.Transaction) (mail.Verdict, error) {
	if v, err, settled := a.settled(); settled || !a.tx.told {
		return v, err
	}
	ctx, cancel := policy.Share(ctx)
	defer cancel()
	ctx, end := context.WithTimeout(ctx, a.m.patience())
	defer end()
	began := time.Now()
	v, err := a.content(ctx, tx)
	switch {
	case errors.Is(err, errOurs):
		a.m.drop(a.c)
		a.c, a.tx.told = nil, false
		return mail.Verdict{}, status.New(status.StoreDown, err)
	case err != nil:
		a.tx.body.close()
		return a.fail(ctx, err)
	}
	a.count.took(time.Since(began))
	return v, nil
}

// content shows the message to the filter and returns what it says.
func (a *attendance) content(ctx context.Context, tx *mail.Transaction) (mail.Verdict, error) {
	defer a.c.interruptible(ctx)()
	for _, part := range []func(context.Context, *mail.Transaction) (answer, error){a.header, a.endOfHeader, a.body} {
		ans, err := part(ctx, tx)
		if err != nil {
			return mail.Verdict{}, err
		}
		if ans.reply != replyContinue {
			return a.take(ans, tx.Phase), nil
		}
	}
	return a.end(ctx, tx)
}

var onward = answer{reply: replyContinue}

// header tells of the fields that are not ours.
func (a *attendance) header(ctx context.Context, tx *mail.Transaction) (answer, error) {
	c := a.c
	if c.opts.without(noHeaders) {
		return onward, nil
	}
	if err := c.until(ctx, a.m.cfg.CommandTimeout); err != nil {
		return onward, err
	}
	for _, field := range tx.Message.Fields()[tx.Message.Ours():] {
		c.out = headerPacket(c.out, field, c.opts)
		if err := c.send(c.out.end()); err != nil {
			return onward, err
		}
		if c.opts.without(silentHeader) {
			continue
		}
		if ans, err := c.answer(ctx, a.m.cfg.CommandTimeout, inMessage); err != nil || ans.reply != replyContinue {
			return ans, err
		}
	}
	return onward, nil
}

// headerPacket tells of one field. What a packet cannot hold of it is cut off.
func headerPacket(p packet, field mail.Field, o *options) packet {
	value := field.Value()
	if !o.without(leadingSpace) {
		value = strings.TrimPrefix(value, " ")
	}
	if strings.Contains(value, "\r\n") {
		value = strings.ReplaceAll(value, "\r\n", "\n")
	}
	p = p.begin(cmdHeader).text(field.Name())
	if over := p.dataOctets() + len(value) + 1 - o.maxData; over > 0 {
		value = value[:max(0, len(value)-over)]
	}
	return p.text(value)
}

func (a *attendance) endOfHeader(ctx context.Context, tx *mail.Transaction) (answer, error) {
	c := a.c
	return a.exchange(ctx, tx, stageEOH, noEOH, silentEOH, func() []byte {
		c.out = c.out.begin(cmdEOH)
		return c.out.end()
	})
}

// body shows the body, one packet after the other.
func (a *attendance) body(ctx context.Context, tx *mail.Transaction) (answer, error) {
	c := a.c
	if c.opts.without(noBody) {
		return onward, nil
	}
	body := tx.Message.Body()
	p := c.out.begin(cmdBody)
	head := len(p)
	if cap(p) < head+maxChunk {
		p = append(make(packet, 0, head+maxChunk), p...)
	}
	c.out = p
	for {
		n, err := io.ReadFull(body, p[head:head+maxChunk])
		if n > 0 {
			if ans, err := a.chunk(ctx, p[:head+n]); err != nil || ans.reply != replyContinue {
				if ans.reply == replySkip {
					ans = onward
				}
				return ans, err
			}
		}
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return onward, nil
		case err != nil:
			return onward, fmt.Errorf("%w: %w", errOurs, err)
		}
	}
}

func (a *attendance) chunk(ctx context.Context, p packet) (answer, error) {
	c := a.c
	if err := c.until(ctx, a.m.cfg.CommandTimeout); err != nil {
		return onward, err
	}
	if err := c.send(p.end()); err != nil || c.opts.without(silentBody) {
		return onward, err
	}
	at := inMessage
	if c.opts.without(maySkip) {
		at = inBody
	}
	return c.answer(ctx, a.m.cfg.CommandTimeout, at)
}

// end asks for the verdict and collects the edits that come before it.
func (a *attendance) end(ctx context.Context, tx *mail.Transaction) (mail.Verdict, error) {
	c := a.c
	if err := c.until(ctx, a.m.cfg.CommandTimeout); err != nil {
		return mail.Verdict{}, err
	}
	if err := c.macros(stageEOM, func(name string) string { return a.m.macro(name, tx) }); err != nil {
		return mail.Verdict{}, err
	}
	c.out = c.out.begin(cmdEOM)
	if err := c.send(c.out.end()); err != nil {
		return mail.Verdict{}, err
	}
	e := newEdits(c.opts, tx.Message)
	for range maxEndPackets {
		if err := c.until(ctx, a.m.cfg.ContentTimeout); err != nil {
			return mail.Verdict{}, err
		}
		reply, data, err := c.read()
		if err != nil {
			return mail.Verdict{}, err
		}
		if reply == replyProgress {
			continue
		}
		isEdit, err := e.permit(reply)
		switch {
		case err != nil:
			return mail.Verdict{}, err
		case reply == replyBody:
			err = a.replace(data)
		case isEdit:
			err = e.take(reply, data)
		default:
			return a.decided(reply, data, e, tx.Phase)
		}
		if err != nil {
			return mail.Verdict{}, err
		}
	}
	return mail.Verdict{}, protocolError("more than %d packets at the end of a message", maxEndPackets)
}

// replace takes a part of another body.
func (a *attendance) replace(data []byte) error {
	if a.tx.body == nil {
		a.tx.body = &spool{dir: a.m.cfg.TempDir, limit: a.m.cfg.MaxBody}
	}
	_, err := a.tx.body.Write(data)
	return err
}

// decided makes the verdict of the last reply and the edits before it.
func (a *attendance) decided(reply byte, data []byte, e *edits, phase mail.Phase) (mail.Verdict, error) {
	ans, err := decide(reply, data, inMessage)
	if err != nil {
		return mail.Verdict{}, err
	}
	a.tx.told = false // for the filter it is over
	v := a.take(ans, phase)
	if reply != replyContinue && reply != replyAccept {
		return v, nil
	}
	if reply == replyContinue {
		a.count.reply(replyWords[reply])
	}
	v.Edits = e.list
	if a.tx.body != nil {
		v.Edits = append(v.Edits, mail.Edit{Body: a.tx.body.reader()})
	}
	if e.held {
		v.Action, v.Detail = mail.Hold, "the filter quarantines: "+e.quoted
	}
	return v, nil
}
