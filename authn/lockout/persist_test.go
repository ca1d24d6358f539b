package lockout

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/store"
	"github.com/postern-mail/postern/store/memory"
	"github.com/postern-mail/postern/store/storetest"
)

// fill has a Memory remember something in each table that is kept.
func fill(m *Memory) {
	login(m, "zoe", "192.0.2.99")
	for i := range 12 {
		guess(m, "alice", fmt.Sprint("x", i), "203.0.113.9")
		guess(m, fmt.Sprint("p", i), "Summer2026!", fmt.Sprintf("198.51.100.%d", i))
		m.Failed(Try{fmt.Sprint("nobody", i), "x", from("192.0.2.1")}, Unknown, 0, time.Now())
	}
}

func sizes(m *Memory) map[string]int {
	all := m.Sizes()
	for name, n := range all {
		if n == 0 {
			panic("nothing in " + name)
		}
	}
	return all
}

func TestRestartForgetsNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		kv := onDisk()
		ctx, stop := context.WithCancel(t.Context())
		m, _ := open(t, Config{}, kv)
		ended := make(chan error)
		go func() { ended <- m.Run(ctx) }()
		fill(m)
		time.Sleep(3 * time.Second)
		guess(m, "late", "tardy", "203.0.113.77")
		stop() // what came last is written at the end
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
		again, _ := open(t, Config{}, kv)
		if before, after := sizes(m), sizes(again); !maps.Equal(before, after) {
			t.Errorf("before the restart %v, after it %v", before, after)
		}
		if login(again, "alice", "203.0.113.9") {
			t.Error("the restart let an attacker go on")
		}
		if _, repeated := again.Repeated(Try{"late", "tardy", from("192.0.2.200")}, time.Now()); !repeated {
			t.Error("the restart asks about a wrong password anew")
		}
		if !again.isFamiliarLocked("zoe", from("192.0.2.98"), time.Now().UnixMilli()) {
			t.Error("nobody is familiar after the restart")
		}
		again.Unlock(Filter{})
		if err := again.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		third, _ := open(t, Config{}, kv)
		if n := third.Sizes(); n["familiar"] == 0 || n["accounts"]+n["wrong"]+n["networks"]+n["pairs"]+n["unknown"]+n["passwords"] != 0 {
			t.Errorf("an unlock is taken back by a restart: %v", n)
		}
	})
}

