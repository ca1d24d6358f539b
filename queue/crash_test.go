package queue

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
	"github.com/postern-mail/postern/store"
	"github.com/postern-mail/postern/store/storetest"
)

// childDir tells a test binary that it is the child of TestKilled, and where
// its queue is.
const childDir = "QUEUE_TEST_CHILD_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		// m.Run makes the testing flags known, which storetest needs.
		os.Args = append(os.Args[:1], "-test.run=^TestChild$", "-test.timeout=10m")
	}
	os.Exit(m.Run())
}

// TestChild accepts and delivers until it is killed: it prints each id when
// Accept has returned, and each delivery when it is made.
func TestChild(t *testing.T) {
	dir := os.Getenv(childDir)
	if dir == "" {
		return
	}
	kv, blobs := storetest.OpenDir(t, dir)
	r := newRigOn(t, Config{}, kv, blobs)
	var out sync.Mutex
	say := func(what string, id mail.QueueID) {
		out.Lock()
		defer out.Unlock()
		fmt.Printf("%s %s\n", what, id)
	}
	r.transport.deliver = func(_ context.Context, d mail.Delivery, rcpt mail.Recipient) mail.Outcome {
		if rcpt.Address.Local == "slow" {
			return later
		}
		say("delivered", d.QueueID)
		return fine
	}
	r.start()
	var wg sync.WaitGroup
	for worker := range 8 {
		wg.Go(func() {
			for i := 0; ; i++ {
				content := bytes.Repeat([]byte{byte('a' + i%26)}, []int{100, 5000, 40_000, 200_000}[i%4])
				staged, err := r.Stage(context.Background(), bytes.NewReader(content))
				if err != nil {
					panic(err)
				}
				s := Submission{ID: NewID(), Content: staged}
				s.Envelope.ReversePath = mail.MustAddress("alice@a.test")
				for _, a := range []string{"bob@b.test", "slow@c.test"}[worker%2:] {
					s.Envelope.Recipients = append(s.Envelope.Recipients, mail.Recipient{Address: mail.MustAddress(a)})
				}
				if err := r.Accept(context.Background(), s); err != nil {
					panic(err)
				}
				say("accepted", s.ID)
			}
		})
	}
	wg.Wait()
}

// TestKilled kills a process that accepts and delivers, some times over the
// same queue, and looks for every message it had acknowledged.
func TestKilled(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	accepted, delivered := map[mail.QueueID]bool{}, map[mail.QueueID]int{}
	for range 3 {
		runChild(t, dir, 150, accepted, delivered)
	}

	kv, blobs := storetest.OpenDir(t, dir)
	r := newRigOn(t, Config{}, kv, blobs)
	queued := map[mail.QueueID]int{}
	for m, err := range r.List(context.Background(), Filter{}) {
		if err != nil {
			t.Fatal(err)
		}
		queued[m.ID]++
		content, err := r.Content(context.Background(), m.ID)
		if err != nil {
			t.Fatalf("%s: content of an accepted message: %v", m.ID, err)
		}
		n, err := new(bytes.Buffer).ReadFrom(content)
		if err != nil || n != m.Octets {
			t.Errorf("%s: read %d of %d octets: %v", m.ID, n, m.Octets, err)
		}
		_ = content.Close()
	}
	for id := range accepted {
		if queued[id] != 1 && delivered[id] == 0 {
			t.Errorf("%s was accepted, is not delivered and %d times in the queue", id, queued[id])
		}
	}
	t.Logf("%d accepted, %d delivered, %d queued", len(accepted), len(delivered), len(queued))

	// Everything that waits goes out, under the ids it had before, and what
	// the last process recorded as delivered does not.
	var mu sync.Mutex
	again := map[string]int{}
	r.transport.deliver = func(_ context.Context, d mail.Delivery, rcpt mail.Recipient) mail.Outcome {
		mu.Lock()
		defer mu.Unlock()
		again[fmt.Sprint(d.ID, rcpt.Address)]++
		return fine
	}
	r.start()
	if _, err := r.RetryAll(context.Background(), Filter{}); err != nil {
		t.Fatal(err)
	}
	r.empty()
	for key, n := range again {
		if n != 1 {
			t.Errorf("%s: delivered %d times", key, n)
		}
	}
	if len(again) < len(queued) {
		t.Errorf("%d deliveries for %d queued messages", len(again), len(queued))
	}
}

