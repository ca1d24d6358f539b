package mailstore

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
	"github.com/postern-mail/postern/store"
	"github.com/postern-mail/postern/store/storetest"
)

// faulty is a store that fails as engines may.
type faulty struct {
	store.Store
	mu   sync.Mutex
	rand *rand.Rand
	// next is what the next commits meet, before chance decides.
	next []fault
	rate float64
}

type fault int

const (
	fine fault = iota
	lostBefore
	lostAfter // committed, but the answer is lost
	conflict
	full
	broken
	faultCount
)

func (f *faulty) draw() fault {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.next) > 0 {
		next := f.next[0]
		f.next = f.next[1:]
		return next
	}
	if f.rand != nil && f.rand.Float64() < f.rate {
		return fault(1 + f.rand.IntN(int(faultCount)-1))
	}
	return fine
}

func (f *faulty) Commit(ctx context.Context, b *store.Batch) (store.Result, error) {
	switch f.draw() {
	case lostBefore:
		return store.Result{}, store.ErrUnknown
	case lostAfter:
		if r, err := f.Store.Commit(ctx, b); err != nil {
			return r, err
		}
		return store.Result{}, store.ErrUnknown
	case conflict:
		return store.Result{}, store.ErrConflict
	case full:
		return store.Result{}, store.ErrFull
	case broken:
		return store.Result{}, errors.New("input/output error")
	}
	return f.Store.Commit(ctx, b)
}

func TestFaults(t *testing.T) {
	t.Parallel()
	lost := make([]fault, maxUnknown+1)
	for i := range lost {
		lost[i] = lostAfter
	}
	for name, row := range map[string]struct {
		faults []fault
		want   status.Reason
		stored int
	}{
		"answer lost":            {[]fault{lostAfter}, status.OK, 1},
		"request lost":           {[]fault{lostBefore, lostBefore}, status.OK, 1},
		"conflict":               {[]fault{conflict, conflict}, status.OK, 1},
		"full":                   {[]fault{full}, status.MailSystemFull, 0},
		"broken":                 {[]fault{broken}, status.StoreDown, 0},
		"never an answer":        {lost, status.StoreDown, 1},
		"conflict without end":   {[]fault{conflict, conflict, conflict, conflict, conflict, conflict}, status.StoreDown, 0},
		"lost, then a conflict":  {[]fault{lostBefore, conflict}, status.OK, 1},
		"full after a lost send": {[]fault{lostBefore, full}, status.MailSystemFull, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			kv, blobs := storetest.Open(t)
			f := &faulty{Store: kv}
			s := openOn(t, Config{}, f, blobs)
			a := openAccount(t, s, "kim")
			m := openMailbox(t, a, "INBOX")
			content := stage(t, s, message(1))
			defer content.Discard()
			f.mu.Lock()
			f.next = row.faults
			f.mu.Unlock()
			err := a.Deliver(t.Context(), []Delivery{{ID: "q1", Content: content}})[0]
			if status.Of(err) != row.want {
				t.Errorf("got %v, want %s", err, row.want)
			}
			// The gateway tries again: stored once in the end.
			if err := a.Deliver(t.Context(), []Delivery{{ID: "q1", Content: content}})[0]; err != nil {
				t.Fatal(err)
			}
			if n := m.View().Len(); n != 1 {
				t.Errorf("%d messages, want 1", n)
			}
			if got := readAll(t, m, m.View().At(0)); got != message(1) {
				t.Errorf("got %q", got)
			}
		})
	}
}

