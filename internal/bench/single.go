package main

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"time"
)

// single measures one message at a time: how long from MAIL until an IMAP
// client that has INBOX selected learns of it. The acceptance is no part of
// the figure: one system delivers before it, the other behind it.
func single(observe func(*imapClient) observer) measure {
	texts := sync.OnceValue(func() [][]byte { return messages(5_000) })
	return func(ctx context.Context, s *system, o options) (f figures, err error) {
		eye, err := dialIMAP(s.imap, 0)
		if err != nil {
			return f, err
		}
		defer func() { err = errors.Join(err, eye.close()) }()
		mail, err := s.smtp.dial()
		if err != nil {
			return f, err
		}
		defer func() { err = errors.Join(err, mail.close()) }()
		have, err := eye.selectInbox()
		if err != nil {
			return f, err
		}
		var took []time.Duration
		for ; len(took) < o.singles && err == nil; have++ {
			var t time.Duration
			t, err = one(mail, observe(eye), have, texts())
			took = append(took, t)
			select {
			case <-ctx.Done():
				return f, ctx.Err()
			case <-time.After(20 * time.Millisecond):
			}
		}
		f.messages = len(took)
		f.percentiles(took)
		return f, err
	}
}

// one sends a message to the first user, whose INBOX holds so many, and waits
// until the observer has noticed it.
func one(mail *smtpClient, eye observer, have int, texts [][]byte) (time.Duration, error) {
	if err := eye.arm(); err != nil {
		return 0, err
	}
	id, start := sent.Add(1), time.Now()
	if err := mail.send(id, userAddress(0), texts[int(id)%len(texts)]); err != nil {
		return 0, err
	}
	if err := eye.notice(have); err != nil {
		return 0, err
	}
	return time.Since(start), eye.disarm()
}

// observer is a way to learn of new messages in a selected mailbox.
type observer interface {
	// arm is called before the message is sent.
	arm() error
	// notice returns when the mailbox is known to hold more messages.
	notice(have int) error
	disarm() error
}

// noopObserver asks again and again.
type noopObserver struct{ *imapClient }

func seeByNoop(c *imapClient) observer { return noopObserver{c} }

const noopInterval = 2 * time.Millisecond

func (noopObserver) arm() error    { return nil }
func (noopObserver) disarm() error { return nil }

func (o noopObserver) notice(have int) error {
	now := have
	for deadline := time.Now().Add(patience); ; time.Sleep(noopInterval) {
		_, err := o.command("NOOP", func(line []byte) {
			if n, ok := exists(line); ok {
				now = n
			}
		})
		if err != nil || now > have {
			return err
		}
		if time.Now().After(deadline) {
			return errors.New("the message does not show")
		}
	}
}

// idleObserver waits to be told (RFC 2177).
type idleObserver struct {
	*imapClient
	tag string
}

func seeByIdle(c *imapClient) observer { return &idleObserver{imapClient: c} }

func (o *idleObserver) arm() (err error) {
	if o.tag, err = o.begin("IDLE"); err != nil {
		return err
	}
	for {
		line, err := o.line()
		if err != nil || bytes.HasPrefix(line, []byte("+")) {
			return err
		}
	}
}

func (o *idleObserver) notice(have int) error {
	for {
		line, err := o.line()
		if err != nil {
			return err
		}
		if n, ok := exists(line); ok && n > have {
			return nil
		}
	}
}

func (o *idleObserver) disarm() error {
	if _, err := o.conn.Write([]byte("DONE\r\n")); err != nil {
		return err
	}
	_, err := o.end(o.tag, nil)
	return err
}