func TestStoreStaysBounded(t *testing.T) {
	t.Parallel()
	const bound = 50
	kv := onDisk()
	m, _ := open(t, Config{Entries: bound, SprayAccounts: -1, NetworkFailures: -1, WideFailures: -1, PairFailures: -1}, kv)
	for i := range 2000 {
		guess(m, fmt.Sprint("p", i), fmt.Sprint(i), fmt.Sprintf("10.1.%d.%d", i/250, i%250))
		login(m, fmt.Sprint("q", i), "10.2.2.2")
		if i%7 == 0 {
			if err := m.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := m.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	n, want := keys(t, kv), 0
	for _, size := range m.Sizes() {
		want += size
	}
	if n != want || n > 7*bound {
		t.Errorf("%d records are stored, %d remembered, bound %d a table", n, want, bound)
	}
	small, _ := open(t, Config{Entries: bound / 5}, kv)
	if err := small.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := keys(t, kv); n > 7*bound/5 {
		t.Errorf("%d records are stored after the bound became %d", n, bound/5)
	}
}

func keys(t *testing.T, kv store.Store) (n int) {
	t.Helper()
	if err := kv.View(t.Context(), func(s store.Snapshot) error {
		for _, err := range s.Range([]byte{tag}, []byte{tag + 1}, 0, false) {
			if err != nil {
				return err
			}
			n++
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return n
}

// TestPowerCuts cuts the power at many instants: what was written by then is
// remembered, and whatever was under way harms nothing.
func TestPowerCuts(t *testing.T) {
	t.Parallel()
	for seed := range uint64(8) {
		machine := storetest.NewMachine()
		m, _ := open(t, Config{}, machine.OpenStore(t))
		guess(m, "alice", "early", "203.0.113.9")
		if err := m.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		fill(m)
		cut := make(chan *storetest.Machine)
		go func() { cut <- machine.Cut(seed) }()
		if err := m.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		during := <-cut
		after := machine.Cut(seed)
		for name, disk := range map[string]*storetest.Machine{"during": during, "after": after} {
			again, _ := open(t, Config{}, disk.OpenStore(t))
			if _, repeated := again.Repeated(Try{"alice", "early", from("192.0.2.1")}, time.Now()); !repeated {
				t.Errorf("seed %d: what was written is forgotten by a cut %s a write", seed, name)
			}
			if name == "after" && !maps.Equal(sizes(again), sizes(m)) {
				t.Errorf("seed %d: %v after the cut, %v before", seed, sizes(again), sizes(m))
			}
			guess(again, "bob", "x", "192.0.2.5")
			if err := again.Flush(t.Context()); err != nil {
				t.Errorf("seed %d: %v", seed, err)
			}
		}
	}
}

// fullStore refuses to write as long as it is full.
type fullStore struct {
	store.Store
	full bool
}

func (s *fullStore) Commit(ctx context.Context, b *store.Batch) (store.Result, error) {
	if s.full {
		return store.Result{}, store.ErrFull
	}
	return s.Store.Commit(ctx, b)
}

func TestFullDiskDelaysWriting(t *testing.T) {
	t.Parallel()
	kv := &fullStore{onDisk(), true}
	m, _ := open(t, Config{}, kv)
	fill(m)
	if err := m.Flush(t.Context()); !errors.Is(err, store.ErrFull) {
		t.Fatalf("flush on a full disk: %v", err)
	}
	if login(m, "alice", "203.0.113.9") {
		t.Error("what cannot be written does not count")
	}
	kv.full = false
	if err := m.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if again, _ := open(t, Config{}, kv); !maps.Equal(sizes(again), sizes(m)) {
		t.Errorf("%v written once there was room, of %v", again.Sizes(), m.Sizes())
	}
}

func TestClockThatWasWrong(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		kv := onDisk()
		m, _ := open(t, Config{}, kv)
		ahead := time.Now().Add(10 * 365 * 24 * time.Hour)
		for i := range 30 {
			m.Failed(Try{"alice", fmt.Sprint("x", i), from("203.0.113.9")}, Wrong, 0, ahead)
		}
		if err := m.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		again, _ := open(t, Config{}, kv)
		time.Sleep(again.cfg.MaxDelay)
		if !login(again, "alice", "203.0.113.9") {
			t.Error("alice waits for a year that a wrong clock showed")
		}
	})
}

// TestDamagedRecordsAreDropped also has records of a newer release.
func TestDamagedRecordsAreDropped(t *testing.T) {
	t.Parallel()
	kv := onDisk()
	b := store.NewBatch()
	b.Put([]byte{tag, 'a', 'x'}, []byte{recordVersion + 1, 0, 0})
	b.Put([]byte{tag, 'n', 'y'}, nil)
	b.Put([]byte{tag, 'w', 'z'}, bytes.Repeat([]byte{0xff}, 100))
	if _, err := kv.Commit(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	m, _ := open(t, Config{}, kv)
	if err := m.Flush(t.Context()); err != nil || keys(t, kv) != 0 {
		t.Errorf("%d damaged records are left, %v", keys(t, kv), err)
	}
}

func FuzzRecord(f *testing.F) {
	f.Add((&record{count: 7, last: 1_700_000_000_000, until: 1_700_000_060_000, version: 1 << 63, times: []int64{1, 2}, set: []uint64{3, 1 << 60}, sprayed: true}).encode())
	f.Add((&record{}).encode())
	f.Add([]byte{recordVersion, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f})
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := decodeRecord(b)
		if err != nil {
			return
		}
		again, err := decodeRecord(r.encode())
		if err != nil || !bytes.Equal(again.encode(), r.encode()) {
			t.Fatalf("%v does not survive: %v", r, err)
		}
		m, err := New(Config{}, testKey, nil, nil, hclog.NewNullLogger())
		if err != nil {
			t.Fatal(err)
		}
		m.soberLocked(m.accounts, r, 1_700_000_000_000)
		m.accounts.load("alice", r)
		guess(m, "alice", "x", "192.0.2.1")
	})
}

func onDisk() store.Store {
	kv, _ := memory.NewDisk().Open()
	return kv
}