// TestOneBadRequestAmongMany refuses a copy whose body is gone while others
// share its commit: those succeed.
func TestOneBadRequestAmongMany(t *testing.T) {
	t.Parallel()
	kv, blobs := storetest.Open(t)
	gate := &gated{Store: kv, entered: make(chan struct{}, 10), open: make(chan struct{}, 10)}
	s := openOn(t, Config{}, gate, blobs)
	a := openAccount(t, s, "kim")
	m := openMailbox(t, a, "INBOX")
	for range 2 {
		<-gate.entered
	}
	content := stage(t, s, message(0))
	defer content.Discard()
	gate.closed.Store(true)
	var wait sync.WaitGroup
	wait.Go(func() {
		if _, err := m.Append(context.Background(), []Append{{Content: content}}); err != nil {
			t.Error(err)
		}
	})
	<-gate.entered
	bad := make(chan error, 1)
	go func() {
		bad <- a.account.change(context.Background(), func(t *txn) error {
			blobs.Share(t.batch, store.Ref{Octets: 1})
			return nil
		})
	}()
	for range 3 {
		wait.Go(func() {
			if err := a.Deliver(context.Background(), []Delivery{{Content: content}})[0]; err != nil {
				t.Error(err)
			}
		})
	}
	gate.closed.Store(false)
	gate.open <- struct{}{}
	if err := <-bad; err == nil {
		t.Error("a body that does not exist was shared")
	}
	wait.Wait()
	if n := m.View().Len(); n != 4 {
		t.Errorf("%d messages, want 4", n)
	}
}

// TestRandomFaults delivers, moves and expunges over a store that fails all
// the time, repeating what failed: every message is there once.
func TestRandomFaults(t *testing.T) {
	t.Parallel()
	seed := testenv.Seed(t)
	kv, blobs := storetest.Open(t)
	f := &faulty{Store: kv}
	s := openOn(t, Config{}, f, blobs)
	a := openAccount(t, s, "kim")
	m := openMailbox(t, a, "INBOX")
	f.mu.Lock()
	f.rand, f.rate = rand.New(rand.NewPCG(seed, 1)), 0.3
	f.mu.Unlock()
	const n = 60
	var wait sync.WaitGroup
	for w := range 4 {
		wait.Go(func() {
			for i := range n / 4 {
				id := fmt.Sprint(w, "-", i)
				content := stage(t, s, message(w*100+i))
				for a.Deliver(context.Background(), []Delivery{{ID: id, Content: content}})[0] != nil {
				}
				content.Discard()
				uid := m.View().At(0).UID
				_, _ = m.StoreFlags(context.Background(), []imap.UID{uid}, FlagsChange{Op: FlagsAdd, Flags: FlagFlagged})
			}
		})
	}
	wait.Wait()
	f.mu.Lock()
	f.rand = nil
	f.mu.Unlock()
	seen := make(map[string]bool)
	v := m.View()
	for i := range v.Len() {
		seen[readAll(t, m, v.At(i))] = true
	}
	if v.Len() != n || len(seen) != n {
		t.Errorf("%d messages, %d different, want %d", v.Len(), len(seen), n)
	}
}

const crashDir = "MAILSTORE_TEST_CRASH_DIR"