// runChild lets a child accept a number of messages and kills it.
func runChild(t *testing.T, dir string, messages int, accepted map[mail.QueueID]bool, delivered map[mail.QueueID]int) {
	t.Helper()
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), childDir+"="+dir)
	child.Stderr = os.Stderr
	stdout, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(stdout)
	for n := 0; lines.Scan(); {
		what, id, _ := strings.Cut(lines.Text(), " ")
		switch what {
		case "accepted":
			accepted[mail.QueueID(id)] = true
			if n++; n == messages {
				if err := child.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		case "delivered":
			delivered[mail.QueueID(id)]++
		default:
			t.Logf("child: %s", lines.Text())
		}
	}
	if err := child.Wait(); err == nil || child.ProcessState.ExitCode() != -1 {
		t.Fatalf("the child ended by itself: %v", err)
	}
}

// faultyStore refuses the batches that refuse selects.
type faultyStore struct {
	store.Store
	refuse atomic.Pointer[func(b *store.Batch) error]
}

func (f *faultyStore) Commit(ctx context.Context, b *store.Batch) (store.Result, error) {
	if refuse := f.refuse.Load(); refuse != nil {
		if err := (*refuse)(b); err != nil {
			return store.Result{}, err
		}
	}
	return f.Store.Commit(ctx, b)
}

func newFaultyRig(t *testing.T, cfg Config) (*rig, *faultyStore) {
	t.Helper()
	kv, blobs := storetest.Open(t)
	f := &faultyStore{Store: kv}
	return newRigOn(t, cfg, f, blobs), f
}

// TestCrashBeforeTheRecord: what was delivered and not recorded is delivered
// again, under the same id.
func TestCrashBeforeTheRecord(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r, f := newFaultyRig(t, Config{})
		r.start()
		lost := func(b *store.Batch) error {
			if b.UseReserve {
				return store.ErrClosed
			}
			return nil
		}
		f.refuse.Store(&lost)
		id := r.accept("alice@a.test", "bob@b.test", "carol@c.test")
		time.Sleep(time.Second)
		synctest.Wait()
		f.refuse.Store(nil)
		r.restart()
		time.Sleep(time.Second)
		r.empty()
		for i, a := range []string{"bob@b.test", "carol@c.test"} {
			want := fmt.Sprintf("%s.%d", id, i)
			if ids := r.transport.delivered(a); !slices.Equal(ids, []string{want, want}) {
				t.Errorf("%s: delivered as %q, want twice as %q", a, ids, want)
			}
		}
		r.stop()
	})
}

func TestDiskFull(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r, f := newFaultyRig(t, Config{})
		r.start()
		first := r.accept("alice@a.test", "bob@b.test")
		full := func(*store.Batch) error { return fmt.Errorf("%w: nothing left", store.ErrFull) }
		f.refuse.Store(&full)
		err := r.Accept(context.Background(), r.submit("alice@a.test", "carol@b.test"))
		if status.Of(err) != status.MailSystemFull {
			t.Errorf("accept on a full disk: %v", err)
		}
		// Outcomes wait until they can be recorded; nothing is delivered twice.
		time.Sleep(time.Minute)
		synctest.Wait()
		if st := r.Stats(); st.Messages != 1 {
			t.Errorf("stats %+v", st)
		}
		f.refuse.Store(nil)
		time.Sleep(time.Minute)
		r.empty()
		if ids := r.transport.delivered("bob@b.test"); !slices.Equal(ids, []string{string(first) + ".0"}) {
			t.Errorf("delivered %q", ids)
		}
		if ids := r.transport.delivered("carol@b.test"); ids != nil {
			t.Errorf("delivered what was refused: %q", ids)
		}
		r.stop()
	})
}

