package queue

import (
	"bufio"
	"compress/gzip"
	"context"
	"encoding/hex"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/store"
	"github.com/postern-mail/postern/store/storetest"
)

// loadFixture fills a store with the keys and values of a file.
func loadFixture(t *testing.T, kv store.Store, name string) {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	unzipped, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(unzipped)
	lines.Buffer(nil, 1<<20)
	b := store.NewBatch()
	for lines.Scan() {
		k, v, _ := strings.Cut(lines.Text(), " ")
		key, err := hex.DecodeString(k)
		if err != nil {
			t.Fatal(err)
		}
		value, err := hex.DecodeString(v)
		if err != nil {
			t.Fatal(err)
		}
		b.Put(key, value)
	}
	if len(b.Ops) < 20 || lines.Err() != nil {
		t.Fatalf("%d records, %v", len(b.Ops), lines.Err())
	}
	if _, err := kv.Commit(t.Context(), b); err != nil {
		t.Fatal(err)
	}
}

// TestFirstRelease: what the first release left, one shard without counts, is
// found whole: messages that are new, deferred, on hold, or wait for a report,
// one of them with 902 recipients in two records. Counts are kept from then on.
func TestFirstRelease(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(20 * time.Minute) // it ended then
		kv, blobs := storetest.Open(t)
		loadFixture(t, kv, "testdata/one-shard.txt.gz")
		r := newRigOn(t, Config{Shards: 8}, kv, blobs)
		if st := r.Stats(); r.shards != 1 || st.Messages != 7 || st.Held != 2 {
			t.Errorf("%d shards, %+v", r.shards, st)
		}
		r.check()
		r.start()
		time.Sleep(12 * time.Hour)
		synctest.Wait()
		r.check()
		for m := range r.List(t.Context(), Filter{}) {
			if m.State != StateHeld {
				t.Errorf("%s is %s", m.ID, m.State)
			}
		}
		if n, err := r.ReleaseAll(t.Context(), Filter{}); n != 2 || err != nil {
			t.Errorf("released %d, %v", n, err)
		}
		time.Sleep(12 * time.Hour)
		r.empty()
		if n := len(r.transport.delivered("slow@b.test")); n != 3 {
			t.Errorf("%d of 3 that were deferred are delivered", n)
		}
		if n := len(r.transport.delivered("carol@c.test")); n != 1 {
			t.Errorf("carol got %d messages, one of hers was delivered before", n)
		}
		if reports := r.reports.all(); len(reports) != 1 || reports[0].Outcomes[0].Class != mail.Bounced {
			t.Errorf("reports: %+v", reports)
		}
		for i := range 900 {
			if n := len(r.transport.delivered(fmt.Sprintf("%s%d@many.test", strings.Repeat("r", 50), i))); n != 1 {
				t.Fatalf("recipient %d got %d messages", i, n)
			}
		}
	})
}

// TestManyShards: messages of all shards are found, tried, held and counted.
func TestManyShards(t *testing.T) {
	t.Parallel()
	inBubble(t, Config{Shards: 7, ActiveLimit: 20}, func(t *testing.T, r *rig) {
		seen := map[uint16]int{}
		var held []mail.QueueID
		for i := range 200 {
			s := r.submit("alice@a.test", fmt.Sprintf("u%d@d%d.test", i, i%3))
			if s.Hold = i%10 == 0; s.Hold {
				held = append(held, s.ID)
			}
			if err := r.Accept(t.Context(), s); err != nil {
				t.Fatal(err)
			}
			seen[r.shards.of(s.ID)]++
		}
		if len(seen) != 7 {
			t.Errorf("shards used: %v", seen)
		}
		var listed []mail.QueueID
		for m := range r.List(t.Context(), Filter{State: StateHeld}) {
			listed = append(listed, m.ID)
		}
		if !slices.Equal(listed, held) {
			t.Errorf("on hold: %q, want %q", listed, held)
		}
		r.transport.deliver = func(_ context.Context, d mail.Delivery, _ mail.Recipient) mail.Outcome {
			if d.Attempt < 3 {
				return later
			}
			return fine
		}
		r.cfg.Shards = 3 // no longer of interest
		r.reopen()
		r.check()
		if st := r.Stats(); st.Messages != 200 || st.Held != 20 || r.shards != 7 {
			t.Errorf("%d shards, %+v", r.shards, st)
		}
		r.start()
		time.Sleep(3 * time.Hour)
		synctest.Wait()
		if st := r.Stats(); st.Messages != 20 || st.Held != 20 {
			t.Errorf("%+v", st)
		}
		if _, err := r.ReleaseAll(t.Context(), Filter{}); err != nil {
			t.Error(err)
		}
		time.Sleep(3 * time.Hour)
		r.empty()
		for i := range 200 {
			if n := len(r.transport.delivered(fmt.Sprintf("u%d@d%d.test", i, i%3))); n != 1 {
				t.Errorf("u%d was delivered %d times", i, n)
			}
		}
	})
}

