package main

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/smtp"
)

// openHandler gives sessions that do nothing, or none.
type openHandler struct{ err error }

func (h openHandler) NewSession(context.Context, *mail.Client) (smtp.Session, error) {
	if h.err != nil {
		return nil, h.err
	}
	return idleSession{}, nil
}

// idleSession embeds the Session it does not implement.
type idleSession struct{ smtp.Session }

func (idleSession) Close(error) {}

// TestHelpersOutliveTheLastSession: a replaced generation's helpers end ten
// minutes after it was replaced, or with the last session that began under it,
// whichever is later, however many generations follow.
func TestHelpersOutliveTheLastSession(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &server{log: hclog.NewNullLogger(), generations: make(chan *generation), ended: make(chan struct{})}
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.runGenerations(ctx) }()
		take := func() (*generation, context.Context) {
			life := make(chan context.Context, 1)
			g := &generation{tasks: []task{{"helper", func(ctx context.Context) error {
				life <- ctx
				<-ctx.Done()
				return nil
			}}}}
			s.generations <- g
			return g, <-life
		}
		alive := func(what string, life context.Context, want bool) {
			t.Helper()
			synctest.Wait()
			if got := life.Err() == nil; got != want {
				t.Errorf("%s: helpers alive: %t", what, got)
			}
		}
		busy, busyLife := take()
		session, err := counted{openHandler{}, &busy.users}.NewSession(ctx, nil)
		must(t, err)
		refused := errors.New("refused")
		if _, err := (counted{openHandler{refused}, &busy.users}).NewSession(ctx, nil); !errors.Is(err, refused) {
			t.Fatal(err)
		}
		_, idleLife := take()
		time.Sleep(retirement - time.Second)
		_, _ = take()
		alive("with a session, before its time", busyLife, true)
		alive("without a session, before its time", idleLife, true)
		time.Sleep(retirement + time.Second)
		alive("with a session", busyLife, true)
		alive("without a session", idleLife, false)
		for range 2 * maxRetired {
			_, _ = take()
		}
		alive("with a session, after many others", busyLife, true)
		session.Close(nil)
		alive("after its session", busyLife, false)
		stop()
		must(t, <-done)
	})
}
