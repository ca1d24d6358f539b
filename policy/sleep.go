package policy

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/postern-mail/postern/mail"
)

const (
	// maxSleep bounds one sleep: clients give a server five minutes for an
	// answer (RFC 5321 section 4.5.3.2).
	maxSleep = time.Minute
	// maxSlack bounds what all sleeps of a chain add to Config.Timeout.
	maxSlack = 4 * time.Minute
)

// sleeping makes the client wait. It is no stage that looks: it is Postfix's
// way to slow a client down, in a list or as an action of a table.
type sleeping struct{ how time.Duration }

// Name returns the restriction's name.
func (sleeping) Name() string { return "sleep" }

// Evaluate waits, no longer than ctx allows.
func (s sleeping) Evaluate(ctx context.Context, _ *mail.Transaction) (mail.Verdict, error) {
	timer := time.NewTimer(s.how)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
	return mail.Verdict{}, nil
}

// makeSleep reads seconds, as "5" or "5s".
func makeSleep(b *builder, _ scope, name string, spec Spec) Stage {
	text := strings.Join(spec.Args["seconds"], " ")
	if isDigits(text) {
		text += "s"
	}
	how, err := time.ParseDuration(text)
	if err != nil || how <= 0 || how > maxSleep {
		b.mistake(spec.Pos, fmt.Sprintf("%s has %q seconds", name, strings.Join(spec.Args["seconds"], " ")),
			fmt.Sprintf("write seconds = 5, and no more than %d", int(maxSleep.Seconds())))
	}
	b.chain.sleeps(how)
	return sleeping{how}
}

// sleeps gives the evaluation of a command time for a sleep.
func (c *Chain) sleeps(how time.Duration) {
	c.slack.Store(min(c.slack.Load()+int64(max(how, 0)), int64(maxSlack)))
}

// timeout bounds the evaluation of one command.
func (c *Chain) timeout() time.Duration { return c.cfg.Timeout + time.Duration(c.slack.Load()) }