// TestUnknownOutcome: a commit that failed, but happened, is found.
func TestUnknownOutcome(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r, f := newFaultyRig(t, Config{})
		r.start()
		unknown := func(b *store.Batch) error {
			if _, err := f.Store.Commit(context.Background(), b); err != nil {
				return err
			}
			return store.ErrUnknown
		}
		f.refuse.Store(&unknown)
		err := r.Accept(context.Background(), r.submit("alice@a.test", "bob@b.test"))
		if status.Of(err) != status.StoreDown {
			t.Errorf("accept with an unknown outcome: %v", err)
		}
		f.refuse.Store(nil)
		time.Sleep(time.Second)
		synctest.Wait()
		if ids := r.transport.delivered("bob@b.test"); len(ids) != 1 {
			t.Errorf("delivered %q", ids)
		}
		r.nothingStored()
		r.stop()
	})
}

// TestOneBadChange: a change that the store refuses does not take others with
// it.
func TestOneBadChange(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r, f := newFaultyRig(t, Config{})
		ids := make([]mail.QueueID, 20)
		for i := range ids {
			ids[i] = r.accept("alice@a.test", "bob@b.test")
		}
		bad := messageKey(ids[7])
		refuse := func(b *store.Batch) error {
			for _, op := range b.Ops {
				if bytes.Equal(op.Key, bad) {
					return fmt.Errorf("not this one")
				}
			}
			return nil
		}
		f.refuse.Store(&refuse)
		r.start()
		time.Sleep(time.Minute)
		synctest.Wait()
		var left []mail.QueueID
		for m, err := range r.List(context.Background(), Filter{}) {
			if err != nil {
				t.Fatal(err)
			}
			left = append(left, m.ID)
		}
		if !slices.Equal(left, ids[7:8]) {
			t.Errorf("left: %q", left)
		}
		// Once the store takes it, it is on record, without another delivery.
		f.refuse.Store(nil)
		time.Sleep(time.Minute)
		r.empty()
		if n := len(r.transport.delivered("bob@b.test")); n != len(ids) {
			t.Errorf("%d deliveries of %d messages", n, len(ids))
		}
		r.stop()
	})
}

// TestGracefulStop: deliveries under way end and are recorded.
func TestGracefulStop(t *testing.T) {
	t.Parallel()
	inBubble(t, Config{Grace: 10 * time.Second}, func(t *testing.T, r *rig) {
		r.transport.deliver = func(ctx context.Context, d mail.Delivery, rcpt mail.Recipient) mail.Outcome {
			wait := 5 * time.Second
			if rcpt.Address.Local == "stuck" {
				wait = time.Hour
			}
			select {
			case <-time.After(wait):
				return fine
			case <-ctx.Done():
				return offline
			}
		}
		r.start()
		r.accept("alice@a.test", "bob@b.test")
		stuck := r.accept("alice@a.test", "stuck@c.test")
		time.Sleep(time.Second)
		began := time.Now()
		r.stop()
		if took := time.Since(began); took > 16*time.Second {
			t.Errorf("stopping took %v", took)
		}
		if ids := r.transport.delivered("bob@b.test"); len(ids) != 1 {
			t.Errorf("bob: %q", ids)
		}
		r.transport.deliver = nil
		r.reopen()
		var left []mail.QueueID
		for m := range r.List(context.Background(), Filter{}) {
			left = append(left, m.ID)
		}
		if !slices.Equal(left, []mail.QueueID{stuck}) {
			t.Errorf("left: %q, want %q", left, stuck)
		}
		// What is accepted while nothing runs waits for the next start.
		r.accept("alice@a.test", "late@b.test")
		r.start()
		time.Sleep(time.Hour)
		r.empty()
	})
}
