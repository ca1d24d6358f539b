package mailstore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/store"
	"github.com/postern-mail/postern/store/storetest"
)

// counting is a store that counts commits.
type counting struct {
	store.Store
	commits atomic.Int64
}

func (c *counting) Commit(ctx context.Context, b *store.Batch) (store.Result, error) {
	c.commits.Add(1)
	return c.Store.Commit(ctx, b)
}

// TestConcurrentChanges lets many work on one mailbox: every message is there
// once, UIDs follow the order in which a watcher sees them, nobody sees a UID
// below one seen before.
func TestConcurrentChanges(t *testing.T) {
	t.Parallel()
	kv, blobs := storetest.Open(t)
	counted := &counting{Store: kv}
	s := openOn(t, Config{}, counted, blobs)
	a := openAccount(t, s, "kim")
	m := openMailbox(t, a, "INBOX")
	const writers, each = 16, 25
	content := stage(t, s, message(0))
	defer content.Discard()
	before := counted.commits.Load()

	ctx, stop := context.WithCancel(t.Context())
	var watcher, wait sync.WaitGroup
	watcher.Go(func() { watch(ctx, t, m) })
	var mu sync.Mutex
	var all []imap.UID
	for w := range writers {
		wait.Go(func() {
			for i := range each {
				var uids []imap.UID
				if i%2 == 0 {
					got, err := m.Append(t.Context(), []Append{{Content: content}, {Content: content, Flags: FlagSeen}})
					if err != nil {
						t.Error(err)
					}
					uids = got
				} else if err := a.Deliver(t.Context(), []Delivery{{ID: fmt.Sprint(w, i), Content: content}})[0]; err != nil {
					t.Error(err)
				}
				mu.Lock()
				all = append(all, uids...)
				mu.Unlock()
				if i%5 == 0 && len(uids) > 0 {
					if _, err := m.StoreFlags(t.Context(), uids[:1], FlagsChange{Op: FlagsAdd, Flags: FlagFlagged}); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	wait.Wait()
	stop()
	watcher.Wait()
	want := writers * (each/2 + each/2 + each%2 + each/2 + each%2)
	if got := m.View().Len(); got != want {
		t.Errorf("%d messages, want %d", got, want)
	}
	slices.Sort(all)
	if n := len(all); n != len(slices.Compact(all)) {
		t.Error("a UID was given twice")
	}
	if requests, commits := int64(writers*(each+each/5)), counted.commits.Load()-before; commits > requests*2/3 {
		t.Errorf("%d commits for %d concurrent changes: they do not share", commits, requests)
	}
}

// watch follows a mailbox as a client does.
func watch(ctx context.Context, t *testing.T, m *Mailbox) {
	var highest imap.UID
	var modseq uint64
	for {
		changed := m.Changed()
		v := m.View()
		for i := range v.Len() {
			if i > 0 && v.At(i).UID <= v.At(i-1).UID {
				t.Errorf("UID %d after %d", v.At(i).UID, v.At(i-1).UID)
				return
			}
		}
		if v.Len() > 0 {
			if last := v.At(v.Len() - 1).UID; last < highest || last >= v.UIDNext() {
				t.Errorf("highest UID %d after %d, UIDNEXT %d", last, highest, v.UIDNext())
			} else {
				highest = last
			}
		}
		if v.HighestModSeq() < modseq {
			t.Errorf("MODSEQ %d after %d", v.HighestModSeq(), modseq)
		}
		modseq = v.HighestModSeq()
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

func TestAccountsInParallel(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{IdleAccounts: 2})
	content := stage(t, s, message(0))
	defer content.Discard()
	var wait sync.WaitGroup
	for w := range 12 {
		wait.Go(func() {
			for i := range 10 {
				a, err := s.Account(t.Context(), mail.Account{Name: fmt.Sprint("user", (w+i)%6)})
				if err != nil {
					t.Error(err)
					return
				}
				if err := a.Deliver(t.Context(), []Delivery{{Content: content}})[0]; err != nil {
					t.Error(err)
				}
				a.Close()
				a.Close()
			}
		})
	}
	wait.Wait()
	for i := range 6 {
		if st, err := openAccount(t, s, fmt.Sprint("user", i)).Status(t.Context(), "INBOX"); err != nil || st.Messages != 20 {
			t.Errorf("user%d: %+v, %v", i, st, err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.accounts) > 8 {
		t.Errorf("%d accounts in memory", len(s.accounts))
	}
}

func TestCancelledBeforeItsTurn(t *testing.T) {
	t.Parallel()
	kv, blobs := storetest.Open(t)
	gate := &gated{Store: kv, entered: make(chan struct{}, 10), open: make(chan struct{}, 10)}
	s := openOn(t, Config{}, gate, blobs)
	for range 2 { // origin and account
		gate.open <- struct{}{}
	}
	m := openMailbox(t, openAccount(t, s, "kim"), "INBOX")
	for range 2 {
		<-gate.entered
	}
	gate.closed.Store(true)
	content := stage(t, s, message(0))
	defer content.Discard()
	first := make(chan error, 1)
	go func() {
		_, err := m.Append(context.Background(), []Append{{Content: content}})
		first <- err
	}()
	<-gate.entered
	ctx, cancel := context.WithCancel(t.Context())
	second := make(chan error, 1)
	go func() {
		_, err := m.Append(ctx, []Append{{Content: content}})
		second <- err
	}()
	cancel()
	if err := <-second; !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled append: %v", err)
	}
	gate.open <- struct{}{}
	if err := <-first; err != nil {
		t.Fatal(err)
	}
	gate.closed.Store(false)
	if n := m.View().Len(); n != 1 {
		t.Errorf("%d messages, want 1", n)
	}
}

// gated is a store whose commits wait.
type gated struct {
	store.Store
	closed  atomic.Bool
	entered chan struct{}
	open    chan struct{}
}

func (g *gated) Commit(ctx context.Context, b *store.Batch) (store.Result, error) {
	select {
	case g.entered <- struct{}{}:
	default:
	}
	select {
	case <-g.open:
	default:
		if g.closed.Load() {
			<-g.open
		}
	}
	return g.Store.Commit(ctx, b)
}

// TestTheLeadIsNotWithdrawn: who was handed the lead must take it, or nobody
// would commit any more.
func TestTheLeadIsNotWithdrawn(t *testing.T) {
	t.Parallel()
	led, waiting := &request{led: true}, &request{}
	a := &account{queue: []*request{led, waiting}, leading: true}
	if a.withdraw(led) {
		t.Error("the leader withdrew")
	}
	if !a.withdraw(waiting) || a.withdraw(waiting) || len(a.queue) != 1 {
		t.Error("one who waits could not withdraw once")
	}
}
