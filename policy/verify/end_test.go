package verify

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/policy"
)

// TestRehearsal: who only asks what would happen has nobody asked, and is told
// what is known.
func TestRehearsal(t *testing.T) {
	t.Parallel()
	h := &hop{class: mail.Bounced, peer: true, reply: refused}
	v, _ := New(Config{}, newMemory(), h.probe, nil)
	s := newStage(t, v, Recipient, nil)
	tx := &mail.Transaction{Phase: mail.PhaseRecipient, Recipient: &mail.Recipient{Address: mail.MustAddress("Who@There.example")}}
	got, err := s.Evaluate(policy.Rehearsal(t.Context()), tx)
	if err != nil || got.Action != mail.Dunno || got.Detail == "" || h.count() != 0 {
		t.Errorf("%+v, %v; asked %d times", got, err, h.count())
	}
	evaluate(t, s)
	asked := h.count()
	got, err = s.Evaluate(policy.Rehearsal(t.Context()), tx)
	if err != nil || got.Action != mail.DeferIfPermit || h.count() != asked {
		t.Errorf("%+v, %v; asked %d times", got, err, h.count())
	}
}

// TestEnd: Run ends the probes and waits for them; nothing is remembered of one
// that was not let finish, and no other begins.
func TestEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := &hop{class: mail.Delivered, takes: time.Minute, reply: taken}
		kept := newMemory()
		v, _ := New(Config{}, kept, h.probe, nil)
		to := mail.MustAddress("x@y.example")
		f := v.begin("x@y.example", to)
		synctest.Wait()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := v.Run(ctx); err != nil {
			t.Fatal(err)
		}
		<-f.done
		if f.result.State != pending || len(kept.values) != 0 {
			t.Errorf("%+v, %d remembered", f.result, len(kept.values))
		}
		if v.begin("x@y.example", to) != nil || len(v.slots) != 0 {
			t.Error("a probe began after the end")
		}
	})
}