func TestLayout(t *testing.T) {
	t.Parallel()
	if _, err := New(Config{Shards: maxShards + 1}, Deps{}); err == nil {
		t.Error("too many shards")
	}
	for name, value := range map[string]string{
		"newer": "\x02\x01", "no shards": "\x01\x00", "too many": "\x01\xff\x7f", "cut": "\x01", "longer": "\x01\x01\x01",
	} {
		r := newRig(t, Config{})
		r.write(func(b *store.Batch) { b.Put(layoutKey(), []byte(value)) })
		if _, err := New(r.cfg, r.Queue.deps); err == nil {
			t.Errorf("%s: opened", name)
		}
	}
}

func TestShardOf(t *testing.T) {
	t.Parallel()
	// Never to change: queues are laid out by it.
	for id, want := range map[mail.QueueID]uint16{"14SZ3NX83F2QKQXR": 58, "1": 28, "ABC": 43} {
		if got := shards(64).of(id); got != want {
			t.Errorf("%s is in shard %d, want %d", id, got, want)
		}
		if got := shards(1).of(id); got != 0 {
			t.Errorf("%s is in shard %d of one", id, got)
		}
	}
	counts := make([]int, 64)
	for range 64_000 {
		counts[shards(64).of(NewID())]++
	}
	if least, most := slices.Min(counts), slices.Max(counts); least < 700 || most > 1300 {
		t.Errorf("between %d and %d of a thousand", least, most)
	}
}

// TestStartOnAFullDisk: a queue starts where nothing can be written, knows what
// is in it, and records its layout when there is room again. So does one that
// has no record yet, as the first release left it, and a new one.
func TestStartOnAFullDisk(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r, f := newFaultyRig(t, Config{})
		id := r.accept("alice@a.test", "bob@b.test")
		r.write(func(b *store.Batch) { b.Delete(layoutKey()) })
		full := func(*store.Batch) error { return fmt.Errorf("%w: nothing left", store.ErrFull) }
		f.refuse.Store(&full)
		r.reopen()
		if st := r.Stats(); st.Messages != 1 {
			t.Errorf("stats %+v", st)
		}
		f.refuse.Store(nil)
		r.reopen()
		r.start()
		r.until("the delivery", func() bool { return len(r.transport.delivered("bob@b.test")) == 1 })
		if ids := r.transport.delivered("bob@b.test"); !slices.Equal(ids, []string{string(id) + ".0"}) {
			t.Errorf("delivered %q", ids)
		}
		r.empty()
		r.stop()

		r, f = newFaultyRig(t, Config{})
		r.write(func(b *store.Batch) { b.Delete(layoutKey()) })
		f.refuse.Store(&full)
		r.reopen()
		f.refuse.Store(nil)
		r.start()
		r.accept("alice@a.test", "bob@b.test")
		r.empty()
		r.stop()
		r.reopen()
		r.check()
	})
}
