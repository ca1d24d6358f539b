package replica

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/postern-mail/postern/backend/mailstore"
	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/store/storetest"
)

// TestJoiningGoesOnBesideStuckAccounts: more accounts than are brought over at
// once cannot come. All others do, clients are served of them, and the operator
// sees which ones keep the node from having joined. Resumed, they come, too.
func TestJoiningGoesOnBesideStuckAccounts(t *testing.T) {
	t.Parallel()
	p := newPair(t, testConfig{joins: true, Config: Config{Bootstraps: 2, Limits: Limits{RetryMin: time.Millisecond}}})
	var names, bad []string
	for i := range 10 {
		names = append(names, fmt.Sprint("user", i))
		if err := p.servers[0].deliver(t, names[i], "d", message("x", 100)); err != nil {
			t.Fatal(err)
		}
	}
	first, second := p.servers[0], p.servers[1]
	for _, name := range names[6:] { // the most recent ones come first
		bad = append(bad, name)
		if err := second.memory.quarantine(t.Context(), mailstore.AccountGUID(name), "op 99"); err != nil {
			t.Fatal(err)
		}
	}
	p.connect()
	await(t, second.audit.stuck)
	st, err := second.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if b := st.Bootstrap; !st.Joining || b.Done != 6 || b.StuckAccounts != 4 || fmt.Sprint(b.Stuck) != fmt.Sprint(bad) {
		t.Fatalf("joining %v, %+v", st.Joining, b)
	}
	if st.WaitingFailed != 4 || st.KnownUsers != 10 {
		t.Errorf("%d waiting failed of %d", st.WaitingFailed, st.KnownUsers)
	}
	rows, err := second.Accounts(t.Context(), "user9")
	if err != nil || len(rows) != 1 || rows[0].Quarantine != "op 99" {
		t.Errorf("of the one that is stuck: %+v, %v", rows, err)
	}
	if err := second.Resume(t.Context(), "user9"); err != nil {
		t.Errorf("resume one: %v", err)
	}
	second.joinedOne(t)
	if first.Health().Joining || !second.Health().Joining {
		t.Error("the wrong one is joining")
	}
	for _, name := range names[:6] {
		second.open(t, name, "INBOX")
	}
	if err := second.Resume(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	second.joinedAll(t)
	p.same(names...)
	first.joinedAll(t) // it was told
	if st, err = first.Status(t.Context()); err != nil || st.PeerJoining {
		t.Errorf("the first takes its partner for joining: %v, %v", st.PeerJoining, err)
	}
}

// TestJoinedAccountFollowsWhileJoining: an account that came already, and that
// changed at the partner while the link was down, is brought up to date before
// the node has all others.
func TestJoinedAccountFollowsWhileJoining(t *testing.T) {
	t.Parallel()
	p := newPair(t, testConfig{joins: true, Config: Config{Mode: mailstore.DurabilityAsync, Limits: Limits{RetryMin: time.Millisecond}}})
	first, second := p.servers[0], p.servers[1]
	for _, name := range []string{"anna", "never"} {
		if err := first.deliver(t, name, "1", message("x", 100)); err != nil {
			t.Fatal(err)
		}
	}
	if err := second.memory.quarantine(t.Context(), mailstore.AccountGUID("never"), "op 99"); err != nil {
		t.Fatal(err)
	}
	p.connect()
	await(t, second.audit.stuck)
	p.cut()
	if err := first.deliver(t, "anna", "2", message("y", 100)); err != nil {
		t.Fatal(err)
	}
	head, err := first.mail.Head(t.Context(), mailstore.AccountGUID("anna"))
	if err != nil {
		t.Fatal(err)
	}
	for i, s := range p.servers { // nothing is left in memory
		s.stop()
		p.servers[i] = newServer(t, uint16(i), s.kv, s.blobs, testConfig{joins: i == 1, Config: Config{Mode: mailstore.DurabilityAsync}})
	}
	first, second = p.servers[0], p.servers[1]
	p.connect()
	await(t, second.audit.stuck)
	second.attached(t, "anna")
	if err := first.wait(t.Context(), head.Account, head.Seq, mailstore.DurabilityStrict); err != nil {
		t.Fatal(err)
	}
}

// TestPartnerWithNothing: the first node lost its disk and was started empty,
// under a new incarnation. What its partner had of every account goes to it,
// although the one before had confirmed it.
func TestPartnerWithNothing(t *testing.T) {
	t.Parallel()
	p := newPair(t, testConfig{Config: Config{Mode: mailstore.DurabilityAsync}})
	p.connect()
	names := []string{"anna", "bert", "carl"}
	for _, name := range names {
		if err := p.servers[1].deliver(t, name, "1", message("x", 100)); err != nil {
			t.Fatal(err)
		}
	}
	p.same(names...)
	p.cut()
	p.servers[0].stop()
	kv, blobs := storetest.Open(t)
	p.servers[0] = newServer(t, 0, kv, blobs, testConfig{})
	p.connect()
	p.servers[1].workedOff(t)
	for _, name := range names {
		p.servers[1].attached(t, name)
	}
	p.same(names...)
}

// attached waits until an account is that nobody opens: the node has begun.
func (s *server) attached(t *testing.T, name string) {
	t.Helper()
	r := s.existing(mailstore.AccountGUID(name))
	if r == nil {
		t.Fatalf("nothing is done about %s", name)
	}
	testenv.Eventually(t, patience, func() error {
		r.mu.Lock()
		defer r.mu.Unlock()
		if !r.attached {
			return fmt.Errorf("%s is not attached: %+v", name, r.shown)
		}
		return nil
	})
}

// workedOff waits until what a new link asks for is done.
func (s *server) workedOff(t *testing.T) {
	t.Helper()
	done := make(chan struct{})
	s.job(func(context.Context) { // behind the greeting
		s.job(func(context.Context) { close(done) }) // and what that queued
	})
	await(t, done)
}