// TestKill ends a process with SIGKILL in the middle of deliveries: what it
// acknowledged is there, and a repeat of everything stores nothing twice.
func TestKill(t *testing.T) {
	if dir := os.Getenv(crashDir); dir != "" {
		deliverUntilKilled(t, dir)
		return
	}
	t.Parallel()
	dir := t.TempDir()
	cmd := exec.Command(os.Args[0], "-test.run=^TestKill$", "-test.v")
	cmd.Env = append(os.Environ(), crashDir+"="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var acknowledged []string
	for lines := bufio.NewScanner(out); lines.Scan(); {
		id, ok := strings.CutPrefix(lines.Text(), "stored ")
		if !ok {
			continue
		}
		if acknowledged = append(acknowledged, id); len(acknowledged) == 150 {
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	_ = cmd.Wait()
	if len(acknowledged) < 150 {
		t.Fatalf("only %d deliveries before the end", len(acknowledged))
	}
	kv, blobs := storetest.OpenDir(t, dir)
	s := openOn(t, Config{}, kv, blobs)
	m := openMailbox(t, openAccount(t, s, "kim"), "INBOX")
	there := make(map[string]int)
	v := m.View()
	for i := range v.Len() {
		there[readAll(t, m, v.At(i))]++
	}
	for _, id := range acknowledged {
		if there[crashMessage(id)] != 1 {
			t.Errorf("%s was acknowledged and is there %d times", id, there[crashMessage(id)])
		}
	}
	a := openAccount(t, s, "kim")
	for _, id := range acknowledged {
		content := stage(t, s, crashMessage(id))
		if err := a.Deliver(t.Context(), []Delivery{{ID: id, Content: content}})[0]; err != nil {
			t.Fatal(err)
		}
		content.Discard()
	}
	if got := m.View().Len(); got != v.Len() {
		t.Errorf("%d messages after the repeat, %d before", got, v.Len())
	}
}

func crashMessage(id string) string {
	return "Subject: " + id + "\r\n\r\n" + strings.Repeat(id+"\r\n", 400)
}

func deliverUntilKilled(t *testing.T, dir string) {
	kv, blobs := storetest.OpenDir(t, dir)
	s, err := Open(t.Context(), Config{}, kv, blobs, nil)
	if err != nil {
		t.Fatal(err)
	}
	a, err := s.Account(t.Context(), mail.Account{Name: "kim"})
	if err != nil {
		t.Fatal(err)
	}
	var wait sync.WaitGroup
	for w := range 8 {
		wait.Go(func() {
			for i := range 10_000 {
				id := fmt.Sprintf("%d-%d", w, i)
				content, err := s.Stage(t.Context(), strings.NewReader(crashMessage(id)))
				if err != nil {
					t.Error(err)
					return
				}
				if err := a.Deliver(t.Context(), []Delivery{{ID: id, Content: content}})[0]; err != nil {
					t.Error(err)
					return
				}
				fmt.Printf("stored %s\n", id)
			}
		})
	}
	wait.Wait()
}

// reserves notes whether the last commit asked for the reserve.
type reserves struct {
	store.Store
	last bool
}

func (r *reserves) Commit(ctx context.Context, b *store.Batch) (store.Result, error) {
	r.last = b.UseReserve
	return r.Store.Commit(ctx, b)
}

// TestFullDiskCanBeEmptied: what stores something leaves the reserve alone,
// what frees room may use it.
func TestFullDiskCanBeEmptied(t *testing.T) {
	t.Parallel()
	kv, blobs := storetest.Open(t)
	r := &reserves{Store: kv}
	s := openOn(t, Config{}, r, blobs)
	a := openAccount(t, s, "kim")
	m := openMailbox(t, a, "INBOX")
	appendMessages(t, s, m, 3)
	if r.last {
		t.Error("an append may use the reserve")
	}
	if err := m.KeepSortKeys(t.Context(), "so", keysOf(m.View())); err != nil || r.last {
		t.Errorf("keys for sorting may use the reserve, %v", err)
	}
	r.last = true
	if _, err := m.LineEnds(t.Context(), all(m.View()), func(*Message) (int64, error) { return 1, nil }); err != nil || r.last {
		t.Errorf("sizes may use the reserve, %v", err)
	}
	if _, err := m.StoreFlags(t.Context(), []imap.UID{1}, FlagsChange{Op: FlagsAdd, Flags: FlagDeleted}); err != nil || !r.last {
		t.Errorf("flags may not use the reserve, %v", err)
	}
	if _, err := m.Copy(t.Context(), []imap.UID{2}, openMailbox(t, a, "Sent")); err != nil || r.last {
		t.Errorf("a copy may use the reserve, %v", err)
	}
	if _, err := m.Move(t.Context(), []imap.UID{2}, openMailbox(t, a, "Trash")); err != nil || !r.last {
		t.Errorf("a move may not use the reserve, %v", err)
	}
	if _, err := m.Expunge(t.Context(), nil); err != nil || !r.last {
		t.Errorf("an expunge may not use the reserve, %v", err)
	}
}
